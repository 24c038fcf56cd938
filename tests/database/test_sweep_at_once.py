"""What expires while somebody begins to need it, on PostgreSQL, where transactions run side by side."""

import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import select

from kivnun.database.open import open_database
from kivnun.database.projects import DEFAULT_PROJECT, ensure_defaults
from kivnun.database.tables import File, Upload
from kivnun.server.folders import DataFolder
from kivnun.server.service import ServeSettings
from kivnun.server.sweep import expire

FILE, UPLOAD = "file-00000000", "upload_00000000"


def test_what_a_transaction_holds_is_not_taken_away_from_it(postgres_url: str, tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.make()
    folder.file(FILE).write_bytes(b"x")
    with closing(open_database(postgres_url)) as database:
        ensure_defaults(database)
        same = {"project_id": DEFAULT_PROJECT, "filename": "x", "purpose": "fine-tune", "num_bytes": 1}
        with database.writing() as session:
            session.add(File(id=FILE, sha256="0", status="processed", created_at=1, expires_at=2, **same))
            session.add(Upload(id=UPLOAD, mime_type="x", status="pending", created_at=1, expires_at=2, **same))
        service: Any = SimpleNamespace(settings=ServeSettings(tmp_path), database=database)
        sweep = threading.Thread(target=expire, args=(service, 10.0))
        with database.writing() as session:
            file = session.scalars(select(File).with_for_update()).one()
            upload = session.scalars(select(Upload).with_for_update()).one()
            sweep.start()
            sweep.join(10)
            # It went on without them instead of waiting, to act upon what it read before.
            assert not sweep.is_alive()
            file.expires_at, upload.status = 20, "completed"
        with database.reading() as session:
            assert session.scalars(select(File.id)).all() == [FILE]
            assert session.scalars(select(Upload.status)).all() == ["completed"]
        expire(service, 30.0)
        assert not folder.file(FILE).exists()
