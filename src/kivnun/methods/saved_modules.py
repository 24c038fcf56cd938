"""Modules that are trained whole beside an adapter: PEFT's `modules_to_save`."""

from collections.abc import Sequence

from torch import Tensor, nn

from kivnun.methods.targets import find_modules
from kivnun.models.heads import head_modules
from kivnun.models.types import Model


def find_saved(model: Model, modules_to_save: Sequence[str] = ()) -> list[str]:
    """Names of the modules that are trained whole: those that a recipe names, and a head that no base model has.

    Raises:
        UserError: `target-modules`, with the near names, where a target names no module with weights.
    """
    return find_modules(model, tuple(dict.fromkeys((*modules_to_save, *head_modules(model)))))


def saved_tensors(model: Model, names: Sequence[str], *, prefix: str) -> dict[str, Tensor]:
    """The weights of the named modules, under the names that PEFT's folders have for them."""
    return {
        f"{prefix}{name}.{key}": value
        for name in names
        for key, value in model.get_submodule(name).state_dict().items()
    }


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
