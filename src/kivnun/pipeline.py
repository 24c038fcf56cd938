"""The main path: a recipe's stages in order, each in its own folder, each skipped when nothing it is made from changed.

    base/        only for a new model: its tokenizer and first weights
    dataset/     rows -> conversations -> tokens, cut into splits
    checkpoints/ what a killed training goes on from
    model/       what was trained: an adapter or a whole model, with tokenizer and template
    evaluation/  base and tuned model and yardsticks on the test rows
    optimized/   merged, exported to ONNX, and the parity table
    report.html  all of it for people

Read this file first: every stage is one function here, and the floor that it calls does the work.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kivnun.data.encode import Encoder
from kivnun.data.folder import Dataset, read_dataset, write_dataset
from kivnun.data.prepare import read_conversations, tokenize_splits
from kivnun.evaluation.metrics import rows_right
from kivnun.evaluation.results import BASE, TUNED
from kivnun.evaluation.runner import EvalRow, answer_rows
from kivnun.evaluation.stage import Answers, eval_rows, require_answers_fit, score_answers
from kivnun.generation.engine import Generation
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned, make_method
from kivnun.models.attention import use_packed_attention, use_standard_attention
from kivnun.models.load import load_model, load_tokenizer, model_config_value, move_model
from kivnun.models.new import make_model, train_tokenizer
from kivnun.models.resolve import ResolvedModel, hash_folder, resolve_model
from kivnun.models.save import save_model
from kivnun.models.types import Model, Tokenizer
from kivnun.optimization.onnx import require_exportable_model
from kivnun.optimization.stage import Prompts, TunedFolders, optimize
from kivnun.recipe.dump import dump_recipe
from kivnun.recipe.load import LoadedRecipe
from kivnun.recipe.rules import list_files
from kivnun.recipe.schema import DataFiles, DataSection, EvaluationSection, NewModel, OptimizationSection, Recipe
from kivnun.results import RunResults, read_results, write_evaluation, write_report
from kivnun.runs import (
    ModelLock,
    Run,
    RunLock,
    content_hash,
    hash_file,
    library_versions,
    stage_done,
    stage_key,
    write_atomic,
    write_lock,
    write_stage,
)
from kivnun.training.device import compile_layers, pick_device, pick_dtype
from kivnun.training.loop import make_plan
from kivnun.training.optimizer import make_master_weights
from kivnun.training.score import row_losses
from kivnun.training.stage import Checkpoints, TrainingData, train

Log = Callable[[str, Mapping[str, object]], None]

# Where a file lies does not matter, only what is in it: its hash stands in for its path.
DATA_FILES = {"train", "validation", "test"}
SCORING_BATCH_TOKENS = 8192
MAX_PARITY_PROMPTS = 500
DEFAULT_MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Context:
    """What every stage gets.

    Attributes:
        run: The run folder, held by this process.
        recipe: What to do.
        data_hashes: Content hash of every data file.
        log: Takes every event; it is kept in `events.jsonl` and shown.
    """

    run: Run
    recipe: Recipe
    data_hashes: Mapping[str, str]
    log: Log

    def stage(
        self, name: str, inputs: Mapping[str, object], make: Callable[[Path], None], *, parents: tuple[str, ...] = ()
    ) -> Path:
        """The finished folder of a stage: made now, or found made from the same inputs."""
        inputs = {**inputs, "versions": library_versions()}
        key = stage_key(inputs)
        if stage_done(self.run.folder, name, key):
            self.log("stage_skipped", {"stage": name})
        else:
            self.log("stage_started", {"stage": name})
            with write_stage(self.run.folder, name, kind=name, key=key, inputs=inputs, parents=parents) as partial:
                make(partial)
            self.log("stage_finished", {"stage": name})
        return self.run.folder / name


def run_recipe(loaded: LoadedRecipe, run: Run, *, show: Log = lambda _event, _fields: None) -> RunResults:
    """Run every stage of a recipe in a run folder that this process holds.

    Args:
        loaded: The recipe.
        run: The run folder.
        show: Takes every event, for progress displays.

    Raises:
        UserError: Whatever the user can mend; finished stages stay, and the same call goes on after them.
    """

    def log(event: str, fields: Mapping[str, object]) -> None:
        run.log(event, fields)
        show(event, fields)

    recipe = located_recipe(loaded)
    context = Context(run, recipe, {name: hash_file(Path(name)) for name in data_files(recipe)}, log)
    base = make_base(context)
    _write_lock(context, loaded, base)
    if recipe.optimization is not None:
        # Refuses what cannot be exported now, and not after hours of training.
        chosen = recipe.optimization
        require_exportable_model(base.folder, precision=chosen.precision, block_size=chosen.block_size)
    dataset = make_dataset(context, base)
    if recipe.evaluation is not None:
        # Refuses what cannot be evaluated now, and not after hours of training.
        require_answers_fit(eval_rows(dataset, "test", recipe.evaluation), dataset.table("test"), recipe.evaluation)
        eval_rows(dataset, "train", recipe.evaluation)
    model_folder = train_model(context, base, dataset)
    folders = TunedFolders(base.folder, model_folder)
    if recipe.evaluation is not None:
        evaluate_models(context, folders, dataset, recipe.evaluation)
    if recipe.optimization is not None:
        optimize_model(context, folders, dataset, recipe.optimization)
    results = read_results(run.folder, recipe)
    write_report(results, recipe)
    log("run_finished", {"report": str(results.report)})
    return results


def make_base(context: Context) -> ResolvedModel:
    """Find the base model, or make a new one with a tokenizer trained on the training split."""
    recipe = context.recipe
    if isinstance(recipe.base_model, str):
        return resolve_model(recipe.base_model)
    new: NewModel = recipe.base_model

    def make(folder: Path) -> None:
        _, splits = read_conversations(recipe.data, recipe.training.objective)
        repeat = recipe.data.repeat
        texts = [c.answer for c in splits["train"] for _ in range(repeat.get(c.fields.get("source", ""), 1))]
        tokenizer = train_tokenizer(texts, new.tokenizer.vocab_size)
        save_model(make_model(new, tokenizer, seed=recipe.training.seed), tokenizer, folder)

    inputs = {
        "base_model": new.model_dump(mode="json"),
        **_data_inputs(context),
        "seed": recipe.training.seed,
    }
    folder = context.stage("base", inputs, make)
    return ResolvedModel(folder, "new", None, hash_folder(folder))


def make_dataset(context: Context, base: ResolvedModel) -> Dataset:
    """Read, check, split and tokenise the rows."""
    recipe = context.recipe

    def make(folder: Path) -> None:
        template, conversations = read_conversations(recipe.data, recipe.training.objective)
        encoder = Encoder(load_tokenizer(base.folder))
        data, limit = fit_context(recipe.data, base)
        if limit is not None:
            context.log("context_limit", {"max_seq_len": recipe.data.max_seq_len, "context": limit})
        write_dataset(tokenize_splits(template, conversations, data, encoder), folder)

    inputs = {
        **_data_inputs(context),
        "base_model": base.content_hash,
    }
    dataset = read_dataset(context.stage("dataset", inputs, make))
    context.log("dataset", dataset.summary())
    return dataset


def _data_inputs(context: Context) -> dict[str, object]:
    """What the rows depend on: the section, and each file's part in it, name and content."""
    data = context.recipe.data

    def describe(files: DataFiles | None) -> object:
        if isinstance(files, Mapping):
            return {column: describe(file) for column, file in files.items()}
        return [[Path(file).name, context.data_hashes[file]] for file in list_files(files)]

    return {
        "data": data.model_dump(mode="json", exclude=DATA_FILES),
        "files": {role: describe(getattr(data, role)) for role in sorted(DATA_FILES)},
        "objective": context.recipe.training.objective,
    }


def fit_context(data: DataSection, base: ResolvedModel) -> tuple[DataSection, int | None]:
    """The data section with rows no longer than the model can read, and that limit where it is the tighter one."""
    limit = model_config_value(base.folder, "max_position_embeddings")
    if not isinstance(limit, int) or limit >= data.max_seq_len:
        return data, None
    return data.model_copy(update={"max_seq_len": limit}), limit


def train_model(context: Context, base: ResolvedModel, dataset: Dataset) -> Path:
    """Train, going on from the latest checkpoint, and write what was trained."""
    recipe = context.recipe
    settings = recipe.training
    device = pick_device()
    dtype = pick_dtype(settings.precision, device)
    inputs: dict[str, object] = {
        "method": recipe.method.model_dump(mode="json"),
        "training": settings.model_dump(mode="json"),
        "dtype": str(dtype),
        "dataset": content_hash(dataset.folder),
        "base_model": base.content_hash,
    }

    def make(folder: Path) -> None:
        model = move_model(load_model(base.folder, dtype=dtype), device)
        method = make_method(recipe.method)
        method.prepare(model, generator=torch.Generator().manual_seed(settings.seed))
        use_packed_attention(model)
        weights = make_master_weights(model, settings)
        data = TrainingData(dataset.table("train"), dataset.table("validation"))
        plan = make_plan(data.train.lengths(), settings)
        description = {
            "device": str(device),
            "dtype": str(dtype),
            "compiled": compile_layers(model, settings, num_tokens=plan.num_steps * plan.step_tokens),
            "num_steps": plan.num_steps,
            "trained_parameters": sum(parameter.numel() for parameter in weights.parameters.values()),
            "all_parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        context.log("training_started", description)
        key = stage_key({**inputs, "versions": library_versions()})
        checkpoints = Checkpoints(context.run.folder, key)
        progress = train(model, weights, data, settings, checkpoints=checkpoints, log=context.log)
        context.log("training_finished", {"step": progress.step, "best_step": progress.best_step})
        method.export(model, folder, base_model=base.name)
        load_tokenizer(base.folder).save_pretrained(folder)
        dataset.template.save(folder)

    return context.stage("model", inputs, make, parents=("dataset",))


def evaluate_models(context: Context, folders: TunedFolders, dataset: Dataset, settings: EvaluationSection) -> Path:
    """Let base and tuned model answer the test rows, and score them beside the yardsticks."""

    def make(folder: Path) -> None:
        rows, train_rows = (eval_rows(dataset, split, settings) for split in ("test", "train"))
        tokenizer = load_tokenizer(folders.model)
        answers: list[Answers] = []
        for name in (BASE, TUNED):
            context.log("answering", {"model": name, "num_rows": len(rows)})
            model = (
                load_model(folders.base, dtype=torch.float32)
                if name == BASE
                else load_tuned(folders.base, folders.model, dtype=torch.float32)
            )
            answers.append(_answer(model, tokenizer, dataset, rows, settings.max_new_tokens))
        write_evaluation(score_answers(settings, rows, train_rows, *answers), folder)

    inputs = {
        "evaluation": settings.model_dump(mode="json"),
        "dataset": content_hash(dataset.folder),
        "model": content_hash(folders.model),
        "base_model": hash_folder(folders.base),
    }
    return context.stage("evaluation", inputs, make, parents=("dataset", "model"))


def _answer(
    model: Model, tokenizer: Tokenizer, dataset: Dataset, rows: Sequence[EvalRow], max_new_tokens: int
) -> Answers:
    """One model's greedy answers and its likelihoods of the right ones, in float32."""
    move_model(model, pick_device())
    use_packed_attention(model)
    sums, counts = row_losses(model, dataset.table("test"), batch_tokens=SCORING_BATCH_TOKENS)
    use_standard_attention(model)
    engine = TorchEngine(model, pad_id=Encoder(tokenizer).end_id)
    texts = answer_rows(engine, rows, tokenizer=tokenizer, max_new_tokens=max_new_tokens, stop_ids=dataset.stop_ids)
    return Answers(texts, sums, counts)


def optimize_model(context: Context, folders: TunedFolders, dataset: Dataset, settings: OptimizationSection) -> Path:
    """Merge, export, and prove that what is shipped answers like what was evaluated."""
    evaluation = context.recipe.evaluation

    def make(folder: Path) -> None:
        rows = dataset.prompt_rows(MAX_PARITY_PROMPTS)
        encoder = Encoder(load_tokenizer(folders.model))

        def score(answers: Sequence[Generation]) -> float | None:
            if evaluation is None:
                return None
            texts = [encoder.decode(answer.token_ids) for answer in answers]
            right = rows_right(texts, [row.answer for row in rows], task=evaluation.task)
            return sum(right) / len(right)

        longest = evaluation.max_new_tokens if evaluation else DEFAULT_MAX_NEW_TOKENS
        prompts = Prompts([row.prompt_ids for row in rows], longest, dataset.stop_ids)
        optimize(folders, folder, settings, prompts=prompts, score=score, log=context.log)

    inputs = {
        "optimization": settings.model_dump(mode="json"),
        "dataset": content_hash(dataset.folder),
        "model": content_hash(folders.model),
        "base_model": hash_folder(folders.base),
        "evaluation": evaluation.model_dump(mode="json") if evaluation else None,
    }
    return context.stage("optimized", inputs, make, parents=("dataset", "model"))


def describe_plan(loaded: LoadedRecipe) -> list[str]:
    """What a run would do, in lines of text: the data is read and tokenised, nothing is trained or written.

    Raises:
        UserError: What a run would refuse before training.
    """
    recipe = located_recipe(loaded)
    if isinstance(recipe.base_model, NewModel):
        _, splits = read_conversations(recipe.data, recipe.training.objective)
        return [f"base model: new; rows: {', '.join(f'{len(part)} {name}' for name, part in splits.items())}"]
    base = resolve_model(recipe.base_model)
    if recipe.optimization is not None:
        chosen = recipe.optimization
        require_exportable_model(base.folder, precision=chosen.precision, block_size=chosen.block_size)
    template, conversations = read_conversations(recipe.data, recipe.training.objective)
    data, _ = fit_context(recipe.data, base)
    prepared = tokenize_splits(template, conversations, data, Encoder(load_tokenizer(base.folder)))
    table = prepared.table("train")
    plan = make_plan(table.lengths(), recipe.training)
    stages = ["dataset", "model", *(name for name in ("evaluation", "optimization") if getattr(recipe, name))]
    return [
        f"base model: {base.name} ({base.content_hash[:12]})",
        f"rows: {', '.join(f'{len(part)} {name}' for name, part in prepared.splits.items())}",
        f"tokens: {table.num_tokens:,} to train on, {table.num_trained:,} of them learnt",
        f"steps: {plan.num_steps} of up to {plan.step_tokens:,} tokens, method {recipe.method.kind}",
        f"stages: {', '.join(stages)}",
    ]


def located_recipe(loaded: LoadedRecipe) -> Recipe:
    """The recipe with the paths of its data files as they are found from here."""

    def locate(files: DataFiles | None) -> DataFiles | None:
        if isinstance(files, str):
            return str(loaded.locate(files))
        if isinstance(files, Mapping):
            return {name: str(loaded.locate(file)) for name, file in files.items()}
        return files and tuple(str(loaded.locate(file)) for file in files)

    data = loaded.recipe.data
    located = {name: locate(getattr(data, name)) for name in DATA_FILES}
    return loaded.recipe.model_copy(update={"data": data.model_copy(update=located)})


def data_files(recipe: Recipe) -> list[str]:
    """Every data file of a recipe, in a fixed order."""
    data = recipe.data
    return [file for files in (data.train, data.validation, data.test) for file in list_files(files)]


def _write_lock(context: Context, loaded: LoadedRecipe, base: ResolvedModel) -> None:
    recipe = context.recipe
    # A folder by its whole path: the run is used later, and from elsewhere.
    name = str(base.folder.resolve()) if base.folder == Path(base.name) else base.name
    lock = RunLock(
        recipe=recipe.model_dump(mode="json"),
        base_model=ModelLock(name, base.revision, base.content_hash),
        data=context.data_hashes,
        seed=recipe.training.seed,
        device=str(pick_device()),
    )
    write_lock(context.run.folder, lock)
    # The file as the user wrote it, comments and all, unless --set changed what it says.
    is_changed = "--set" in loaded.provenance.values()
    text = dump_recipe(loaded.recipe, with_defaults=False) if is_changed else loaded.text
    write_atomic(context.run.folder / "recipe.yaml", text)
