"""The token table: every document's ids and which of them are trained, flat on disk and in memory.

A row is one document, or several that are learnt together: the two answers of a preference, the texts of a pair.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file


@dataclass(frozen=True)
class TokenizedRow:
    """Token ids of one document.

    Attributes:
        input_ids: The ids.
        trained: Whether token i is a target.
        weights: How much each target counts; None where all count 1.
    """

    input_ids: list[int]
    trained: list[bool]
    weights: list[float] | None = None


@dataclass(frozen=True)
class TokenTable:
    """Many tokenised documents as flat arrays.

    Attributes:
        ids: Shape (all tokens,), int32.
        mask: Shape (all tokens,), uint8: 1 where the token is trained.
        offsets: Shape (documents + 1,), int64: document d is `ids[offsets[d]:offsets[d + 1]]`.
        documents_per_row: Row r is the documents `r * documents_per_row` and following.
        weights: Shape (all tokens,), float32: how much each target counts; None where all count 1.
        labels: Shape (rows,), float32: what an objective is told of each row, such as its class; None for nothing.
        reference: Shape (documents,), float32: summed log-probability of a document's targets under the base model,
            for the objectives that hold on to it.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    documents_per_row: int = 1
    weights: NDArray[np.float32] | None = None
    labels: NDArray[np.float32] | None = None
    reference: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return self.num_documents // self.documents_per_row

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def documents(self, row: int) -> range:
        """The documents of a row."""
        return range(row * self.documents_per_row, (row + 1) * self.documents_per_row)

    def input_ids(self, document: int) -> NDArray[np.int32]:
        """Token ids of a document."""
        return self.ids[self.offsets[document] : self.offsets[document + 1]]

    def trained(self, document: int) -> NDArray[np.uint8]:
        """Mask of a document: 1 where the token is trained."""
        return self.mask[self.offsets[document] : self.offsets[document + 1]]

    def length(self, document: int) -> int:
        """Tokens in a document."""
        return int(self.offsets[document + 1] - self.offsets[document])

    def lengths(self) -> list[int]:
        """Tokens in every row, those of all its documents together."""
        return np.diff(self.offsets[:: self.documents_per_row]).tolist()

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows."""
        return len(self.ids)

    @property
    def num_trained(self) -> int:
        """Trained tokens in all rows."""
        return int(self.mask.sum())


def make_table(
    documents: Iterable[TokenizedRow], *, documents_per_row: int = 1, labels: Sequence[float] | None = None
) -> TokenTable:
    """Gather tokenised documents into one table.

    Args:
        documents: The documents, those of one row after another.
        documents_per_row: How many make a row.
        labels: What an objective is told of each row.
    """
    ids: list[NDArray[np.int32]] = []
    masks: list[NDArray[np.uint8]] = []
    weights: list[NDArray[np.float32]] = []
    is_weighted = False
    lengths = [0]
    for document in documents:
        ids.append(np.asarray(document.input_ids, dtype=np.int32))
        masks.append(np.asarray(document.trained, dtype=np.uint8))
        given = document.weights
        is_weighted = is_weighted or given is not None
        weights.append(np.asarray(given, np.float32) if given is not None else np.ones(len(ids[-1]), np.float32))
        lengths.append(len(document.input_ids))
    if (len(lengths) - 1) % documents_per_row:
        raise ValueError(f"{len(lengths) - 1} documents do not make rows of {documents_per_row}")
    return TokenTable(
        ids=np.concatenate(ids) if ids else np.zeros(0, np.int32),
        mask=np.concatenate(masks) if masks else np.zeros(0, np.uint8),
        offsets=np.cumsum(np.asarray(lengths, dtype=np.int64)),
        documents_per_row=documents_per_row,
        weights=np.concatenate(weights) if is_weighted else None,
        labels=None if labels is None else np.asarray(labels, dtype=np.float32),
    )


def save_table(table: TokenTable, path: Path) -> None:
    """Write a table as safetensors."""
    arrays = {"ids": table.ids, "mask": table.mask, "offsets": table.offsets}
    optional = {"weights": table.weights, "labels": table.labels, "reference": table.reference}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    save_file({**arrays, "documents_per_row": np.asarray([table.documents_per_row])}, path)


def load_table(path: Path) -> TokenTable:
    """Read a table that `save_table` wrote."""
    arrays = load_file(path)
    documents_per_row = int(arrays.pop("documents_per_row")[0])
    return TokenTable(**arrays, documents_per_row=documents_per_row)
