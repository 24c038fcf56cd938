"""How batches end: their lines become files of the project, and their state says so, in one transaction."""

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from kivnun.database.identifiers import LENGTH
from kivnun.database.tables import Batch, File
from kivnun.jobs.naming import derive_signs
from kivnun.runs.atomic import hash_file, sync_folder
from kivnun.server.batches.results import ERRORS, OUTPUT, open_results
from kivnun.server.files.use import BATCH_FINISHED
from kivnun.server.folders import PREFIXES, DataFolder
from kivnun.server.service import Service

PURPOSE = "batch_output"
KINDS = {OUTPUT: "output", ERRORS: "error"}


@dataclass(frozen=True)
class End:
    """What a batch ends with.

    Attributes:
        status: Its last one.
        errors: Of a batch that failed.
    """

    status: Literal["completed", "failed", "expired", "cancelled"]
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def end_batch(service: Service, batch_id: str, end: End) -> None:
    """End a batch; after a kill the same call ends it the same way.

    Args:
        service: Of the server.
        batch_id: A batch that nobody works at any more.
        end: What it ends with.
    """
    folder = DataFolder(service.settings.data_dir)
    lines = folder.batch(batch_id)
    if end.status == "completed":
        _mark_finalizing(service, batch_id)
    results = open_results(lines) if lines.is_dir() else None
    files = [_keep_lines(folder, batch_id, lines / name, name) for name in KINDS] if results else []
    with service.database.writing() as session:
        batch = session.scalars(select(Batch).where(Batch.id == batch_id).with_for_update()).one()
        if batch.status in BATCH_FINISHED:
            return
        now = int(time.time())
        for kept in files:
            if kept is not None:
                _add_file(session, batch, kept, now)
        if results is not None:
            results.tell(batch)
        batch.errors = end.errors
        batch.status = end.status
        batch.times = {**batch.times, f"{end.status}_at": now}
    shutil.rmtree(lines, ignore_errors=True)


def remove_left_folders(service: Service) -> None:
    """Remove the lines of batches that have ended: a kill may have come between the end and that.

    Args:
        service: Of a server whose batches nobody works at yet.
    """
    folder = DataFolder(service.settings.data_dir)
    with service.database.reading() as session:
        unfinished = set(session.scalars(select(Batch.id).where(Batch.status.not_in(BATCH_FINISHED))))
    for path in folder.batches.iterdir():
        if path.name not in unfinished:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class _Kept:
    """Lines that lie among the files and have no row yet."""

    kind: str
    file_id: str
    num_bytes: int
    sha256: str


def _mark_finalizing(service: Service, batch_id: str) -> None:
    with service.database.writing() as session:
        batch = session.scalars(select(Batch).where(Batch.id == batch_id).with_for_update()).one()
        if batch.status == "in_progress":
            batch.status = "finalizing"
            batch.times = {**batch.times, "finalizing_at": int(time.time())}


def _keep_lines(folder: DataFolder, batch_id: str, lines: Path, name: str) -> _Kept | None:
    """Put lines among the files; the batch keeps its own name for them until the row is there."""
    num_bytes = lines.stat().st_size
    if not num_bytes:
        return None
    file_id = PREFIXES["files"] + derive_signs(f"{KINDS[name]} of {batch_id}", LENGTH)
    path = folder.file(file_id)
    path.unlink(missing_ok=True)
    try:
        os.link(lines, path)
    except OSError:
        # A disk without links.
        shutil.copyfile(lines, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(path.parent)
    return _Kept(KINDS[name], file_id, num_bytes, hash_file(path))


def _add_file(session: Session, batch: Batch, kept: _Kept, now: int) -> None:
    after = batch.output_expires_after
    session.add(
        File(
            id=kept.file_id,
            project_id=batch.project_id,
            filename=f"{batch.id}_{kept.kind}.jsonl",
            purpose=PURPOSE,
            num_bytes=kept.num_bytes,
            sha256=kept.sha256,
            status="processed",
            created_at=now,
            expires_at=None if after is None else now + after,
        )
    )
    if kept.kind == "output":
        batch.output_file_id = kept.file_id
    else:
        batch.error_file_id = kept.file_id
