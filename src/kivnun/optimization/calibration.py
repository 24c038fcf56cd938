"""Choose 4-bit weights by what the model does on the user's own rows: GPTQ and AWQ.

Layer by layer, and the rows go on through the layers already rounded, so that each is rounded for the inputs that it
will have. Both end in one kind of folder, GPTQ's layout: the builder copies its codes, scales and zero points into the
graph. Embeddings and the last matrix stay float there, and the builder rounds them as it does for k_quant.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from kivnun.errors import UserError
from kivnun.models.load import load_model
from kivnun.optimization.awq import round_clipped, scale_candidates, search_scales
from kivnun.optimization.decoder_inputs import (
    ARCHITECTURES,
    InputStatistics,
    RowBatch,
    SharedInput,
    observe,
    pass_on,
    read_layer,
    start_rows,
)
from kivnun.optimization.forms import Form
from kivnun.optimization.gptq import round_gptq
from kivnun.optimization.gptq_checkpoint import CODES_PER_NUMBER, write_checkpoint
from kivnun.optimization.rounding import Rounded, Scheme
from kivnun.runs.atomic import disk_full_as_user_error

MAX_TOKENS = 32_768
USE_K_QUANT = "set optimization.algorithm to k_quant, which looks at no rows"

Log = Callable[[str, Mapping[str, object]], None]
"""Where events go: `log(event, fields)`."""


def _ignore(event: str, fields: Mapping[str, object]) -> None:
    """For callers that show nothing."""


def calibrate(
    model_folder: Path, out_folder: Path, form: Form, rows: Sequence[Sequence[int]], *, log: Log = _ignore
) -> Path:
    """Round a model's layers and write the folder that the builder makes a graph of.

    Events: `calibration_rows` (given, used, tokens), `calibration_thin` (tokens, needed) where rows tell less than a
    matrix has inputs, and `calibrating` (algorithm, layer, num_layers) before each layer.

    Args:
        model_folder: A float Hugging Face folder.
        out_folder: Appears when it is whole; must not exist.
        form: Int4 with gptq or awq.
        rows: Token ids of rows as the model was trained on, prompt and answer.
        log: Where events go.

    Returns:
        The folder.

    Raises:
        UserError: `export-failed` for a model, a form or rows that cannot be used.
    """
    _require_form(form)
    _require_architecture(model_folder)
    model = load_model(model_folder, dtype=torch.float32)
    layers = list(cast("nn.ModuleList", cast("nn.Module", model.base_model).layers))
    _require_sizes(layers, cast("int", form.block_size))
    used = _choose_rows(rows, cast("nn.Module", model.get_input_embeddings()).weight.shape[0], log)  # type: ignore[operator]
    _note_thin_rows(sum(map(len, used)), layers, log)
    rounded = _round_layers(model, layers, used, form, log)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        disk_full_as_user_error(out_folder),
        tempfile.TemporaryDirectory(prefix=f".{out_folder.name}.", dir=out_folder.parent) as work_text,
    ):
        whole = Path(work_text) / "checkpoint"
        whole.mkdir()
        write_checkpoint(model_folder, whole, _distinct_weights(model), rounded)
        whole.replace(out_folder)
    return out_folder


def calibrated_options(form: Form) -> list[str]:
    """The builder's options for what calibration leaves float: the last matrix, in 8 bits by k_quant.

    Args:
        form: Int4 with gptq or awq.
    """
    return [f"block_size={form.block_size}", "algo_config=k_quant", "matmul_mixed_precision=last_matmul:int8"]


def _round_layers(
    model: nn.Module, layers: Sequence[nn.Module], rows: Sequence[Sequence[int]], form: Form, log: Log
) -> dict[str, Rounded]:
    """Round every decoder layer in place; returns the rounded matrices by name."""
    scheme = Scheme(cast("int", form.block_size), half_scales=form.target != "cpu")
    round_layer = {"gptq": _round_layer_gptq, "awq": _round_layer_awq}[str(form.algorithm)]
    names = {module: name for name, module in model.named_modules()}
    batches = start_rows(model, layers, rows)
    rounded: dict[str, Rounded] = {}
    for index, layer in enumerate(layers):
        log("calibrating", {"algorithm": form.algorithm, "layer": index + 1, "num_layers": len(layers)})
        found = round_layer(layer, index, batches, scheme)
        rounded |= {f"{names[layer]}.{name}": each for name, each in found.items()}
        if index + 1 < len(layers):
            pass_on(layer, index, batches)
    return rounded


@torch.no_grad()
def _round_layer_gptq(layer: nn.Module, index: int, batches: Sequence[RowBatch], scheme: Scheme) -> dict[str, Rounded]:
    """In the order of computation, each input as the layer's matrices already rounded make it."""
    rounded: dict[str, Rounded] = {}
    for shared in read_layer(layer):
        [statistics] = _observe(layer, index, batches, [shared])
        whole = round_gptq(_stack(shared), statistics.hessian, scheme)
        rounded |= _assign(shared, whole)
    return rounded


@torch.no_grad()
def _round_layer_awq(layer: nn.Module, index: int, batches: Sequence[RowBatch], scheme: Scheme) -> dict[str, Rounded]:
    """All inputs are scaled before any matrix is rounded, since a matrix may be the source of another's input."""
    inputs = read_layer(layer)
    hessians: list[Tensor] = []
    for shared, statistics in zip(inputs, _observe(layer, index, batches, inputs), strict=True):
        hessian_II = (statistics.hessian / statistics.num_tokens).float()
        magnitude_S = shared.reduce((statistics.magnitudes / statistics.num_tokens).float())
        candidates = scale_candidates(magnitude_S, shared.expand)
        best_I = search_scales(_stack(shared), hessian_II, candidates, scheme)
        shared.scale(shared.reduce(best_I))
        hessians.append(hessian_II / best_I[:, None] / best_I)
    rounded: dict[str, Rounded] = {}
    for shared, hessian_II in zip(inputs, hessians, strict=True):
        rounded |= _assign(shared, round_clipped(_stack(shared), hessian_II, scheme))
    return rounded


def _observe(
    layer: nn.Module, index: int, batches: Sequence[RowBatch], inputs: Sequence[SharedInput]
) -> list[InputStatistics]:
    statistics = observe(layer, index, batches, inputs)
    if not all(bool(each.hessian.isfinite().all()) for each in statistics):
        raise UserError(
            "export-failed",
            f"layer {index + 1} makes NaN or infinite values of the calibration rows",
            hint="the model answers such rows with nothing; check it with kivnun evaluate",
        )
    return statistics


def _stack(shared: SharedInput) -> Tensor:
    """All matrices that read an input, below each other: their rows are rounded independently."""
    return torch.cat([reader.weight.data for reader in shared.readers.values()])


def _assign(shared: SharedInput, whole: Rounded) -> dict[str, Rounded]:
    """Give each matrix its rounded weights."""
    rounded: dict[str, Rounded] = {}
    start = 0
    for name, reader in shared.readers.items():
        rounded[name] = whole.rows(start, start + reader.out_features)
        reader.weight.data.copy_(rounded[name].weights())
        start += reader.out_features
    return rounded


def _distinct_weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model, a tied one under its first name only, as Hugging Face folders hold it."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


def _choose_rows(rows: Sequence[Sequence[int]], vocabulary: int, log: Log) -> list[Sequence[int]]:
    """Rows spread evenly over the given ones until the tokens are enough; empty ones are left out."""
    whole = [row for row in rows if len(row) > 0]
    if not whole:
        raise UserError(
            "export-failed", f"calibration needs rows and got {len(rows)}, all of them empty", hint=USE_K_QUANT
        )
    largest = max(map(max, whole))
    if largest >= vocabulary or min(map(min, whole)) < 0:
        raise UserError(
            "export-failed",
            f"calibration rows hold token {largest}, the model has {vocabulary}",
            hint="use the tokenizer of the model's own folder",
        )
    num_used = len(whole)
    while num_used > 1 and sum(map(len, _spread(whole, num_used))) > MAX_TOKENS:
        num_used = max(1, min(num_used - 1, num_used * MAX_TOKENS // sum(map(len, _spread(whole, num_used)))))
    used = _spread(whole, num_used)
    log("calibration_rows", {"given": len(rows), "used": len(used), "tokens": sum(map(len, used))})
    return used


def _spread(rows: Sequence[Sequence[int]], number: int) -> list[Sequence[int]]:
    return [rows[index * len(rows) // number] for index in range(number)]


def _note_thin_rows(num_tokens: int, layers: Sequence[nn.Module], log: Log) -> None:
    """Say when there are fewer tokens than a matrix has inputs: some of its weights are then rounded by guess."""
    needed = max(linear.in_features for linear in _linears(layers))
    if num_tokens < needed:
        log("calibration_thin", {"tokens": num_tokens, "needed": needed})


def _require_form(form: Form) -> None:
    if form.precision != "int4" or not form.needs_calibration or form.block_size is None:
        raise UserError("export-failed", f"{form} is not made by calibration", hint="gptq and awq make int4 forms")


def _require_architecture(model_folder: Path) -> None:
    names = json.loads((model_folder / "config.json").read_bytes()).get("architectures") or ["unknown"]
    if names[0] not in ARCHITECTURES:
        raise UserError(
            "export-failed", f"gptq and awq do not know the layers of the architecture {names[0]}", hint=USE_K_QUANT
        )


def _require_sizes(layers: Sequence[nn.Module], block_size: int) -> None:
    for linear in _linears(layers):
        if linear.in_features % block_size or linear.out_features % CODES_PER_NUMBER:
            raise UserError(
                "export-failed",
                f"a matrix of {linear.in_features} inputs and {linear.out_features} outputs does not fit blocks of "
                f"{block_size} weights and numbers of {CODES_PER_NUMBER}",
                hint=f"choose another optimization.block_size, or {USE_K_QUANT.removeprefix('set ')}",
            )


def _linears(layers: Sequence[nn.Module]) -> list[nn.Linear]:
    return [reader for layer in layers for shared in read_layer(layer) for reader in shared.readers.values()]
