"""Keys and values of rows that begin and end alone, side by side in one buffer a layer, for any model of transformers.

Rows are aligned at the right: a row of n tokens has the n columns before `stop`, and what lies before them is padding,
which the attention mask hides. One more token a row is then one more column for all, written in place; nothing that
was computed is moved. A row that ends is overwritten by the last one.

       start          stop   room
    row 0  . . a b c d e |  . . .
    row 1  k l m n o p q |  . . .
    row 2  . . . . . x y |  . . .

Layers with a sliding window keep all columns: the model's own mask cuts them.

Shapes: B rows, R rows of room, H key heads, S columns, D head size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from kivnun.errors import UserError
from kivnun.models.types import Model

FIRST_COLUMNS = 64
Pairs = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of some columns of one row, each of shape (H, columns, D), for every layer that keeps some."""


class ColumnLayer(CacheLayerMixin):
    """Keys and values of one layer, in buffers (R, H, S, D)."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.num_rows = 0
        self.start = self.stop = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for the shapes of the first keys and values."""
        self.num_rows = len(key_states)
        self.keys, self.values = (_room(each, self.num_rows, FIRST_COLUMNS) for each in (key_states, value_states))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append columns; all columns in use come back, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        stop = self.stop + key_states.shape[-2]
        if stop > self.num_columns:
            self.lay_out(self.room, max(stop, 2 * self.num_columns), self.stop)
        keys, values = self.buffers
        keys[: self.num_rows, :, self.stop : stop] = key_states
        values[: self.num_rows, :, self.stop : stop] = value_states
        self.stop = stop
        return keys[: self.num_rows, :, self.start : stop], values[: self.num_rows, :, self.start : stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the next query sees, and where they start."""
        return self.width + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.width

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    @property
    def width(self) -> int:
        """Columns in use."""
        return self.stop - self.start

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values with their room; only for a layer that has some."""
        return cast("Tensor", self.keys), cast("Tensor", self.values)

    @property
    def room(self) -> int:
        """R."""
        return len(self.buffers[0])

    @property
    def num_columns(self) -> int:
        """S."""
        return self.buffers[0].shape[2]

    def lay_out(self, room: int, num_columns: int, stop: int) -> None:
        """Move the rows into buffers of another size, such that their columns end at `stop`."""
        start = stop - self.width
        moved = []
        for old in self.buffers:
            new = _room(old, room, num_columns)
            new[: self.num_rows, :, start:stop] = old[: self.num_rows, :, self.start : self.stop]
            moved.append(new)
        self.keys, self.values = moved
        self.start, self.stop = start, stop

    def read(self, slot: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Views of some columns of a row."""
        keys, values = self.buffers
        return keys[slot, :, start:stop], values[slot, :, start:stop]

    def write(self, slot: int, keys_HSD: Tensor, values_HSD: Tensor) -> None:
        """Put a row into a slot, its columns before `stop`; there must be as many."""
        begin = self.stop - keys_HSD.shape[1]
        for buffer, given in zip(self.buffers, (keys_HSD, values_HSD), strict=True):
            # A masked column still takes part in a product with 0, and 0 times what an unused buffer holds may be NaN.
            if begin < self.start:
                buffer[: self.num_rows, :, begin : self.start].zero_()
            buffer[slot, :, self.start : max(begin, self.start)].zero_()
            buffer[slot, :, begin : self.stop] = given
        self.start = min(self.start, begin)

    def move(self, source: int, target: int) -> None:
        """Overwrite a row with another one."""
        for buffer in self.buffers:
            buffer[target, :, self.start : self.stop] = buffer[source, :, self.start : self.stop]


def _room(like: Tensor, room: int, num_columns: int) -> Tensor:
    # Not cleared: the system gives pages when they are first written, so that room costs no memory before its use.
    return like.new_empty(room, like.shape[1], num_columns, like.shape[3])


class RowCache(Cache):
    """The layers of a model, of which some may keep nothing; all that keep some have the same rows and columns."""

    @property
    def kept(self) -> list[ColumnLayer]:
        """The layers that hold keys and values."""
        return [layer for layer in self.layers if isinstance(layer, ColumnLayer) and layer.is_initialized]

    @property
    def width(self) -> int:
        """Columns in use."""
        return next((layer.width for layer in self.kept), 0)

    @property
    def bytes_per_column(self) -> int:
        """Memory of one column of one row."""
        buffers = (buffer for layer in self.kept for buffer in layer.buffers)
        return sum(buffer.shape[1] * buffer.shape[3] * buffer.element_size() for buffer in buffers)

    def copy_columns(self, slot: int, start: int, stop: int) -> Pairs:
        """A copy of some columns of a row, counted from the first one in use."""
        first = next((layer.start for layer in self.kept), 0)
        read = [layer.read(slot, first + start, first + stop) for layer in self.kept]
        return tuple((keys.clone(), values.clone()) for keys, values in read)


def empty_cache(model: Model) -> RowCache:
    """A cache without rows for a model that was checked by `require_plain_cache`."""
    layers = DynamicCache(config=model.config).layers
    return RowCache(layers=[DummyLayer() if isinstance(layer, DummyLayer) else ColumnLayer() for layer in layers])


def fill_cache(cache: RowCache, pieces: Sequence[Pairs]) -> RowCache:
    """The cache of one row, in an empty one, from pieces that follow each other; each has columns of every layer."""
    columns = [layer for layer in cache.layers if isinstance(layer, ColumnLayer)]
    for number, layer in enumerate(columns):
        keys = torch.cat([piece[number][0] for piece in pieces], dim=1).unsqueeze(0)
        values = torch.cat([piece[number][1] for piece in pieces], dim=1).unsqueeze(0)
        layer.update(keys, values)
    return cache


def require_plain_cache(model: Model) -> None:
    """Refuse a model whose memory of a text is not keys and values of its tokens.

    Raises:
        UserError: `stage-unsupported`.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise unsupported_rows(model, "it is an encoder with a decoder")
    plain = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
    # Their subclasses keep something else besides.
    others = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers if type(layer) not in plain}
    if others:
        raise unsupported_rows(model, f"it keeps {', '.join(sorted(others))}")


def unsupported_rows(model: Model, reason: str) -> UserError:
    """The error of a model whose rows cannot be computed side by side.

    Args:
        model: The model.
        reason: Why not.
    """
    return UserError(
        "stage-unsupported",
        f"models of the kind {type(model).__name__} cannot answer many clients side by side: {reason}",
        hint="take a model with plain attention, such as one of the Llama, Qwen, Mistral, Gemma or GPT-2 family",
    )


@dataclass
class RowBatch:
    """Rows that step together, each with a slot of one cache.

    Attributes:
        cache: Theirs.
        lengths: Columns of each row, by slot.
    """

    cache: RowCache
    lengths: list[int]

    def join(self, row: RowCache) -> None:
        """Give a row that was computed alone the next slot."""
        slot, length = len(self.lengths), row.width
        for own, given in self._pairs(row):
            if not own.is_initialized:
                own.lazy_initialization(*(buffer[:1] for buffer in given.buffers))
            own.num_rows = slot
            if slot == 0:
                own.start = own.stop
            self._make_room(own, slot + 1, max(length, own.width))
            own.num_rows = slot + 1
            own.write(slot, *given.read(0, given.start, given.stop))
        self.lengths.append(length)

    def make_room(self) -> None:
        """See to it that the next step needs no larger buffers, and give back what is far too large."""
        for layer in self.cache.kept:
            layer.start = layer.stop - max(self.lengths)
            self._make_room(layer, len(self.lengths), layer.width)

    def leave(self, slot: int) -> None:
        """Take a row out; the last one gets its slot."""
        last = len(self.lengths) - 1
        for layer in self.cache.kept:
            if slot != last:
                layer.move(last, slot)
            layer.num_rows = last
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def alone(self, slot: int, empty: RowCache) -> RowCache:
        """A row's own cache again, in `empty`."""
        width = self.cache.width
        return fill_cache(empty, [self.cache.copy_columns(slot, width - self.lengths[slot], width)])

    def _pairs(self, row: RowCache) -> Iterator[tuple[ColumnLayer, ColumnLayer]]:
        for own, given in zip(self.cache.layers, row.layers, strict=True):
            if isinstance(own, ColumnLayer) and isinstance(given, ColumnLayer) and given.is_initialized:
                yield own, given

    def _make_room(self, layer: ColumnLayer, num_rows: int, width: int) -> None:
        """Buffers for so many rows and columns and one column more; each move leaves as much room as it has columns."""
        rows_fit = num_rows <= layer.room < max(4 * num_rows, 8)
        columns_fit = width <= layer.stop < layer.num_columns < max(8 * width, 8 * FIRST_COLUMNS)
        if rows_fit and columns_fit:
            return
        room = layer.room if rows_fit else _power_of_two(num_rows)
        stop = max(_power_of_two(width), FIRST_COLUMNS // 2)
        layer.lay_out(room, 2 * stop, stop)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
