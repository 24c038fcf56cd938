"""What a comparison would do, said beforehand: rows, what they can show, and every arm with what it asks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kivnun.asking.spec import EndpointSpec, parse_spec, public_name
from kivnun.decide.arms import ORACLE, RETRIEVING, SHOWING, TRAINED, PlannedArm, plan_arms, plan_diagnostics
from kivnun.decide.context import describe_fixed, located, read_rows, sections_of
from kivnun.decide.costs import Pricing, expected_dollars, pricing_of
from kivnun.decide.curve import part_name
from kivnun.decide.freeze import FROZEN_NAME, require_same
from kivnun.decide.pilot import BYTES_PER_TOKEN
from kivnun.decide.probe import read_probe
from kivnun.decide.rows import sample
from kivnun.decide.trained import training_minutes
from kivnun.decide.wording import say_dollars
from kivnun.evaluation.power import say_power
from kivnun.prices import find_price
from kivnun.recipe.decide import DecideSection
from kivnun.recipe.load import LoadedRecipe

TUNED = "tuned"
TOKENS_PER_WORD = 3
"""Many of them, as few bytes are taken for a token: a bound."""


@dataclass(frozen=True)
class PlannedWork:
    """What one arm would do.

    Attributes:
        name: The arm.
        model: Who answers.
        why_not: Why it would not be run; "" where it would.
        num_requests: Questions at most, those that are timed and those of the pilot among them.
        num_trainings: Trainings, those on parts of the rows among them.
        most_dollars: Most that a service may charge for it, about; 0 for a model of this machine, None where there is
            no price.
    """

    name: str
    model: str
    why_not: str
    num_requests: int
    num_trainings: int
    most_dollars: float | None = 0.0


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
        training_minutes: What a training on all rows takes, after one in this folder; None before there is one.
    """

    folder: str
    is_begun: bool
    metric: str
    num_rows: dict[str, int]
    num_pilot_rows: int
    power: str
    arms: tuple[PlannedWork, ...]
    notes: tuple[str, ...]
    training_minutes: float | None = None

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
            f"minutes: {_say_minutes(self)}",
            f"dollars: {_say_dollars(self.arms)}",
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
    settings, evaluation = sections_of(recipe)
    for spec in settings.models.values():
        parse_spec(spec)
    read_probe(settings.probe)
    frozen, rows, scoring = read_rows(recipe)
    is_begun = (folder / FROZEN_NAME).exists()
    if is_begun:
        require_same(folder, frozen, describe_fixed(recipe))
    num_pilot = len(sample(rows["validation"], settings.pilot_rows, seed=settings.seed))
    plans = [*plan_arms(recipe, settings), *plan_diagnostics(recipe)]
    sizes = _Sizes(
        pricing_of(settings),
        prompt=_mean_bytes([row.scored.prompt for row in rows["test"]]) + _mean_bytes([settings.instruction or ""]),
        shot=_mean_bytes([f"{row.scored.prompt}{row.references[0]}" for row in rows["train"]]),
        shots=max(settings.shots),
        passage_tokens=recipe.retrieval.k * recipe.retrieval.chunk_tokens if recipe.retrieval else 0,
        answer_tokens=evaluation.max_new_tokens,
    )
    return Plan(
        folder=str(folder),
        is_begun=is_begun,
        metric=scoring.main,
        num_rows={split: len(part) for split, part in rows.items()},
        num_pilot_rows=num_pilot,
        power=say_power(len(rows["test"])),
        arms=tuple(_with_dollars(_work(plan, settings, len(rows["test"]), num_pilot), plan, sizes) for plan in plans),
        notes=frozen.notes,
        training_minutes=earlier_training(folder, settings) if is_begun else None,
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


@dataclass(frozen=True)
class _Sizes:
    """What requests are made of: bytes of a prompt and of an example, and tokens of all passages and of an answer."""

    pricing: Pricing
    prompt: float
    shot: float
    shots: int
    passage_tokens: int
    answer_tokens: int


def _mean_bytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / max(len(texts), 1)


def _with_dollars(work: PlannedWork, planned: PlannedArm, sizes: _Sizes) -> PlannedWork:
    """The work with the most that a service charges for it, by the letters of the rows."""
    spec = parse_spec(planned.spec)
    if work.why_not or not isinstance(spec, EndpointSpec):
        return work
    if find_price(sizes.pricing.table, spec.model) is None:
        return replace(work, most_dollars=None)
    shown = sizes.shots * sizes.shot if planned.strategy in SHOWING else 0.0
    # A chunk's tokens are words where no tokenizer is known, and a word has a few tokens.
    passages = TOKENS_PER_WORD * sizes.passage_tokens if planned.strategy in (*RETRIEVING, ORACLE) else 0
    most = expected_dollars(
        sizes.pricing,
        spec.model,
        requests=work.num_requests,
        prompt_tokens=(sizes.prompt + shown) / BYTES_PER_TOKEN + passages,
        answer_tokens=sizes.answer_tokens,
    )
    return replace(work, most_dollars=most)


def earlier_training(folder: Path, settings: DecideSection) -> float | None:
    """Minutes of a training on all rows, after the largest part that was trained on here; None where none was.

    Args:
        folder: The folder of the comparison.
        settings: The shares of its learning curve.
    """
    places = [(1.0, folder / TUNED), *((share, folder / part_name(share)) for share in settings.learning_curve)]
    done = [(share, place) for share, place in places if (place / "model").is_dir()]
    if not done:
        return None
    share, place = max(done)
    return training_minutes(place) / share


def _say_minutes(plan: Plan) -> str:
    trainings = sum(work.num_trainings for work in plan.arms)
    if not trainings:
        return "not known before the first answers; decide.budget_minutes limits them"
    if plan.training_minutes is None:
        return "not known before the first training; decide.budget_minutes limits them"
    return (
        f"a training on all rows takes about {plan.training_minutes:.1f}, as the one that is done did; answers come on "
        "top, and rag_tuned has longer rows"
    )


def _say_dollars(arms: Sequence[PlannedWork]) -> str:
    known = sum(work.most_dollars or 0.0 for work in arms)
    unknown = sorted({work.model for work in arms if work.most_dollars is None})
    if unknown:
        return f"not known, the price table has no {', '.join(unknown)}"
    return f"at most about {say_dollars(known)} by the price table" if known else "none, everything runs here"


def _num_parts(settings: DecideSection, num_pilot: int) -> int:
    return sum(share < 1 for share in settings.learning_curve) if num_pilot else 0


def _say_work(work: PlannedWork) -> str:
    if work.why_not:
        return f"{work.name}: not run: {work.why_not}"
    trainings = f", {work.num_trainings} training{'s' if work.num_trainings > 1 else ''}" if work.num_trainings else ""
    note = " (where right passages are known)" if work.name == ORACLE else ""
    return f"{work.name}: {work.model}, up to {work.num_requests:,} requests{trainings}{note}"
