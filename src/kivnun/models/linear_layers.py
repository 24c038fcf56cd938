"""The linear layers of models: torch's `Linear` keeps its matrix as (O, I), transformers' `Conv1D` as (I, O).

`Conv1D` is the linear layer of GPT-2 and its kin. Whoever computes with a matrix asks for it here, as (O, I); what is
saved keeps the orientation of the model's own module. Shapes: I in, O out.
"""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LinearLayer = nn.Linear | Conv1D
"""A layer y = x W^T + bias, whichever way round it keeps W."""


def linear_layer(model: nn.Module, name: str) -> LinearLayer:
    """The linear layer of that name; asking for another kind of module is an error of the program."""
    layer = model.get_submodule(name)
    assert isinstance(layer, LinearLayer)  # noqa: S101 - names are of layers that were found by their kind
    return layer


def is_transposed(layer: nn.Module) -> bool:
    """Whether a linear layer keeps its matrix as (I, O); PEFT calls this `fan_in_fan_out`."""
    return isinstance(layer, Conv1D)


def weight_matrix(layer: LinearLayer) -> Tensor:
    """The layer's own weight seen as (O, I): what is written into it is written into the layer."""
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight
