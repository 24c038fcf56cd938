"""What a comparison would do, said beforehand: rows, what they can show, and every arm with what it asks."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kivnun.asking.spec import parse_spec, public_name
from kivnun.decide.arms import ORACLE, SHOWING, TRAINED, PlannedArm, plan_arms, plan_diagnostics
from kivnun.decide.context import describe_fixed, located, read_rows, sections_of
from kivnun.decide.freeze import FROZEN_NAME, require_same
from kivnun.decide.probe import read_probe
from kivnun.decide.rows import sample
from kivnun.evaluation.power import say_power
from kivnun.recipe.decide import DecideSection
from kivnun.recipe.load import LoadedRecipe


@dataclass(frozen=True)
class PlannedWork:
    """What one arm would do.

    Attributes:
        name: The arm.
        model: Who answers.
        why_not: Why it would not be run; "" where it would.
        num_requests: Questions at most, those that are timed and those of the pilot among them.
        num_trainings: Trainings, those on parts of the rows among them.
    """

    name: str
    model: str
    why_not: str
    num_requests: int
    num_trainings: int


@dataclass(frozen=True)
class Plan:
    """What a comparison would do.

    Attributes:
        folder: Where it would go.
        is_begun: Whether an earlier command began it.
        metric: The task's main metric.
        num_rows: Rows by split.
        num_pilot_rows: Validation rows on which arms are tried.
        power: What the number of test rows can show.
        arms: Every arm and diagnostic.
        notes: What a user should know of the rows.
    """

    folder: str
    is_begun: bool
    metric: str
    num_rows: dict[str, int]
    num_pilot_rows: int
    power: str
    arms: tuple[PlannedWork, ...]
    notes: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """The same for a terminal."""
        rows = ", ".join(f"{count:,} {split}" for split, count in self.num_rows.items())
        begun = " (goes on with what is there)" if self.is_begun else ""
        return [
            f"folder: {self.folder}{begun}",
            f"rows: {rows}; {self.num_pilot_rows} of validation try the arms first",
            f"metric: {self.metric}",
            f"power: {self.power}",
            *(f"data: {note}" for note in self.notes),
            *(_say_work(work) for work in self.arms),
        ]

    def to_json(self) -> dict[str, Any]:
        """The fields and no more."""
        return asdict(self)


def plan_strategies(loaded: LoadedRecipe, folder: Path) -> Plan:
    """Read and audit the rows and say what a comparison would do; nothing is written, and no model is asked.

    Args:
        loaded: The recipe.
        folder: Where the comparison would go.

    Raises:
        UserError: What `compare_strategies` would refuse before it asks anything.
    """
    recipe = located(loaded)
    settings, _ = sections_of(recipe)
    for spec in settings.models.values():
        parse_spec(spec)
    read_probe(settings.probe)
    frozen, rows, scoring = read_rows(recipe)
    is_begun = (folder / FROZEN_NAME).exists()
    if is_begun:
        require_same(folder, frozen, describe_fixed(recipe))
    num_pilot = len(sample(rows["validation"], settings.pilot_rows, seed=settings.seed))
    plans = [*plan_arms(recipe, settings), *plan_diagnostics(recipe)]
    return Plan(
        folder=str(folder),
        is_begun=is_begun,
        metric=scoring.main,
        num_rows={split: len(part) for split, part in rows.items()},
        num_pilot_rows=num_pilot,
        power=say_power(len(rows["test"])),
        arms=tuple(_work(plan, settings, len(rows["test"]), num_pilot) for plan in plans),
        notes=frozen.notes,
    )


def _work(planned: PlannedArm, settings: DecideSection, num_test: int, num_pilot: int) -> PlannedWork:
    model = public_name(planned.spec)
    if planned.why_not:
        return PlannedWork(planned.name, model, planned.why_not, 0, 0)
    variants = len(settings.shots) if planned.strategy in SHOWING else 1
    parts = _num_parts(settings, num_pilot) if planned.strategy == "tuned" else 0
    trainings = (settings.num_seeds if planned.strategy in TRAINED else 0) + parts
    asked = (variants + parts) * num_pilot + num_test * max(1, settings.num_seeds if trainings else 1)
    return PlannedWork(planned.name, model, "", asked + settings.timed_requests, trainings)


def _num_parts(settings: DecideSection, num_pilot: int) -> int:
    return sum(share < 1 for share in settings.learning_curve) if num_pilot else 0


def _say_work(work: PlannedWork) -> str:
    if work.why_not:
        return f"{work.name}: not run: {work.why_not}"
    trainings = f", {work.num_trainings} training{'s' if work.num_trainings > 1 else ''}" if work.num_trainings else ""
    note = " (where right passages are known)" if work.name == ORACLE else ""
    return f"{work.name}: {work.model}, up to {work.num_requests:,} requests{trainings}{note}"
