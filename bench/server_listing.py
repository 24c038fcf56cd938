"""Pages of a database with many jobs and events, through a real server: 10,000 jobs, 1M events, p95 below 50 ms.

    python bench/server.py listing [--quick] [--postgres] [--json]

The rows are written straight into the tables of a new database, half of the events to one long job; then a server is
started on it and asked over one connection, page by page, from a first page to the last, with and without filters.
`--postgres` does the same on a PostgreSQL server that is started for it.
"""

import argparse
import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from sqlalchemy import insert, text

from kivnun.database.keys import create_key
from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.projects import DEFAULT_PROJECT, create_project, ensure_defaults
from kivnun.database.tables import FineTuningJob, JobEvent, JobMetadata

NUM_JOBS, NUM_EVENTS = 10_000, 1_000_000
QUICK_JOBS, QUICK_EVENTS = 2_000, 20_000
REPETITIONS, QUICK_REPETITIONS = 200, 30
LONG_JOB = 7
TEAMS = 10
ROWS_AT_ONCE = 20_000
AIM_MS = 50.0
START_SECONDS = 120
BEGAN = 1_760_000_000
STATES = ("succeeded",) * 7 + ("failed", "cancelled", "queued")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL too, which pgserver starts")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each kind of database, and say whether each page came in time."""
    kinds: list[tuple[str, Callable[[Path], Any]]] = [("sqlite", sqlite_place)]
    kinds += [("postgresql", postgres_place)] if options.postgres else []
    results: dict[str, Any] = {}
    for kind, place in kinds:
        with tempfile.TemporaryDirectory(prefix="kivnun-listing-") as name, place(Path(name)) as url:
            results[kind] = measure(kind, Path(name), url, options)
    slowest = max(page["p95_ms"] for result in results.values() for page in result["pages"].values())
    passed = slowest < AIM_MS
    print(f"slowest p95: {slowest:.1f} ms; below {AIM_MS:.0f} ms: {'yes' if passed else 'NO'}")
    return {**results, "slowest_p95_ms": slowest, "passed": passed}


@contextmanager
def sqlite_place(folder: Path) -> Iterator[str]:
    yield sqlite_url(folder)


@contextmanager
def postgres_place(folder: Path) -> Iterator[str]:
    import pgserver
    import psutil

    # A socket's path must be short, and the folder may belong to another user of the system.
    place = Path(tempfile.mkdtemp(prefix="kivnun-pg-"))
    server = pgserver.get_server(place, cleanup_mode=None)
    process = psutil.Process(server.get_pid())
    try:
        yield server.get_uri()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        shutil.rmtree(place, ignore_errors=True)


def measure(kind: str, folder: Path, url: str, options: argparse.Namespace) -> dict[str, Any]:
    num_jobs, num_events = (QUICK_JOBS, QUICK_EVENTS) if options.quick else (NUM_JOBS, NUM_EVENTS)
    repetitions = QUICK_REPETITIONS if options.quick else REPETITIONS
    began = time.perf_counter()
    with closing(open_database(url)) as database:
        ensure_defaults(database)
        with database.writing() as session:
            secret = create_key(session, "bench")[1]
            other = create_project(session, "other").id
        fill(database, num_jobs, num_events, other)
        fill_seconds = time.perf_counter() - began
        print(f"{kind}: {num_jobs:,} jobs and {num_events:,} events written in {fill_seconds:.0f} s", flush=True)
        with running_server(folder, url) as address:
            random = np.random.default_rng(options.seed)
            pages = measure_pages(address, secret, database, num_jobs, num_events, repetitions, random)
    return {"num_jobs": num_jobs, "num_events": num_events, "fill_seconds": fill_seconds, "pages": pages}


def fill(database: Database, num_jobs: int, num_events: int, other_project: str) -> None:
    """Jobs of two projects with metadata; every tenth belongs to the other one."""
    jobs = [job_row(number, other_project if number % 10 == 9 else DEFAULT_PROJECT) for number in range(num_jobs)]
    pairs = [
        {"job_number": number + 1, "key": key, "value": value}
        for number in range(num_jobs)
        for key, value in metadata_of(number).items()
    ]
    for table, rows in ((FineTuningJob, jobs), (JobMetadata, pairs)):
        for start in range(0, len(rows), ROWS_AT_ONCE):
            with database.writing() as session:
                session.execute(insert(table.__table__), rows[start : start + ROWS_AT_ONCE])
    for start in range(0, num_events, ROWS_AT_ONCE):
        rows = [event_row(place, num_jobs) for place in range(start, min(start + ROWS_AT_ONCE, num_events))]
        with database.writing() as session:
            session.execute(insert(JobEvent.__table__), rows)
    with database.writing() as session:
        # What PostgreSQL does by itself within a minute, and SQLite when it is asked.
        session.execute(text("ANALYZE"))


def metadata_of(number: int) -> dict[str, str]:
    return {"team": f"team-{number % TEAMS}", "run": f"run-{number}"}


def job_row(number: int, project: str) -> dict[str, Any]:
    state = STATES[number % len(STATES)]
    done = state in ("succeeded", "failed", "cancelled")
    values = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}
    return {
        "number": number + 1,
        "id": job_id(number),
        "project_id": project,
        "model": "gpt-4o-mini",
        "base_model": "bundled",
        "training_file": f"file-{number:024d}",
        "suffix": "bench",
        "seed": number,
        "asked": {"type": "supervised", "hyperparameters": dict.fromkeys(values, "auto")},
        "hyperparameters": values,
        "integrations": [],
        "metadata": metadata_of(number),
        "status": state,
        "wanted": "run",
        "error": {"code": "x", "message": "y", "param": None} if state == "failed" else None,
        "fine_tuned_model": f"ft:gpt-4o-mini:personal:bench:{number:08d}" if state == "succeeded" else None,
        "result_files": [f"file-r{number:023d}"] if state == "succeeded" else [],
        "trained_tokens": 123_456 if state == "succeeded" else None,
        "created_at": BEGAN + number,
        "finished_at": BEGAN + number + 60 if done else None,
        "attempts": 0,
        "events_read": 0,
    }


def event_row(place: int, num_jobs: int) -> dict[str, Any]:
    number = LONG_JOB if place % 2 else (place // 2) % num_jobs
    data = {"step": place, "total_steps": 10**6, "train_loss": 0.25, "train_mean_token_accuracy": 0.9}
    return {
        "number": place + 1,
        "id": f"ftevent-{place:024d}",
        "job_id": job_id(number),
        "source": f"log:{place}",
        "level": "info",
        "type": "metrics",
        "message": f"Step {place}/1000000: training loss=0.25",
        "data": data,
        "created_at": BEGAN + place,
    }


def job_id(number: int) -> str:
    return f"ftjob-{number:024d}"


@contextmanager
def running_server(folder: Path, url: str) -> Iterator[str]:
    """A server without workers: nothing but the requests that are measured."""
    command = [sys.executable, "-m", "kivnun", "serve", "--port", "0", "--json", "--workers", "0"]
    environment = {**os.environ, "KIVNUN_DATABASE": url, "HF_HUB_OFFLINE": "1"}
    with (folder / "server.log").open("w") as said:
        process = subprocess.Popen(
            [*command, "--data-dir", str(folder)], stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        )
    said_to_us = process.stdout
    try:
        ready = said_to_us is not None and select.select([said_to_us], [], [], START_SECONDS)[0]
        line = said_to_us.readline() if said_to_us is not None and ready else ""
        if not line:
            raise RuntimeError(f"the server did not start:\n{(folder / 'server.log').read_text()}")
        yield json.loads(line)["url"]
    finally:
        process.terminate()
        process.wait(60)
        if said_to_us is not None:
            said_to_us.close()


def measure_pages(
    address: str, secret: str, database: Database, num_jobs: int, num_events: int, repetitions: int, random: Any
) -> dict[str, Any]:
    mine = [number for number in range(num_jobs) if number % 10 != 9]
    jobs = "/fine_tuning/jobs"
    events = f"{jobs}/{job_id(LONG_JOB)}/events"

    def a_job() -> str:
        return job_id(int(random.choice(mine)))

    def an_event() -> str:
        return f"ftevent-{2 * int(random.integers(num_events // 2)) + 1:024d}"

    def team() -> str:
        # Team 9 is all of the other project's.
        return f"{quote('metadata[team]')}=team-{random.integers(TEAMS - 1)}"

    paths: dict[str, Callable[[], str]] = {
        "jobs: first page": lambda: jobs,
        "jobs: first 100": lambda: f"{jobs}?limit=100",
        "jobs: a page anywhere": lambda: f"{jobs}?after={a_job()}",
        "jobs: the last page": lambda: f"{jobs}?after={job_id(mine[10])}",
        "jobs: metadata of every tenth": lambda: f"{jobs}?{team()}",
        "jobs: metadata, a page anywhere": lambda: (
            f"{jobs}?{quote('metadata[team]')}=team-3&after={job_id(3 + 10 * int(random.integers(num_jobs // 10)))}"
        ),
        "jobs: metadata of one": lambda: f"{jobs}?{quote('metadata[run]')}=run-{random.choice(mine)}",
        "jobs: metadata of none": lambda: f"{jobs}?{quote('metadata[run]')}=none-{random.integers(10**6)}",
        "jobs: metadata of others": lambda: f"{jobs}?{quote('metadata[team]')}=team-9",
        "jobs: without metadata": lambda: f"{jobs}?metadata=null",
        "job: one": lambda: f"{jobs}/{a_job()}",
        "events: first page of a long job": lambda: events,
        "events: first 1000 of a long job": lambda: f"{events}?limit=1000",
        "events: a page anywhere of a long job": lambda: f"{events}?after={an_event()}",
        "events: of any job": lambda: f"{jobs}/{a_job()}/events",
        "models": lambda: "/models",
        "files": lambda: "/files",
    }
    pages: dict[str, Any] = {}
    with closing(connect(address)) as connection:
        for name, path in paths.items():
            pages[name] = tell(name, ask_often(connection, address, secret, path, repetitions))
        with writing_events(database, num_events):
            name = "jobs: first page while events are written"
            pages[name] = tell(name, ask_often(connection, address, secret, paths["jobs: first page"], repetitions))
    return pages


def connect(address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)


def ask_often(
    connection: http.client.HTTPConnection, address: str, secret: str, path: Callable[[], str], repetitions: int
) -> list[float]:
    """Seconds from a request to the last byte of its answer; the first two warm up."""
    base = urlsplit(address).path
    seconds = []
    for _ in range(repetitions + 2):
        target = base + path()
        began = time.perf_counter()
        connection.request("GET", target, headers={"Authorization": f"Bearer {secret}"})
        reply = connection.getresponse()
        content = reply.read()
        seconds.append(time.perf_counter() - began)
        if reply.status != 200:
            raise RuntimeError(f"{target}: {reply.status} {content[:500]!r}")
    return seconds[2:]


def tell(name: str, seconds: Sequence[float]) -> dict[str, float]:
    p50, p95 = (float(np.percentile(seconds, share)) * 1000 for share in (50, 95))
    worst = max(seconds) * 1000
    print(f"  {name:45} p50 {p50:6.1f} ms   p95 {p95:6.1f} ms   worst {worst:6.1f} ms", flush=True)
    return {"p50_ms": p50, "p95_ms": p95, "worst_ms": worst, "requests": len(seconds)}


@contextmanager
def writing_events(database: Database, num_events: int) -> Iterator[None]:
    """A hundred events a second, each in a transaction of its own, as busy workers write them."""
    stop = threading.Event()

    def write() -> None:
        place = num_events
        while not stop.wait(0.01):
            with database.writing() as session:
                session.execute(insert(JobEvent.__table__), [event_row(place, 1)])
            place += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
