"""The token table: every row's ids and which of them are trained, flat on disk and in memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file


@dataclass(frozen=True)
class TokenizedRow:
    """Token ids of one row; `trained[i]` says whether token i is a target."""

    input_ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class TokenTable:
    """Many tokenised rows as three flat arrays.

    Attributes:
        ids: Shape (all tokens,), int32.
        mask: Shape (all tokens,), uint8: 1 where the token is trained.
        offsets: Shape (rows + 1,), int64: row r is `ids[offsets[r]:offsets[r + 1]]`.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def input_ids(self, row: int) -> NDArray[np.int32]:
        """Token ids of a row."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    def trained(self, row: int) -> NDArray[np.uint8]:
        """Mask of a row: 1 where the token is trained."""
        return self.mask[self.offsets[row] : self.offsets[row + 1]]

    def length(self, row: int) -> int:
        """Tokens in a row."""
        return int(self.offsets[row + 1] - self.offsets[row])

    def lengths(self) -> list[int]:
        """Tokens in every row."""
        return np.diff(self.offsets).tolist()

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows."""
        return len(self.ids)

    @property
    def num_trained(self) -> int:
        """Trained tokens in all rows."""
        return int(self.mask.sum())


def make_table(rows: Iterable[TokenizedRow]) -> TokenTable:
    """Gather tokenised rows into one table."""
    ids: list[NDArray[np.int32]] = []
    masks: list[NDArray[np.uint8]] = []
    lengths = [0]
    for row in rows:
        ids.append(np.asarray(row.input_ids, dtype=np.int32))
        masks.append(np.asarray(row.trained, dtype=np.uint8))
        lengths.append(len(row.input_ids))
    return TokenTable(
        ids=np.concatenate(ids) if ids else np.zeros(0, np.int32),
        mask=np.concatenate(masks) if masks else np.zeros(0, np.uint8),
        offsets=np.cumsum(np.asarray(lengths, dtype=np.int64)),
    )


def save_table(table: TokenTable, path: Path) -> None:
    """Write a table as safetensors."""
    save_file({"ids": table.ids, "mask": table.mask, "offsets": table.offsets}, path)


def load_table(path: Path) -> TokenTable:
    """Read a table that `save_table` wrote."""
    arrays = load_file(path)
    return TokenTable(arrays["ids"], arrays["mask"], arrays["offsets"])
