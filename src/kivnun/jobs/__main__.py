"""`python -m kivnun.jobs`: a worker process; the server starts as many as its settings say, and more may join."""

import argparse
import json
import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from kivnun.database.open import open_database, sqlite_url
from kivnun.jobs.leash import NICENESS
from kivnun.jobs.memory import Room, machine_bytes, visible_gpus
from kivnun.jobs.owner import this_process
from kivnun.jobs.worker import WorkerSettings, run_worker


def main() -> None:
    """Take jobs until SIGTERM or SIGINT, which save what runs and give it back."""
    arguments = _parse()
    given: Mapping[str, object] = json.loads(arguments.settings.read_bytes()) if arguments.settings else {}
    is_stopping = _stop_on_signals()
    data_dir = arguments.data_dir.resolve()
    memory = arguments.memory or given.get("job_memory_bytes")
    limit = min(machine_bytes(), memory) if isinstance(memory, int) else machine_bytes()
    with closing(open_database(arguments.database or sqlite_url(data_dir))) as database:
        owner = this_process()
        settings = WorkerSettings(
            database,
            data_dir,
            owner,
            Room(owner, limit),
            gpus=visible_gpus(),
            niceness=arguments.nice,
            strict=arguments.strict or bool(given.get("strict")),
        )
        run_worker(settings, is_stopping=is_stopping, is_once=arguments.once)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kivnun.jobs", description=main.__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the server's data folder")
    parser.add_argument("--database", help="SQLAlchemy's address; default: SQLite in the data folder")
    parser.add_argument(
        "--settings", type=Path, help="the server's settings.json: `job_memory_bytes` and `strict` are read"
    )
    parser.add_argument("--memory", type=int, help="bytes that all jobs of this machine may take together")
    parser.add_argument("--nice", type=int, default=NICENESS, help="how far jobs stand back behind other programs")
    parser.add_argument("--strict", action="store_true", help="refuse files that the hosted service refuses")
    parser.add_argument("--once", action="store_true", help="end when there is nothing to do")
    return parser.parse_args()


def _stop_on_signals() -> Callable[[], bool]:
    came: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _frame: came.append(signum))
    return lambda: bool(came)


if __name__ == "__main__":
    main()
