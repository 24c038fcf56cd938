"""Optimizers over float32 master weights: AdamW, or Muon or AdamW in 8 bits for large matrices with AdamW for the rest.

A bf16 weight has 8 bits of mantissa: an update smaller than 1/256 of the weight would be lost. So the optimizer works
on float32 masters, gradients are summed in float32 over micro-batches, and the model's own weights are rounded copies.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kivnun.recipe.training import TrainingSection
from kivnun.training.adamw_8bit import MIN_VALUES, AdamW8bit
from kivnun.training.shards import cut_of, like, values_of, whole_norm
from kivnun.training.state_files import StoredTensor

_NO_SCALES: Mapping[str, float] = {}
_HIDDEN_MATRIX = re.compile(r"\.(layers|h|blocks)\.\d+\.")


@dataclass
class MasterWeights:
    """The trainable parameters of a model and the optimizers over their float32 masters.

    Attributes:
        parameters: The model's own trainable parameters, by name.
        masters: Float32 masters, by the same names; the very parameter where it is float32 already.
        optimizers: One or two torch optimizers that together hold every master once; `lr_scale` of a parameter group
            is multiplied into the learning rate.
    """

    parameters: dict[str, nn.Parameter]
    masters: dict[str, nn.Parameter]
    optimizers: list[torch.optim.Optimizer]

    def collect_gradients(self) -> None:
        """Add the model's gradients to the masters' in float32 and free them; call after each micro-batch."""
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is parameter or parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    def clear_gradients(self) -> None:
        """Forget the gradients added up so far, as after a step that could not be computed to its end."""
        for name, master in self.masters.items():
            master.grad = self.parameters[name].grad = None

    def scale_and_clip(self, scale: float, max_norm: float) -> float:
        """Multiply the gradients by `scale`, clip their global norm, and return the norm before clipping.

        Args:
            scale: What they are multiplied by.
            max_norm: Norm that they keep at most; 0 for any.
        """
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
        norm = whole_norm(torch.nn.utils.get_total_norm(gradients))
        if 0 < max_norm < norm:
            torch._foreach_mul_(gradients, max_norm / norm)  # pyright: ignore[reportPrivateImportUsage]
        return norm

    def step(self, learning_rate: float) -> None:
        """One optimizer step, then round the masters into the model and clear the gradients."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["lr_scale"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.write_back()

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the masters into the model's own weights."""
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint needs, flat: `master.NAME` and `optimizer.NAME.KEY`."""
        flat = {f"master.{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(master, {}).items():
                    flat[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
        return flat

    @torch.no_grad()
    def load_tensors(self, flat: Mapping[str, Tensor | StoredTensor]) -> None:
        """Restore what `tensors` gave, bit for bit; of a master that is cut, only this process's rows are read.

        Raises:
            KeyError: Where one of the masters is not there.
            ValueError: Where one has another shape.
        """
        keys: dict[str, list[str]] = {}
        for key in flat:
            kind, _, rest = key.partition(".")
            if kind == "optimizer":
                keys.setdefault(rest.rpartition(".")[0], []).append(key)
        for name, master in self.masters.items():
            shape = tuple(flat[f"master.{name}"].shape)
            if shape != tuple(master.shape):
                raise ValueError(f"{name} is of the shape {shape}, the model's of {tuple(master.shape)}")
        for name, master in self.masters.items():
            _read_into(master, flat[f"master.{name}"])
            state = {key.rpartition(".")[2]: _read_like(master, flat[key]) for key in keys.get(name, [])}
            for optimizer in self.optimizers:
                if any(master is held for group in optimizer.param_groups for held in group["params"]):
                    optimizer.state[master] = state
        self.write_back()


def _read_into(master: Tensor, stored: Tensor | StoredTensor) -> None:
    cut = cut_of(master)
    values = stored[...] if cut is None else stored[cut.start : cut.stop]
    values_of(master).copy_(values)


def _read_like(master: Tensor, stored: Tensor | StoredTensor) -> Tensor:
    """A value of the optimizer's state: cut as its master where it has the same shape."""
    cut = cut_of(master)
    if cut is None or tuple(stored.shape) != tuple(master.shape):
        return stored[...].to(master.device, copy=True)
    return like(master, stored[cut.start : cut.stop].to(cut.rows.device, copy=True))


def make_master_weights(
    model: nn.Module,
    settings: TrainingSection,
    learning_rate_scales: Mapping[str, float] = _NO_SCALES,
    vectors: Collection[str] = (),
) -> MasterWeights:
    """Masters and optimizers for a model's trainable parameters.

    Weight decay and Muon are for matrices only: norms, biases and other vectors are left out, as is usual.

    Args:
        model: The model; what is trained requires a gradient.
        settings: The recipe's `training` section.
        learning_rate_scales: How many times faster than the others a parameter learns, by its name; 1 if not given.
        vectors: Names of parameters that are vectors though they are written as matrices.

    Raises:
        KeyError: Where a scale is given for what is not trained, or a vector is named that is not.
    """
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    strangers = sorted({*learning_rate_scales, *vectors} - set(parameters))
    if strangers:
        raise KeyError(f"a learning rate or shape is given for what is not trained: {', '.join(strangers)}")
    masters = {
        name: value if value.dtype == torch.float32 else nn.Parameter(value.detach().float().clone())
        for name, value in parameters.items()
    }
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, master in masters.items():
        is_matrix = master.ndim >= 2 and name not in vectors
        algorithm = _algorithm(name, master, settings.optimizer, is_matrix=is_matrix)
        key = (algorithm, settings.weight_decay if is_matrix else 0.0, learning_rate_scales.get(name, 1.0))
        groups.setdefault(key, []).append(master)
    optimizers = [
        _make_optimizer(
            chosen,
            [
                {"params": params, "weight_decay": decay, "lr_scale": scale}
                for (algorithm, decay, scale), params in groups.items()
                if algorithm == chosen
            ],
            settings,
        )
        for chosen in dict.fromkeys(algorithm for algorithm, _, _ in groups)
    ]
    return MasterWeights(parameters, masters, optimizers)


def _algorithm(name: str, master: Tensor, optimizer: str, *, is_matrix: bool) -> str:
    """What updates a parameter: the recipe's optimizer, or AdamW where that one is not for it."""
    if optimizer == "muon" and master.ndim == 2 and is_matrix and _HIDDEN_MATRIX.search(f".{name}"):
        return "muon"
    if optimizer == "adamw_8bit" and master.numel() > MIN_VALUES:
        return "adamw_8bit"
    return "adamw"


def _make_optimizer(
    algorithm: str, groups: list[dict[str, object]], settings: TrainingSection
) -> torch.optim.Optimizer:
    rate = settings.learning_rate
    if algorithm == "muon":
        # Jordan 2024; `match_rms_adamw` (Liu et al. 2025, arXiv:2502.16982) lets both share one learning rate.
        return torch.optim.Muon(groups, lr=rate, adjust_lr_fn="match_rms_adamw")  # type: ignore[arg-type]
    if algorithm == "adamw_8bit":
        return AdamW8bit(groups, lr=rate, betas=settings.betas)
    return torch.optim.AdamW(groups, lr=rate, betas=settings.betas, fused=True)
