"""Which store an index is kept in."""

from pathlib import Path

from kivnun.errors import UserError
from kivnun.retrieval.lance_store import LanceStore
from kivnun.retrieval.pg_store import PgStore
from kivnun.retrieval.sqlite_store import SqliteStore
from kivnun.retrieval.store import Store

SQLITE_FILE = "chunks.sqlite"


def open_store(spec: str, folder: Path, *, create: bool) -> Store:
    """Open the store of an index.

    Args:
        spec: `sqlite`, `lancedb`, or an address `postgresql://...`.
        folder: The index's folder; on a server its name is the index's name.
        create: Whether to make it where there is none.

    Raises:
        UserError: `index-missing`, `store-failed`; `dependency-missing` where the store's extra is not installed;
            `recipe-invalid` for an unknown store.
    """
    if spec == "sqlite":
        return SqliteStore(folder / SQLITE_FILE, create=create)
    if spec == "lancedb":
        return LanceStore(folder, create=create)
    if spec.startswith(("postgresql://", "postgres://")):
        return PgStore(spec, folder.resolve().name, create=create)
    hint = "choose `sqlite`, `lancedb`, or an address `postgresql://USER@HOST/DATABASE`"
    raise UserError("recipe-invalid", "retrieval.store: an unknown store", hint=hint)
