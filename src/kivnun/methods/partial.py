"""Partial fine-tuning: some weights are trained as they are, the others stay frozen.

A head that shares its matrix with the input embeddings stays frozen under `last_layers`: training it would also change
what every layer below reads. Under `modules`, the matrix is trained when it is named by its own name, that of the
embeddings; the head's name is refused, for it would say less than it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from kivnun.errors import UserError
from kivnun.methods.base_model import BaseModelName
from kivnun.methods.blocks import find_decoder_layers, find_final_norms
from kivnun.methods.saved_modules import find_saved
from kivnun.methods.targets import is_within, matches_pattern, near_names
from kivnun.models.types import Model
from kivnun.recipe.methods import PartialMethod


@dataclass(frozen=True)
class Partial:
    """The method `partial`."""

    settings: PartialMethod
    mergeable: ClassVar[bool] = True

    def prepare(self, model: Model, *, generator: torch.Generator) -> None:
        """Make the named weights trainable and freeze the rest.

        Raises:
            UserError: `target-modules` where a name matches nothing, `recipe-invalid` for more layers than there are,
                `stage-unsupported` where the architecture's layers are not found.
        """
        del generator
        if self.settings.last_layers is not None:
            names = find_last_layers(model, self.settings.last_layers)
        else:
            names = find_weights(model, self.settings.modules)
        names += find_saved(model)
        model.requires_grad_(requires_grad=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_within(name, names))

    def export(self, model: Model, folder: Path, *, base_model: BaseModelName) -> None:
        """Write the whole model."""
        del base_model
        model.save_pretrained(folder)


def find_last_layers(model: Model, num_layers: int) -> list[str]:
    """Names of the last decoder layers, the final norm, and the head where it has a matrix of its own.

    Raises:
        UserError: `recipe-invalid` where the model has fewer layers; `stage-unsupported`.
    """
    parent, layers = find_decoder_layers(model)
    if num_layers > len(layers):
        raise UserError(
            "recipe-invalid",
            f"method.last_layers: {num_layers}, but the model has {len(layers)} decoder layers",
            hint=f"set it to {len(layers)} or less",
        )
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = head is None or head.weight is embeddings.weight
    heads = [] if is_tied else [name for name, module in model.named_modules() if module is head]
    return [*layers[-num_layers:], *find_final_norms(model, parent), *heads]


def find_weights(model: Model, patterns: Sequence[str]) -> list[str]:
    """Names of the weights that the patterns match, by their own names or those of modules around them.

    Raises:
        UserError: `target-modules`, with the near names, where a pattern matches no weight that can be trained.
    """
    weights = [name for name, _ in model.named_parameters()]
    modules = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        around = [name for name in (*modules, *weights) if matches_pattern(name, pattern)]
        matched = {name for name in weights if is_within(name, around)}
        if not matched:
            raise _unmatched(model, pattern, [*modules, *weights])
        found |= matched
    return [name for name in weights if name in found]


def _unmatched(model: Model, pattern: str, names: Sequence[str]) -> UserError:
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(names)
    shared = [name for name in sorted(tied) if matches_pattern(name.rpartition(".")[0], pattern)]
    if shared:
        owner = next(
            name for name, value in model.named_parameters() if value is model.get_parameter(shared[0])
        ).rpartition(".")[0]
        problem = f"method.modules: {pattern} has no weight of its own; it shares that of {owner}"
        return UserError("target-modules", problem, hint=f"name {owner} to train both, or leave it out")
    if any(matches_pattern(name, pattern) for name in names):
        problem = f"method.modules: {pattern} names a module without weights"
    else:
        problem = f"method.modules: {pattern} matches nothing in the model{near_names(pattern, names)}"
    kinds = sorted({last for name in names if not (last := name.rpartition(".")[2]).isdigit()})
    return UserError("target-modules", problem, hint=f"names are made of these parts: {', '.join(kinds)}")
