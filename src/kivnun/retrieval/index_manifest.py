"""`index.json`: what an index was made of and how, so that it is searched as it was made."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from kivnun.errors import UserError
from kivnun.retrieval.analysis import ANALYSIS_VERSION
from kivnun.retrieval.chunks import CHUNKING_VERSION
from kivnun.retrieval.documents import READING_VERSION
from kivnun.retrieval.embedders import NONE
from kivnun.runs.atomic import write_atomic

MANIFEST_NAME = "index.json"
FORMAT = 1
DEFAULT_STORE = "sqlite"


@dataclass(frozen=True)
class Manifest:
    """The content of `index.json`.

    Attributes:
        identity: All that decides which passages there are and how they are found.
        embedder: The embedder's name as it was given.
        store: The store's, without a password.
        documents: The files and folders as they were given.
        dim: Length of the vectors; None without an embedder.
        is_complete: Whether the last indexing came to its end.
        counts: Documents, chunks, and chunks that the embedder cannot read.
        unreadable: Files that could not be read, and why.
        format: Version of this layout.
    """

    identity: Mapping[str, object]
    embedder: str
    store: str
    documents: tuple[str, ...]
    dim: int | None = None
    is_complete: bool = False
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    unreadable: tuple[tuple[str, str], ...] = ()
    format: int = FORMAT

    @property
    def embedder_identity(self) -> Mapping[str, object] | None:
        """What the vectors depend on; None without an embedder."""
        return cast("Mapping[str, object] | None", self.identity["embedder"])


def make_identity(
    embedder: Mapping[str, object] | None, *, chunk_tokens: int, chunk_overlap_tokens: int
) -> dict[str, object]:
    """All that decides which passages an index has and how they are found.

    Args:
        embedder: The embedder's identity; None without one.
        chunk_tokens: Longest chunk.
        chunk_overlap_tokens: What chunks repeat.
    """
    return {
        "format": FORMAT,
        "reading": READING_VERSION,
        "chunking": CHUNKING_VERSION,
        "analysis": ANALYSIS_VERSION,
        "chunk_tokens": chunk_tokens,
        "chunk_overlap_tokens": chunk_overlap_tokens,
        "embedder": None if embedder is None else dict(embedder),
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `index.json`, whole or not at all."""
    write_atomic(folder / MANIFEST_NAME, json.dumps(asdict(manifest), ensure_ascii=False, indent=2) + "\n")


def find_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises:
        UserError: `index-missing` where it cannot be read.
    """
    path = folder / MANIFEST_NAME
    try:
        fields = cast("dict[str, object]", json.loads(path.read_text("utf-8")))
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']}, known is {FORMAT}")  # noqa: TRY301
        fields["documents"] = tuple(cast("list[str]", fields["documents"]))
        fields["unreadable"] = tuple((name, why) for name, why in cast("list[list[str]]", fields["unreadable"]))
        manifest = Manifest(**fields)  # pyright: ignore[reportArgumentType] - other fields are a TypeError
        _ = manifest.embedder_identity
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "index-missing",
            f"{path} cannot be read ({type(error).__name__}: {error})",
            hint="name another folder, or make the index again with --rebuild",
        ) from error
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index.

    Raises:
        UserError: `index-missing`.
    """
    manifest = find_manifest(folder)
    if manifest is None:
        problem = f"{folder} holds no index" if folder.is_dir() else f"there is no folder {folder}"
        hint = f"`kivnun index DOCUMENTS --out {folder}` makes one"
        raise UserError("index-missing", problem, hint=hint)
    return manifest


def reindex_command(folder: Path, manifest: Manifest) -> str:
    """The command that makes an index again, as it is wished for now."""
    words = ["kivnun", "index", *manifest.documents, "--out", str(folder)]
    words += ["--embedder", manifest.embedder] if manifest.embedder != NONE else []
    words += ["--store", manifest.store] if manifest.store != DEFAULT_STORE else []
    return shlex.join([*words, "--rebuild"])


def name_changes(wanted: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    """What differs between two identities, with both values; of the embedder, only what differs in it."""
    lines: list[str] = []
    for name in wanted:
        now, then = wanted[name], found.get(name)
        if now == then:
            continue
        if isinstance(now, Mapping) and isinstance(then, Mapping):
            lines += [f"{name}: {line}" for line in name_changes(now, then)]
        else:
            lines.append(f"{name}: {_say(then)} in the index, {_say(now)} now")
    return lines


def without_password(spec: str) -> str:
    """A store's address as it may be written down; PGPASSWORD or ~/.pgpass give the password when it is opened."""
    if "://" not in spec:
        return spec
    parts = urlsplit(spec)
    user, at, host = parts.netloc.rpartition("@")
    query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] not in ("password", "sslpassword")])
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}{at}{host}", query=query))


def _say(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return str(value.get("name"))
    return str(value)
