"""A real HTTP server that embeds: the vector of a text is drawn from its hash."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


@dataclass
class Service:
    """Its address, what it was asked, and how it behaves."""

    url: str = ""
    requests: list[dict] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    dims: int = 8
    takes_base64: bool = True
    refuse_first: int = 0
    lose: int = 0

    def vector(self, text: str) -> np.ndarray:
        """Of any length but 1, so that only a caller who scales it has unit vectors."""
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        return (np.random.default_rng(seed).normal(size=self.dims) * 3).astype("<f4")

    def answer(self, request: dict) -> tuple[int, dict]:
        """Status and body."""
        if self.refuse_first >= len(self.requests):
            return 429, {"error": {"message": "slow down"}}
        if request.get("encoding_format") == "base64" and not self.takes_base64:
            return 400, {"error": {"message": "encoding_format base64 is unknown"}}
        data = []
        for number, text in enumerate(request["input"]):
            vector = self.vector(text)
            packed = request.get("encoding_format") == "base64"
            written = base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist()
            data.append({"object": "embedding", "index": number, "embedding": written})
        # Not in the order of the texts: the numbers say which is which.
        data = data[::-1][self.lose :]
        return 200, {"object": "list", "data": data, "model": request["model"], "usage": {"prompt_tokens": 1}}


@contextmanager
def serve() -> Iterator[Service]:
    """The service while the context lasts."""
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.requests.append(request)
            state.keys.append(self.headers["authorization"])
            status, answer = state.answer(request)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
