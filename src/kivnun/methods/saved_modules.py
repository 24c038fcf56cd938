"""Modules that are trained whole beside an adapter: PEFT's `modules_to_save`."""

from collections.abc import Sequence

from torch import nn

from kivnun.models.types import Model


def train_whole(model: Model, names: Sequence[str]) -> None:
    """Make every weight of the named modules trainable, each as the module's own.

    A weight that another module shares, as a head tied to the input embeddings does, is copied first, so that training
    the one leaves the other as it is; PEFT does the same. The model is then no longer tied, and its configuration says
    so, for else a merged model would lose one of the two when it is read back.
    """
    is_untied = False
    for name in names:
        outside = {
            id(parameter)
            for other, parameter in model.named_parameters(remove_duplicate=False)
            if not other.startswith(f"{name}.")
        }
        for module in model.get_submodule(name).modules():
            for key, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) in outside:
                    setattr(module, key, nn.Parameter(parameter.detach().clone()))
                    is_untied = True
        model.get_submodule(name).requires_grad_(requires_grad=True)
    if is_untied:
        model.config.tie_word_embeddings = False
