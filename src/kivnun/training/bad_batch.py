"""A step whose loss is not a number: its rows are written out, each with its own loss, before the run ends."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from kivnun.data.packing import pack
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.runs import write_atomic
from kivnun.training.objectives.base import Objective

FOLDER = "bad-batch"

DescribeRow = Callable[[int], Mapping[str, object]]
"""What a person wants to see of a training row: where it stands and what it says."""


class NotFiniteError(UserError):
    """A loss or gradient that is not finite; the weights are those of before the step.

    Args:
        what: "loss" or "gradient norm".
        value: Its value.
        step: Number of the step, 1 for the first.
        rows: Rows of the step.
    """

    def __init__(self, what: str, value: float, step: int, rows: Sequence[int]) -> None:
        shown = f"{', '.join(map(str, rows[:10]))}{' ...' if len(rows) > 10 else ''}"
        super().__init__(
            "loss-not-finite",
            f"the {what} of step {step} is {value}",
            details=[f"training rows of the step: {shown}"],
            hint="lower training.learning_rate; if it happens on step 1, the base model's own weights are not finite",
        )
        self.step = step
        self.rows = rows


def require_finite(what: str, value: float, step: int, rows: Sequence[int]) -> None:
    """Stop at a value that is not finite.

    Raises:
        NotFiniteError: With the step and its rows.
    """
    if not math.isfinite(value):
        raise NotFiniteError(what, value, step, rows)


def write_bad_batch(
    run_dir: Path,
    error: NotFiniteError,
    *,
    model: nn.Module,
    objective: Objective,
    table: TokenTable,
    describe_row: DescribeRow | None,
) -> UserError:
    """Write the rows of the step to `bad-batch/step-NNNNNN.jsonl`, and give the error that names the file.

    Args:
        run_dir: The run folder.
        error: What the loop raised.
        model: The model with the weights of before the step.
        objective: What is learnt.
        table: The training rows.
        describe_row: What to write of each row beside its loss.
    """
    path = run_dir / FOLDER / f"step-{error.step:06d}.jsonl"
    lines: list[str] = []
    broken = 0
    for row in error.rows:
        loss = _row_loss(model, objective, table, row)
        broken += not math.isfinite(loss)
        described = describe_row(row) if describe_row is not None else {}
        # JSON has no NaN: what is not finite is written as text.
        shown = loss if math.isfinite(loss) else str(loss)
        lines.append(json.dumps({"row": row, "loss": shown, **described}, ensure_ascii=False))
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, "\n".join(lines) + "\n")
    blame = f"{broken} of its {len(error.rows)} rows have a loss that is not finite by themselves"
    if not broken:
        blame = "each of its rows alone has a finite loss, so that the step before it went too far"
    elif broken == len(error.rows) > 1:
        blame = f"none of its {broken} rows has a finite loss, so that the weights are to blame and no row of them"
    return UserError(error.code, error.problem, details=[f"{path}: {blame}"], hint=error.hint)


@torch.no_grad()
def _row_loss(model: nn.Module, objective: Objective, table: TokenTable, row: int) -> float:
    model.eval()
    batch = pack(table, [row])
    [prepared] = objective.prepare_step(model, [batch])
    return objective.loss(model, batch, prepared).reported / max(objective.count(batch), 1e-12)
