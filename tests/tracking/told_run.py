"""A run whose events are told by hand, with the trackers of a recipe listening as in a real run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kivnun.recipe.schema import Recipe
from kivnun.runs import EventLog
from kivnun.tracking import Trackers, open_trackers

RECIPE = {"base_model": "tiny", "data": {"train": "rows.jsonl", "text_template": "{a} {b}"}}


def step_fields(step: int, **more: object) -> dict[str, object]:
    """A step as the training logs it; its numbers depend on the step alone, as those of a resumed run do."""
    numbers = {"loss": 2.0**-step, "grad_norm": 2.0, "learning_rate": 0.5 * step, "num_tokens": 100, "num_targets": 10}
    return {"step": step, "num_steps": 9, "epoch": step / 4, "seconds": 0.5, **numbers, **more}


@dataclass
class ToldRun:
    """Tells attempts of a training to the trackers of one folder, each as a process of its own would."""

    folder: Path
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    killed: list[Trackers] = field(default_factory=list)

    def attempt(
        self, trackers: Sequence[str], start: int, stop: int, *, key: str = "k", is_killed: bool = False
    ) -> None:
        """Go on after step `start` and do the steps up to `stop`; every second one is validated."""
        recipe = Recipe.model_validate({**RECIPE, "training": {"report_to": list(trackers)}})
        with EventLog(self.folder / "events.jsonl") as log:

            def say(event: str, fields: dict[str, object]) -> None:
                log.append(event, fields)
                self.events.append((event, dict(fields)))

            sink = open_trackers(recipe, self.folder, say)
            for event, fields in self._tell(start, stop, key):
                say(event, fields)
                sink.track(event, fields)
            if is_killed:
                self.killed.append(sink)
            else:
                sink.close()

    def _tell(self, start: int, stop: int, key: str) -> Sequence[tuple[str, dict[str, object]]]:
        told: list[tuple[str, dict[str, object]]] = [("fit_started", {"key": key, "from_step": start})]
        for step in range(start + 1, stop + 1):
            told.append(("step", step_fields(step, reward_accuracy=0.25)))
            if step % 2 == 0:
                told.append(("validation", {"step": step, "loss": 3 * 2.0**-step, "best": True, "rouge_l": 0.5}))
            if step % 3 == 0:
                told.append(("usage", {"step": step, "cpu_percent": 150.0, "memory_bytes": 2**30}))
        return told
