"""What time takes away: expired files and uploads, old keys of requests, and bytes that belong to no row."""

import asyncio
import re
import shutil
import time
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from kivnun.database.tables import File, Upload, UploadPart
from kivnun.runs.atomic import PARTIAL_SUFFIX
from kivnun.server.files.use import is_in_use
from kivnun.server.folders import DataFolder
from kivnun.server.idempotency import forget_old
from kivnun.server.service import Service

SECONDS_BETWEEN = 30.0
SECONDS_TO_COMMIT = 600.0
# As `FileWriter` names them; other programs of this machine may have partial files of their own there.
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]{32}")
PENDING, EXPIRED = "pending", "expired"


async def sweep(service: Service) -> None:
    """Expire what is due, again and again.

    Args:
        service: Of the server.
    """
    while True:
        await run_in_threadpool(expire, service, time.time())
        await asyncio.sleep(SECONDS_BETWEEN)


def expire(service: Service, now: float) -> None:
    """Remove the files and uploads whose time is over; a file that an unfinished job reads waits for it.

    Args:
        service: Of the server.
        now: Seconds since 1970.
    """
    folder = DataFolder(service.settings.data_dir)
    with service.database.writing() as session:
        # On PostgreSQL: what another transaction holds is about to be used, and waits for the next time.
        due = session.scalars(select(File).where(File.expires_at <= now).with_for_update(skip_locked=True)).all()
        files = [file.id for file in due if not is_in_use(session, file)]
        session.execute(delete(File).where(File.id.in_(files)))
        late = select(Upload).where(Upload.status == PENDING, Upload.expires_at <= now)
        uploads = session.scalars(late.with_for_update(skip_locked=True)).all()
        for upload in uploads:
            upload.status = EXPIRED
            forget_parts(session, upload.id)
        forget_old(session)
    # Only now: a row without its bytes would be a file that cannot be read.
    for file_id in files:
        folder.file(file_id).unlink(missing_ok=True)
    for upload in uploads:
        shutil.rmtree(folder.upload(upload.id), ignore_errors=True)


def forget_parts(session: Session, upload_id: str) -> None:
    """Remove the rows of an upload's parts.

    Args:
        session: In a transaction that writes.
        upload_id: The upload.
    """
    session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id))


def remove_unacknowledged(service: Service) -> int:
    """Remove bytes that no client was told of: what was being written when a server ended, and what rows were deleted.

    Args:
        service: Of a server that does not answer yet, the only one of its data folder.

    Returns:
        How many files and folders went.
    """
    folder = DataFolder(service.settings.data_dir)
    with service.database.reading() as session:
        files = set(session.scalars(select(File.id)))
        parts = set(session.scalars(select(UploadPart.id)))
        uploads = set(session.scalars(select(Upload.id).where(Upload.status == PENDING)))
    long_ago = time.time() - SECONDS_TO_COMMIT
    lost = [path for path in folder.files.iterdir() if path.name not in files and _is_lost(path, long_ago)]
    for upload in folder.uploads.iterdir():
        if upload.name in uploads:
            lost += [part for part in upload.iterdir() if part.name not in parts]
        else:
            lost.append(upload)
    lost += _find_lost_objects(service.settings.bucket_dir, long_ago)
    for path in lost:
        _remove(path)
    return len(lost)


def _find_lost_objects(bucket_dir: Path | None, long_ago: float) -> list[Path]:
    """What was half-written to buckets; another server may have the same ones and be writing now."""
    paths = () if bucket_dir is None else bucket_dir.glob(f"*/.*{PARTIAL_SUFFIX}")
    return [path for path in paths if _HALF_WRITTEN.fullmatch(path.stem) and path.lstat().st_mtime < long_ago]


def _is_lost(path: Path, long_ago: float) -> bool:
    """What a worker of jobs wrote a moment ago may still get its row; what is half-written is nobody's."""
    return path.name.endswith(PARTIAL_SUFFIX) or path.stat().st_mtime < long_ago


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
