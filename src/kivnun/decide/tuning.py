"""The arms `tuned` and `rag_tuned`: part by part, within the budget, with every seed, and measured like the others."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kivnun.decide.arms import PlannedArm
from kivnun.decide.context import Context
from kivnun.decide.curve import Part, measure_part, part_name, parts_of
from kivnun.decide.measure import (
    Answered,
    Write,
    answer_rows,
    arm_key,
    finish,
    not_run,
    write_plain,
    write_with_passages,
)
from kivnun.decide.passages import Passages
from kivnun.decide.pilot import why_prune
from kivnun.decide.prompting import Prompter
from kivnun.decide.raft import RaftRows, make_raft_rows, show_retrieved
from kivnun.decide.results import CurvePoint
from kivnun.decide.state import Measured, read_measured, write_measured
from kivnun.decide.trained import (
    ROWS_FOLDER,
    Trained,
    count_letters,
    expected_seconds,
    is_trained,
    rows_recipe,
    train,
    tuned_recipe,
    write_rows,
)
from kivnun.decide.untrained import MIN_GOLD_SHARE
from kivnun.recipe.schema import Recipe


@dataclass(frozen=True)
class Tuned:
    """A trained arm with what was measured on the way.

    Attributes:
        measured: The arm.
        curve: Points of its learning curve.
    """

    measured: Measured
    curve: tuple[CurvePoint, ...] = ()


def measure_tuned(context: Context, planned: PlannedArm, earlier: Sequence[Measured]) -> Tuned:
    """Train on parts of the rows, stop where the gain cannot be worth it, train on all of them, and measure.

    Args:
        context: The comparison.
        planned: The arm.
        earlier: Arms that were measured before, all cheaper.

    Raises:
        UserError: Whatever the training refuses.
    """
    recipes = [tuned_recipe(context, seed=seed) for seed in range(context.settings.num_seeds)]
    letters = count_letters([row.conversation for row in context.rows["train"]])
    parts, reason, is_pruned = _climb(context, recipes[0], letters, earlier)
    points = tuple(part.point for part in parts)
    if reason:
        pilot = parts[-1].point.score if parts else None
        return Tuned(not_run(planned, reason, pilot=pilot, is_pruned=is_pruned), points)
    measured = _measure(context, planned, recipes, letters, None)
    is_whole_asked_for = 1.0 in context.settings.learning_curve
    if measured.arm.pilot is not None and is_whole_asked_for:
        whole = CurvePoint(1.0, len(context.rows["train"]), measured.arm.pilot, "validation")
        points = (*points, whole)
    return Tuned(measured, points)


def measure_rag_tuned(context: Context, planned: PlannedArm) -> Tuned:
    """Train on rows with passages, the right one among wrong ones, and measure with the passages that are found.

    Args:
        context: The comparison.
        planned: The arm.

    Raises:
        UserError: Whatever the training refuses.
    """
    passages = context.passages
    if passages is None:
        return Tuned(not_run(planned, context.why_no_passages))
    passages.find_all([*context.rows["train"], *context.rows["validation"]], context.log)
    prompter = context.prompter(context.model(planned.spec), is_tuned=True)
    raft = make_raft_rows(context, passages, prompter)
    count = len(context.rows["train"])
    if count - raft.unknown < MIN_GOLD_SHARE * count:
        reason = f"the right passage is known for {count - raft.unknown} of {count} training rows only"
        return Tuned(not_run(planned, f"{reason}; name a column with it in retrieval.gold"))
    say_raft(context, raft)
    files = write_raft(context, raft, passages, prompter)
    longest = prompter.model.context_tokens or context.recipe.data.max_seq_len
    # A training needs the memory of the model that the prompts were measured with.
    del prompter
    recipes = [
        rows_recipe(context, files, max_seq_len=longest, seed=seed) for seed in range(context.settings.num_seeds)
    ]
    letters = count_letters([row.conversation for row in raft.rows])
    measured = _measure(context, planned, recipes, letters, passages)
    settings = context.settings
    shown = {"k": passages.settings.k, "distractors": settings.distractors, "without_gold": settings.without_gold}
    return Tuned(replace(measured, arm=replace(measured.arm, settings=shown)))


def write_raft(context: Context, raft: RaftRows, passages: Passages, prompter: Prompter) -> dict[str, Path]:
    """Write the rows with passages, those of the validation split with what the index finds."""
    folder, template = context.folder / ROWS_FOLDER, context.frozen.template
    files = {"train": write_rows(folder / "rag_tuned-train.jsonl", [row.conversation for row in raft.rows], template)}
    shown = show_retrieved(context.rows["validation"], passages, prompter)
    if shown:
        files["validation"] = write_rows(folder / "rag_tuned-validation.jsonl", shown, template)
    return files


def say_raft(context: Context, raft: RaftRows) -> None:
    """Say what was left out of the rows with passages."""
    if raft.unknown:
        context.note(f"rag_tuned: {raft.unknown} training rows are left out, for their right passage is not known")
    if raft.too_long:
        context.note(f"rag_tuned: {raft.too_long} training rows are left out, for they do not fit the context")
    fewer = sum(row.left_out > 0 for row in raft.rows)
    if fewer:
        context.note(f"rag_tuned: {fewer} training rows have fewer wrong passages, to fit the context")


def _climb(context: Context, recipe: Recipe, letters: int, earlier: Sequence[Measured]) -> tuple[list[Part], str, bool]:
    """The parts of the learning curve, and why the whole is not trained, with whether it was pruned for that."""
    parts: list[Part] = []
    for share in parts_of(context):
        over = "" if is_trained(context, part_name(share)) else _why_over_budget(context, recipe, letters, share)
        if over:
            return parts, over, False
        parts.append(measure_part(context, share))
        if len(parts) > 1:
            continue
        pruned = why_prune(context, parts[0].answered.scores, [each for each in earlier if ":" not in each.arm.name])
        if pruned:
            rows = f"trained on {share:.0%} of the rows"
            return parts, f"{rows}: {pruned}", True
    return parts, "", False


def _why_over_budget(context: Context, recipe: Recipe, letters: int, times: float) -> str:
    """Why so many trainings on all rows, or such a part of one, do not fit the budget."""
    if context.budget.minutes is None:
        return ""
    seconds = times * expected_seconds(context, recipe, letters)
    return context.budget.why_not(seconds=seconds, dollars=0.0)


def _measure(
    context: Context, planned: PlannedArm, recipes: Sequence[Recipe], letters: int, passages: Passages | None
) -> Measured:
    """Train with every seed; the first one answers for the arm, the others say how far seeds lie apart."""
    key = arm_key(context, context.model(planned.spec).identity, reads_documents=passages is not None)
    kept = read_measured(context.folder, key, planned.name)
    if kept is not None:
        context.log("arm_kept", {"arm": planned.name})
        context.training_speed = 60 * kept.training_minutes / max(letters, 1)
        return kept
    names = [planned.name, *(f"{planned.name}-seed-{seed}" for seed in range(1, len(recipes)))]
    missing = sum(not is_trained(context, name) for name in names)
    over = _why_over_budget(context, recipes[0], letters, missing) if missing else ""
    if over:
        return not_run(planned, over)
    trainings: list[Trained] = []
    for name, recipe in zip(names, recipes, strict=True):
        trainings.append(train(context, name, recipe))
        context.training_speed = 60 * trainings[-1].minutes / max(letters, 1)
    measured = _ask(context, planned, trainings, passages)
    write_measured(context.folder, key, measured)
    return measured


def _ask(context: Context, planned: PlannedArm, trainings: Sequence[Trained], passages: Passages | None) -> Measured:
    first = str(trainings[0].folder)
    model = context.model(first)
    write = _writer(context.prompter(model, is_tuned=True), passages)
    pilot: Answered | None = None
    if context.pilot:
        pilot = answer_rows(context, model, context.pilot, write, purpose=f"{planned.name} on the pilot rows")
    arm, answered, seconds = finish(context, planned, model, write, pilot=pilot)
    context.forget(first)
    means = [statistics.fmean(answered.scores)]
    for training in trainings[1:]:
        spec = str(training.folder)
        other = context.model(spec)
        write_other = _writer(context.prompter(other, is_tuned=True), passages)
        scores = answer_rows(context, other, context.test, write_other, purpose=f"{spec} on the test rows").scores
        means.append(statistics.fmean(scores))
        context.forget(spec)
    return Measured(
        arm=replace(arm, model=f"{Path(planned.spec).name} tuned", seed_scores=tuple(means) if len(means) > 1 else ()),
        replies=answered.replies,
        seconds_per_request=seconds,
        training_minutes=trainings[0].minutes,
        pilot_scores=() if pilot is None else pilot.scores,
        folders=tuple(str(each.folder.relative_to(context.folder)) for each in trainings),
    )


def _writer(prompter: Prompter, passages: Passages | None) -> Write:
    return write_plain(prompter) if passages is None else write_with_passages(prompter, passages)
