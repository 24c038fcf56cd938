"""How long a training takes on this machine and what memory it fills: measured with a few of its own steps."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kivnun.data.tokens import TokenTable, save_table
from kivnun.errors import UserError
from kivnun.models.resolve import ResolvedModel
from kivnun.recipe.methods import Method
from kivnun.recipe.schema import Recipe


@dataclass(frozen=True)
class Measurement:
    """What some training steps took.

    Attributes:
        num_steps: Steps that were counted, after the first one.
        first_seconds: Time of the first step, which also compiles and fills caches.
        seconds_per_token: Mean over the counted steps.
        fastest: Seconds per token of the fastest step.
        slowest: Seconds per token of the slowest step.
        peak_bytes: Most memory that the process held; on a GPU, of the GPU's.
        device: Where it ran.
        compiled: Whether torch.compile was used.
    """

    num_steps: int
    first_seconds: float
    seconds_per_token: float
    fastest: float
    slowest: float
    peak_bytes: int
    device: str
    compiled: bool

    def seconds(self, num_tokens: int) -> tuple[float, float, float]:
        """Seconds for so many tokens: expected, at the fastest step's rate, and at the slowest step's."""
        rates = (self.seconds_per_token, self.fastest, self.slowest)
        expected, least, most = (self.first_seconds + num_tokens * rate for rate in rates)
        return expected, least, most


def measure_training(
    recipe: Recipe, method: Method, base: ResolvedModel, table: TokenTable, *, seconds: float
) -> Measurement:
    """Run training steps of a recipe with a method for about `seconds`, in a process of its own.

    Raises:
        UserError: `estimate-failed` with the last line of what the process said, such as being out of memory.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "train.safetensors"
        save_table(table, path)
        wanted = recipe.model_copy(update={"method": method})
        request = {
            "recipe": wanted.model_dump(mode="json"),
            "base": str(base.folder),
            "table": str(path),
            "seconds": seconds,
        }
        process = subprocess.run(
            # -P: a file of the current folder, among downloaded data perhaps, must not stand in for a module.
            [sys.executable, "-P", "-m", "kivnun.estimate.worker"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode:
        said = process.stderr.strip().splitlines() or [f"the process ended with status {process.returncode}"]
        raise UserError(
            "estimate-failed",
            f"method {method.kind}: the training steps failed: {said[-1]}",
            hint="a negative status is most often too little memory: lower training.batch_tokens, or say --no-measure",
        )
    return _summarise(json.loads(process.stdout))


def _summarise(answer: dict) -> Measurement:  # type: ignore[type-arg]
    first, *counted = answer["steps"]
    # A training of one step has nothing but its first one.
    counted = counted or [first]
    rates = [step["seconds"] / step["tokens"] for step in counted]
    return Measurement(
        num_steps=len(counted),
        first_seconds=max(0.0, first["seconds"] - first["tokens"] * min(rates)),
        seconds_per_token=sum(step["seconds"] for step in counted) / sum(step["tokens"] for step in counted),
        fastest=min(rates),
        slowest=max(rates),
        peak_bytes=answer["peak_bytes"],
        device=answer["device"],
        compiled=answer["compiled"],
    )
