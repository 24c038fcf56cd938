"""A connection as the server holds it: what is no HTTP is told so, and nobody keeps one open by sending slowly.

Uvicorn bounds only the silence of a connection that was answered and has sent nothing since. Three more bounds stand
here and in `middleware.py`: a head must be whole within seconds of its first byte, a body may be silent for a minute
and last as long as it takes, and what is left of a body that was answered already is taken only for a while.
"""

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0
NO_HTTP, TOO_SLOW = "400 Bad Request", "408 Request Timeout"


class Connection(H11Protocol):
    """Uvicorn's own, with a deadline for whatever the client owes."""

    head_seconds = HEAD_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; with TLS, once it has shaken hands, for which asyncio gives it a minute."""
        super().connection_made(transport)
        # A client that says nothing at all holds its place as one that stops in the middle does.
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A request was answered, and the next one may have come already."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or was sent away."""
        self._end()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP at all in the envelope of every error, and hang up."""
        self._send_error(NO_HTTP, msg, None)

    def _watch(self) -> None:
        """Let the deadline run while the client owes the rest of a head, or of a body that nobody reads any more."""
        state = self.conn.their_state
        is_answered = self.cycle is not None and self.cycle.response_complete
        if (state is h11.IDLE and self.conn.trailing_data[0]) or (state is h11.SEND_BODY and is_answered):
            self._begin()
        else:
            self._end()

    def _begin(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self._time_out)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _time_out(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            told = f"The head of your request was not whole within {self.head_seconds:g} seconds."
            self._send_error(TOO_SLOW, told, "request_timeout")
        else:
            self.transport.close()

    def _send_error(self, status: str, message: str, code: str | None) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        text = json.dumps({"error": error})
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n{text}".encode())
        self.transport.close()
