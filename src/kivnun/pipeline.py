"""The main path: a recipe's stages in order, each in its own folder, each skipped when nothing it is made from changed.

    base/        only for a new model: its tokenizer and first weights
    dataset/     rows -> conversations -> checks -> tokens, cut into splits
    checkpoints/ what a killed training goes on from
    epochs/      models of the latest epochs, where the recipe keeps them
    model/       what was trained: an adapter or a whole model, with tokenizer, template and golden prompts
    evaluation/  base and tuned model and yardsticks on the test rows
    optimized/   merged and exported forms, each with the certificate of its parity
    report.html  all of it for people

Read this file first: every stage is one function here, and the floor that it calls does the work.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kivnun.answering import answer_test_rows
from kivnun.context import TRAINED_STAGE, Context, Log
from kivnun.data.check_counts import count_checks
from kivnun.data.encode import Encoder
from kivnun.data.folder import Dataset, read_dataset, sample_documents, write_dataset
from kivnun.data.preflight import PAGE_NAME, check_before_training, require_no_errors, write_check
from kivnun.data.prepare import tokenize_splits
from kivnun.data.reading import read_conversations, read_data
from kivnun.evaluation.results import BASE, TUNED
from kivnun.evaluation.stage import Answers, describe_evaluation, eval_rows, require_evaluable, score_answers
from kivnun.inputs import find_inputs, fit_context, write_run_lock
from kivnun.methods import require_mergeable
from kivnun.model_card.write import write_cards
from kivnun.models.heads import read_head
from kivnun.models.load import load_tokenizer
from kivnun.models.new import make_model, train_tokenizer
from kivnun.models.resolve import ResolvedModel, hash_folder, resolve_model
from kivnun.models.save import save_model
from kivnun.optimization.golden import Golden, GoldenPrompt, read_golden, was_fixed, write_golden
from kivnun.optimization.stage import TunedFolders, optimize, require_forms
from kivnun.recipe.load import LoadedRecipe
from kivnun.recipe.optimization import OptimizationSection
from kivnun.recipe.schema import EvaluationSection, NewModel, Recipe
from kivnun.recipe.training import COMPUTING_SETTINGS
from kivnun.results import RunResults, read_results, write_evaluation, write_report
from kivnun.runs import Run, content_hash, library_versions, stage_key
from kivnun.runs.ending import endings_logged
from kivnun.runs.joined import JoinedRun
from kivnun.tracking import open_trackers
from kivnun.trainee import assemble, require_trainable
from kivnun.training.device import pick_device, pick_dtype
from kivnun.training.head_answers import asked_rows
from kivnun.training.joined import BY_ITSELF, Joined
from kivnun.training.objectives import describe_objective, make_objective
from kivnun.training.stage import Checkpoints, train
from kivnun.verification import score_by

DEFAULT_MAX_NEW_TOKENS = 32


def run_recipe(
    loaded: LoadedRecipe,
    run: Run,
    *,
    show: Log = lambda _event, _fields: None,
    joined: Joined = BY_ITSELF,
) -> RunResults:
    """Run every stage of a recipe in a run folder that this process holds.

    Args:
        loaded: The recipe.
        run: The run folder.
        show: Takes every event, for progress displays.
        joined: This process, the first of those that train together.

    Raises:
        UserError: Whatever the user can mend; finished stages stay, and the same call goes on after them.
    """

    def say(event: str, fields: Mapping[str, object]) -> None:
        run.log(event, fields)
        show(event, fields)

    with endings_logged(say), open_trackers(loaded.recipe, run.folder, say) as trackers:

        def log(event: str, fields: Mapping[str, object]) -> None:
            say(event, fields)
            trackers.track(event, fields)

        return run_stages(Context(run, find_inputs(loaded), log, joined))


def follow_recipe(loaded: LoadedRecipe, run_dir: Path, joined: Joined) -> None:
    """What every process but the first does: take part in the training, and write nothing.

    Args:
        loaded: The recipe.
        run_dir: The run folder, which the first process holds.
        joined: This process.

    Raises:
        UserError: Whatever the user can mend.
    """
    context = Context(JoinedRun(run_dir), find_inputs(loaded), lambda _event, _fields: None, joined)
    joined.parallel.require(context.recipe.method.kind, context.recipe.training)
    base = make_base(context)
    train_model(context, base, make_dataset(context, base))


def run_stages(context: Context) -> RunResults:
    """Every stage in order; what later ones would refuse is refused before the training.

    Raises:
        UserError: Whatever the user can mend.
    """
    recipe, run = context.recipe, context.run
    context.joined.parallel.require(recipe.method.kind, recipe.training)
    make_objective(recipe.training.objective)  # a loss of the user's own may be missing or wrong
    if context.joined.parallel.world_size == 1 and recipe.training.parallel != "ddp":
        context.log("alone", {"parallel": recipe.training.parallel})
    base = make_base(context)
    write_run_lock(run, context.inputs, base, device=str(pick_device()))
    if recipe.optimization is not None:
        # Refuses what cannot be exported now, and not after hours of training.
        require_mergeable(recipe.method)
        require_forms(base.folder, recipe.optimization)
    require_trainable(recipe, base)
    dataset = make_dataset(context, base)
    if recipe.evaluation is not None:
        # Refuses what cannot be evaluated now, and not after hours of training.
        require_evaluable(dataset, recipe.evaluation)
    model_folder = train_model(context, base, dataset)
    folders = TunedFolders(base.folder, model_folder)
    if recipe.evaluation is not None:
        evaluate_models(context, folders, dataset, recipe.evaluation)
    if recipe.optimization is not None:
        optimize_model(context, folders, dataset, recipe.optimization)
    results = read_results(run.folder, recipe)
    write_report(results, recipe)
    write_cards(run.folder, recipe)
    context.log("run_finished", {"report": str(results.report)})
    return results


def make_base(context: Context) -> ResolvedModel:
    """Find the base model, or make a new one with a tokenizer trained on the training split."""
    recipe = context.recipe
    if isinstance(recipe.base_model, str):
        return resolve_model(recipe.base_model)
    new: NewModel = recipe.base_model

    def make(folder: Path) -> None:
        _, splits = read_conversations(recipe.data, recipe.training.objective.kind)
        repeat = recipe.data.repeat
        texts = [c.answer for c in splits["train"] for _ in range(repeat.get(c.fields.get("source", ""), 1))]
        tokenizer = train_tokenizer(texts, new.tokenizer.vocab_size)
        save_model(make_model(new, tokenizer, seed=recipe.training.seed), tokenizer, folder)

    inputs = {
        "base_model": new.model_dump(mode="json"),
        **context.inputs.describe_data(),
        "seed": recipe.training.seed,
    }
    folder = context.stage("base", inputs, make)
    return ResolvedModel(folder, "new", None, hash_folder(folder))


def make_dataset(context: Context, base: ResolvedModel) -> Dataset:
    """Read, split, check and tokenise the rows; data with errors is refused here, before anything is trained."""
    recipe = context.recipe
    data, limit = fit_context(recipe.data, base, recipe.method)

    def make(folder: Path) -> None:
        read = read_data(recipe.data, recipe.training.objective.kind)
        context.log("data_read", {"formats": read.formats, "notes": read.notes})
        encoder = Encoder(load_tokenizer(base.folder))
        if limit is not None:
            context.log("context_limit", {"max_seq_len": recipe.data.max_seq_len, "context": limit})
        path = str(context.inputs.loaded.path)
        report = check_before_training(read, data, recipe=path, encoder=encoder)
        checks = count_checks(report)
        context.log("data_checked", {**checks, "seconds": round(report.seconds, 3)})
        require_no_errors(report, recipe=path)
        prepared = tokenize_splits(read.template, read.splits, data, encoder, recipe.training.objective)
        dropped = {**read.left_out, **prepared.dropped}
        about = {"formats": read.formats, "notes": read.notes, "checks": checks}
        write_dataset(replace(prepared, dropped=dropped), folder, about)
        write_check(report, folder)

    inputs = {
        **context.inputs.describe_data(),
        "base_model": base.content_hash,
        "max_seq_len": data.max_seq_len,
    }
    dataset = read_dataset(context.stage("dataset", inputs, make))
    context.log("dataset", {**dataset.summary(), "check": str(dataset.folder / PAGE_NAME)})
    return dataset


def train_model(context: Context, base: ResolvedModel, dataset: Dataset) -> Path:
    """Train, going on from the latest checkpoint, and write what was trained."""
    recipe = context.recipe
    settings = recipe.training
    dtype = pick_dtype(settings.precision, pick_device())
    inputs: dict[str, object] = {
        "method": recipe.method.model_dump(mode="json"),
        "training": settings.model_dump(mode="json", exclude=set(COMPUTING_SETTINGS)),
        "objective": describe_objective(settings.objective),
        "dtype": str(dtype),
        "dataset": content_hash(dataset.folder),
        "base_model": base.content_hash,
    }
    if settings.validation_metrics:
        # How long the answers may be decides what they are, and so which step is the best.
        inputs["max_new_tokens"] = recipe.evaluation.max_new_tokens if recipe.evaluation else None

    def make(folder: Path) -> None:
        trainee = assemble(recipe, base, dataset, context.joined.parallel, dtype=dtype)
        context.log("training_started", trainee.description)
        checkpoints = Checkpoints(context.run.folder, stage_key({**inputs, "versions": library_versions()}))
        progress = train(trainee.job, checkpoints=checkpoints, log=context.log, snapshot=trainee.snapshot)
        context.log("training_finished", {"step": progress.step, "best_step": progress.best_step})
        trainee.export(folder)
        if trainee.head is None and context.joined.parallel.leads:
            # Fixed now, before any form of the model is made that they could be chosen to suit.
            write_golden(folder, make_golden(recipe, dataset))

    return context.stage(TRAINED_STAGE, inputs, make, parents=("dataset",))


def evaluate_models(context: Context, folders: TunedFolders, dataset: Dataset, settings: EvaluationSection) -> Path:
    """Let base and tuned model answer the test rows, and score them beside the yardsticks."""

    def make(folder: Path) -> None:
        rows, train_rows = (eval_rows(dataset, split, settings) for split in ("test", "train"))
        head = read_head(folders.model)
        if head is not None:
            rows = [rows[number] for number in asked_rows(dataset.table("test"), head)]
        answers: list[Answers] = []
        for name in (BASE, TUNED):
            context.log("answering", {"model": name, "num_rows": len(rows)})
            if name == BASE and head is not None and head.kind == "classification":
                context.log("untrained_head", {"labels": list(head.labels)})
            answers.append(answer_test_rows(name, folders, dataset, rows, head, settings.max_new_tokens))
        write_evaluation(score_answers(settings, rows, train_rows, *answers), folder)

    inputs = {
        "evaluation": describe_evaluation(settings),
        "dataset": content_hash(dataset.folder),
        "model": content_hash(folders.model),
        "base_model": hash_folder(folders.base),
    }
    return context.stage("evaluation", inputs, make, parents=("dataset", "model"))


def make_golden(recipe: Recipe, dataset: Dataset) -> Golden:
    """What every form of the model is asked: the first test prompts, and how their answers are scored."""
    settings, evaluation = recipe.optimization or OptimizationSection(), recipe.evaluation
    rows = dataset.prompt_rows(settings.golden_prompts)
    # Running text has no right answer.
    answered = dataset.template.kind != "document"
    prompts = tuple(GoldenPrompt(row.prompt_ids, row.answer if answered else None) for row in rows)
    longest = evaluation.max_new_tokens if evaluation else DEFAULT_MAX_NEW_TOKENS
    return Golden(prompts, longest, dataset.stop_ids, evaluation.task if evaluation else None)


def optimize_model(context: Context, folders: TunedFolders, dataset: Dataset, settings: OptimizationSection) -> Path:
    """Merge, export, and prove that what is shipped answers like what was evaluated."""
    evaluation = context.recipe.evaluation
    golden = make_golden(context.recipe, dataset)

    def make(folder: Path) -> None:
        if not was_fixed(read_golden(folders.model), golden):
            context.log("golden_made", {"num_prompts": len(golden.prompts)})
        score = score_by(golden, Encoder(load_tokenizer(folders.model)))
        seed = context.recipe.training.seed
        rows = sample_documents(dataset.table("train"), settings.calibration_rows, seed=seed)
        optimize(folders, folder, settings, golden=golden, score=score, log=context.log, calibration=rows)

    inputs = {
        "optimization": settings.model_dump(mode="json"),
        "dataset": content_hash(dataset.folder),
        "model": content_hash(folders.model),
        "base_model": hash_folder(folders.base),
        "evaluation": evaluation.model_dump(mode="json") if evaluation else None,
    }
    return context.stage("optimized", inputs, make, parents=("dataset", "model"))
