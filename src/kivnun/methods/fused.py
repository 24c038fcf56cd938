"""Which of the methods' linear layers a fused decoder layer computes itself, and with what."""

from torch import nn

from kivnun.methods.adapted_linear import LoraLinear
from kivnun.methods.qlora import QloraLinear
from kivnun.models.decoder import FusedDecoder, fuse_layers
from kivnun.models.projections import Projection, read_linear


def read_projection(module: nn.Module) -> Projection | None:
    """What a linear module computes with, or None where it is none of these or drops out at random right now.

    The very types are asked for: a class derived from one of them computes something else.
    """
    if type(module) is LoraLinear and not (module.training and module.dropout > 0):
        base = module.base
        return Projection(module.matrix, base.bias, module.lora_A, module.lora_B, module.scaling)
    if type(module) is QloraLinear and not (module.training and module.dropout > 0):
        quantized = module.base
        return Projection(None, quantized.bias, module.lora_A, module.lora_B, module.scaling, quantized.dequantize)
    return read_linear(module)


def fuse_model(model: nn.Module) -> FusedDecoder | None:
    """Let a model's layers run fused in training, with what its method put into them; None where none can be.

    Args:
        model: A causal model on its device, prepared by its method, with packed attention switched on.
    """
    return fuse_layers(model, read_projection)
