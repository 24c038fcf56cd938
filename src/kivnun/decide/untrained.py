"""Arms without training and the diagnostics: tried on the pilot rows, pruned or within the budget, then measured."""

from collections.abc import Sequence
from dataclasses import replace

from kivnun.asking.request import AskedModel
from kivnun.decide.arms import CLOSED_BOOK, ORACLE, RETRIEVING, PlannedArm
from kivnun.decide.context import Context
from kivnun.decide.measure import arm_key, finish, not_run, variants_of, writer_of
from kivnun.decide.pilot import try_variants, why_over_budget, why_prune, why_prune_retrieval
from kivnun.decide.state import Measured, read_measured, write_measured

NEEDS_PASSAGES = ("rag", ORACLE)
MIN_GOLD_SHARE = 0.5
"""Share of the rows whose right passage must be known for the diagnostics and the training that need it."""


def measure_untrained(context: Context, planned: PlannedArm, earlier: Sequence[Measured]) -> Measured:
    """Measure an arm, or find it measured by an earlier command.

    Args:
        context: The comparison.
        planned: The arm.
        earlier: What was measured before, the cheaper arms and the diagnostics.

    Raises:
        UserError: Whatever keeps the model from answering.
    """
    if planned.strategy == CLOSED_BOOK and (same := find(earlier, "prompt")) is not None:
        reason = "the same requests as prompt: nothing is shown with a row there either"
        return replace(same, arm=replace(same.arm, name=planned.name, strategy=planned.strategy, reason=reason))
    if reason := _why_no_passages(context, planned):
        return not_run(planned, reason)
    model = context.model(planned.spec)
    key = arm_key(context, model.identity, reads_documents=planned.strategy in NEEDS_PASSAGES)
    kept = read_measured(context.folder, key, planned.name)
    if kept is not None:
        context.log("arm_kept", {"arm": planned.name})
        return kept
    measured = _measure(context, planned, model, earlier)
    if measured.arm.state == "measured":
        write_measured(context.folder, key, measured)
    return measured


def _measure(context: Context, planned: PlannedArm, model: AskedModel, earlier: Sequence[Measured]) -> Measured:
    variants = variants_of(planned, context)
    dearest = writer_of(planned, context, model, variants[-1])
    reason = why_over_budget(context, planned, model, dearest, context.pilot, times=len(variants))
    if reason:
        return not_run(planned, reason)
    settings, write, pilot = try_variants(context, planned, model)
    scores, estimate = ((), None) if pilot is None else (pilot.scores, pilot.estimate)
    reason = _why_prune(context, planned, scores, earlier)
    if reason:
        return not_run(planned, reason, pilot=estimate, is_pruned=True)
    reason = why_over_budget(context, planned, model, write, context.test, times=1)
    if reason:
        return not_run(planned, reason, pilot=estimate)
    arm, answered, seconds = finish(context, planned, model, write, pilot=pilot)
    return Measured(
        arm=replace(arm, settings={**settings, **_say_retrieval(context, planned)}),
        replies=answered.replies,
        price=model.price,
        seconds_per_request=seconds,
        pilot_scores=scores,
    )


def _say_retrieval(context: Context, planned: PlannedArm) -> dict[str, object]:
    retrieval = context.recipe.retrieval
    if planned.strategy not in RETRIEVING or retrieval is None:
        return {}
    weight = {} if retrieval.embedder == "none" else {"dense_weight": retrieval.dense_weight}
    return {"k": retrieval.k, **weight}


def find(earlier: Sequence[Measured], name: str) -> Measured | None:
    """The measured arm of a name."""
    return next((each for each in earlier if each.arm.name == name and each.arm.state == "measured"), None)


def why_no_gold(context: Context) -> str:
    """Why what needs the right passages cannot be done, with the figures; "" where it can."""
    if context.passages is None:
        return context.why_no_passages
    known = sum(context.passages.gold(row) is not None for row in context.test)
    if known < MIN_GOLD_SHARE * len(context.test):
        return (
            f"the right passage is known for {known} of {len(context.test)} test rows only; name a column with it in "
            "retrieval.gold"
        )
    return ""


def _why_no_passages(context: Context, planned: PlannedArm) -> str:
    if planned.strategy in NEEDS_PASSAGES and context.passages is None:
        return context.why_no_passages
    return why_no_gold(context) if planned.strategy == ORACLE else ""


def _why_prune(context: Context, planned: PlannedArm, pilot: Sequence[float], earlier: Sequence[Measured]) -> str:
    """Why an arm is not measured after its pilot; diagnostics and the first arm of a model always are."""
    if planned.strategy in (CLOSED_BOOK, ORACLE):
        return ""
    if planned.strategy == "rag" and planned.is_base:
        oracle, closed = find(earlier, ORACLE), find(earlier, CLOSED_BOOK)
        if oracle is not None and closed is not None:
            reason = why_prune_retrieval(context, context.pilot, oracle.pilot_scores, closed.pilot_scores)
            if reason:
                return reason
    _, _, model = planned.name.partition(":")
    same = [each for each in earlier if each.arm.is_selectable and each.arm.name.partition(":")[2] == model]
    return why_prune(context, pilot, same)
