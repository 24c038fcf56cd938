"""What turns text into vectors, named by one text: `none`, `builtin`, `hf:NAME`, `dir:FOLDER` or `openai:MODEL?...`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError

NONE = "none"
KINDS = "none, builtin, hf:NAME[@REVISION], dir:FOLDER, openai:MODEL?base_url=ADDRESS"


class Embedder(Protocol):
    """A model that turns texts into unit vectors.

    Attributes:
        identity: All that its vectors depend on; an index is searched only with the embedder that it was made with.
        max_tokens: Most tokens of a passage; None where only a service knows.
        note: What a user should know of it, or "".
    """

    identity: Mapping[str, object]
    max_tokens: int | None
    note: str

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, D) of passages."""
        ...

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector (D,) of a query."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a text; words where the tokenizer is not known."""
        ...

    def can_read(self, text: str) -> bool:
        """Whether it may be taken to read the text's language."""
        ...


def open_embedder(spec: str) -> Embedder | None:
    """The embedder of a name; None for `none`.

    Args:
        spec: One of `none`, `builtin`, `hf:NAME[@REVISION]`, `dir:FOLDER`, `openai:MODEL?base_url=ADDRESS`, the last
            one with `&dims=NUMBER` and `&key_variable=NAME` where they are needed.

    Raises:
        UserError: `embedder-missing` where it is not here or the name is none; `model-invalid` for a folder that is no
            encoder; `endpoint-failed` or `dependency-missing` for an address that cannot be used.
    """
    kind, _, name = spec.partition(":")
    if spec == NONE:
        return None
    if kind == "openai" and name:
        from kivnun.retrieval.endpoint_embedder import EndpointEmbedder, parse_address  # noqa: PLC0415 - as below

        return EndpointEmbedder(parse_address(spec))
    if (kind in ("hf", "dir") and name) or (kind == "builtin" and name in ("", "minilm")):
        # Words alone need no torch, which takes seconds to import.
        from kivnun.retrieval.torch_embedder import open_local  # noqa: PLC0415

        return open_local(kind, name)
    raise UserError("embedder-missing", f"{spec!r} names no embedder", hint=f"use one of {KINDS}")


def name_embedder(identity: Mapping[str, object] | None) -> str:
    """What people call an embedder: its name, and the beginning of its hash where it has one."""
    if identity is None:
        return NONE
    content_hash = identity.get("content_hash")
    return f"{identity['name']}" + (f" ({str(content_hash)[:12]})" if content_hash else "")


def require_folder(spec: str, folder: Path) -> Path:
    """A folder with an encoder in it.

    Args:
        spec: What the user wrote.
        folder: The folder.

    Raises:
        UserError: `embedder-missing`, saying what is there instead.
    """
    if (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            "embedder-missing",
            f"{spec}: the folder holds an adapter, which is no embedder without its base model",
            hint="train with method full, or merge the adapter into its base model and name that folder",
        )
    problem = "the folder holds no config.json" if folder.is_dir() else "there is no such folder"
    raise UserError("embedder-missing", f"{spec}: {problem}", hint=f"use one of {KINDS}")
