"""An index of documents: made, brought up to date by what changed, and opened for searching."""

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kivnun.errors import UserError
from kivnun.retrieval.embedders import Embedder, open_embedder
from kivnun.retrieval.index_builder import Builder, IndexPlan, IndexReport, Log, plan_update
from kivnun.retrieval.index_manifest import (
    MANIFEST_NAME,
    Manifest,
    find_manifest,
    make_identity,
    name_changes,
    read_manifest,
    reindex_command,
    without_password,
    write_manifest,
)
from kivnun.retrieval.reranker import open_reranker
from kivnun.retrieval.search import Index, SearchOptions
from kivnun.retrieval.store import Store, StoredDocument
from kivnun.retrieval.stores import open_store
from kivnun.retrieval.vector_cache import CACHE_NAME, VectorCache

if TYPE_CHECKING:
    from kivnun.recipe.retrieval import RetrievalSection

__all__ = ["Index", "IndexPlan", "IndexReport", "SearchOptions", "build_index", "open_index", "plan_index"]


def build_index(
    settings: "RetrievalSection",
    folder: Path,
    *,
    log: Log,
    rebuild: bool = False,
    locate: Callable[[str], Path] = Path,
) -> IndexReport:
    """Make an index, or bring it up to date: only what changed is read, cut and embedded again.

    What was kept stays after an interruption, and the same call goes on from there.

    Args:
        settings: Documents, embedder, store and how they are cut.
        folder: Where the index is.
        log: Takes the progress.
        rebuild: Whether an index that was made in another way is made anew.
        locate: Finds a file or folder of the documents by its name in the settings.

    Raises:
        UserError: `index-differs` where it was made in another way; `file-exists` where the folder holds other things;
            `document-unreadable` where nothing can be read; `index-empty` where nothing that was read has text;
            `run-locked`, `embedder-missing`, `endpoint-failed`, `store-failed`.
    """
    started = time.monotonic()
    embedder = open_embedder(settings.embedder)
    wanted = _plan_manifest(settings, embedder)
    with _alone_in(folder):
        _require_same(folder, wanted, rebuild=rebuild)
        store = open_store(settings.store, folder, create=True)
        cache = VectorCache(folder / CACHE_NAME, embedder) if embedder is not None else None
        try:
            dim = _begin(store, folder, wanted, rebuild=rebuild)
            builder = Builder(store, settings, embedder, cache, log)
            builder.update([locate(name) for name in wanted.documents])
            report = builder.report(folder, time.monotonic() - started)
            _require_passages(report)
            if cache is not None and rebuild:
                cache.forget_others()
            write_manifest(folder, _finish_manifest(wanted, report, builder.dim or dim))
        finally:
            store.close()
            if cache is not None:
                cache.close()
    return report


def plan_index(
    settings: "RetrievalSection", folder: Path, *, rebuild: bool = False, locate: Callable[[str], Path] = Path
) -> IndexPlan:
    """What `build_index` would do; documents are read, and nothing is embedded or written.

    Args:
        settings: Documents, embedder, store and how they are cut.
        folder: Where the index is, or would be.
        rebuild: Whether it would be made anew.
        locate: Finds a file or folder of the documents by its name in the settings.

    Raises:
        UserError: As for `build_index`, but for what only embedding and writing finds.
    """
    wanted = _plan_manifest(settings, open_embedder(settings.embedder))
    known: dict[str, StoredDocument] = {}
    if folder.is_dir():
        _require_same(folder, wanted, rebuild=rebuild)
        if find_manifest(folder) is not None and not rebuild:
            store = open_store(settings.store, folder, create=False)
            known = store.documents()
            store.close()
    return plan_update(known, [locate(name) for name in wanted.documents])


def open_index(folder: Path, options: SearchOptions | None = None, *, store: str | None = None) -> Index:
    """An index, open for searching with the embedder that it was made with.

    Args:
        folder: Where it is.
        options: How it is searched.
        store: The store's address where it has a password; the index does not keep it.

    Raises:
        UserError: `index-missing`; `index-differs` where the embedder is another one now; `embedder-missing`.
    """
    given = options or SearchOptions()
    manifest = read_manifest(folder)
    embedder = None
    if manifest.embedder_identity is None:
        if given.dense_weight != "auto":
            hint = (
                f"leave the weight out, or index with an embedder: kivnun index ... --out {folder} --embedder builtin"
            )
            problem = f"{folder} has no vectors, so that a weight of {given.dense_weight:g} has no effect"
            raise UserError("index-differs", problem, hint=hint)
    elif given.dense_weight != 0:
        embedder = open_embedder(manifest.embedder)
        _require_same_embedder(folder, manifest, embedder)
    reranker = open_reranker(given.reranker) if given.reranker is not None else None
    opened = open_store(store or manifest.store, folder, create=False)
    return Index(folder, manifest, opened, embedder, reranker=reranker, options=given)


def _plan_manifest(settings: "RetrievalSection", embedder: Embedder | None) -> Manifest:
    """The manifest that the settings ask for.

    Raises:
        UserError: `embedder-missing` where the embedder does not read chunks as long as that.
    """
    if embedder is not None and embedder.max_tokens is not None and settings.chunk_tokens > embedder.max_tokens:
        raise UserError(
            "embedder-missing",
            f"the embedder reads {embedder.max_tokens} tokens, less than chunk_tokens ({settings.chunk_tokens}): the "
            "ends of chunks would not be found",
            hint=f"set chunk_tokens to {embedder.max_tokens} or less, or use an embedder that reads more",
        )
    identity = make_identity(
        None if embedder is None else embedder.identity,
        chunk_tokens=settings.chunk_tokens,
        chunk_overlap_tokens=settings.chunk_overlap_tokens,
    )
    documents = (settings.documents,) if isinstance(settings.documents, str) else settings.documents
    return Manifest(identity, settings.embedder, without_password(settings.store), documents)


def _require_same(folder: Path, wanted: Manifest, *, rebuild: bool) -> None:
    found = find_manifest(folder)
    if found is None:
        others = [path.name for path in folder.iterdir() if path.name not in (CACHE_NAME, MANIFEST_NAME)]
        if others and not any(name.startswith("chunks") for name in others):
            problem = f"{folder} holds other things than an index, such as {sorted(others)[0]}"
            raise UserError("file-exists", problem, hint="name a folder that does not exist yet")
        return
    changes = name_changes({**wanted.identity, "store": wanted.store}, {**found.identity, "store": found.store})
    if changes and not rebuild:
        raise UserError(
            "index-differs",
            f"the index {folder} was made in another way",
            details=changes,
            hint="give the same settings, another folder, or make it anew with --rebuild",
        )


def _require_same_embedder(folder: Path, manifest: Manifest, embedder: Embedder | None) -> None:
    then, now = manifest.embedder_identity or {}, dict(embedder.identity) if embedder is not None else {}
    changes = name_changes(now, then)
    if changes:
        raise UserError(
            "index-differs",
            f"the embedder of {folder} is another one now, so that its vectors cannot be compared",
            details=changes,
            hint=f"make the index again: `{reindex_command(folder, manifest)}`",
        )


def _begin(store: Store, folder: Path, wanted: Manifest, *, rebuild: bool) -> int | None:
    """Write down what is being made, and remove what was made in another way; the length of the vectors that stay."""
    found = find_manifest(folder)
    stored = store.identity()
    # A rebuilding that was interrupted goes on without --rebuild: the manifest is the new one, the store still the old.
    if rebuild or (stored is not None and stored != wanted.identity):
        write_manifest(folder, wanted)
        known = list(store.documents())
        if known:
            store.delete_documents(known)
        found = None
    dim = found.dim if found is not None else None
    write_manifest(folder, replace(wanted, dim=dim))
    store.write_identity(wanted.identity)
    return dim


def _finish_manifest(wanted: Manifest, report: IndexReport, dim: int | None) -> Manifest:
    counts = {"documents": report.documents, "chunks": report.chunks}
    unreadable = tuple((each.path, each.problem) for each in report.unreadable)
    return replace(wanted, dim=dim, is_complete=True, counts=counts, unreadable=unreadable)


def _require_passages(report: IndexReport) -> None:
    if report.chunks == 0:
        raise UserError(
            "index-empty",
            f"the index {report.folder} holds no passage: the documents that were read have no text",
            hint="name documents with text; scanned pages need to be recognised (OCR) first",
        )


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Within this, no other process changes the index; the system gives it free when the process ends.

    Raises:
        UserError: `run-locked`; `file-unwritable` where the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "name a folder that you may write to"
        raise UserError("file-unwritable", f"cannot make the folder {folder}: {reason}", hint=hint) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        hint = "wait until it ends, and give the command again"
        raise UserError("run-locked", f"another process is indexing into {folder}", hint=hint) from error
    try:
        yield
    finally:
        os.close(descriptor)
