"""What a run would do, told without doing it: rows are read, checked and tokenised, nothing is trained or written."""

from collections.abc import Mapping

from kivnun.data.check_counts import count_checks, say_checks
from kivnun.data.checks.report import CheckReport
from kivnun.data.encode import Encoder
from kivnun.data.preflight import check_before_training, require_no_errors
from kivnun.data.prepare import PreparedData, tokenize_splits
from kivnun.data.reading import ReadData, read_data
from kivnun.inputs import fit_context, located_recipe
from kivnun.methods import require_mergeable
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.optimization.stage import require_forms
from kivnun.recipe.load import LoadedRecipe
from kivnun.recipe.schema import NewModel
from kivnun.trainee import require_trainable
from kivnun.training.loop import make_plan
from kivnun.training.objectives import make_objective


def describe_plan(loaded: LoadedRecipe) -> list[str]:
    """What a run would do, in lines of text.

    Raises:
        UserError: What a run would refuse before training.
    """
    recipe = located_recipe(loaded)
    make_objective(recipe.training.objective)
    if isinstance(recipe.base_model, NewModel):
        read = read_data(recipe.data, recipe.training.objective.kind)
        report = check_before_training(read, recipe.data, recipe=str(loaded.path))
        require_no_errors(report, recipe=str(loaded.path))
        rows = ", ".join(f"{len(part)} {name}" for name, part in read.splits.items())
        return [f"base model: new; rows: {rows}", *_say_left_out(read.left_out), *_say_data(read, report)]
    base = resolve_model(recipe.base_model)
    if recipe.optimization is not None:
        require_mergeable(recipe.method)
        require_forms(base.folder, recipe.optimization)
    require_trainable(recipe, base)
    read = read_data(recipe.data, recipe.training.objective.kind)
    data, _ = fit_context(recipe.data, base, recipe.method)
    encoder = Encoder(load_tokenizer(base.folder))
    report = check_before_training(read, data, recipe=str(loaded.path), encoder=encoder)
    require_no_errors(report, recipe=str(loaded.path))
    prepared = tokenize_splits(read.template, read.splits, data, encoder, recipe.training.objective)
    table = prepared.table("train")
    plan = make_plan(table.lengths(), recipe.training)
    stages = ["dataset", "model", *(name for name in ("evaluation", "optimization") if getattr(recipe, name))]
    return [
        f"base model: {base.name} ({base.content_hash[:12]})",
        f"rows: {', '.join(f'{len(part)} {name}' for name, part in prepared.splits.items())}",
        *_say_left_out({**read.left_out, **prepared.dropped}),
        *_say_data(read, report),
        f"tokens: {table.num_tokens:,} to train on{_say_learnt(prepared)}",
        *([f"labels: {', '.join(prepared.labels)}"] if prepared.labels else []),
        f"steps: {plan.num_steps} of up to {plan.step_tokens:,} tokens, method {recipe.method.kind}",
        f"stages: {', '.join(stages)}",
    ]


def _say_learnt(prepared: PreparedData) -> str:
    """How many tokens are learnt one by one; a head learns from whole texts."""
    learnt = prepared.num_trained("train")
    return f", {learnt:,} of them learnt" if learnt else ""


def _say_left_out(counts: Mapping[str, int]) -> list[str]:
    return [f"left out: {count} row(s) {reason}" for reason, count in counts.items()]


def _say_data(read: ReadData, report: CheckReport) -> list[str]:
    """How the rows were read and cut, and what the checks say of them."""
    return [
        *(f"format: {file}: {why}" for file, why in read.formats.items()),
        *(f"data: {note}" for note in read.notes),
        *(f"checks: {line}" for line in say_checks(count_checks(report))),
    ]
