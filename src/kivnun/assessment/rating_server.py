"""The local server behind the rating page: this machine only, and only for those who were given its address.

Other pages open in the same browser can send requests to any address of this machine. They are kept out three times:
each request must name this server as its host, which a rebound name does not; a request that a page sends must come
from this server's own page; and each must carry the token, which stands in the address alone.
"""

import json
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from urllib.parse import parse_qs, urlsplit

from kivnun.assessment.pairs import AnswerPair
from kivnun.assessment.rating_page import content_policy, render_rating_page
from kivnun.assessment.ratings import PRESSED, Pressed, RatingSession, require_rater_name
from kivnun.errors import UserError

HOST = "127.0.0.1"
TOKEN_HEADER = "X-Kivnun-Token"  # noqa: S105 - the name of a header
MAX_BODY_BYTES = 10_000
MAX_RATERS = 100
IDLE_SECONDS = 30

Show = Callable[[str, int, int], None]
"""Takes a rater's name, how many rows are done and how many there are."""


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: Of HTTP.
        problem: Why, for the page.
    """

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status
        self.problem = problem


class RatingServer:
    """Serves the page to several raters at once, each with a session of their own.

    Args:
        folder: Of the comparison, where ratings are kept.
        pairs: The rows in the order in which they are asked.
        seed: That order and sides are drawn with.
        show: Is told after each rating.
        port: Of this machine; 0 for a free one.
    """

    def __init__(
        self, folder: Path, pairs: Sequence[AnswerPair], *, seed: int, show: Show = lambda *_: None, port: int = 0
    ) -> None:
        self._folder, self._pairs, self._seed, self._show = folder, tuple(pairs), seed, show
        self._sessions: dict[str, RatingSession] = {}
        self._lock = threading.Lock()
        self._token = secrets.token_urlsafe(24)
        self._server = RatingThreads(self, port)
        self.port = int(self._server.server_address[1])
        self.hosts = frozenset({f"{HOST}:{self.port}", f"localhost:{self.port}"})

    @property
    def address(self) -> str:
        """The address with its token, for the rater's browser."""
        return f"http://{HOST}:{self.port}/?token={self._token}"

    def serve(self) -> None:
        """Answer until `close` is called in another thread, or Ctrl-C."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop answering, and let the raters' files go."""
        self._server.shutdown()
        self._free()

    def __enter__(self) -> Self:
        """The server itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let port and files go, once `serve` has come back."""
        self._free()

    def _free(self) -> None:
        self._server.server_close()
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def require_allowed(self, *, host: str | None, origin: str | None, token: str) -> None:
        """Refuse what does not come from the page, or from somebody with its address.

        Args:
            host: Of the request's header.
            origin: Of the request's header; browsers send it with whatever a page posts.
            token: That came with the request.

        Raises:
            RefusedError: It does not.
        """
        if host not in self.hosts:
            raise RefusedError(403, "this server answers under its own name only")
        if origin is not None and origin not in {f"http://{each}" for each in self.hosts}:
            raise RefusedError(403, "another page asked")
        if not secrets.compare_digest(token.encode("utf-8", "surrogateescape"), self._token.encode()):
            raise RefusedError(403, "the token is missing or wrong: use the whole address that kivnun rate shows")

    def answer(self, path: str, fields: dict[str, object]) -> dict[str, object]:
        """Do what the page asks, and say where its rater stands then.

        Args:
            path: `/next`, `/rate` or `/undo`.
            fields: `rater`, and for a rating `row_id` and `choice`.

        Raises:
            RefusedError: The request is none of these, or cannot be followed.
            UserError: `disk-full`, or `ratings-invalid`.
        """
        if path not in {"/next", "/rate", "/undo"}:
            raise RefusedError(404, "there is no such page")
        session = self._session(str(fields.get("rater", "")))
        if path == "/undo":
            session.undo()
        elif path == "/rate":
            pressed, row_id = fields.get("choice"), fields.get("row_id")
            if pressed not in PRESSED or not isinstance(row_id, str):
                raise RefusedError(400, f"{pressed!r} is no rating")
            # A second window may have rated the row already; the page then shows the next one.
            session.rate(row_id, cast("Pressed", pressed))
        done, total = session.progress
        if path != "/next":
            self._show(session.rater, done, total)
        pair = session.next_pair()
        return {"done": done, "total": total, "row": None if pair is None else asdict(pair)}

    def _session(self, rater: str) -> RatingSession:
        name = require_rater_name(rater)
        with self._lock:
            if name not in self._sessions:
                if len(self._sessions) >= MAX_RATERS:
                    raise RefusedError(429, f"{MAX_RATERS} raters are at work already")
                self._sessions[name] = RatingSession(self._folder, name, self._pairs, seed=self._seed)
            return self._sessions[name]


class RatingRequest(BaseHTTPRequestHandler):
    """One request of the page, or of somebody who should not ask."""

    # The base class cannot say which server it belongs to.
    server: "RatingThreads"  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Give the page."""
        parts = urlsplit(self.path)
        try:
            self._require_allowed(parse_qs(parts.query).get("token", [""])[0])
        except RefusedError as refused:
            self._send(refused.status, refused.problem + "\n", "text/plain")
            return
        if parts.path != "/":
            self._send(404, "there is no such page\n", "text/plain")
            return
        nonce = secrets.token_urlsafe(16)
        self._send(200, render_rating_page(nonce), "text/html", content_policy(nonce))

    def do_POST(self) -> None:
        """Follow what the page asks."""
        try:
            body = self._read_body()
            self._require_allowed(self.headers[TOKEN_HEADER] or "")
            status, value = 200, self.server.rating.answer(self.path, self._read_fields(body))
        except RefusedError as refused:
            status, value = refused.status, {"problem": refused.problem}
        except UserError as error:
            status, value = 409, {"problem": f"{error.problem}; {error.hint}"}
        self._send(status, json.dumps(value), "application/json")

    def _require_allowed(self, token: str) -> None:
        self.server.rating.require_allowed(host=self.headers["Host"], origin=self.headers["Origin"], token=token)

    def _read_body(self) -> bytes:
        # Read before anything is refused: a connection that is closed on unread bytes loses its answer.
        length = self.headers["Content-Length"] or ""
        if not (length.isascii() and length.isdecimal()) or int(length) > MAX_BODY_BYTES:
            raise RefusedError(413, "the request is too long, or does not say how long it is")
        return self.rfile.read(int(length))

    def _read_fields(self, body: bytes) -> dict[str, object]:
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(415, "only JSON is read")
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, "the request is no JSON") from error
        if not isinstance(fields, dict):
            raise RefusedError(400, "the request is no JSON object")
        return fields

    def _send(self, status: int, text: str, kind: str, policy: str = "default-src 'none'") -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the token stands in the address."""


class RatingThreads(ThreadingHTTPServer):
    """A thread for each connection, which does not keep the process.

    Args:
        rating: What the requests are about.
        port: Of this machine; 0 for a free one.
    """

    daemon_threads = True

    def __init__(self, rating: RatingServer, port: int) -> None:
        self.rating = rating
        super().__init__((HOST, port), RatingRequest)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that went away; anything else is a fault of ours and is shown."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]
