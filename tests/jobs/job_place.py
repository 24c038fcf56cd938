"""A data folder with jobs in its database, and worker processes that tests start and kill."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from kivnun.database.identifiers import new_id
from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.projects import DEFAULT_PROJECT, ensure_defaults
from kivnun.database.tables import File, FineTuningJob, JobCheckpoint, JobEvent, TunedModel
from kivnun.jobs.memory import Room
from kivnun.jobs.owner import Owner, this_process
from kivnun.jobs.queue import Lessee, want
from kivnun.jobs.work import Work

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"I am number {number} today"},
            {"role": "assistant", "content": ["happy", "sad"][number % 2]},
        ]
    }
    for number in range(40)
]


@dataclass
class JobPlace:
    """Where jobs are.

    Attributes:
        root: The data folder.
        database: Its database.
        workers: Processes that this test started.
    """

    root: Path
    database: Database
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def add_file(self, content: bytes) -> str:
        """A file of the default project."""
        file_id = new_id("file-")
        (self.root / "files" / file_id).write_bytes(content)
        with self.database.writing() as session:
            session.add(
                File(
                    id=file_id,
                    project_id=DEFAULT_PROJECT,
                    filename="rows.jsonl",
                    purpose="fine-tune",
                    num_bytes=len(content),
                    sha256=hashlib.sha256(content).hexdigest(),
                    status="processed",
                    created_at=1,
                )
            )
        return file_id

    def add_job(self, base_model: str | Path = "bundled", **fields: Any) -> FineTuningJob:
        """A job as a client would have made it."""
        job = FineTuningJob(
            **{
                "id": new_id("ftjob-"),
                "project_id": DEFAULT_PROJECT,
                "model": "gpt-4o-mini",
                "base_model": str(base_model),
                "training_file": "file-12345678",
                "seed": 3,
                "asked": {"type": "supervised", "hyperparameters": {}},
                "hyperparameters": {},
                "integrations": [],
                "status": "validating_files",
                "wanted": "run",
                "result_files": [],
                "created_at": 1,
                **fields,
            }
        )
        with self.database.writing() as session:
            session.add(job)
        return job

    def job(self, job_id: str) -> FineTuningJob:
        """The job as it stands now."""
        with self.database.reading() as session:
            return session.scalars(select(FineTuningJob).where(FineTuningJob.id == job_id)).one()

    def change(self, job_id: str, **fields: object) -> None:
        """Set columns of a job."""
        with self.database.writing() as session:
            job = session.scalars(select(FineTuningJob).where(FineTuningJob.id == job_id)).one()
            for name, value in fields.items():
                setattr(job, name, value)

    def want(self, job_id: str, wanted: Any) -> bool:
        """What a client asks of a job."""
        with self.database.writing() as session:
            job = session.scalars(select(FineTuningJob).where(FineTuningJob.id == job_id)).one()
            return want(session, job, wanted)

    def num_steps(self, job_id: str) -> int:
        """How many steps were told."""
        statement = select(func.count()).where(JobEvent.job_id == job_id, JobEvent.type == "metrics")
        with self.database.reading() as session:
            return session.scalar(statement) or 0

    def events(self, job_id: str) -> list[JobEvent]:
        """Events, oldest first."""
        with self.database.reading() as session:
            return list(session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.number)))

    def messages(self, job_id: str) -> list[str]:
        """Their messages."""
        return [event.message for event in self.events(job_id)]

    def checkpoints(self, job_id: str) -> list[JobCheckpoint]:
        """Checkpoints, oldest first."""
        with self.database.reading() as session:
            rows = select(JobCheckpoint).where(JobCheckpoint.job_id == job_id).order_by(JobCheckpoint.step)
            return list(session.scalars(rows))

    def models(self, job_id: str) -> list[TunedModel]:
        """Models and checkpoints that clients may ask for."""
        with self.database.reading() as session:
            rows = select(TunedModel).where(TunedModel.job_id == job_id).order_by(TunedModel.number)
            return list(session.scalars(rows))

    def work(self, *, limit_bytes: int = 1 << 60, owner: Owner | None = None) -> Work:
        """What a worker in this very process has."""
        here = owner or this_process()
        room = Room(here, limit_bytes)
        return Work(
            self.database,
            self.root,
            here,
            room,
            strict=False,
            is_stopping=lambda: False,
            log=lambda _event, _fields: None,
            niceness=0,
        )

    def start_worker(self, *options: str) -> "subprocess.Popen[bytes]":
        """A worker process."""
        command = [sys.executable, "-m", "kivnun.jobs", "--data-dir", str(self.root), "--database", self.database.url]
        # Beside other tests, jobs that stand back would not move.
        command += ["--nice", "0"]
        with (self.root / "logs" / "worker.txt").open("ab") as said:
            process = subprocess.Popen(
                [*command, *options],
                stdout=said,
                stderr=said,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.workers.append(process)
        return process

    def close(self) -> None:
        """End what still runs."""
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.database.close()


def make_place(root: Path, url: str | None = None) -> JobPlace:
    """An empty data folder."""
    for name in ("files", "jobs", "logs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    database = open_database(url or sqlite_url(root))
    ensure_defaults(database)
    return JobPlace(root, database)


def to_lines(rows: object = ROWS) -> bytes:
    """Rows as a client uploads them."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)  # type: ignore[attr-defined]


def lessee(name: str, *, gone: str = "", limit_bytes: int = 1 << 60) -> Lessee:
    """Who asks for a job, and believes that one other is gone."""
    here = Owner("here", "boot", "1", 1, 1)
    return Lessee(name, lambda other: other == gone, Room(here, limit_bytes).admits)


def wait_for(condition: Callable[[], object], *, seconds: float = 180.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
