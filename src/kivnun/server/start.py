"""A server from its settings: what must be safe is checked, everything is opened, and all of it ends in order.

The order is the point. The data folder is locked before anything in it is touched; what no client was told of is
removed before the first request; the address is known before the first worker starts; and when the end comes, workers
are asked to save while the last answers still flow.
"""

import asyncio
import fcntl
import ipaddress
import json
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import uvicorn
from sqlalchemy import func, select
from uvicorn.protocols.http.h11_impl import H11Protocol

from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.projects import ensure_defaults
from kivnun.database.tables import ApiKey
from kivnun.errors import UserError
from kivnun.runs.atomic import write_atomic
from kivnun.server.app import create_app
from kivnun.server.counters import Counters
from kivnun.server.folders import DataFolder
from kivnun.server.limits import Limits
from kivnun.server.model_names import base_models
from kivnun.server.service import ServeSettings, Service
from kivnun.server.sweep import remove_unacknowledged
from kivnun.server.workers import Workers
from kivnun.serving.pool import ModelPool

LOCK_NAME = ".server.lock"
SETTINGS_NAME = "settings.json"
WORKER_LOG_NAME = "workers.log"
BACKLOG = 2048
GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 30
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """A server that answers.

    Attributes:
        url: Its address, with /v1.
        port: Its port.
        models: The base models by the names that clients use.
        has_keys: Whether there is a key that requests may come with.
        require_keys: Whether they must.
        data_dir: Where everything lies.
        num_workers: Processes that run jobs.
    """

    url: str
    port: int
    models: tuple[str, ...]
    has_keys: bool
    require_keys: bool
    data_dir: Path
    num_workers: int


def serve(
    settings: ServeSettings, *, log: Callable[[str], None], ready: Callable[[Listening], None] = lambda _: None
) -> None:
    """Serve until SIGINT or SIGTERM; answers that flow may end, jobs are saved.

    Args:
        settings: How.
        log: Told what a person who runs it should know, a line at a time.
        ready: Called once, when it answers.

    Raises:
        UserError: `serve-unsafe`, `server-running`, `address-taken`, `tls-invalid`, or what the database raises.
    """
    require_safe(settings)
    folder = DataFolder(settings.data_dir)
    folder.make()
    with _alone(folder), _listen(settings) as listener, _open_service(settings, log) as service:
        removed = remove_unacknowledged(service)
        if removed:
            log(f"removed {removed} upload(s) that had not been acknowledged when the last server ended")
        asyncio.run(_run(service, listener, log, ready))


def require_safe(settings: ServeSettings) -> None:
    """Refuse what would let strangers in.

    Args:
        settings: As asked for.

    Raises:
        UserError: `serve-unsafe` for an address that others can reach and no keys; `tls-invalid` for half a pair.
    """
    if not settings.require_keys and not is_loopback(settings.host):
        problem = f"without keys, everybody who reaches {settings.host} could use and delete everything"
        raise UserError("serve-unsafe", problem, hint="leave out --no-auth, or listen at 127.0.0.1")
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        problem = "a certificate and its key belong together, and only one of them is given"
        raise UserError("tls-invalid", problem, hint="give both --tls-certificate and --tls-key")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    Args:
        host: A name or an address.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _alone(folder: DataFolder) -> Generator[None]:
    """The only server of a data folder; a lock of the kernel, which no kill -9 leaves behind."""
    descriptor = os.open(folder.root / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        problem = f"another `kivnun serve` works in {folder.root}"
        raise UserError("server-running", problem, hint="stop it, or name another folder with --data-dir") from error
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _listen(settings: ServeSettings) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        yield listener
    except OSError as error:
        if listener.fileno() != -1 and _is_bound(listener):
            raise
        problem = f"cannot listen at {settings.host} port {settings.port}: {error.strerror or error}"
        raise UserError("address-taken", problem, hint="name another port with --port; 0 takes a free one") from error
    finally:
        listener.close()
