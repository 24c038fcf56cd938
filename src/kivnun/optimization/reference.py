"""`reference.json`: what the tuned model answered to the golden prompts, to which every form is compared anywhere."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from kivnun.errors import UserError
from kivnun.generation.agreement import Agreement, compare_answers
from kivnun.generation.engine import Engine, Generation
from kivnun.optimization.divergence import Forced, Step, force, num_steps, predict_steps
from kivnun.optimization.golden import Golden, Tick
from kivnun.runs import write_atomic

REFERENCE_NAME = "reference.json"
FORMAT = 1


@dataclass(frozen=True)
class Reference:
    """The tuned model's answers.

    Attributes:
        answers: Its greedy answer to each golden prompt.
        predicted: For the first prompts, what it predicts at each step of its answer.
    """

    answers: tuple[Generation, ...]
    predicted: tuple[tuple[Step, ...], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that it chose in all answers, those that end them included."""
        return sum(num_steps(answer) for answer in self.answers)


@dataclass(frozen=True)
class Check:
    """A form beside the reference.

    Attributes:
        answers: Its own greedy answers.
        agreement: How many of them are the reference's.
        token_agreement: Share of the reference's tokens that it would choose after the same tokens; None for a server
            that cannot be led along an answer.
        divergence: Mean over the steps whose predictions were kept, in nats; None where none were.
    """

    answers: tuple[Generation, ...]
    agreement: Agreement
    token_agreement: float | None
    divergence: float | None


def make_reference(
    engine: Engine, golden: Golden, *, divergence_prompts: int, tick: Tick = lambda _done, _total: None
) -> Reference:
    """Ask the tuned model.

    Args:
        engine: The tuned model.
        golden: What it is asked.
        divergence_prompts: For so many prompts its predictions are kept.
        tick: Takes the progress.
    """
    led = golden.token_ids[:divergence_prompts]
    total = len(golden.prompts) + len(led)
    answers = golden.ask(engine, lambda done, _total: tick(done, total))
    predicted: list[tuple[Step, ...]] = []
    for prompt, answer in zip(led, answers, strict=False):
        predicted.append(tuple(predict_steps(engine, prompt, answer)))
        tick(len(answers) + len(predicted), total)
    return Reference(tuple(answers), tuple(predicted))


def check_form(
    engine: Engine,
    golden: Golden,
    reference: Reference,
    *,
    tie_tolerance: float,
    tick: Tick = lambda _done, _total: None,
) -> Check:
    """Ask a form the golden prompts, and lead it along the reference's answers.

    Args:
        engine: The form.
        golden: The prompts.
        reference: The tuned model's answers to them.
        tie_tolerance: See `compare_answers`.
        tick: Takes the progress.

    Raises:
        UserError: `prompt-invalid` or `logits-not-finite`.
    """
    forced: list[Forced] = []
    for number, (prompt, expected) in enumerate(zip(golden.prompts, reference.answers, strict=True), start=1):
        predicted = reference.predicted[number - 1] if number <= len(reference.predicted) else ()
        forced.append(force(engine, prompt.token_ids, expected, stop_ids=golden.stop_ids, predicted=predicted))
        tick(number, len(golden.prompts))
    answers = _answers_of(engine, golden, reference, forced)
    agreement = compare_answers(reference.answers, answers, tie_tolerance=tie_tolerance)
    return Check(tuple(answers), agreement, *summarize_forced(forced))


def _answers_of(engine: Engine, golden: Golden, reference: Reference, forced: Sequence[Forced]) -> list[Generation]:
    """A form's own greedy answers: the reference's where it agreed at every step, which says the same; else asked."""
    parted = [number for number, each in enumerate(forced) if each.agreed < each.steps]
    asked = replace(golden, prompts=tuple(golden.prompts[number] for number in parted)).ask(engine)
    said = dict(zip(parted, asked, strict=True))
    return [said.get(number, answer) for number, answer in enumerate(reference.answers)]


def summarize_forced(forced: Sequence[Forced]) -> tuple[float | None, float | None]:
    """Token agreement and mean divergence over all answers that a form was led along; None where not measured."""
    steps = sum(each.steps for each in forced)
    divergences = [value for each in forced for value in each.divergences]
    agreed = sum(each.agreed for each in forced)
    return agreed / steps if steps else None, sum(divergences) / len(divergences) if divergences else None


def write_reference(folder: Path, reference: Reference) -> None:
    """Write `reference.json`."""
    write_atomic(folder / REFERENCE_NAME, orjson.dumps({"format": FORMAT, **asdict(reference)}) + b"\n")


def read_reference(folder: Path) -> Reference:
    """Read what `write_reference` wrote.

    Raises:
        UserError: `artifact-damaged` where it is missing or cannot be read.
    """
    path = folder / REFERENCE_NAME
    try:
        return _parse(orjson.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "artifact-damaged",
            f"{path} cannot be read ({error})",
            hint="copy the folder again from where it was made, or run the recipe again",
        ) from error


def _margins(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)


def _parse(fields: Any) -> Reference:
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}, known is {FORMAT}")
    answers = (
        Generation(tuple(each["token_ids"]), each["finished"], _margins(each["top_two_margins"]))
        for each in fields["answers"]
    )
    predicted = (
        tuple(Step(tuple(step["ids"]), tuple(step["log_p"])) for step in steps) for steps in fields["predicted"]
    )
    return Reference(tuple(answers), tuple(predicted))
