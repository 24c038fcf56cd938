"""What tuning makes a model forget: bits per byte of texts of other kinds, before and after."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import torch

from kivnun.assistant import base_folder
from kivnun.data.encode import Encoder
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.decide.context import Context
from kivnun.decide.results import Forgetting
from kivnun.decide.state import Measured
from kivnun.errors import UserError
from kivnun.methods import load_tuned
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model, load_tokenizer, model_config_value, move_model
from kivnun.models.types import Model
from kivnun.training.device import pick_device
from kivnun.training.score import document_losses

SHIPPED_PROBE = Path(__file__).with_name("probe.jsonl")
SHIPPED_NOTE = "short everyday texts in English and Hebrew that are shipped with Kivnun"
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Probe:
    """Texts of other kinds than the rows.

    Attributes:
        texts: The texts.
        note: What they are.
    """

    texts: tuple[str, ...]
    note: str


def read_probe(path: str | None) -> Probe:
    """The texts of a file: JSONL with `text`, or paragraphs of plain text; the shipped ones without a file.

    Raises:
        UserError: `data-missing`, `data-malformed` or `data-empty`.
    """
    file = SHIPPED_PROBE if path is None else Path(path)
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        hint = "name a file in decide.probe, or leave it out for the texts that are shipped"
        raise UserError("data-missing", f"{file}: {(error.strerror or str(error)).lower()}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise UserError("data-encoding", f"{file} is not UTF-8", hint="save the file as UTF-8") from error
    texts = _read_lines(file, content) if file.suffix in (".jsonl", ".ndjson") else content.split("\n\n")
    filled = tuple(text.strip() for text in texts if text.strip())
    if not filled:
        raise UserError("data-empty", f"{file} holds no text", hint="give texts in `text`, or paragraphs")
    return Probe(filled, SHIPPED_NOTE if path is None else f"texts of {file.name}")


def measure_forgetting(context: Context, measured: Sequence[Measured]) -> tuple[Forgetting, ...]:
    """Bits per byte of the probe under the base model and under each tuned one.

    Args:
        context: The comparison.
        measured: Every arm; those with a run folder were trained.
    """
    trained = [each for each in measured if each.folders and each.arm.state == "measured"]
    if not trained:
        return ()
    probe = read_probe(context.settings.probe)
    before: dict[Path, float] = {}
    found: list[Forgetting] = []
    for each in trained:
        run_dir = context.folder / each.folders[0]
        base = base_folder(run_dir)
        if base not in before:
            before[base] = bits_per_byte(load_model(base, dtype=torch.float32), base, probe.texts)
        tuned = load_tuned(base, run_dir / "model", dtype=torch.float32)
        after = bits_per_byte(tuned, base, probe.texts)
        found.append(Forgetting(each.arm.name, before[base], after, len(probe.texts), probe.note))
        context.log("forgetting", {"arm": each.arm.name, "before": before[base], "after": after})
    return tuple(found)


@torch.no_grad()
def bits_per_byte(model: Model, folder: Path, texts: Sequence[str]) -> float:
    """Negative log likelihood of texts in bits, over their bytes in UTF-8.

    Args:
        model: In float32.
        folder: The folder of its tokenizer.
        texts: The texts; what of one is longer than the context is left out, its bytes too.
    """
    encoder = Encoder(load_tokenizer(folder))
    limit = model_config_value(folder, "max_position_embeddings")
    table, num_bytes = tabulate(encoder, texts, limit if isinstance(limit, int) else None)
    move_model(model, pick_device())
    use_packed_attention(model)
    sums, _ = document_losses(model, table, batch_tokens=BATCH_TOKENS)
    return sum(sums) / math.log(2) / num_bytes


def tabulate(encoder: Encoder, texts: Sequence[str], limit: int | None) -> tuple[TokenTable, int]:
    """Texts as documents behind an end-of-text token, and the number of their bytes.

    Args:
        encoder: The model's tokenizer.
        texts: The texts.
        limit: Most tokens of a document; None for no limit.
    """
    rows: list[TokenizedRow] = []
    num_bytes = 0
    for ids in encoder.encode_texts(texts):
        kept = ids if limit is None else ids[: limit - 1]
        rows.append(TokenizedRow([encoder.end_id, *kept], [False, *([True] * len(kept))]))
        num_bytes += len(encoder.decode(kept).encode())
    return make_table(rows), num_bytes


def _read_lines(file: Path, content: str) -> list[str]:
    texts: list[str] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
            text = value["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            hint = 'write a line like {"text": "..."}'
            raise UserError("data-malformed", f"{file}:{number}: no text in `text`", hint=hint)
        texts.append(text)
    return texts
