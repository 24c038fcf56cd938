"""An untrained arm, from its first question to its place in the table; and what trained arms share with it."""

import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kivnun.asking.kept import ask_all
from kivnun.asking.request import AskedModel, Reply
from kivnun.asking.timing import summarise_times, time_all
from kivnun.decide.arms import ORACLE, RETRIEVING, SHOWING, PlannedArm, is_endpoint
from kivnun.decide.context import Context
from kivnun.decide.costs import dollars_of
from kivnun.decide.freeze import note_look
from kivnun.decide.passages import Passages, support
from kivnun.decide.prompting import Prompted, Prompter
from kivnun.decide.results import Arm, Latency
from kivnun.decide.rows import DecideRow, sample
from kivnun.decide.shots import NearestExamples, choose_static
from kivnun.decide.state import Measured
from kivnun.errors import UserError
from kivnun.evaluation.results import Estimate
from kivnun.evaluation.scoring import score_rows, summarise
from kivnun.prices import find_price

Write = Callable[[DecideRow], Prompted]
"""How an arm asks a row."""
ABSTAINED = Reply("", "stop", 0, 0)
"""The answer of an arm that found nothing good enough to answer from."""


@dataclass(frozen=True)
class Answered:
    """Rows with their answers and scores.

    Attributes:
        prompted: The rows as they were asked.
        replies: What was answered.
        scores: Main metric of each row.
        metrics: Every metric of all rows.
        main: Name of the main metric.
    """

    prompted: tuple[Prompted, ...]
    replies: tuple[Reply, ...]
    scores: tuple[float, ...]
    metrics: Mapping[str, Estimate]
    main: str

    @property
    def estimate(self) -> Estimate:
        """The main metric with its interval."""
        return self.metrics[self.main]


def answer_rows(
    context: Context, model: AskedModel, rows: Sequence[DecideRow], write: Write, *, purpose: str
) -> Answered:
    """Ask a model every row, and score what it answers; what was answered earlier is not asked again.

    Args:
        context: The comparison.
        model: The model.
        rows: The rows.
        write: How each is asked.
        purpose: What it is for, under which its dollars are counted.

    Raises:
        UserError: Whatever keeps the model from answering.
    """
    prompted = tuple(write(row) for row in rows)
    requests = [each.request for each in prompted if each.request is not None]
    with context.budget.timed():
        said = iter(
            ask_all(
                model,
                requests,
                max_new_tokens=context.evaluation.max_new_tokens,
                kept=context.kept,
                log=context.log,
            )
        )
    replies = tuple(ABSTAINED if each.request is None else next(said) for each in prompted)
    pay(context, model, replies, purpose)
    scores, metrics, main = score(context, rows, [reply.text for reply in replies])
    return Answered(prompted, replies, scores, metrics, main)


def score(
    context: Context, rows: Sequence[DecideRow], answers: Sequence[str]
) -> tuple[tuple[float, ...], Mapping[str, Estimate], str]:
    """Main metric of each row, every metric of all, and the main one's name."""
    scored = [row.scored for row in rows]
    by_row = score_rows(answers, scored, context.scoring)
    return by_row.metrics[by_row.main], summarise(answers, scored, by_row, context.scoring), by_row.main


def pay(context: Context, model: AskedModel, replies: Sequence[Reply], purpose: str) -> None:
    """Count what a service bills.

    Args:
        context: The comparison.
        model: Who answered.
        replies: What was answered.
        purpose: What for.
    """
    found = find_price(context.pricing.table, model.price) if model.price else None
    if found is not None:
        # A further model may be another one now under the same name: what the first one cost stays paid.
        context.budget.pay(f"{purpose}, {model.price}", sum(dollars_of(reply, found) for reply in replies))


def write_plain(prompter: Prompter) -> Write:
    """The row alone."""
    return prompter.write


def write_with_passages(prompter: Prompter, passages: Passages) -> Write:
    """The row with the passages that are found for it; nothing is asked where the best one is too bad."""

    def write(row: DecideRow) -> Prompted:
        if passages.find(row).abstains:
            return Prompted(None)
        return prompter.write(row, chunks=passages.shown(row))

    return write


def write_with_gold(prompter: Prompter, passages: Passages) -> Write:
    """The row with the right passage alone; without any where none is known."""

    def write(row: DecideRow) -> Prompted:
        gold = passages.gold(row)
        return prompter.write(row, chunks=[] if gold is None else [gold])

    return write


def write_with_static(prompter: Prompter, context: Context, count: int) -> Write:
    """The row behind the same examples as every other row."""
    by_label = context.evaluation.task == "classification"
    shots = choose_static(context.rows["train"], count, by_label=by_label, seed=context.settings.seed)
    return lambda row: prompter.write(row, shots=shots)


def write_with_nearest(prompter: Prompter, context: Context, count: int) -> Write:
    """The row behind the training rows that are nearest to it."""
    if context.nearest is None:
        context.nearest = NearestExamples(context.rows["train"])
    nearest = context.nearest
    return lambda row: prompter.write(row, shots=nearest.find(row.query, count))


def variants_of(planned: PlannedArm, context: Context) -> list[dict[str, int]]:
    """The settings that an arm tries on the pilot rows, the cheapest first."""
    if planned.strategy not in SHOWING:
        return [{}]
    there = len(context.rows["train"])
    counts = sorted({min(count, there) for count in context.settings.shots})
    return [{"num_shots": count} for count in counts]


def writer_of(planned: PlannedArm, context: Context, model: AskedModel, settings: Mapping[str, int]) -> Write:
    """How an arm without training asks."""
    prompter = context.prompter(model)
    if planned.strategy == "few_shot":
        return write_with_static(prompter, context, settings["num_shots"])
    if planned.strategy == "few_shot_nearest":
        return write_with_nearest(prompter, context, settings["num_shots"])
    if planned.strategy in ("rag", ORACLE):
        if context.passages is None:
            raise RuntimeError(f"{planned.name} has no passages, and should not have been run")
        write = write_with_passages if planned.strategy == "rag" else write_with_gold
        return write(prompter, context.passages)
    return write_plain(prompter)


def finish(
    context: Context, planned: PlannedArm, model: AskedModel, write: Write, *, pilot: Answered | None
) -> tuple[Arm, Answered, float | None]:
    """Ask the test rows, time some of them, and gather all that an arm's line shows but its price.

    Args:
        context: The comparison.
        planned: The arm.
        model: Who answers.
        write: How it is asked.
        pilot: What it did on the pilot rows.

    Returns:
        The arm, its answers, and the mean seconds of a request that is asked alone.
    """
    note_look(context.folder, context.frozen.digest, context.fixed, planned.name)
    answered = answer_rows(context, model, context.test, write, purpose=f"{planned.name} on the test rows")
    searched = context.passages if planned.strategy in RETRIEVING else None
    latency, seconds = time_requests(context, model, write, purpose=f"{planned.name} timed", searched=searched)
    chunks = [each.chunks for each in answered.prompted]
    has_passages = context.passages is not None and any(chunks)
    is_found = has_passages and planned.strategy != ORACLE
    arm = Arm(
        name=planned.name,
        strategy=planned.strategy,
        model=model.name,
        state="measured",
        metrics=answered.metrics,
        scores=answered.scores,
        answers=tuple(reply.text for reply in answered.replies),
        sources=tuple(each.sources for each in answered.prompted) if has_passages else (),
        pilot=None if pilot is None else pilot.estimate,
        latency=latency,
        retrieval=context.passages.measure(context.test) if context.passages is not None and is_found else {},
        citations=support([reply.text for reply in answered.replies], chunks) if has_passages else None,
        truncated=sum(each.left_out > 0 for each in answered.prompted),
    )
    return arm, answered, None if is_endpoint(planned.spec) else seconds


def time_requests(
    context: Context, model: AskedModel, write: Write, *, purpose: str, searched: Passages | None = None
) -> tuple[Latency | None, float | None]:
    """Times of some test rows asked one by one, and the mean of a request in seconds.

    Args:
        context: The comparison.
        model: Who answers.
        write: How it is asked.
        purpose: What it is for, under which its dollars are counted.
        searched: What an arm searches before it asks: an answer takes that time too.
    """
    rows = sample(context.test, context.settings.timed_requests, seed=context.settings.seed)
    asked = [(row, each.request) for row in rows if (each := write(row)).request is not None]
    requests = [request for _, request in asked if request is not None]
    with context.budget.timed():
        replies = time_all(
            model, requests, max_new_tokens=context.evaluation.max_new_tokens, kept=context.kept, log=context.log
        )
        if searched is not None:
            replies = [_later(reply, searched.time_search(row)) for (row, _), reply in zip(asked, replies, strict=True)]
    pay(context, model, replies, purpose)
    times = summarise_times(replies)
    if times is None:
        return None, None
    latency = Latency(times.p50_ms, times.p95_ms, times.first_token_p50_ms, times.num_requests, times.load)
    return latency, statistics.fmean(reply.seconds for reply in replies if reply.seconds is not None)


def _later(reply: Reply, seconds: float) -> Reply:
    """A timed reply that came so much later."""
    whole, first = (None if each is None else each + seconds for each in (reply.seconds, reply.first_token_seconds))
    return replace(reply, seconds=whole, first_token_seconds=first)


def arm_key(context: Context, identity: str, *, reads_documents: bool) -> str:
    """What a finished arm depends on: rows and settings, the model, and the documents where it reads them."""
    documents = context.passages.digest if reads_documents and context.passages is not None else ""
    return hashlib.sha256("\0".join((context.fixed, identity, documents)).encode()).hexdigest()


def not_run(planned: PlannedArm, reason: str, *, pilot: Estimate | None = None, is_pruned: bool = False) -> Measured:
    """An arm that is listed with the reason why it was not measured."""
    state = "pruned" if is_pruned else "not run"
    return Measured(Arm(planned.name, planned.strategy, planned.spec.partition("?")[0], state, reason, pilot=pilot), ())


def say_error(error: UserError) -> str:
    """Why an arm could not be run, as its line says it."""
    return f"{error.code}: {error.problem}; {error.hint}"
