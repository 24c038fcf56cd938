"""From what was trained to what is shipped: merge, export, and proof that every form still answers the same.

    tuned (adapter) -> merged -> ONNX in fp32 -> ONNX as the recipe asks -> GGUF

Each arrow is one function here, and each form is read back from its folder, asked the golden prompts, and compared
with the tuned model. Whatever is computed in float32 must agree token for token; what rounding changed is measured.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson
import torch

from kivnun.data.encode import Encoder
from kivnun.data.template import load_template
from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned, merge
from kivnun.models.load import load_tokenizer
from kivnun.models.save import save_model
from kivnun.models.types import Model
from kivnun.optimization.architectures import exportable_forms
from kivnun.optimization.bench import (
    Bench,
    BuiltForm,
    Log,
    Score,
    tick_to_log,
    time_engine,
    unmeasured_row,
)
from kivnun.optimization.certificate import seal
from kivnun.optimization.choice import choose, require_file_limits, take_fastest
from kivnun.optimization.engines import why_not_here
from kivnun.optimization.forms import Form
from kivnun.optimization.gguf import export_gguf, require_gguf
from kivnun.optimization.golden import Golden, read_golden, was_fixed
from kivnun.optimization.measure import SPEED_PROMPTS, folder_size_bytes, measure_onnx, thread_choices
from kivnun.optimization.onnx import export_onnx
from kivnun.optimization.reference import make_reference
from kivnun.recipe.optimization import OptimizationSection

MERGED, GGUF = "merged", "gguf"
PROOF = Form("fp32")
"""Always built: only in float32 can an export be proved, since nothing there is rounded on purpose."""
GENERATION_NAME = "generation_config.json"
CONFIG_NAME = "config.json"
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer_config.json")
TEMPLATE_NAMES = ("template.json", "chat_template.jinja")


@dataclass(frozen=True)
class TunedFolders:
    """A base model and what was trained on it."""

    base: Path
    model: Path


def require_forms(base: Path, settings: OptimizationSection) -> None:
    """Refuse, from a base model's folder alone and before any training, forms that could not be built.

    Args:
        base: The base model's folder.
        settings: The recipe's `optimization` section.

    Raises:
        UserError: `export-failed`, or `model-invalid` for a config that is not JSON.
    """
    exportable_forms(base, settings)
    if settings.gguf is not None:
        require_gguf(base)


def optimize(
    folders: TunedFolders,
    out_folder: Path,
    settings: OptimizationSection,
    *,
    golden: Golden,
    score: Score,
    log: Log,
    calibration: Sequence[Sequence[int]] = (),
) -> list[ParityRow]:
    """Merge, export, compare every form with the tuned model, keep what the recipe asks for, and certify it.

    Args:
        folders: Base model and what was trained on it.
        out_folder: An empty folder.
        settings: The recipe's `optimization` section.
        golden: What every form is asked.
        score: The main metric of answers.
        log: Takes events.
        calibration: Token ids of training rows, for the algorithms that look at them.

    Raises:
        UserError: `parity-failed`, `limits-unmet` or `export-failed`.
    """
    bench, tuned_row = _merge_tuned(folders, out_folder / MERGED, settings, golden, score, log)
    merged_row, _ = bench.measure(BuiltForm(MERGED, "fp32", out_folder / MERGED))
    onnx_rows, shipped = _export_forms(bench, folders.model, out_folder, tuned_row, calibration)
    rows = [tuned_row, merged_row, *onnx_rows, *_export_gguf(bench, folders.model, out_folder, tuned_row)]
    fixed_at = "training" if was_fixed(read_golden(folders.model), golden) else "optimization"
    seal(out_folder, golden, bench.reference, rows, settings, shipped=shipped, fixed_at=fixed_at)
    return rows


def _merge_tuned(
    folders: TunedFolders, merged: Path, settings: OptimizationSection, golden: Golden, score: Score, log: Log
) -> tuple[Bench, ParityRow]:
    """Ask the tuned model as it was trained, the reference for all forms; then merge and save it."""
    tokenizer = load_tokenizer(folders.model)
    end_id = Encoder(tokenizer).end_id
    # It leaves memory with this function: two models need not fit at once.
    tuned = load_tuned(folders.base, folders.model, dtype=torch.float32)
    engine = TorchEngine(tuned, pad_id=end_id, name="tuned")
    prompts = settings.divergence_prompts
    reference = make_reference(engine, golden, divergence_prompts=prompts, tick=tick_to_log("tuned", log))
    count = len(golden.prompts)
    row = ParityRow(
        *("tuned", "fp32", folder_size_bytes(folders.model), None, count, count, 0, 0, score(reference.answers)),
        token_agreement=1.0,
        divergence=0.0,
        note="the reference",
    )
    row = time_engine(row, engine, golden.token_ids[:SPEED_PROMPTS])
    log("parity", {**asdict(row), "first_differences": []})
    _save_merged(tuned, folders.model, merged, golden.stop_ids)
    return Bench(golden, reference, settings, score, log), row


def _save_merged(tuned: Model, model_folder: Path, merged: Path, stop_ids: frozenset[int]) -> None:
    tokenizer = load_tokenizer(model_folder)
    save_model(merge(tuned), tokenizer, merged)
    _write_stop_ids(merged, Encoder(tokenizer).end_id, stop_ids)
    _copy_missing(model_folder, merged, TEMPLATE_NAMES)


def _export_forms(
    bench: Bench, model_folder: Path, out_folder: Path, tuned: ParityRow, calibration: Sequence[Sequence[int]]
) -> tuple[list[ParityRow], str]:
    """The ONNX forms: the proof in fp32, those that the recipe asks for, and which of them is shipped."""
    proof = BuiltForm(str(PROOF), PROOF.precision, out_folder / PROOF.folder_name)
    _build(bench, PROOF, out_folder / MERGED, proof.folder, ())
    proof_row, _ = bench.measure(proof)
    asked = exportable_forms(out_folder / MERGED, bench.settings)
    rows: list[ParityRow] = []
    for form in asked:
        if form == PROOF:
            rows.append(proof_row)
        elif len(asked) == 1:
            rows.append(_export_form(bench, form, out_folder, calibration, is_alone=True))
        else:
            rows.extend(_try_form(bench, form, out_folder, calibration))
    judged, shipped = judge_forms(rows, bench.settings, tuned, bench.log)
    if len(asked) > 1:
        judged = [try_threads(bench, row, out_folder, tuned) if row.folder == shipped else row for row in judged]
    if PROOF not in asked:
        judged = [_not_kept(proof_row, "built to prove the export"), *judged]
    built = {row.name: out_folder / str(row.folder) for row in (proof_row, *rows)}
    for row in judged:
        if row.folder is None:
            shutil.rmtree(built[row.name])
        else:
            _copy_missing(model_folder, built[row.name], TEMPLATE_NAMES)
    return judged, shipped


def _export_form(
    bench: Bench, form: Form, out_folder: Path, calibration: Sequence[Sequence[int]], *, is_alone: bool
) -> ParityRow:
    """Build and measure one form; one that has rivals is not refused here but in the choice between them."""
    built = BuiltForm(str(form), form.precision, out_folder / form.folder_name, form.target)
    _build(bench, form, out_folder / MERGED, built.folder, calibration)
    if not form.runs_here:
        row = unmeasured_row(built)
        bench.log("not_run_here", asdict(row))
        return row
    row, check = bench.measure(built)
    if is_alone:
        bench.require_bounds(built, row, check)
    return row


def _try_form(bench: Bench, form: Form, out_folder: Path, calibration: Sequence[Sequence[int]]) -> Iterator[ParityRow]:
    """A candidate's row; one that cannot be built is said aloud and leaves the field to the others."""
    try:
        yield _export_form(bench, form, out_folder, calibration, is_alone=False)
    except UserError as error:
        if error.code not in ("export-failed", "logits-not-finite", "model-invalid"):
            raise
        shutil.rmtree(out_folder / form.folder_name, ignore_errors=True)
        bench.log("candidate_failed", {"name": str(form), "problem": error.problem})


def try_threads(
    bench: Bench, row: ParityRow, out_folder: Path, tuned: ParityRow, *, choices: Sequence[int] | None = None
) -> ParityRow:
    """The chosen form's row with the number of threads that suits it best; small models are slower with many.

    Args:
        bench: What it is timed with.
        row: The form that was chosen.
        out_folder: Where the forms are.
        tuned: The tuned model's own row, which limits may refer to.
        choices: The numbers to try; what suits this machine if not given.
    """
    choices = choices or thread_choices()
    if row.verdict == "not run here" or len(choices) == 1:
        return row
    bench.log("timing", {"name": row.name})
    speeds = measure_onnx(out_folder / str(row.folder), bench.speed_prompts, threads=choices)
    fastest = take_fastest(row, speeds, bench.settings, tuned=tuned)
    tried = ", ".join(f"{speed.num_threads}: {speed.tokens_per_second:,.0f}" for speed in speeds)
    best = "as many threads as the runtime takes" if fastest.num_threads is None else f"threads: {fastest.num_threads}"
    note = f"fastest here with {best} ({fastest.tokens_per_second:,.0f} tokens/s; {tried})"
    bench.log("export_note", {"note": f"{row.name} is {note}"})
    return replace(fastest, note=f"{row.note}; {note}")


def _build(bench: Bench, form: Form, merged: Path, folder: Path, calibration: Sequence[Sequence[int]]) -> None:
    """Build an ONNX folder, and say what its user must know."""
    bench.log("exporting", {"name": str(form), "done": 0, "total": 0})
    rows = calibration if form.needs_calibration else ()
    result = export_onnx(merged, folder, form, calibration=rows, log=bench.log)
    for note in result.notes:
        bench.log("export_note", {"note": note})


def judge_forms(
    rows: Sequence[ParityRow], settings: OptimizationSection, tuned: ParityRow, log: Log
) -> tuple[list[ParityRow], str]:
    """The rows with what becomes of each form, and the folder of the one that is shipped.

    Forms for another machine have no figures to choose by: all that are small enough are kept.

    Args:
        rows: The forms that the recipe asks for.
        settings: Its `optimization` section.
        tuned: The tuned model's own row.
        log: Takes `form_chosen`.

    Raises:
        UserError: `limits-unmet`, or `export-failed` where there is no form.
    """
    if not rows:
        raise UserError(
            "export-failed",
            "none of the candidates could be built",
            hint="the lines above say why; ask for one form, such as optimization.precision: fp32",
        )
    is_measured = all(row.verdict != "not run here" for row in rows)
    unbounded = {} if is_measured else {"min_agreement": None, "max_divergence": None}
    choice = choose(rows, settings.model_copy(update=unbounded), tuned=tuned)
    log("form_chosen", {"of": len(rows), **asdict(choice)})
    judged: list[ParityRow] = []
    for row in rows:
        if row.name == choice.name:
            judged.append(replace(row, note=choice.reason) if len(rows) > 1 and is_measured else row)
        elif is_measured or row.name in choice.refused:
            equal = "" if row.name in choice.front else ", and another one is better in everything"
            judged.append(_not_kept(row, choice.refused.get(row.name, f"not the choice{equal}")))
        else:
            judged.append(row)
    return judged, str(next(row.folder for row in rows if row.name == choice.name))


def _not_kept(row: ParityRow, note: str) -> ParityRow:
    return replace(row, folder=None, verdict="not kept", note=note)


def _export_gguf(bench: Bench, model_folder: Path, out_folder: Path, tuned: ParityRow) -> list[ParityRow]:
    """The GGUF file where the recipe asks for one, computed in torch with the values that its weights have."""
    precision = bench.settings.gguf
    if precision is None:
        return []
    bench.log("exporting", {"name": f"{precision} GGUF", "done": 0, "total": 0})
    template = load_template(model_folder)
    result = export_gguf(out_folder / MERGED, out_folder / GGUF, precision, template=template, log=bench.log)
    form = BuiltForm(f"{precision} GGUF", precision, result.folder)
    _copy_missing(out_folder / MERGED, result.folder, (CONFIG_NAME, *TOKENIZER_NAMES, *TEMPLATE_NAMES))
    if why_not_here(form.folder, form.target) is not None:
        note = "Kivnun cannot compute it: kivnun verify --endpoint asks llama.cpp's server"
        row = replace(unmeasured_row(form), note=note)
        require_file_limits(row, bench.settings, tuned=tuned)
        bench.log("not_run_here", asdict(row))
        return [row]
    row, check = bench.measure(form)
    bench.require_bounds(form, row, check)
    require_file_limits(row, bench.settings, tuned=tuned)
    return [replace(row, note="compared in torch with the file's weights; another program runs it")]


def _write_stop_ids(folder: Path, end_id: int, stop_ids: frozenset[int]) -> None:
    """Let other tools stop where Kivnun stops; the ONNX builder takes the ids over into `genai_config.json`."""
    path = folder / GENERATION_NAME
    settings = orjson.loads(path.read_bytes()) if path.is_file() else {}
    ids = [end_id, *sorted(stop_ids - {end_id})]
    settings["eos_token_id"] = ids if len(ids) > 1 else end_id
    path.write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2))


def _copy_missing(source: Path, target: Path, names: Sequence[str]) -> None:
    """The prompt template travels with every form of the model, so that serving can use no other."""
    for name in names:
        if (source / name).is_file() and not (target / name).is_file():
            shutil.copyfile(source / name, target / name)
