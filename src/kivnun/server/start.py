"""A server from its settings: what must be safe is checked, everything is opened, and all of it ends in order.

The order is the point. The data folder is locked before anything in it is touched; what no client was told of is
removed before the first request; and when the end comes, workers are asked to save while the last answers still flow.
"""

import asyncio
import ipaddress
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
import uvloop
from sqlalchemy import func, make_url, or_, select

from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.projects import ensure_defaults
from kivnun.database.tables import ApiKey, Project, TunedModel
from kivnun.runs.atomic import write_atomic
from kivnun.server.app import create_app
from kivnun.server.binding import BACKLOG, listen, lock_data, own_address, require_database, require_safe
from kivnun.server.connections import Connection
from kivnun.server.counters import Counters
from kivnun.server.folders import DataFolder
from kivnun.server.job_lines import JobNews, JobWatch, tell_jobs
from kivnun.server.late_pool import LatePool
from kivnun.server.limits import Limits
from kivnun.server.model_names import BUNDLED, TUNED_PREFIX, base_models, is_hosted, stand_in
from kivnun.server.servable import require_models
from kivnun.server.service import ServeSettings, Service
from kivnun.server.sweep import remove_unacknowledged
from kivnun.server.workers import Workers
from kivnun.serving.vllm import VllmServers

if TYPE_CHECKING:
    from kivnun.serving.pool import ModelPool

SETTINGS_NAME = "settings.json"
WORKER_LOG_NAME = "workers.log"
GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 30

Log = Callable[[str], None]


@dataclass(frozen=True)
class Listening:
    """A server that answers.

    Attributes:
        url: Its address, with /v1.
        port: Its port.
        models: The base models by the names that clients use.
        stand_in: Which of them answers, and is trained, for hosted names such as `gpt-4o-mini`.
        has_keys: Whether there is a key that requests may come with.
        require_keys: Whether they must.
        data_dir: Where everything lies.
        num_workers: Processes that run jobs.
        model_memory_bytes: Most memory for models; None for most of what is free.
        job_memory_bytes: Most memory for all jobs together; None for what the machine has.
        num_projects: Projects that have files, jobs and models of their own.
    """

    url: str
    port: int
    models: tuple[str, ...]
    stand_in: str
    has_keys: bool
    require_keys: bool
    data_dir: Path
    num_workers: int
    model_memory_bytes: int | None = None
    job_memory_bytes: int | None = None
    num_projects: int = 1


@dataclass(frozen=True)
class Telling:
    """Who is told what a person who runs a server should know.

    Attributes:
        log: A line at a time.
        ready: Called once, when the server answers.
        job: What happens to jobs.
    """

    log: Log
    ready: Callable[[Listening], None] = lambda _: None
    job: Callable[[JobNews], None] = lambda _: None


def serve(settings: ServeSettings, telling: Telling) -> None:
    """Serve until SIGINT or SIGTERM; answers that flow may end, jobs are saved.

    Args:
        settings: How.
        telling: Who is told what happens.

    Raises:
        UserError: `serve-unsafe`, `tls-invalid`, `model-missing`, `model-invalid`, `file-unwritable`,
            `server-running`, `address-taken`, or what the database raises.
    """
    settings = _with_whole_paths(settings)
    require_safe(settings)
    require_models(settings)
    folder = DataFolder(settings.data_dir)
    folder.make()
    with lock_data(folder), closing(listen(settings)) as listener, _open_service(settings, telling.log) as service:
        require_database(folder, service.database)
        removed = remove_unacknowledged(service)
        if removed:
            telling.log(f"removed {removed} upload(s) that were not complete when the last server ended")
        # Streams share the cores with the model: asyncio's own loop takes twice the time for each token.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(service, listener, telling))


def _with_whole_paths(settings: ServeSettings) -> ServeSettings:
    """Folders by their whole paths: jobs work in folders of their own, and what is hidden from clients must be known.

    `~` is left to whoever reads it, for what is refused is named as it was given.
    """

    def whole(source: str) -> str:
        is_folder = source != BUNDLED and Path(source).is_dir()
        return str(Path(source).absolute()) if is_folder else source

    kind, _, folder = (settings.embedding_model or "").partition(":")
    return replace(
        settings,
        data_dir=settings.data_dir.absolute(),
        bucket_dir=settings.bucket_dir and settings.bucket_dir.absolute(),
        base_model=settings.base_model if settings.base_model in settings.models else whole(settings.base_model),
        models={name: whole(source) for name, source in settings.models.items()},
        embedding_model=f"dir:{whole(folder)}" if kind == "dir" else settings.embedding_model,
    )


@contextmanager
def _open_service(settings: ServeSettings, log: Log) -> Generator[Service]:
    def tell_pool(event: str, facts: Mapping[str, object]) -> None:
        shown = {name: round(value, 3) if isinstance(value, float) else value for name, value in facts.items()}
        log(f"models: {event} " + " ".join(f"{name}={value}" for name, value in shown.items() if value is not None))

    with closing(open_database(settings.database_url or sqlite_url(settings.data_dir))) as database:
        ensure_defaults(database)
        with closing(LatePool(lambda: _make_pool(settings, tell_pool))) as pool:
            yield Service(settings, database, pool, Limits(), Counters(), _make_vllm(settings, log))


def _make_vllm(settings: ServeSettings, log: Log) -> VllmServers | None:
    if settings.engine != "vllm":
        return None
    logs = DataFolder(settings.data_dir).logs
    return VllmServers(logs, max_rows=settings.max_rows, max_waiting=settings.max_waiting, log=log)


def _make_pool(settings: ServeSettings, log: Callable[[str, Mapping[str, object]], None]) -> "ModelPool":
    # Imports torch and transformers, which the first requests need not wait for.
    from kivnun.serving.pool import ModelPool  # noqa: PLC0415

    return ModelPool(
        max_rows=settings.max_rows, max_waiting=settings.max_waiting, memory_bytes=settings.memory_of_models, log=log
    )


async def _run(service: Service, listener: socket.socket, telling: Telling) -> None:
    settings = service.settings
    folder = DataFolder(settings.data_dir)
    workers = _make_workers(service, folder, telling.log)
    watch = JobWatch(service.database, lambda name: say_trained(settings, name))
    app = create_app(service)
    app.state.workers = workers
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    # Warnings of uvicorn are about requests that are none; whoever sends many would fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    def begin() -> None:
        for line in find_missing_names(service):
            telling.log(line)
        if watch.num_unfinished:
            telling.log(f"{watch.num_unfinished} job(s) of before have not ended")
        telling.ready(_describe(service, listener))

    def stopping(is_again: bool) -> None:  # noqa: FBT001 - uvicorn's own question
        telling.log(say_stop(watch, is_again=is_again))

    workers.start()
    ended = asyncio.Event()
    news = asyncio.create_task(tell_jobs(watch, telling.job, ended))
    try:
        await _Server(config, workers, begin, stopping).serve([listener])
    finally:
        if service.vllm is not None:
            await service.vllm.close()
        await workers.stop()
        ended.set()
        await news


def say_trained(settings: ServeSettings, name: str) -> str:
    """A model that a job trains, for people.

    Args:
        settings: Of the server.
        name: As the client called it.
    """
    return f"{name} ({stand_in(settings)} stands in for it)" if is_hosted(settings, name) else name


def find_missing_names(service: Service) -> list[str]:
    """What a person should know of names that were given to tuned models that are not there.

    Args:
        service: Of a server that is about to answer.
    """
    given = {name: tuned for name, tuned in service.settings.models.items() if tuned.startswith(TUNED_PREFIX)}
    with service.database.reading() as session:
        there = set(session.scalars(select(TunedModel.name).where(TunedModel.name.in_(given.values()))))
    return [
        f"warning: --model {name}={tuned}: this data folder has no such tuned model; requests for {name} get 404"
        for name, tuned in given.items()
        if tuned not in there
    ]


def say_stop(watch: JobWatch, *, is_again: bool) -> str:
    """What a person is told who asks a server to end.

    Args:
        watch: Knows the jobs that run.
        is_again: Whether it was asked to before, and has not ended yet.
    """
    if is_again:
        return "stopping at once: jobs go on from their last checkpoints when the server is started again"
    num_running = watch.count_running()
    if not num_running:
        return "stopping: answers that flow may end; Ctrl-C again stops at once"
    jobs = f"{num_running} job(s) that run save a checkpoint first, which may take half a minute"
    again = "Ctrl-C again stops at once, and loses the steps since their last checkpoints"
    return f"stopping: {jobs}, and go on when the server is started again; {again}"


class _Server(uvicorn.Server):
    """Uvicorn, with our way to begin and end."""

    def __init__(
        self, config: uvicorn.Config, workers: Workers, ready: Callable[[], None], stopping: Callable[[bool], None]
    ) -> None:
        super().__init__(config)
        self._workers = workers
        self._ready = ready
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        is_again = self.should_exit
        if not is_again or sig == signal.SIGINT:
            self._stopping(is_again)
        if is_again and sig == signal.SIGINT:
            self._workers.kill()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        # Uvicorn's own raises the signal once more at the end, which would leave workers and database behind.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._workers.ask_to_stop()
        await super().shutdown(sockets)
        if self.force_exit:
            # Left out by uvicorn in a hurry; what runs beside the requests would be cut off and printed as a fault.
            await self.lifespan.shutdown()


def _make_workers(service: Service, folder: DataFolder, log: Log) -> Workers:
    settings = service.settings
    path = folder.root / SETTINGS_NAME
    # Workers that are started by hand, where the server has none, may take what the machine has.
    said = {"database_url": None, "job_memory_bytes": settings.memory_of_jobs or None}
    write_atomic(path, json.dumps(asdict(settings) | said, default=str, indent=2) + "\n")
    url, environment = _without_password(service.database)
    data = str(folder.root.resolve())
    command = [sys.executable, "-m", "kivnun.jobs", "--data-dir", data, "--database", url, "--settings", str(path)]
    return Workers(command, settings.num_workers, folder.logs / WORKER_LOG_NAME, log, environment)


def _without_password(database: Database) -> tuple[str, dict[str, str]]:
    """An address that anybody who lists processes may see, and the environment that completes it."""
    url = make_url(database.url)
    if url.password is None:
        return database.url, {}
    return url.set(password=None).render_as_string(hide_password=False), {"PGPASSWORD": str(url.password)}


def _describe(service: Service, listener: socket.socket) -> Listening:
    settings = service.settings
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        # A certificate is for a name; without one, an address needs nobody to know the name.
        host = socket.getfqdn() if settings.tls_certificate is not None else own_address()
    shown = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.tls_certificate is None else "https"
    with service.database.reading() as session:
        lasts = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > int(time.time()))
        has_keys = session.scalar(select(ApiKey.id).where(ApiKey.revoked_at.is_(None), lasts).limit(1)) is not None
        num_projects = session.scalar(select(func.count()).select_from(Project)) or 1
    return Listening(
        url=f"{scheme}://{shown}:{port}/v1",
        port=port,
        models=tuple(base_models(settings)),
        stand_in=stand_in(settings),
        has_keys=has_keys,
        require_keys=settings.require_keys,
        data_dir=settings.data_dir,
        num_workers=settings.num_workers,
        model_memory_bytes=settings.memory_of_models,
        job_memory_bytes=settings.memory_of_jobs,
        num_projects=num_projects,
    )
