"""Bad requests without end, drawn from a seed, as bytes on a socket; and what a reply to any of them must be.

A request begins right. Then something is done to it: to its body as JSON, to its bytes, its address, its headers, its
length, or its chunks; or it is no HTTP at all. Whatever comes back must come soon, must be no fault of the server, and
must tell nothing of its inside.
"""

import copy
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CHAT = {
    "model": "tiny",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}],
    "max_tokens": 2,
    "temperature": 0.5,
    "n": 1,
    "stop": ["x"],
    "seed": 1,
    "logprobs": True,
    "top_logprobs": 2,
    "stream": False,
    "response_format": {"type": "text"},
    "logit_bias": {"5": 1},
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"a": {}}}}}
JOB = {
    "model": "tiny",
    "training_file": "file-none",
    "suffix": "s",
    "seed": 1,
    "metadata": {"a": "b"},
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": "auto"}}},
    "integrations": [],
}
UPLOAD = {"filename": "a", "purpose": "fine-tune", "bytes": 3, "mime_type": "text/plain"}
BATCH = {"input_file_id": "file-none", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
BODIES: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("/chat/completions", CHAT),
    ("/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
    ("/chat/completions", CHAT | {"tools": [TOOL], "tool_choice": "auto"}),
    ("/chat/completions", CHAT | {"response_format": SCHEMA, "max_tokens": 5}),
    ("/completions", {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 2, "echo": True, "logprobs": 2}),
    ("/embeddings", {"model": "none", "input": ["a"], "encoding_format": "base64", "dimensions": 3}),
    ("/fine_tuning/jobs", JOB),
    ("/uploads", UPLOAD),
    ("/uploads/upload_none/complete", {"part_ids": ["part_none"], "md5": "0"}),
    ("/batches", BATCH),
    ("/fine_tuning/checkpoints/ft:a:b::c:ckpt-step-1/permissions", {"project_ids": ["proj_default"]}),
)
# Without it an answer would go on to the end of the context: that is slow and right.
KEPT = frozenset({"max_tokens"})
PATHS = (
    "/files",
    "/files/{}",
    "/files/{}/content",
    "/uploads/{}/parts",
    "/uploads/{}/cancel",
    "/models",
    "/models/{}",
    "/fine_tuning/jobs",
    "/fine_tuning/jobs/{}",
    "/fine_tuning/jobs/{}/cancel",
    "/fine_tuning/jobs/{}/pause",
    "/fine_tuning/jobs/{}/events",
    "/fine_tuning/jobs/{}/checkpoints",
    "/fine_tuning/checkpoints/{}/permissions",
    "/fine_tuning/checkpoints/{}/permissions/{}",
    "/batches",
    "/batches/{}",
    "/batches/{}/cancel",
    "/chat/completions",
    "/{}",
)
NAMES = (
    "file-none", "ftjob-" + "a" * 24, "..", "../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "%00",
    "a%00b", "%ff%fe",
    "ft:tiny:personal::abcdefgh", "ft:tiny:personal::abcdefgh:ckpt-step-1", "a/b/c", "a%2Fb", "", "x" * 5000,
    "%F0%9F%98%80",
    "-1", "null", "'; DROP TABLE files; --", "{}", "%", "%zz", ";", "*", "~", "\\", "a%0d%0ab", "%20",
)  # fmt: skip
QUERIES = (
    "limit=1", "limit=0", "limit=-1", "limit=99999999999999999999", "limit=x", "limit=", "limit=1&limit=2", "after=%00",
    "after=file-none", "order=up", "order=asc", "metadata[a]=b", "metadata=null", "metadata[]=b", "metadata[a",
    "purpose=%ff",
    "api-version=1", "unknown=1", "&&&", "=", "%", "a=%zz", "limit=1e3", "after=" + "x" * 3000, "project_id=x",
    "order=descending",
)  # fmt: skip
VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**70), 1e308, -0.0, 0.5, "", "x", "x" * 100_000,
    "\0", "\ud800", "😀",
    "\u202e", "auto", "../../etc/passwd", [], [[]], [None], [1, "a"], {}, {"a": {}}, {"": ""}, {"type": "x"}, [{}] * 50,
    float("nan"), float("inf"), "2**70", {"$ref": "#"}, "<|im_end|>", "<|endoftext|>", [0, 1, 2], [[0, 1]],
    "\n", {"role": "user"},
)  # fmt: skip
TYPES = (
    "application/json",
    "text/plain",
    "",
    "application/json; charset=utf-16",
    "multipart/form-data; boundary=b",
    "a/b/c",
    "\x7f",
)
TARGETS = ("/v1", "", "/openai/v1", "/openai", "/openai/deployments/tiny")
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "get", "X" * 50)
KEYS = ("Bearer", "Bearer x", "Basic eDp5", "", "Bearer \xff", "Bearer " + "k" * 9000)
SILENCE_SECONDS = 0.3
LEAKS = (b"Traceback", b'File "/', b"site-packages", b"sqlalchemy", b"0x7f")


@dataclass(frozen=True)
class Request:
    """What is sent.

    Attributes:
        raw: All of it.
        is_whole: Whether it is a request that must be answered.
    """

    raw: bytes
    is_whole: bool


@dataclass
class Report:
    """What came back.

    Attributes:
        statuses: How often each; 0 for none.
        problems: What must not be, with the request.
        slowest_seconds: Of all replies.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0


def write(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A request as bytes; nothing in it is checked."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body


class Draw:
    """Bad requests, the same ones for the same seed.

    Args:
        seed: Of the draw.
        host: As the server knows itself.
        key: That opens it.
    """

    def __init__(self, seed: int, host: str, key: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - nothing is secret here
        self._headers = {"Host": host, "Authorization": f"Bearer {key}", "Connection": "close"}
        self._kinds: Sequence[Callable[[], Request]] = (
            self._wrong_json,
            self._wrong_json,
            self._wrong_json,
            self._wrong_bytes,
            self._wrong_address,
            self._wrong_address,
            self._wrong_headers,
            self._wrong_length,
            self._wrong_chunks,
            self._wrong_form,
            self._wrong_form,
            self._no_http,
        )

    def draw(self) -> Request:
        """The next one."""
        return self._random.choice(self._kinds)()

    def _post(self, path: str, body: bytes, **headers: str) -> Request:
        sent = {**self._headers, "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        return Request(write("POST", f"/v1{path}", sent, body), is_whole=True)

    def _body(self) -> tuple[str, dict]:
        path, body = self._random.choice(BODIES)
        return path, json.loads(json.dumps(body))

    def _wrong_json(self) -> Request:
        path, body = self._body()
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            self._spoil(body)
        return self._post(
            path, json.dumps(body, ensure_ascii=self._random.random() < 0.7).encode("utf-8", "surrogatepass")
        )

    def _spoil(self, body: dict) -> None:
        """One change somewhere in it."""
        place: object = body
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            keys = [key for key in keys if key not in KEPT]
            if not keys or (isinstance(place, dict) and self._random.random() < 0.1):
                if isinstance(place, dict):
                    name = self._random.choice(("unknown", "", "\0", "__proto__", "x" * 300))
                    place[name] = self._value()
                return
            key = self._random.choice(keys)
            inside = place[key]
            if not isinstance(inside, (dict, list)) or not inside or self._random.random() < 0.4:
                break
            place = inside
        if self._random.random() < 0.2:
            del place[key]
        else:
            place[key] = self._value()

    def _value(self) -> object:
        # Of its own: the next change may be inside it.
        return copy.deepcopy(self._random.choice(VALUES))

    def _wrong_bytes(self) -> Request:
        path, body = self._body()
        raw = bytearray(json.dumps(body).encode())
        kind = self._random.randrange(5)
        if kind == 0:
            raw = raw[: self._random.randrange(len(raw))]
        elif kind == 1:
            for _ in range(self._random.randrange(1, 6)):
                raw[self._random.randrange(len(raw))] = self._random.randrange(256)
        elif kind == 2:
            raw = bytearray(self._random.randbytes(self._random.randrange(200)))
        elif kind == 3:
            depth = self._random.choice((50, 99, 101, 1000, 100_000))
            raw = bytearray(b'{"messages":' + b"[" * depth + b"]" * depth + b"}")
        else:
            raw = bytearray(b"\xef\xbb\xbf") + raw
        return self._post(path, bytes(raw))

    def _wrong_address(self) -> Request:
        path = self._random.choice(PATHS)
        while "{}" in path:
            path = path.replace("{}", self._random.choice(NAMES), 1)
        query = "?" + "&".join(self._random.sample(QUERIES, 2)) if self._random.random() < 0.6 else ""
        method = self._random.choice(METHODS[:3] if self._random.random() < 0.8 else METHODS)
        target = (self._random.choice(TARGETS[:1] * 4 + TARGETS) + path + query).replace(" ", "%20")
        return Request(write(method, target, self._headers, b""), is_whole=True)

    def _wrong_headers(self) -> Request:
        path, body = self._body()
        raw = json.dumps(body).encode()
        changes = (
            {"Content-Type": self._random.choice(TYPES)},
            {
                "Authorization": self._random.choice(
                    ("Bearer", "Bearer x", "Basic eDp5", "", "Bearer \xff", "Bearer " + "k" * 9000)
                )
            },
            {"OpenAI-Project": "proj_none"},
            {"OpenAI-Organization": "\xe9"},
            {"Idempotency-Key": self._random.choice(("", "x" * 300, "\xff", "k"))},
            {"Expect": "100-continue"},
            {"X-Long": "x" * 70_000},
            {"Host": self._random.choice(("", "evil.example", "a b"))},
            {"Content-Encoding": "gzip"},
            {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"},
        )
        return Request(self._post(path, raw, **self._random.choice(changes)).raw, is_whole=False)

    def _wrong_length(self) -> Request:
        path, body = self._body()
        raw = json.dumps(body).encode()
        length = self._random.choice(
            (str(len(raw) + 10), str(len(raw) - 10), "-1", "x", "9" * 30, "0", "1e3", "+5", "")
        )
        return Request(self._post(path, raw, **{"Content-Length": length}).raw, is_whole=False)

    def _wrong_chunks(self) -> Request:
        path, body = self._body()
        raw = json.dumps(body).encode()
        size = self._random.choice((f"{len(raw):x}", "ffffffffffffffffff", "-1", "zz", "0", f"{len(raw) + 7:x}", ""))
        chunk = size.encode() + b"\r\n" + raw + self._random.choice((b"\r\n0\r\n\r\n", b"\r\n", b"", b"\n0\n\n"))
        headers = {**self._headers, "Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        if self._random.random() < 0.3:
            headers["Content-Length"] = str(len(chunk))
        return Request(write("POST", f"/v1{path}", headers, chunk), is_whole=False)

    def _wrong_form(self) -> Request:
        names = self._random.choices(("file", "purpose", "data", "expires_after[seconds]", "x", "\xff", "file\0"), k=3)
        values = self._random.choices(("fine-tune", "", "created_at", "9" * 50, "\xff\xfe", "x" * 70_000, "\0"), k=3)
        parts = "".join(self._part(name, value) for name, value in zip(names, values, strict=True))
        raw = parts.encode("latin-1") + self._random.choice((b"--b--\r\n", b"--b--", b"", b"--b", b"--c--\r\n"))
        if self._random.random() < 0.3:
            raw = raw[: self._random.randrange(len(raw))]
        kind = self._random.choice(
            ("multipart/form-data; boundary=b",) * 4 + ("multipart/form-data", "multipart/mixed; boundary=b")
        )
        path = self._random.choice(("/files", "/uploads/upload_none/parts", "/chat/completions"))
        return self._post(path, raw, **{"Content-Type": kind})

    def _part(self, name: str, value: str) -> str:
        filename = self._random.choice(("", '; filename="a'))
        header = self._random.choice(("", "X: y\r\n"))
        return f'--b\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n{header}\r\n{value}\r\n'

    def _no_http(self) -> Request:
        good = write("GET", "/v1/models", self._headers, b"")
        drawn = (
            b"",
            b"\0",
            b"\r\n\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /v1/models HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
            self._random.randbytes(self._random.randrange(1, 300)),
            good[: self._random.randrange(1, len(good))],
            good * 3,
            good.replace(b"\r\n", b"\n"),
            b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"GET /v1/models\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        return Request(self._random.choice(drawn), is_whole=False)


def exchange(address: tuple[str, int], request: Request, seconds: float) -> bytes:
    """Send a request and read until the server closes; one that is not whole is given up after a moment of silence.

    Raises:
        TimeoutError: If a whole one is not answered and closed.
    """
    end = time.monotonic() + seconds
    reply = bytearray()
    with socket.create_connection(address, timeout=seconds) as connection:
        with suppress(OSError):
            # It may answer, and close, before it has read all.
            connection.sendall(request.raw)
        is_open = True
        while True:
            patience = SILENCE_SECONDS if is_open and not request.is_whole else end - time.monotonic()
            connection.settimeout(max(patience, 0.001))
            try:
                piece = connection.recv(1 << 16)
            except TimeoutError:
                if request.is_whole or not is_open:
                    raise
                is_open = False
                # To an HTTP server of one request a connection, this is a client that left.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                continue
            except ConnectionError:
                return bytes(reply)
            if not piece:
                return bytes(reply)
            reply += piece


def judge(request: Request, reply: bytes) -> tuple[int, list[str]]:
    """The status of a reply, 0 for none, and what is wrong with it."""
    if not reply:
        return 0, ["a whole request got no reply"] if request.is_whole else []
    while reply.startswith(b"HTTP/1.1 100"):
        reply = reply.partition(b"\r\n\r\n")[2]
    head, _, body = reply.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return 0, ["the reply has no status"]
    status = int(words[1])
    problems = [f"status {status}"] if status >= 500 else []
    problems += [f"it tells {leak!r}" for leak in LEAKS if leak in reply]
    if 400 <= status < 500 and body and b"\r\ntransfer-encoding" not in head.lower():
        try:
            error = json.loads(body)["error"]
            if set(error) != {"message", "type", "param", "code"}:
                problems.append("the error is not whole")
        except (ValueError, KeyError, TypeError):
            if not request.raw.startswith(b"HEAD") and b"HTTP/1.1 " not in body:
                problems.append("the error has no envelope")
    return status, problems


def fuzz(url: str, key: str, *, count: int, seed: int, threads: int = 4, seconds: float = 30) -> Report:
    """Send many bad requests.

    Args:
        url: Of the server, without /v1.
        key: That opens it.
        count: How many.
        seed: Of the draw.
        threads: How many at once.
        seconds: By when each must be answered.
    """
    parts = urlsplit(url)
    address = (parts.hostname, parts.port)
    draw = Draw(seed, parts.netloc, key)
    requests = [draw.draw() for _ in range(count)]
    report = Report()

    def send(request: Request) -> None:
        began = time.monotonic()
        try:
            status, problems = judge(request, exchange(address, request, seconds))
        except TimeoutError:
            status, problems = 0, [f"no end within {seconds} s"]
        report.slowest_seconds = max(report.slowest_seconds, time.monotonic() - began)
        report.statuses[status] += 1
        report.problems += [f"{problem}: {request.raw[:1500]!r}" for problem in problems]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(send, requests))
    return report
