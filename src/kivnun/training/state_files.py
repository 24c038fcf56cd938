"""Tensors of a training in safetensors files, cut along their rows, and read back by any number of processes.

A process alone writes whole tensors into `state.safetensors`. Of several, each writes its rows of every tensor that is
cut into `state-00001-of-00002.safetensors` and so on, and the first one also what is whole. The metadata of each file
says at which row its pieces begin and what the whole tensor's shape is. Nothing is pickled.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kivnun.training.shards import cut_of

_PATTERN = "state*.safetensors"
_LAYOUT = "layout"


def write_state(folder: Path, tensors: Mapping[str, Tensor], *, rank: int, world_size: int) -> None:
    """Write this process's part of the tensors; what is not cut is the first process's to write.

    Args:
        folder: An existing folder.
        tensors: All tensors by name, those that are cut as DTensors.
        rank: Number of this process.
        world_size: Number of processes.
    """
    pieces: dict[str, Tensor] = {}
    layout: dict[str, dict[str, object]] = {}
    for name, tensor in tensors.items():
        cut = cut_of(tensor)
        if cut is None and rank:
            continue
        piece = tensor if cut is None else cut.rows
        if cut is not None:
            if not len(piece):
                continue
            layout[name] = {"start": cut.start, "shape": list(tensor.shape)}
        pieces[name] = piece.detach().cpu().contiguous()
    if pieces:
        save_file(pieces, folder / _file_name(rank, world_size), metadata={_LAYOUT: json.dumps(layout)})


def _file_name(rank: int, world_size: int) -> str:
    return "state.safetensors" if world_size == 1 else f"state-{rank + 1:05d}-of-{world_size:05d}.safetensors"


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a tensor in a file.

    Attributes:
        file: The opened file.
        start: The tensor's row that the piece begins with.
        stop: The row after its last one.
    """

    file: Any
    start: int
    stop: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in files, of which rows are read on demand.

    Attributes:
        name: Its name.
        shape: Its whole shape.
        pieces: Where its rows are; one without rows' numbers holds all of it.
    """

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def __getitem__(self, rows: slice | EllipsisType) -> Tensor:
        """The rows of a slice, or the whole tensor.

        Raises:
            KeyError: Where rows are in no file.
        """
        if not self.shape:
            return self.pieces[0].file.get_tensor(self.name)
        start, stop, _ = (slice(None) if isinstance(rows, EllipsisType) else rows).indices(self.shape[0])
        found: list[Tensor] = []
        place = start
        for piece in sorted(self.pieces, key=lambda piece: piece.start):
            if piece.start <= place < min(piece.stop, stop):
                end = min(piece.stop, stop)
                found.append(piece.file.get_slice(self.name)[place - piece.start : end - piece.start])
                place = end
        if place < stop:
            raise KeyError(f"{self.name}: rows {place} to {stop} are in no file")
        if len(found) == 1:
            return found[0]
        if found:
            return torch.cat(found)
        return self.pieces[0].file.get_slice(self.name)[0:0]


@contextmanager
def open_state(folder: Path) -> Iterator[dict[str, StoredTensor]]:
    """The tensors in a folder, whatever number of processes wrote it.

    Raises:
        SafetensorError: Where a file cannot be read, or there is none.
    """
    paths = sorted(folder.glob(_PATTERN))
    if not paths:
        raise SafetensorError(f"{folder} holds no {_PATTERN}")
    shapes: dict[str, tuple[int, ...]] = {}
    pieces: dict[str, list[Piece]] = {}
    with ExitStack() as stack:
        for path in paths:
            file = stack.enter_context(safe_open(path, framework="pt"))
            layout = json.loads((file.metadata() or {}).get(_LAYOUT, "{}"))
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                shape = tuple(file.get_slice(name).get_shape())
                start = layout.get(name, {}).get("start", 0)
                shapes[name] = tuple(layout.get(name, {}).get("shape", shape))
                pieces.setdefault(name, []).append(Piece(file, start, start + (shape[0] if shape else 1)))
        yield {name: StoredTensor(name, shape, tuple(pieces[name])) for name, shape in shapes.items()}
