"""The main path: every way to customise a model, measured on one frozen split, and what that says to do.

    frozen.json     hashes of the rows and of what must not change; the audit for leaks comes before
    looks.jsonl     every arm's look at the test rows
    answers.sqlite  every answer, so that none is asked for twice
    index/          the documents
    rows/           rows that were rewritten for a training
    curve-25/ ...   trainings on parts of the rows
    tuned/, rag_tuned/  the trained arms, ordinary run folders
    freshness/      a copy of the documents that was changed
    arms/           every finished arm

Read this file first: every step is one function here. What was done is found again by the next command.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from kivnun.asking.kept import KeptAnswers
from kivnun.asking.request import Log
from kivnun.data.encode import Encoder
from kivnun.data.sources import first_problems
from kivnun.decide.arms import (
    CLOSED_BOOK,
    ORACLE,
    TRAINED,
    PlannedArm,
    base_spec,
    is_endpoint,
    plan_arms,
    plan_diagnostics,
)
from kivnun.decide.context import ANSWERS_NAME, Context, located, open_context
from kivnun.decide.costs import cost_of, price_notes, with_break_even
from kivnun.decide.diagnostics import find_flips, measure_gaps
from kivnun.decide.forgetting import measure_forgetting
from kivnun.decide.freeze import count_looks
from kivnun.decide.freshness import measure_freshness
from kivnun.decide.measure import not_run, say_error
from kivnun.decide.passages import index_folder, open_passages
from kivnun.decide.pilot import say_pilot
from kivnun.decide.plan import Plan, plan_strategies
from kivnun.decide.results import Arm, Cost, CurvePoint, Freshness, Strategies
from kivnun.decide.state import Measured
from kivnun.decide.tuning import Tuned, measure_rag_tuned, measure_tuned
from kivnun.decide.untrained import measure_untrained
from kivnun.decide.verdict import decide_between
from kivnun.errors import UserError
from kivnun.evaluation.paired import compare_scores, holm
from kivnun.evaluation.power import say_power
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.recipe.load import LoadedRecipe
from kivnun.runs import open_run

__all__ = ["Plan", "compare_strategies", "plan_strategies"]

ENDS_COMPARISON = ("disk-full", "run-locked", "test-leaked", "store-failed")
"""Errors of one arm that the others would meet as well, or that make every number untrue."""

KEPT_EVENTS = ("frozen", "arm_started", "arm_finished", "arm_kept", "training", "forgetting", "retrying", "compared")
"""Events of a comparison itself; those of its trainings stand in their own run folders, and answers in their file."""

Result = tuple[PlannedArm, Measured]


def compare_strategies(loaded: LoadedRecipe, folder: Path, *, log: Log) -> Strategies:
    """Measure every arm of a recipe and say which one to take, going on from what the folder holds.

    Args:
        loaded: A recipe with `decide` and `evaluation` sections.
        folder: The folder of the comparison.
        log: Takes every event.

    Raises:
        UserError: Whatever the user can mend: `test-leaked`, `split-too-small`, `decide-differs`, and all that is wrong
            with recipe, rows or base model.
    """
    recipe = located(loaded)
    with open_run(folder) as run, KeptAnswers(folder / ANSWERS_NAME) as kept:

        def say(event: str, fields: Mapping[str, object]) -> None:
            if event in KEPT_EVENTS:
                run.log(event, fields)
            log(event, fields)

        context = open_context(recipe, folder, kept=kept, log=say)
        open_base(context)
        find_passages(context)
        results, curve = measure_arms(context)
        freshness = measure_freshness(context, results)
        forgetting = measure_forgetting(context, [measured for _, measured in results])
        arms = finish_arms(context, results, freshness)
        decision = decide_between(arms, context.settings, metric=context.scoring.main)
        strategies = Strategies(
            title=recipe.name or loaded.path.stem,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            metric=context.scoring.main,
            num_rows=len(context.test),
            frozen=context.frozen.digest,
            looks=count_looks(folder, context.frozen.digest),
            arms=arms,
            gaps=measure_gaps(context, arms),
            curve=curve,
            forgetting=forgetting,
            decision=decision,
            flips=find_flips(context, arms, decision.chosen),
            power=say_differences(arms),
            notes=(),
        )
        say("compared", {"chosen": decision.chosen, "is_decided": decision.is_decided})
        return replace(strategies, notes=gather_notes(context, results))


def open_base(context: Context) -> None:
    """Open the base model, and refuse rows whose right answers it could not give whole.

    Raises:
        UserError: Whatever keeps the model from being asked; `answer-too-long`.
    """
    spec = base_spec(context.recipe)
    context.model(spec)
    if is_endpoint(spec):
        return
    encoder, longest = Encoder(load_tokenizer(resolve_model(spec).folder)), context.evaluation.max_new_tokens
    lengths = [len(ids) for ids in encoder.encode_texts([row.references[0] for row in context.test])]
    longer = [f"{row.scored.where}: {n} tokens" for row, n in zip(context.test, lengths, strict=True) if n > longest]
    if longer:
        raise UserError(
            "answer-too-long",
            f"{len(longer)} of {len(lengths)} test answers are longer than evaluation.max_new_tokens = {longest}, so "
            "that no arm could be right",
            details=first_problems(longer),
            hint=f"set evaluation.max_new_tokens to {max(lengths)}",
        )


def find_passages(context: Context) -> None:
    """Index the documents; where that fails the arms that need them are listed with the reason.

    Raises:
        UserError: What every arm would meet.
    """
    retrieval = context.recipe.retrieval
    if retrieval is None:
        return
    try:
        with context.budget.timed():
            context.passages = open_passages(retrieval, index_folder(context.folder, retrieval), log=context.log)
    except UserError as error:
        if error.code in ENDS_COMPARISON:
            raise
        context.why_no_passages = say_error(error)
        return
    if retrieval.gold is None:
        context.note(
            "without retrieval.gold the right passage of a row is the best one found that holds its answer: what is "
            "not found is not counted, so that retrieval looks better than it is"
        )
    if is_endpoint(retrieval.embedder):
        context.note("what the embedder charges for documents and queries is not counted in any dollars")


def measure_arms(context: Context) -> tuple[list[Result], tuple[CurvePoint, ...]]:
    """Every arm and diagnostic, the cheapest first; diagnostics come where their answer can spare an arm.

    Raises:
        UserError: What every arm would meet.
    """
    plans = plan_arms(context.recipe, context.settings)
    closed_book, oracle = plan_diagnostics(context.recipe)
    place = next((number for number, plan in enumerate(plans) if plan.strategy == "rag"), len(plans))
    results: list[Result] = []
    curve: tuple[CurvePoint, ...] = ()
    for number, planned in enumerate([*plans[:place], closed_book, oracle, *plans[place:]], start=1):
        context.log("arm_started", {"arm": planned.name, "number": number, "num_arms": len(plans) + 2})
        tuned = measure_arm(context, planned, [measured for _, measured in results])
        results.append((planned, tuned.measured))
        curve = curve or tuned.curve
        arm = tuned.measured.arm
        score = arm.metrics[context.scoring.main].value if arm.state == "measured" else None
        context.log("arm_finished", {"arm": arm.name, "state": arm.state, "reason": arm.reason, "score": score})
    return results, curve


def measure_arm(context: Context, planned: PlannedArm, earlier: Sequence[Measured]) -> Tuned:
    """One arm, measured, pruned, or listed with the reason why not.

    Args:
        context: The comparison.
        planned: The arm.
        earlier: What came before it.

    Raises:
        UserError: What every arm would meet.
    """
    if planned.why_not:
        return Tuned(not_run(planned, planned.why_not))
    try:
        if planned.strategy not in TRAINED:
            return Tuned(measure_untrained(context, planned, earlier))
        if planned.strategy == "tuned":
            return measure_tuned(context, planned, [each for each in earlier if each.arm.is_selectable])
        return measure_rag_tuned(context, planned)
    except UserError as error:
        if error.code in ENDS_COMPARISON:
            raise
        return Tuned(not_run(planned, say_error(error)))


def finish_arms(context: Context, results: Sequence[Result], freshness: Mapping[str, Freshness]) -> tuple[Arm, ...]:
    """The arms with their prices, their freshness, and their differences from the cheapest one."""
    arms = [
        replace(each.arm, cost=_cost(context, each), freshness=freshness.get(each.arm.name))
        if each.arm.state == "measured"
        else each.arm
        for _, each in results
    ]
    diagnostics = [arm for arm in arms if arm.strategy in (CLOSED_BOOK, ORACLE)]
    arms = [*(arm for arm in arms if arm.strategy not in (CLOSED_BOOK, ORACLE)), *diagnostics]
    return with_break_even(
        with_differences(arms, seed=context.settings.seed, resamples=context.scoring.resamples), context.pricing
    )


def with_differences(arms: Sequence[Arm], *, seed: int, resamples: int) -> list[Arm]:
    """The arms, each with its difference from the first measured one, and p values corrected for their number."""
    measured = [arm for arm in arms if arm.is_selectable]
    if not measured:
        return list(arms)
    baseline = measured[0]
    found = {
        arm.name: compare_scores((baseline.name, arm.name), baseline.scores, arm.scores, seed=seed, resamples=resamples)
        for arm in measured[1:]
    }
    corrected = dict(zip(found, holm([each.p_value for each in found.values()]), strict=True))
    return [
        replace(arm, difference=found[arm.name].difference, p_value=corrected[arm.name]) if arm.name in found else arm
        for arm in arms
    ]


def say_differences(arms: Sequence[Arm]) -> str:
    """What the number of test rows can show, from the differences that were measured."""
    measured = [arm for arm in arms if arm.is_selectable]
    if not measured:
        return "no arm was measured"
    if len(measured) == 1:
        return say_power(len(measured[0].scores))
    pairs = zip(measured[0].scores, measured[-1].scores, strict=True)
    return say_power(len(measured[0].scores), [after - before for before, after in pairs])


def gather_notes(context: Context, results: Sequence[Result]) -> tuple[str, ...]:
    """What a reader must know beside the numbers, each line once."""
    prices = [each.price for _, each in results if each.price is not None]
    passages = context.passages
    found = [] if passages is None else [*passages.notes, *passages.search_notes]
    found.append(say_pilot(context))
    lines = (*context.notes, *found, *price_notes(prices, context.pricing))
    return tuple(dict.fromkeys(line for line in lines if line))


def _cost(context: Context, measured: Measured) -> Cost:
    seconds = measured.seconds_per_request
    return cost_of(
        measured.replies,
        context.pricing,
        price=measured.price,
        seconds_per_1000=None if seconds is None else 1000 * seconds,
        training_minutes=measured.training_minutes,
    )
