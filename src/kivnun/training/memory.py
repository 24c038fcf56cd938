"""How many tokens this machine can compute at once: measured before training, and found again when memory runs out.

Cutting a step's rows into more micro-batches changes what is held at once and not what is learnt, so the choice is
free. It is kept with every checkpoint, so that a resumed run adds its gradients up in the same order.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kivnun.data.packing import pack
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.recipe.training import TrainingSection
from kivnun.runs.peak_memory import peak_memory_bytes
from kivnun.training.device import decoder_layers
from kivnun.training.objectives.base import Objective
from kivnun.training.optimizer import MasterWeights
from kivnun.training.process_memory import free_memory_bytes
from kivnun.training.shards import values_of

# Of what is free, this much may be filled: the allocator and other programs need the rest.
USABLE_SHARE = 0.8
# A step whose activations are surely below this share of what is free needs no measurement.
SURE_SHARE = 0.25
PROBE_TOKENS = 512
FLOAT32_BYTES = 4
CLEAR_PEAK = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class MemoryPlan:
    """What was found out before training.

    Attributes:
        micro_batch_tokens: Most tokens to compute at once; None where a whole step fits.
        free_bytes: Memory that was free.
        bytes_per_token: What a token was measured to take; None where nothing was measured.
    """

    micro_batch_tokens: int | None
    free_bytes: int
    bytes_per_token: float | None


def plan_memory(
    model: nn.Module,
    objective: Objective,
    table: TokenTable,
    *,
    largest_step_tokens: int,
    free_bytes: int | None = None,
) -> MemoryPlan:
    """How many tokens of a step can be computed at once in the memory that is free now.

    A rough count from the model's shapes settles the common case. Where it is not clear, the longest rows, whose
    attention takes the most, go forward and back once, and the rise of the peak tells what a token takes.

    Args:
        model: The model, ready to train; its gradients are empty afterwards.
        objective: What is learnt.
        table: The training rows.
        largest_step_tokens: Tokens of the largest step.
        free_bytes: Memory to count on; what is free if not given.
    """
    device = next(model.parameters()).device
    free = free_memory_bytes(device) if free_bytes is None else free_bytes
    if count_activation_bytes(model) * largest_step_tokens <= SURE_SHARE * free:
        return MemoryPlan(None, free, None)
    per_token = _measure_bytes_per_token(model, objective, table, device)
    room = int(USABLE_SHARE * free / max(per_token, 1.0))
    return MemoryPlan(room if room < largest_step_tokens else None, free, per_token)


def coming_bytes(weights: MasterWeights, settings: TrainingSection) -> int:
    """What gradients and the optimizer's averages will take, before the first step has made them."""
    averages = {"adamw": 8, "adamw_8bit": 2, "muon": 4}[settings.optimizer]
    return (FLOAT32_BYTES + averages) * sum(values_of(master).numel() for master in weights.masters.values())


def count_activation_bytes(model: nn.Module) -> int:
    """A rough upper count of what a token leaves for the backward pass: twice each linear layer's input and output."""
    widths = (getattr(module, name, None) for module in model.modules() for name in ("in_features", "out_features"))
    width = sum(width for width in widths if isinstance(width, int))
    itemsize = max(parameter.element_size() for parameter in model.parameters())
    return 2 * width * itemsize


def _measure_bytes_per_token(model: nn.Module, objective: Objective, table: TokenTable, device: torch.device) -> float:
    lengths = table.lengths()
    longest_first = sorted(range(len(table)), key=lambda row: -lengths[row])
    rows, total = [longest_first[0]], lengths[longest_first[0]]
    for row in longest_first[1:]:
        if total >= PROBE_TOKENS:
            break
        rows.append(row)
        total += lengths[row]
    batch = pack(table, rows)

    def compute() -> None:
        [prepared] = objective.prepare_step(model, [batch])
        objective.loss(model, batch, prepared).total.backward()
        model.zero_grad(set_to_none=True)

    model.train()
    compute()  # fills caches, and the allocator with what stays
    return _peak_rise_bytes(compute, device) / batch.num_tokens


def _peak_rise_bytes(compute: Callable[[], None], device: torch.device) -> int:
    """How much more memory was held at a function's peak than before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        compute()
        return torch.cuda.max_memory_allocated(device) - before
    before = psutil.Process().memory_info().rss
    with suppress(OSError):
        CLEAR_PEAK.write_text("5", "ascii")  # Linux: the peak begins anew
    compute()
    return max(0, peak_memory_bytes() - before)


def recompute_layers(model: nn.Module) -> None:
    """Let every decoder layer be computed again in the backward pass, so that only its input is kept.

    Chen et al. 2016 (arXiv:1604.06174): activations of a layer's inside, for a second forward pass.
    """
    for layer in decoder_layers(model):
        layer.forward = _recomputed(layer, layer.forward)
        layer.is_recomputed = True  # type: ignore[assignment]  # fused layers, which have another forward, look for it


def _recomputed(layer: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def computed_twice(*inputs: Any, **options: Any) -> Tensor:
        if layer.training and torch.is_grad_enabled():
            return cast("Tensor", checkpoint(forward, *inputs, use_reentrant=False, **options))
        return forward(*inputs, **options)

    return computed_twice


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator has no exception type of its own.
    words = ("can't allocate memory", "std::bad_alloc")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def memory_errors_said() -> Iterator[None]:
    """Turn an out-of-memory error of torch, wherever in a training it comes, into one that says what to do.

    Raises:
        UserError: `memory-full`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "memory-full",
            f"memory ran out outside of a step's forward and backward pass: {str(error).splitlines()[0][:120]}",
            hint="the optimizer's state may be too large: choose method: {kind: lora} or {kind: qlora}, or "
            "training.optimizer: adamw_8bit; or lower training.micro_batch_tokens, which validation obeys too",
        ) from error


def out_of_memory(tokens: int, *, step: int, num_rows: int, is_auto: bool) -> UserError:
    """The error of a micro-batch that does not fit."""
    if num_rows == 1:
        hint = (
            "a single row does not fit: lower data.max_seq_len, set training.gradient_checkpointing: true, or choose "
            "method: {kind: qlora}"
        )
    elif is_auto:
        hint = "set training.gradient_checkpointing: true, or choose a smaller model or method: {kind: qlora}"
    else:
        hint = (
            f"set training.micro_batch_tokens to {max(tokens // 2, 1)} or to auto; what is learnt stays the same but "
            "for rounding and dropout"
        )
    return UserError(
        "memory-full", f"memory ran out in step {step}, with {tokens:,} tokens computed at once", hint=hint
    )
