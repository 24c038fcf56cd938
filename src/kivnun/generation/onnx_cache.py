"""Keys and values of many rows in one piece of memory, in which onnxruntime reads and writes them where they lie.

Rows stand in slots without gaps, so that the first B slots are one tensor and a slot alone is one too. Room for many
rows is reserved at once, so that rows need not be copied when others come or they get longer; a reserved page takes
memory only from the first token that is written there, and gives it back with the row.

Shapes: N tensors (keys and values of each layer), B slots, H heads, S tokens that a slot has room for, D head size.
"""

import mmap
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESERVED_SLOTS, RESERVED_TOKENS = 64, 4096
# Where the system lets nothing be reserved, rows get room in such pieces.
PIECE_TOKENS = 256
# Linux keeps no account of such pages before they are written; Python 3.13 knows the name.
MAP_NORESERVE = 0x4000


@dataclass(eq=False)
class OnnxRow:
    """A `Row`.

    Attributes:
        adapter: What it answers with.
        slot: Where it stands in its cache.
        num_tokens: How many tokens it holds.
    """

    adapter: str | None
    slot: int
    num_tokens: int = 0


class OnnxCache:
    """The rows of one adapter.

    Args:
        num_tensors: N.
        num_heads: H.
        head_size: D.
        context_tokens: Most tokens of a row.

    Attributes:
        rows: Each at its slot.
        version: Another number whenever the memory is another one.
    """

    def __init__(self, num_tensors: int, num_heads: int, head_size: int, context_tokens: int) -> None:
        self._num_tensors, self._num_heads, self._head_size = num_tensors, num_heads, head_size
        self._context_tokens = context_tokens
        self.rows: list[OnnxRow] = []
        self.version = 0
        self._memory, self.values_NBHSD = self._take(0, 0)

    @property
    def token_room(self) -> int:
        """S."""
        return self.values_NBHSD.shape[3]

    def add(self, adapter: str | None) -> OnnxRow:
        """An empty row behind the others."""
        if len(self.rows) == self.values_NBHSD.shape[1]:
            self._grow(len(self.rows) + 1, self.token_room)
        row = OnnxRow(adapter, len(self.rows))
        self.rows.append(row)
        return row

    def require_room(self, tokens: int) -> None:
        """Let every row have room for so many tokens."""
        if tokens > self.token_room:
            self._grow(self.values_NBHSD.shape[1], tokens)

    def put_first(self, rows: list[OnnxRow]) -> None:
        """Let some rows stand in the first slots, in any order."""
        first = {id(row) for row in rows}
        others = [row for row in self.rows[: len(rows)] if id(row) not in first]
        behind = [row for row in rows if row.slot >= len(rows)]
        for one, other in zip(others, behind, strict=True):
            kept, moved = (self.copy(row, 0, row.num_tokens) for row in (one, other))
            one.slot, other.slot = other.slot, one.slot
            self.fill(one, 0, kept)
            self.fill(other, 0, moved)
            self.rows[one.slot], self.rows[other.slot] = one, other

    def remove(self, row: OnnxRow) -> None:
        """Give a row's memory back; the last one takes its slot."""
        last = self.rows.pop()
        kept = None if last is row else self.copy(last, 0, last.num_tokens)
        for slot in {row.slot, last.slot}:
            self._release(slot)
        if kept is not None:
            last.slot = row.slot
            self.rows[last.slot] = last
            self.fill(last, 0, kept)
        row.slot = -1
        if not self.rows:
            self._memory, self.values_NBHSD = self._take(0, 0)
            self.version += 1

    def copy(self, row: OnnxRow, start: int, stop: int) -> NDArray[np.float32]:
        """A copy of some tokens of a row, shape (N, H, tokens, D)."""
        return self.values_NBHSD[:, row.slot, :, start:stop].copy()

    def fill(self, row: OnnxRow, start: int, values_NHTD: NDArray[np.float32]) -> None:
        """Write tokens of a row, the first of them at `start`."""
        self.values_NBHSD[:, row.slot, :, start : start + values_NHTD.shape[2]] = values_NHTD

    def _grow(self, slots: int, tokens: int) -> None:
        """Take room for so many slots and tokens, and some more: what is never written costs nothing."""
        old_NBHSD = self.values_NBHSD
        _, num_slots, _, num_tokens, _ = old_NBHSD.shape
        more_slots = num_slots if slots == num_slots else max(RESERVED_SLOTS, 2 * num_slots)
        more_tokens = num_tokens if tokens == num_tokens > 0 else max(RESERVED_TOKENS, 2 * num_tokens, tokens)
        try:
            self._memory, self.values_NBHSD = self._take(more_slots, more_tokens)
        except OSError:
            self._memory, self.values_NBHSD = self._take(slots, -(-max(tokens, 1) // PIECE_TOKENS) * PIECE_TOKENS)
        for row in self.rows:
            held = slice(row.num_tokens)
            self.values_NBHSD[:, row.slot, :, held] = old_NBHSD[:, row.slot, :, held]
        self.version += 1

    def _take(self, slots: int, tokens: int) -> tuple[mmap.mmap, NDArray[np.float32]]:
        """Memory of its own mapping: pages come when they are written, and single slots can be given back."""
        room = min(tokens, self._context_tokens)
        shape = (self._num_tensors, slots, self._num_heads, room, self._head_size)
        size = int(np.prod(shape))
        memory = mmap.mmap(-1, max(1, size * 4), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        # A huge page would take memory for the reserved room around a token. Kernels without them refuse the word.
        with suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        return memory, np.frombuffer(memory, np.float32, size).reshape(shape)

    def _release(self, slot: int) -> None:
        values = self.values_NBHSD
        tensor_bytes, slot_bytes, _, _, _ = values.strides
        for tensor in range(len(values)):
            start = tensor * tensor_bytes + slot * slot_bytes
            # Whole pages only: those at the edges hold the neighbours' tokens too.
            first, end = -(-start // mmap.PAGESIZE), (start + slot_bytes) // mmap.PAGESIZE
            if first < end:
                self._memory.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (end - first) * mmap.PAGESIZE)
