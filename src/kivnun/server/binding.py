"""Where a server listens, and what must be so before it does."""

import fcntl
import ipaddress
import os
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import URL, make_url

from kivnun.database.open import Database, sqlite_url
from kivnun.errors import UserError
from kivnun.runs.atomic import write_atomic
from kivnun.server.folders import DataFolder
from kivnun.server.service import ServeSettings

LOCK_NAME = ".server.lock"
DATABASE_NAME = "database.txt"
OWN_DATABASE = "its own"
BACKLOG = 2048


def require_safe(settings: ServeSettings) -> None:
    """Refuse what would let strangers in.

    Args:
        settings: As asked for.

    Raises:
        UserError: `serve-unsafe` for an address that others can reach and no keys; `tls-invalid` for half a pair, or
            files that are none.
    """
    if not settings.require_keys and not is_loopback(settings.host):
        problem = f"without keys, everybody who reaches {settings.host} could use and delete everything"
        raise UserError("serve-unsafe", problem, hint="leave out --no-auth, or listen at 127.0.0.1")
    certificate, key = settings.tls_certificate, settings.tls_key
    if (certificate is None) != (key is None):
        problem = "a certificate and its key belong together, and only one of them is given"
        raise UserError("tls-invalid", problem, hint="give both --tls-certificate and --tls-key")
    if certificate is not None and key is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            problem = f"{certificate} and {key} are no pair of PEM files: {error}"
            hint = "give the certificate's chain and its key, unlocked"
            raise UserError("tls-invalid", problem, hint=hint) from error


def _no_password() -> str:
    # OpenSSL would ask at the terminal, and a server would wait there for ever.
    raise ValueError("the key is locked with a password")


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


def own_address() -> str:
    """What others reach this machine by: the address that it has in its network, or its name; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            # The router is not asked either: the system only looks up which of its addresses it would send from.
            asking.connect(("192.0.2.1", 9))
            found: str = asking.getsockname()[0]
        except OSError:
            return socket.gethostname()
    return socket.gethostname() if is_loopback(found) or found == "0.0.0.0" else found  # noqa: S104 - none at all


@contextmanager
def lock_data(folder: DataFolder) -> Generator[None]:
    """Be the only server of a data folder; the kernel holds the lock, so that no kill -9 leaves it behind.

    Args:
        folder: That exists.

    Raises:
        UserError: `server-running`.
    """
    descriptor = os.open(folder.root / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            problem = f"another `kivnun serve` works in {folder.root}"
            hint = "stop it, or name another folder with --data-dir"
            raise UserError("server-running", problem, hint=hint) from error
        yield
    finally:
        os.close(descriptor)


def require_database(folder: DataFolder, database: Database) -> None:
    """Refuse another database than the one that knows the files of a data folder, and remember a first one.

    What no row knows is removed when a server starts: with the wrong database, that would be everything.

    Args:
        folder: That exists.
        database: That is open.

    Raises:
        UserError: `database-failed`.
    """
    path = folder.root / DATABASE_NAME
    name = OWN_DATABASE if database.url == sqlite_url(folder.root) else _say_place(make_url(database.url))
    known = path.read_text("utf-8").strip() if path.is_file() else name
    if known != name:
        problem = f"the files in {folder.root} belong to another database ({known}), and not to {name}"
        hint = f"name that one with --database or KIVNUN_DATABASE; if it has another address now, remove {path}"
        raise UserError("database-failed", problem, hint=hint)
    write_atomic(path, f"{name}\n")


def _say_place(url: URL) -> str:
    """Which database an address names, without who opens it and how."""
    query = {name: value for name, value in url.query.items() if name in ("host", "port", "dbname", "service")}
    return url.set(username=None, password=None, query=query).render_as_string()


def listen(settings: ServeSettings) -> socket.socket:
    """A socket at the address that is asked for.

    Args:
        settings: With host and port.

    Raises:
        UserError: `address-taken`.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends small writes at once only on sockets that name TCP; otherwise each reply waits 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) else None
        problem = f"cannot listen at {settings.host} port {settings.port}: {why or error}"
        raise UserError("address-taken", problem, hint="name another port with --port; 0 takes a free one") from error
    listener.setblocking(False)  # noqa: FBT003 - the socket library takes it so
    return listener
