"""Several LoRA adapters on one model in torch, of which each row of a batch uses another, or none.

The factors of the adapters that a batch needs stand side by side: with A = [A_1; A_2; ...] and B = [B_1 B_2 ...], where
each B_k holds its scaling, y = W x + b + B (m * (A x)), and the mask m of a row is 1 at the ranks of its adapter and 0
elsewhere. Two products serve the whole batch, whatever its mixture and whatever the ranks. The update is added behind
the layers of the base model, which stay as they are: neither their weights nor their names change.

Shapes: B rows, I in, O out, R ranks.
"""

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field
from torch.utils.hooks import RemovableHandle

from kivnun.errors import UserError
from kivnun.methods.adapted_linear import lora_scaling
from kivnun.methods.adapter import CONFIG_NAME, PEFT_PREFIX, adapter_kind, read_adapter, require_fit
from kivnun.methods.base_model import require_base_model
from kivnun.models.heads import read_head
from kivnun.models.linear_layers import linear_layer
from kivnun.models.types import Model

OWN_MODEL = "give it a model of its own: `kivnun run` with an optimization section merges it into the base weights"


@dataclass(frozen=True)
class Factors:
    """One adapter's update of one layer.

    Attributes:
        a: A (R, I), in float32.
        b: B (O, R) with the scaling in it.
    """

    a: Tensor
    b: Tensor


def read_factors(model: Model, base_folder: Path, folder: Path) -> tuple[int, Mapping[str, Factors]]:
    """The rank of a plain LoRA adapter and its factors by layer.

    Args:
        model: The base model, as it was loaded.
        base_folder: Its folder.
        folder: The adapter, in PEFT's format.

    Raises:
        UserError: `adapter-invalid` where it is damaged, was trained on another model, or is more than LoRA.
    """
    if not (folder / CONFIG_NAME).is_file():
        problem = f"{folder} is not an adapter folder: it has no {CONFIG_NAME}"
        raise UserError("adapter-invalid", problem, hint="name a folder that a LoRA training wrote, or a run's folder")
    _require_plain(folder)
    require_base_model(base_folder, folder)
    settings, base_model, tensors = read_adapter(folder)
    extra = [
        *(["DoRA's magnitudes"] if settings.use_dora else []),
        *(f"a whole {name}" for name in settings.modules_to_save),
    ]
    if extra:
        raise _not_plain(folder, f"holds {' and '.join(extra)} besides LoRA's matrices")
    names, _ = require_fit(model, settings, tensors, folder=folder, base_model=base_model)
    scaling = lora_scaling(settings)
    found = {}
    for name in names:
        a_RI, b_OR = (tensors[f"{PEFT_PREFIX}{name}.lora_{factor}.weight"].float() for factor in "AB")
        found[name] = Factors(a_RI, scaling * b_OR)
    if not all(bool(each.b.isfinite().all()) for each in found.values()):
        raise _not_plain(folder, f"is not finite once it is scaled by {scaling:g}")
    return settings.rank, found


def _require_plain(folder: Path) -> None:
    kind = adapter_kind(folder)
    if kind != "LORA":
        raise _not_plain(folder, f"is an adapter of the kind {kind}")
    head = read_head(folder)
    if head is not None:
        raise _not_plain(folder, f"has a head for {head.kind}")


def _not_plain(folder: Path, what: str) -> UserError:
    problem = f"{folder}: the adapter {what}, and only plain LoRA adapters can share a base model"
    return UserError("adapter-invalid", problem, hint=OWN_MODEL)


@dataclass
class _Layer:
    """A layer of the base model and the updates that adapters give it."""

    base: nn.Module
    factors: dict[str, Factors] = field(default_factory=dict[str, Factors])
    handle: RemovableHandle | None = None
    stacked: tuple[tuple[str, ...], Tensor, Tensor] | None = None
    rows: tuple[str | None, ...] | None = None
    mask: Tensor | None = None
    is_applied: bool = False

    def stack(self, names: tuple[str, ...]) -> None:
        """Put the factors of some adapters side by side, in the number format of the base."""
        used = tuple(name for name in names if name in self.factors)
        if self.stacked is not None and self.stacked[0] == used:
            return
        weight: Tensor = self.base.weight  # type: ignore[assignment]
        a_RI = torch.cat([self.factors[name].a for name in used]) if used else weight.new_empty(0)
        b_OR = torch.cat([self.factors[name].b for name in used], dim=1) if used else weight.new_empty(0)
        self.stacked, self.rows = (used, a_RI.to(weight), b_OR.to(weight)), None

    def choose(self, rows: tuple[str | None, ...]) -> None:
        """Say which adapter each row of the next batch uses; from token to token of an answer it is the same."""
        self.is_applied = True
        if rows == self.rows:
            return
        self.rows = rows
        used, a_RI, _ = self.stacked or ((), torch.empty(0), None)
        owners = [name for name in used for _ in range(len(self.factors[name].a))]
        mask = [[float(row == owner) for owner in owners] for row in rows]
        self.mask = torch.tensor(mask, dtype=a_RI.dtype, device=a_RI.device) if owners else None

    def add_update(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """The hook behind the base layer: its output with each row's update."""
        if not self.is_applied or self.mask is None or self.stacked is None:
            return None
        x = inputs[0]
        if len(x) != len(self.mask):
            raise ValueError(f"the layer got {len(x)} rows for a batch of {len(self.mask)}")
        _, a_RI, b_OR = self.stacked
        mask = self.mask.view(len(x), *[1] * (x.dim() - 2), -1)
        return output + F.linear(mask * F.linear(x, a_RI), b_OR)


class ManyLora:
    """Named LoRA adapters on one base model, added and removed while it answers.

    Args:
        model: The base model in evaluation mode; its weights are never written.
        base_folder: Its folder, which adapters must have been trained on.
    """

    def __init__(self, model: Model, base_folder: Path) -> None:
        self.model = model
        self._base_folder = base_folder
        self._layers: dict[str, _Layer] = {}
        self._ranks: dict[str, int] = {}
        # One batch at a time: the layers hold what its rows use.
        self._lock = threading.RLock()

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters, in the order of adding."""
        return tuple(self._ranks)

    def add(self, name: str, folder: Path) -> None:
        """Add an adapter.

        Args:
            name: What batches call it.
            folder: The adapter, in PEFT's format.

        Raises:
            UserError: `adapter-invalid` as for `read_factors`, `adapter-taken` where the name is in use; the model is
                then as it was.
        """
        if name in self._ranks:
            hint = "give it another name, or remove the other one first"
            raise UserError("adapter-taken", f"there is an adapter {name!r} already", hint=hint)
        rank, factors = read_factors(self.model, self._base_folder, folder)
        device = self.model.device
        with self._lock:
            for layer_name, each in factors.items():
                layer = self._layers.get(layer_name)
                if layer is None:
                    layer = self._layers[layer_name] = _Layer(linear_layer(self.model, layer_name))
                    layer.handle = layer.base.register_forward_hook(layer.add_update)
                layer.factors[name] = Factors(each.a.to(device), each.b.to(device))
            self._ranks[name] = rank

    def remove(self, name: str) -> None:
        """Take an adapter off; the base model is then as if it had never been there.

        Raises:
            UserError: `adapter-unknown`.
        """
        self._require_known([name])
        with self._lock:
            for layer_name, layer in list(self._layers.items()):
                layer.factors.pop(name, None)
                layer.stacked = None
                if not layer.factors and layer.handle is not None:
                    layer.handle.remove()
                    del self._layers[layer_name]
            del self._ranks[name]

    @contextmanager
    def applied(self, rows: Sequence[str | None]) -> Generator[None]:
        """Within this, row k of a batch uses the adapter `rows[k]`; outside of it the model is the base model.

        Args:
            rows: An adapter for each row, None for the base model.

        Raises:
            UserError: `adapter-unknown`.
        """
        self._require_known([name for name in rows if name is not None])
        with self._lock:
            used = tuple(name for name in self._ranks if name in rows)
            try:
                for layer in self._layers.values():
                    layer.stack(used)
                    layer.choose(tuple(rows))
                yield
            finally:
                for layer in self._layers.values():
                    layer.is_applied = False

    def _require_known(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._ranks:
                has = f"the adapters are {', '.join(self._ranks)}" if self._ranks else "it has none"
                raise UserError("adapter-unknown", f"the model has no adapter {name!r}", hint=has)
