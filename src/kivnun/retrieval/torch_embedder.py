"""Embedders on this machine: folders that transformers reads, with the pooling and the prefixes that they name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.models.resolve import hash_folder, resolve_model
from kivnun.models.text_encoder import TextEncoder
from kivnun.retrieval.builtin import builtin_folder
from kivnun.retrieval.embedders import require_folder
from kivnun.retrieval.query_guard import TokenCounter, can_read


class TorchEmbedder:
    """An encoder of this machine.

    Args:
        name: What people call it.
        folder: Its folder.
        content_hash: Hash of what is in the folder, or the hub's revision.

    Raises:
        UserError: `model-invalid`.
    """

    def __init__(self, name: str, folder: Path, content_hash: str) -> None:
        self._encoder = TextEncoder(folder)
        settings = self._encoder.settings
        self._query_prefix, self._document_prefix = settings.query_prefix, settings.document_prefix
        self.identity: Mapping[str, object] = {
            "name": name,
            "content_hash": content_hash,
            "dim": self._encoder.dim,
            "pooling": settings.pooling,
            "query_prefix": settings.query_prefix,
            "document_prefix": settings.document_prefix,
            "max_tokens": settings.max_tokens,
        }
        around = self._encoder.num_special_tokens + self._encoder.count_tokens(settings.document_prefix)
        self.max_tokens: int | None = settings.max_tokens - around
        self.note = ""

    @property
    def encoder(self) -> TextEncoder:
        """What computes the vectors, of texts without any prefix."""
        return self._encoder

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, D) of passages."""
        return self._encoder.encode([self._document_prefix + text for text in texts])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector (D,) of a query."""
        return self._encoder.encode([self._query_prefix + text])[0]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without those that are put around it."""
        return self._encoder.count_tokens(text)

    def can_read(self, text: str) -> bool:
        """Whether its tokenizer knows the text's language."""
        return can_read(text, TokenCounter(self._encoder.count_tokens, self._encoder.count_unknown))


def open_local(kind: str, name: str) -> TorchEmbedder:
    """The embedder `builtin`, `hf:NAME[@REVISION]` or `dir:FOLDER`.

    Args:
        kind: `builtin`, `hf` or `dir`.
        name: What stands behind the colon.

    Raises:
        UserError: `embedder-missing` or `model-invalid`.
    """
    if kind == "builtin":
        folder = builtin_folder()
        return TorchEmbedder("builtin:minilm", folder, hash_folder(folder))
    if kind == "dir":
        folder = require_folder(f"dir:{name}", Path(name).expanduser())
        return TorchEmbedder(folder.resolve().name, folder, hash_folder(folder))
    folder, revision = fetch_hub_model("hf", name)
    return TorchEmbedder(f"hf:{name.partition('@')[0]}", folder, revision)


def fetch_hub_model(kind: str, name: str) -> tuple[Path, str]:
    """The folder and the revision of `NAME[@REVISION]` on the hub, fetched once.

    Args:
        kind: What stood before the colon, for the error.
        name: The name.

    Raises:
        UserError: `embedder-missing` where the hub does not give it.
    """
    repo, _, revision = name.partition("@")
    if repo.count("/") != 1 or Path(repo).is_dir():
        raise UserError(
            "embedder-missing",
            f"{kind}:{name} is no name on the hub",
            hint="write hf:ORGANISATION/NAME, or dir:FOLDER for a folder of this machine",
        )
    try:
        found = resolve_model(repo, revision=revision or None)
    except UserError as error:
        if error.code != "model-missing":
            raise
        raise UserError("embedder-missing", error.problem, hint=error.hint) from error
    return found.folder, found.revision or found.content_hash
