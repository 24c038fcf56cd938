"""A model made ready to ship after its training, or without one: exported, measured, chosen.

`optimize_run` does it again for a finished run, with other wishes; `ship_folder` for a base model and its adapter.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from kivnun.assistant import base_folder, require_current
from kivnun.context import Context, Log
from kivnun.data.chat import Segment
from kivnun.data.encode import Encoder
from kivnun.data.folder import read_dataset
from kivnun.data.prepare import PreparedRow, tokenize_splits
from kivnun.data.reading import read_data
from kivnun.data.template import PromptTemplate, load_template
from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow
from kivnun.inputs import RunInputs
from kivnun.methods import require_mergeable
from kivnun.model_card.write import write_cards
from kivnun.models.heads import read_head
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import hash_folder, resolve_model
from kivnun.optimization.architectures import exportable_forms
from kivnun.optimization.certificate import read_certificate
from kivnun.optimization.golden import Golden, GoldenPrompt, read_golden
from kivnun.optimization.stage import TunedFolders, optimize, require_forms
from kivnun.pipeline import optimize_model
from kivnun.recipe.dump import dump_recipe, plain_values
from kivnun.recipe.load import LoadedRecipe
from kivnun.recipe.optimization import OptimizationSection
from kivnun.recipe.schema import DataSection, Recipe
from kivnun.results import RunResults, read_results, write_report
from kivnun.runs import Run, library_versions, read_lock, stage_done, stage_key, write_atomic, write_lock, write_stage
from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error
from kivnun.runs.ending import FINISHED, endings_logged
from kivnun.runs.linked import copy_linked
from kivnun.runs.manifest import MANIFEST_NAME, read_manifest
from kivnun.runs.replaced import keep_copy
from kivnun.runs.store import RECIPE_NAME
from kivnun.verification import score_by

SHIPPED = "shipped"
"""Kind of a folder that `ship_folder` made."""
EARLIER = "earlier/optimized"
"""Where the forms of a run before are kept when others take their place."""
MAX_NEW_TOKENS = 32
PROMPTS = (
    "The weather today is",
    "Write one sentence about the sea.",
    "Question: What is the capital of France?\nAnswer:",
    "Once upon a time",
    "1, 2, 3, 4,",
    "מזג האוויר היום",
    "כתבו משפט אחד על הים.",
    "שאלה: מהי בירת צרפת?\nתשובה:",
)
"""What a model is asked of which nothing is known but its folder."""
FORM_FIELDS = ("precision", "algorithm", "block_size", "target", "calibration_rows")
QUANTIZED_BOUNDS = ("min_agreement", "max_divergence")


@dataclass(frozen=True)
class Order:
    """What `ship_folder` makes.

    Attributes:
        model: The base model, as a recipe names it.
        adapter: Folder of its adapter; None where the model is whole.
        settings: The form and its limits.
        data: Rows that every form is asked, and that gptq and awq look at; None for none.
    """

    model: str
    adapter: Path | None
    settings: OptimizationSection
    data: DataSection | None = None


def ask_otherwise(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """The recipe of a run with other wishes for what is shipped: form and target anew, its limits kept.

    Args:
        recipe: The run's recipe.
        changes: Fields of `optimization`.

    Raises:
        UserError: `recipe-invalid`.
    """
    earlier = plain_values(recipe.optimization, with_defaults=False) if recipe.optimization else {}
    left_out = {*FORM_FIELDS, *(QUANTIZED_BOUNDS if changes.get("precision") in ("fp32", "fp16") else ())}
    values = {name: value for name, value in earlier.items() if name not in left_out} | dict(changes)
    try:
        settings = OptimizationSection.model_validate(values)
        whole = {**plain_values(recipe, with_defaults=False), "optimization": plain_values(settings)}
        return Recipe.model_validate(whole)
    except ValidationError as error:
        details = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
        hint = "`kivnun recipe explain optimization` lists every field"
        raise UserError(
            "recipe-invalid", f"{len(details)} problem(s) in what is asked", hint=hint, details=details
        ) from error


def recipe_of(run_dir: Path) -> Recipe:
    """The recipe that a run resolved to.

    Raises:
        UserError: `run-missing`, or `recipe-invalid` for one of an older form.
    """
    try:
        return Recipe.model_validate(read_lock(run_dir).recipe)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        hint = f"run `kivnun run {run_dir / RECIPE_NAME} --run-dir {run_dir}` with a recipe of today's form"
        raise UserError("recipe-invalid", f"the recipe of {run_dir} is of an older form: {where}", hint=hint) from error


def require_optimizable(run_dir: Path, recipe: Recipe) -> TunedFolders:
    """The folders of a run whose model can be shipped in the forms that a recipe asks for.

    Raises:
        UserError: `run-missing`, `stage-unsupported` for a model that generates no text, or `export-failed`.
    """
    require_current(run_dir, "model")
    head = read_head(run_dir / "model")
    if head is not None:
        raise UserError(
            "stage-unsupported",
            f"{run_dir} holds a model for {head.kind}, which generates no text",
            hint="optimize a run that generates text",
        )
    require_mergeable(recipe.method)
    folders = TunedFolders(base_folder(run_dir), run_dir / "model")
    require_forms(folders.base, recipe.optimization or OptimizationSection())
    return folders


def plan_run(run_dir: Path, recipe: Recipe) -> list[str]:
    """What `optimize_run` would build, in lines of text.

    Raises:
        UserError: Whatever it would refuse before it builds anything.
    """
    settings = recipe.optimization or OptimizationSection()
    folders = require_optimizable(run_dir, recipe)
    return [f"model: {folders.model}", *_say_forms(folders.base, settings)]


def plan_order(order: Order) -> list[str]:
    """What `ship_folder` would build, in lines of text.

    Raises:
        UserError: Whatever it would refuse before it builds anything.
    """
    base = resolve_model(order.model)
    model = _require_adapter(order.adapter) or base.folder
    rows = _read_rows(order, model)
    golden, source = _choose_golden(model, rows, order.settings.golden_prompts)
    asked = f"asked: {len(golden.prompts)} prompts: {source}"
    return [f"model: {base.folder}, tuned: {model}", asked, *_say_forms(base.folder, order.settings)]


def _say_forms(base: Path, settings: OptimizationSection) -> list[str]:
    limits = ("max_size", "min_score", "max_latency_ms", "min_tokens_per_second", "max_memory")
    said = [f"{name} {getattr(settings, name)}" for name in limits if getattr(settings, name) is not None]
    forms = [f"build: {form}" for form in exportable_forms(base, settings)]
    return [*forms, f"limits: {', '.join(said) or 'none'}"]


def optimize_run(run: Run, recipe: Recipe, *, show: Log) -> RunResults:
    """Make the forms of a finished run anew; nothing is trained, and the forms that are there are kept beside them.

    Args:
        run: The run folder, held by this process.
        recipe: The run's recipe as `ask_otherwise` gives it.
        show: Takes every event, for progress displays.

    Raises:
        UserError: `run-missing` where the training has not ended, and whatever `optimize` refuses.
    """

    def log(event: str, fields: Mapping[str, object]) -> None:
        run.log(event, fields)
        show(event, fields)

    settings = recipe.optimization or OptimizationSection()
    folders = require_optimizable(run.folder, recipe)
    loaded = LoadedRecipe(recipe, run.folder / RECIPE_NAME, dump_recipe(recipe, with_defaults=False), {})
    context = Context(run, RunInputs(loaded, recipe, {}, {}), log)
    # By its ending it is swept away if this process is killed.
    current, before = run.folder / "optimized", run.folder / f".optimized-before{PARTIAL_SUFFIX}"
    # The run's log had an end before; whoever follows it must find one after this as well.
    with endings_logged(log):
        try:
            if current.is_dir():
                keep_copy(current, before)
            optimize_model(context, folders, read_dataset(run.folder / "dataset"), settings)
            if before.is_dir() and read_manifest(before).key != read_manifest(current).key:
                keep_copy(before, run.folder / EARLIER)
                log("optimized_replaced", {"kept": EARLIER})
        finally:
            shutil.rmtree(before, ignore_errors=True)
        _keep_wishes(run.folder, recipe, loaded.text)
        results = read_results(run.folder, recipe)
        write_report(results, recipe)
        write_cards(run.folder, recipe)
        log(FINISHED, {"report": str(results.report)})
    return results


def _keep_wishes(run_dir: Path, recipe: Recipe, text: str) -> None:
    """Let the run folder say what was asked, as if the recipe had said so from the start."""
    write_lock(run_dir, replace(read_lock(run_dir), recipe=recipe.model_dump(mode="json")))
    write_atomic(run_dir / RECIPE_NAME, text)


def ship_folder(order: Order, out: Path, *, log: Log) -> list[ParityRow]:
    """Merge, export and prove a model that no run of ours need have made; the result lies flat in `out`.

    Args:
        order: What is shipped.
        out: Folder for the ONNX model with tokenizer and certificate; one made before is replaced.
        log: Takes every event.

    Raises:
        UserError: `file-exists` where `out` holds something else, and whatever cannot be shipped.
    """
    _require_free(out)
    base = resolve_model(order.model)
    folders = TunedFolders(base.folder, _require_adapter(order.adapter) or base.folder)
    require_forms(base.folder, order.settings)
    rows = _read_rows(order, folders.model)
    golden, source = _choose_golden(folders.model, rows, order.settings.golden_prompts)
    log("golden_chosen", {"num_prompts": len(golden.prompts), "source": source})
    inputs: dict[str, object] = {
        "base_model": base.content_hash,
        "model": hash_folder(folders.model),
        "optimization": order.settings.model_dump(mode="json"),
        "golden": [list(prompt.token_ids) for prompt in golden.prompts],
        "rows": [row.tokens.input_ids for row in rows],
        "versions": library_versions(),
    }
    key = stage_key(inputs)
    kept = {name: value for name, value in inputs.items() if name not in ("golden", "rows")}
    if stage_done(out.parent, out.name, key):
        log("stage_skipped", {"stage": str(out)})
        return list(read_certificate(out).rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    with write_stage(out.parent, out.name, kind=SHIPPED, key=key, inputs=kept) as partial:
        work = partial / ".work"
        work.mkdir()
        score = score_by(golden, Encoder(load_tokenizer(folders.model)))
        calibration = [row.tokens.input_ids for row in rows][: order.settings.calibration_rows]
        shipped = optimize(folders, work, order.settings, golden=golden, score=score, log=log, calibration=calibration)
        _lay_flat(work, partial)
        shutil.rmtree(work)
    return shipped


def place_folder(source: Path, target: Path) -> None:
    """Give a folder's files a second place; it appears whole, and stays where it has the same content already.

    Args:
        source: The folder, whose files nobody writes to any more.
        target: The place.

    Raises:
        UserError: `disk-full`, or `file-exists` where something else is in the place.
    """
    if target.is_dir() and (target / "config.json").is_file() | (target / "adapter_config.json").is_file():
        if hash_folder(target) == hash_folder(source):
            return
    elif target.exists():
        raise UserError("file-exists", f"{target} exists and is no model", hint="name another output folder")
    partial = target.with_name(f".{target.name}{PARTIAL_SUFFIX}")
    with disk_full_as_user_error(target):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            copy_linked(source, partial)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def require_places(out: Path, base: Path) -> None:
    """Refuse an output folder whose `adapter/` or `model/` no run of ours has placed: they would be replaced.

    Args:
        out: The output folder; a run of ours lies in its `run/`.
        base: The base model, which may lie in `model/` itself.

    Raises:
        UserError: `file-exists`.
    """
    if (out / "run").is_dir():
        return
    others = [path for path in (out / "adapter", out / "model") if path.exists() and path.resolve() != base.resolve()]
    if others:
        raise UserError("file-exists", f"{others[0]} exists, and no run in {out} made it", hint="name a folder with -o")


def _require_free(out: Path) -> None:
    """A folder that something else lies in is not replaced, and the current one neither."""
    if out.resolve() == Path.cwd():
        raise UserError("file-exists", f"{out} is the current folder", hint="name a folder of its own with -o")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if out.is_dir() and (out / MANIFEST_NAME).is_file() and read_manifest(out).kind == SHIPPED:
        return
    raise UserError("file-exists", f"{out} exists and is no exported model", hint="name a new or empty folder with -o")


def _require_adapter(adapter: Path | None) -> Path | None:
    if adapter is None or (adapter / "adapter_config.json").is_file():
        return adapter
    problem = "no such folder" if not adapter.is_dir() else "lacks adapter_config.json"
    hint = "name the folder of an adapter, such as OUT/adapter of `kivnun finetune`"
    raise UserError("adapter-invalid", f"{adapter}: {problem}", hint=hint)


def _read_rows(order: Order, model_folder: Path) -> list[PreparedRow]:
    """The rows that the order names, tokenised with the adapter's own template where none is given."""
    if order.data is None:
        return []
    data = _with_template(order.data, load_template(model_folder))
    read = read_data(data, "supervised")
    encoder = Encoder(load_tokenizer(model_folder))
    return tokenize_splits(read.template, read.splits, data, encoder).splits["train"]


def _with_template(data: DataSection, template: PromptTemplate) -> DataSection:
    is_given = any((data.text_template, data.prompt_template, data.messages, data.format))
    if is_given or template.kind != "text":
        return data
    return data.model_copy(update={"prompt_template": template.prompt, "answer_template": template.answer})


def _choose_golden(model_folder: Path, rows: Sequence[PreparedRow], most: int) -> tuple[Golden, str]:
    """What every form is asked: the first prompts fixed at training, or rows, or a few of our own."""
    kept = read_golden(model_folder)
    if kept is not None:
        return replace(kept, prompts=kept.prompts[:most]), "the prompts that were fixed at training"
    encoder = Encoder(load_tokenizer(model_folder))
    stop_ids = frozenset({encoder.end_id})
    if rows:
        prompts = tuple(GoldenPrompt(tuple(row.prompt_ids), row.conversation.answer) for row in rows[:most])
        return Golden(prompts, MAX_NEW_TOKENS, stop_ids, None), "the rows that were named"
    asked = [encoder.encode([Segment(text, trained=False)]).input_ids for text in PROMPTS]
    prompts = tuple(GoldenPrompt(tuple(ids), None) for ids in asked)
    return Golden(prompts, MAX_NEW_TOKENS, stop_ids, None), "a few sentences in English and Hebrew; name rows with -d"


def _lay_flat(work: Path, out: Path) -> None:
    """The shipped form's files where Olive puts them, and a GGUF file beside them."""
    shipped = work / read_certificate(work).shipped
    for path in sorted(shipped.iterdir()):
        path.rename(out / path.name)
    if (work / "gguf").is_dir():
        (work / "gguf").rename(out / "gguf")
