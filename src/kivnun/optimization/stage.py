"""From what was trained to what is shipped: merge, export, and proof that every form still answers the same."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import torch

from kivnun.data.encode import Encoder
from kivnun.errors import UserError
from kivnun.generation.agreement import Agreement, ParityRow, compare_answers, require_parity
from kivnun.generation.engine import Engine, Generation
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned, merge
from kivnun.models.load import load_model, load_tokenizer
from kivnun.models.save import save_model
from kivnun.optimization.forms import Form
from kivnun.optimization.measure import decode_tokens_per_second, folder_size_bytes
from kivnun.optimization.onnx import export_onnx, exportable_forms
from kivnun.recipe.optimization import OptimizationSection

MERGED, FP32_ONNX, INT4_ONNX = "merged", "onnx-fp32", "onnx-int4"
PARITY_NAME = "parity.json"
GENERATION_NAME = "generation_config.json"
# The speed of each form is measured on a few prompts only; every prompt counts for parity.
SPEED_PROMPTS = 8

Score = Callable[[Sequence[Generation]], float | None]
"""The main metric of some answers to the prompts, or None where there is nothing to score."""


@dataclass(frozen=True)
class Prompts:
    """What every form of the model is asked.

    Attributes:
        token_ids: The prompts.
        max_new_tokens: Longest answer.
        stop_ids: Tokens that end an answer.
    """

    token_ids: Sequence[Sequence[int]]
    max_new_tokens: int
    stop_ids: frozenset[int]

    def ask(self, engine: Engine) -> list[Generation]:
        """An engine's greedy answers."""
        return engine.generate(self.token_ids, max_new_tokens=self.max_new_tokens, stop_ids=self.stop_ids)


@dataclass(frozen=True)
class TunedFolders:
    """A base model and what was trained on it."""

    base: Path
    model: Path


def optimize(
    folders: TunedFolders,
    out_folder: Path,
    settings: OptimizationSection,
    *,
    prompts: Prompts,
    score: Score,
    log: Callable[[str, Mapping[str, object]], None],
) -> list[ParityRow]:
    """Merge, export to fp32 and int4 ONNX, and compare every form's answers with those of the tuned model.

    Every form is read back from the folder that is kept. Everything but int4 is computed in float32 and must agree
    token for token; int4's drift is measured, and refused where the recipe sets a bound.

    Raises:
        UserError: `parity-failed` or `export-failed`.
    """
    tokenizer = load_tokenizer(folders.model)
    end_id = Encoder(tokenizer).end_id
    merged = out_folder / MERGED
    rows: list[ParityRow] = []
    tuned = load_tuned(folders.base, folders.model, dtype=torch.float32)
    reference = prompts.ask(TorchEngine(tuned, pad_id=end_id))

    def compare(name: str, form: Engine, size_bytes: int, precision: str = "fp32") -> Agreement:
        answers = prompts.ask(form) if rows else reference
        agreement = compare_answers(reference, answers, tie_tolerance=settings.tie_tolerance)
        speed = decode_tokens_per_second(form, prompts.token_ids[:SPEED_PROMPTS])
        counts = (agreement.num_prompts, agreement.identical, agreement.ties, agreement.different)
        rows.append(ParityRow(name, precision, size_bytes, speed, *counts, score(answers)))  # type: ignore[arg-type]
        log("parity", {**asdict(rows[-1]), "first_differences": [str(each) for each in agreement.first_differences]})
        return agreement

    compare("tuned", TorchEngine(tuned, pad_id=end_id), folder_size_bytes(folders.model))
    save_model(merge(tuned), tokenizer, merged)
    # Two models need not fit into memory at once.
    del tuned
    _write_stop_ids(merged, end_id, prompts.stop_ids)
    _copy_template(folders.model, merged)
    saved = TorchEngine(load_model(merged, dtype=torch.float32), pad_id=end_id)
    require_parity("merged", compare("merged", saved, folder_size_bytes(merged)))
    del saved
    fp32 = export_onnx(merged, out_folder / FP32_ONNX, Form("fp32"))
    require_parity("fp32 ONNX", compare("fp32 ONNX", OnnxEngine(fp32.folder), fp32.size_bytes))
    (form,) = exportable_forms(merged, settings)
    if form.is_quantized:
        int4 = export_onnx(merged, out_folder / INT4_ONNX, form)
        agreement = compare("int4 ONNX", OnnxEngine(int4.folder), int4.size_bytes, "int4")
        _require_agreement(agreement, settings.min_agreement)
        shutil.rmtree(fp32.folder)
    _copy_template(folders.model, onnx_folder(out_folder))
    table = [asdict(row) for row in rows]
    (out_folder / PARITY_NAME).write_bytes(orjson.dumps(table, option=orjson.OPT_INDENT_2))
    return rows


def read_parity(folder: Path) -> list[ParityRow]:
    """The parity table of a finished `optimized/` folder."""
    return [ParityRow(**row) for row in orjson.loads((folder / PARITY_NAME).read_bytes())]


def onnx_folder(folder: Path) -> Path:
    """The ONNX model in an `optimized/` folder: int4 where there is one."""
    return folder / INT4_ONNX if (folder / INT4_ONNX).is_dir() else folder / FP32_ONNX


def _require_agreement(agreement: Agreement, minimum: float | None) -> None:
    if minimum is not None and agreement.identical_share < minimum:
        raise UserError(
            "parity-failed",
            f"int4 answers {agreement.identical_share:.1%} identically, optimization.min_agreement is {minimum}",
            details=[str(each) for each in agreement.first_differences],
            hint="lower optimization.block_size, or the bound",
        )


def _write_stop_ids(folder: Path, end_id: int, stop_ids: frozenset[int]) -> None:
    """Let other tools stop where Kivnun stops; the ONNX builder takes the ids over into `genai_config.json`."""
    path = folder / GENERATION_NAME
    settings = orjson.loads(path.read_bytes()) if path.is_file() else {}
    ids = [end_id, *sorted(stop_ids - {end_id})]
    settings["eos_token_id"] = ids if len(ids) > 1 else end_id
    path.write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2))


def _copy_template(source: Path, target: Path) -> None:
    """The prompt template travels with every form of the model, so that serving can use no other."""
    for name in ("template.json", "chat_template.jinja"):
        if (source / name).is_file() and not (target / name).is_file():
            shutil.copyfile(source / name, target / name)
