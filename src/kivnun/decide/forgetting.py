"""What tuning makes a model forget: bits per byte of texts of other kinds, before and after."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kivnun.assistant import base_folder
from kivnun.data.encode import Encoder
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.decide.context import Context
from kivnun.decide.probe import Probe, read_probe
from kivnun.decide.results import Forgetting
from kivnun.decide.state import Measured, kept_values
from kivnun.methods import load_tuned
from kivnun.models.attention import use_packed_attention
from kivnun.models.context import folder_context
from kivnun.models.load import load_model, load_tokenizer, move_model
from kivnun.models.types import Model
from kivnun.runs import content_hash
from kivnun.training.device import pick_device
from kivnun.training.score import document_losses

BATCH_TOKENS = 4096
RESULT_NAME = "forgetting.json"


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
    folders = [content_hash(context.folder / each.folders[0] / "model") for each in trained]
    key = hashlib.sha256("\0".join((*folders, *probe.texts)).encode()).hexdigest()
    values = kept_values(context.folder / RESULT_NAME, key, lambda: _measure(context, trained, probe))
    return tuple(Forgetting(**each) for each in values)


def _measure(context: Context, trained: Sequence[Measured], probe: Probe) -> list[dict[str, Any]]:
    before: dict[Path, float] = {}
    found: list[dict[str, Any]] = []
    for each in trained:
        run_dir = context.folder / each.folders[0]
        base = base_folder(run_dir)
        if base not in before:
            before[base] = bits_per_byte(load_model(base, dtype=torch.float32), base, probe.texts)
        tuned = load_tuned(base, run_dir / "model", dtype=torch.float32)
        after = bits_per_byte(tuned, base, probe.texts)
        found.append(asdict(Forgetting(each.arm.name, before[base], after, len(probe.texts), probe.note)))
        context.log("forgetting", {"arm": each.arm.name, "before": before[base], "after": after})
    return found


@torch.no_grad()
def bits_per_byte(model: Model, folder: Path, texts: Sequence[str]) -> float:
    """Negative log likelihood of texts in bits, over their bytes in UTF-8.

    Args:
        model: In float32.
        folder: The folder of its tokenizer.
        texts: The texts; what of one is longer than the context is left out, its bytes too.
    """
    encoder = Encoder(load_tokenizer(folder))
    limit = folder_context(folder)
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
