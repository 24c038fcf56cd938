"""Memory that a training needs, counted from the model's shapes: what is exact, and what is a rule of thumb."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kivnun.methods import make_method
from kivnun.models.empty import empty_model
from kivnun.models.heads import choose_head, put_head
from kivnun.models.linear_layers import LinearLayer
from kivnun.models.quantize import QuantizedLinear, count_bytes, count_parameters
from kivnun.models.resolve import ResolvedModel
from kivnun.models.types import Model
from kivnun.recipe.methods import Method
from kivnun.recipe.training import TrainingSection

# Python, torch and the tokenizer, before any weight is there; as measured on Linux.
PROGRAM_BYTES = 700 * 2**20
FLOAT32_BYTES = 4
ADAMW_STATES, MUON_STATES = 2, 1


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that one method needs.

    Attributes:
        trained_parameters: Numbers that are trained.
        all_parameters: Numbers of the model, what the method adds included.
        weights: The model's weights in the format of the computation, or in 4 bits.
        masters: Float32 copies of trained weights that are computed in another format.
        gradients: Gradients in float32, and in the computation's format where that is another one.
        optimizer: What the optimizer keeps for each trained number.
        activations: What a batch leaves for its backward pass: a rule of thumb.
        program: The program itself.
    """

    trained_parameters: int
    all_parameters: int
    weights: int
    masters: int
    gradients: int
    optimizer: int
    activations: int
    program: int = PROGRAM_BYTES

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.masters + self.gradients + self.optimizer + self.activations + self.program


def count_memory(
    base: ResolvedModel,
    method: Method,
    training: TrainingSection,
    *,
    dtype: torch.dtype,
    row_lengths: Sequence[int],
    labels: Sequence[str] = (),
) -> MemoryNeed:
    """The memory that a method needs for a model, counted without loading a weight.

    Args:
        base: The model.
        method: The recipe's `method` section.
        training: The recipe's `training` section.
        dtype: Number format of the computation.
        row_lengths: Tokens of each training row; a batch is no larger than all of them together.
        labels: Names of the classes of a classification.

    Raises:
        UserError: `target-modules` or `model-invalid`.
    """
    model = empty_model(base.folder).to(dtype)  # type: ignore[arg-type]
    head = choose_head(training.objective, labels=labels)
    model = model if head is None else put_head(model, head)
    make_method(method).prepare(model, generator=torch.Generator())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    num_trained = sum(parameter.numel() for parameter in trained)
    rounded = sum(parameter.numel() for parameter in trained if parameter.dtype != torch.float32)
    states = MUON_STATES if training.optimizer == "muon" else ADAMW_STATES
    batch_tokens = max(min(training.batch_tokens, sum(row_lengths)), max(row_lengths, default=0))
    return MemoryNeed(
        trained_parameters=num_trained,
        all_parameters=count_parameters(model),
        weights=count_bytes(model),
        masters=FLOAT32_BYTES * rounded,
        gradients=FLOAT32_BYTES * num_trained + dtype.itemsize * rounded,
        optimizer=FLOAT32_BYTES * states * num_trained,
        activations=_activation_bytes(model, batch_tokens, dtype),
    )


def _activation_bytes(model: Model, batch_tokens: int, dtype: torch.dtype) -> int:
    """Inputs of every linear layer and as much again for norms, gates and scores: within a third of what is measured.

    A layer keeps its input for its backward pass, and layers that read the same input share it; counting each is what
    makes up for the scores of the attention, which depend on the lengths of the rows.
    """
    head = model.get_output_embeddings()
    width = 0
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            width += module.in_features + module.out_features
        elif isinstance(module, LinearLayer) and module is not head:
            width += sum(module.weight.shape)
    return batch_tokens * width * dtype.itemsize
