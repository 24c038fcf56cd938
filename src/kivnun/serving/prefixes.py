"""What was computed for the first tokens of earlier prompts, kept so that a prompt that begins alike need not wait.

Tokens are kept in blocks of 16, each under a digest of everything before it and itself, so that prompts with a common
beginning share its blocks; the rest of a prompt is kept with the logits after its last token, so that the very same
prompt needs no computing at all. When the room is full, what was not used for longest goes first, ends before their
beginnings.

Digests are cryptographic: another client's prompt cannot be made to look like one's own. They begin with a salt:
clients who must not learn of each other's prompts share nothing, and no time to a first token tells of them.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kivnun.generation.row_model import Prefix, Row, RowModel

BLOCK_TOKENS = 16


@dataclass(frozen=True)
class Found:
    """What a prompt begins with.

    Attributes:
        pieces: One after another.
        num_tokens: How many tokens they stand for.
        logits: After the whole prompt, where it is kept to its end.
    """

    pieces: tuple[Prefix, ...] = ()
    num_tokens: int = 0
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class _Kept:
    owner: int
    adapter: str | None
    piece: Prefix | None
    logits: NDArray[np.float32] | None = None

    @property
    def num_bytes(self) -> int:
        return (self.piece.num_bytes if self.piece else 0) + (0 if self.logits is None else self.logits.nbytes)


class PrefixStore:
    """Beginnings of prompts, of all models.

    Args:
        limit_bytes: Most memory that they may take.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def find(self, owner: int, adapter: str | None, token_ids: Sequence[int], *, salt: str = "") -> Found:
        """The longest beginning of a prompt that is kept; without its logits it lacks at least the last token.

        Args:
            owner: Number of the model.
            adapter: What it answers with.
            token_ids: The prompt.
            salt: As it was kept with.
        """
        blocks, end = _digests(owner, adapter, token_ids, salt)
        pieces: list[Prefix] = []
        for digest in blocks:
            found = self._kept.get(digest)
            if found is None or found.piece is None:
                break
            pieces.append(found.piece)
        whole = self._kept.get(end) if len(pieces) == len(blocks) else None
        if whole is not None:
            self._touch([*blocks, end])
            return Found((*pieces, *([whole.piece] if whole.piece else [])), len(token_ids), whole.logits)
        used = pieces[: (len(token_ids) - 1) // BLOCK_TOKENS]
        self._touch(blocks[: len(used)])
        return Found(tuple(used), sum(piece.num_tokens for piece in used))

    def keep(
        self,
        owner: int,
        model: RowModel,
        row: Row,
        token_ids: Sequence[int],
        logits: NDArray[np.float32] | None,
        *,
        salt: str = "",
    ) -> None:
        """Keep what a row computed for its prompt, as far as it is not kept.

        Args:
            owner: Number of the model.
            model: The model.
            row: Has computed so much of the prompt, and has taken part in no step.
            token_ids: The prompt, as far as it is computed.
            logits: After its last token; None where there is more of it to come, and only whole blocks are kept.
            salt: Of those who may find it.
        """
        if not self.limit_bytes:
            return
        blocks, end = _digests(owner, row.adapter, token_ids, salt)
        # Ends first: what is put in later is newer, and stays longer.
        if logits is not None:
            rest = len(blocks) * BLOCK_TOKENS
            piece = model.keep(row, rest, len(token_ids)) if rest < len(token_ids) else None
            self._put(end, _Kept(owner, row.adapter, piece, logits.copy()))
        for number in reversed(range(len(blocks))):
            if blocks[number] not in self._kept:
                start = number * BLOCK_TOKENS
                kept = _Kept(owner, row.adapter, model.keep(row, start, start + BLOCK_TOKENS))
                self._put(blocks[number], kept)
        self._touch(blocks if logits is None else [*blocks, end])
        self.shrink()

    def forget(self, owner: int, adapter: str | None = None) -> None:
        """Forget what a model computed.

        Args:
            owner: Number of the model.
            adapter: With this adapter alone; None for all that is the model's.
        """
        for digest, kept in list(self._kept.items()):
            if kept.owner == owner and (adapter is None or kept.adapter == adapter):
                self._drop(digest)

    def shrink(self) -> None:
        """Forget what was not used for longest until the rest has room."""
        while self.num_bytes > self.limit_bytes and self._kept:
            self._drop(next(iter(self._kept)))

    def _put(self, digest: bytes, kept: _Kept) -> None:
        if digest in self._kept:
            self._drop(digest)
        self._kept[digest] = kept
        self.num_bytes += kept.num_bytes

    def _drop(self, digest: bytes) -> None:
        self.num_bytes -= self._kept.pop(digest).num_bytes

    def _touch(self, digests: Sequence[bytes]) -> None:
        """Mark as used, a beginning later than what follows it, so that no block outlives the one before it."""
        for digest in reversed(digests):
            self._kept.move_to_end(digest)


def _digests(owner: int, adapter: str | None, token_ids: Sequence[int], salt: str) -> tuple[list[bytes], bytes]:
    """The digest of each whole block with all before it, and that of the whole prompt."""
    ids = np.asarray(token_ids, dtype=np.int64)
    digest = hashlib.blake2b(repr((owner, adapter, salt)).encode(), digest_size=16)
    blocks = []
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        digest.update(ids[start : start + BLOCK_TOKENS].tobytes())
        blocks.append(digest.digest())
    digest.update(b"end" + ids[len(blocks) * BLOCK_TOKENS :].tobytes())
    return blocks, digest.digest()
