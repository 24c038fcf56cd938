"""Where everything of a server lies: the one place where an id becomes a path.

    DATA_DIR/kivnun.sqlite
    DATA_DIR/files/file-…            what clients sent and jobs made
    DATA_DIR/uploads/upload_…/part_… files that come in parts
    DATA_DIR/jobs/ftjob-…/           training.jsonl, validation.jsonl, recipe.yaml, run/
    DATA_DIR/batches/batch_…/
    DATA_DIR/logs/

Nothing that a client sends becomes a path: only ids do, which this server made; each is looked up in the database
first, and checked here once more.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from kivnun.errors import UserError

PREFIXES = {"files": "file-", "uploads": "upload_", "parts": "part_", "jobs": "ftjob-", "batches": "batch_"}
_ID = re.compile(r"[a-zA-Z0-9]{8,64}", re.ASCII)


def is_id(name: str, kind: str) -> bool:
    """Whether this server could have made an id.

    Args:
        name: Said to be one.
        kind: One of `PREFIXES`.
    """
    prefix = PREFIXES[kind]
    return name.startswith(prefix) and _ID.fullmatch(name[len(prefix) :]) is not None


@dataclass(frozen=True)
class DataFolder:
    """The folder of a server's data.

    Attributes:
        root: What `--data-dir` names.
    """

    root: Path

    def make(self) -> None:
        """Create what is not there yet; only the owner may read it.

        Raises:
            UserError: `file-unwritable` where it cannot be made or written to.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.files, self.uploads, self.jobs, self.batches, self.logs):
                folder.mkdir(mode=0o700, exist_ok=True)
            is_free = os.access(self.root, os.R_OK | os.W_OK | os.X_OK)
        except OSError as error:
            why = "it is no folder" if self.root.exists() and not self.root.is_dir() else (error.strerror or str(error))
            raise self._unwritable(why) from error
        if not is_free:
            raise self._unwritable("this user may not write there")

    def _unwritable(self, why: str) -> UserError:
        problem = f"{self.root} cannot be the data folder: {why}"
        return UserError("file-unwritable", problem, hint="name a folder that you may write to with --data-dir")

    @property
    def files(self) -> Path:
        """The folder of all files."""
        return self.root / "files"

    @property
    def uploads(self) -> Path:
        """The folder of all uploads."""
        return self.root / "uploads"

    @property
    def jobs(self) -> Path:
        """The folder of all jobs."""
        return self.root / "jobs"

    @property
    def batches(self) -> Path:
        """The folder of all batches."""
        return self.root / "batches"

    @property
    def logs(self) -> Path:
        """What worker processes say."""
        return self.root / "logs"

    def file(self, file_id: str) -> Path:
        """The bytes of a file."""
        return self.files / _checked(file_id, "files")

    def upload(self, upload_id: str) -> Path:
        """The folder of an upload's parts."""
        return self.uploads / _checked(upload_id, "uploads")

    def part(self, upload_id: str, part_id: str) -> Path:
        """The bytes of one part."""
        return self.upload(upload_id) / _checked(part_id, "parts")

    def job(self, job_id: str) -> Path:
        """The folder of a job."""
        return self.jobs / _checked(job_id, "jobs")

    def run(self, job_id: str) -> Path:
        """The run folder of a job."""
        return self.job(job_id) / "run"

    def batch(self, batch_id: str) -> Path:
        """The folder of a batch."""
        return self.batches / _checked(batch_id, "batches")


def _checked(name: str, kind: str) -> str:
    if not is_id(name, kind):
        raise AssertionError(f"{name!r} is no id of {kind}: it must be looked up before it becomes a path")
    return name
