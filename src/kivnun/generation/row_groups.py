"""Rows of a torch model that step side by side, those of like lengths in one batch.

A batch is as wide as its longest row, for all of its rows. So that a long row does not widen hundreds of short ones, a
batch takes only rows of at least a fourth of its longest one's length; below a first width it takes all. Padding is
then at most fourfold above the first width, in as few batches as that allows, for each batch reads all weights. Rows
that grow together stay together; some move when the longest of a batch comes or goes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kivnun.models.row_cache import RowBatch, RowCache

FIRST_WIDTH = 512
MOST_PADDING = 4


@dataclass(eq=False)
class TorchRow:
    """One answer in the making.

    Attributes:
        num_tokens: How many tokens its cache holds.
        adapter: What it answers with.
        cache: Its own cache, while it is in no batch.
    """

    num_tokens: int
    adapter: str | None
    cache: RowCache | None


@dataclass(eq=False)
class RowGroup:
    """Rows of like lengths.

    Attributes:
        batch: Their keys and values.
        rows: By slot of the batch.
    """

    batch: RowBatch
    rows: list[TorchRow]

    def join(self, rows: Sequence[TorchRow]) -> None:
        """Take in those of the rows that are in no batch."""
        for row in rows:
            if row.cache is not None:
                self.batch.join(row.cache)
                self.rows.append(row)
                row.cache = None

    def leave(self, slot: int) -> None:
        """Take a row out; the last one gets its slot."""
        self.batch.leave(slot)
        self.rows[slot] = self.rows[-1]
        self.rows.pop()


class RowGroups:
    """The rows that took part in the last step, by length.

    Args:
        new_cache: Makes a cache without rows.
        first_width: Rows of up to so many tokens share a batch, whatever their lengths.
    """

    def __init__(self, new_cache: Callable[[], RowCache], first_width: int) -> None:
        self._new_cache = new_cache
        self._first_width = first_width
        self._groups: list[RowGroup] = []

    def gather(self, wanted: Sequence[TorchRow]) -> list[RowGroup]:
        """Let the groups consist of these rows, each where it belongs with the token that it is about to get.

        Args:
            wanted: Other rows get caches of their own.
        """
        parts = [[wanted[number] for number in part] for part in self._split([row.num_tokens + 1 for row in wanted])]
        groups = self._choose_groups(parts)
        home = {id(row): group for part, group in zip(parts, groups, strict=True) for row in part}
        for group in self._groups:
            for slot in reversed(range(len(group.rows))):
                row = group.rows[slot]
                if home.get(id(row)) is not group:
                    row.cache = group.batch.alone(slot, self._new_cache())
                    group.leave(slot)
        # The buffers of those that are empty go before others grow.
        self._groups = [group for group in self._groups if group.rows]
        for part, group in zip(parts, groups, strict=True):
            group.join(part)
        self._groups = [group for group in groups if group.rows]
        if sum(len(group.rows) for group in groups) != len(wanted):
            raise ValueError("a row that has ended, or one twice, cannot take a step")
        return groups

    def remove(self, row: TorchRow) -> None:
        """Take a row out, if it is in one of the groups."""
        for group in self._groups:
            slot = next((slot for slot, each in enumerate(group.rows) if each is row), None)
            if slot is not None:
                group.leave(slot)
        self._groups = [group for group in self._groups if group.rows]

    def padded_tokens(self, lengths: Sequence[int]) -> int:
        """Columns of all rows together, if rows have these lengths and step side by side.

        Args:
            lengths: Of the rows, in tokens.
        """
        return sum(len(part) * lengths[part[0]] for part in self._split(lengths))

    def _split(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which rows share a batch, the longest of each first."""
        parts: list[list[int]] = []
        longest = 0
        for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
            if not parts or longest > max(self._first_width, MOST_PADDING * lengths[number]):
                longest = lengths[number]
                parts.append([])
            parts[-1].append(number)
        return parts

    def _choose_groups(self, parts: Sequence[Sequence[TorchRow]]) -> list[RowGroup]:
        """A group for each part, such that few rows move."""
        now = {id(row): place for place, group in enumerate(self._groups) for row in group.rows}
        shared = Counter((number, now[id(row)]) for number, part in enumerate(parts) for row in part if id(row) in now)
        chosen: dict[int, int] = {}
        for (number, place), _ in shared.most_common():
            if number not in chosen and place not in chosen.values():
                chosen[number] = place
        return [
            self._groups[chosen[number]] if number in chosen else RowGroup(RowBatch(self._new_cache(), []), [])
            for number in range(len(parts))
        ]
