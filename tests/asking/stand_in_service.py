"""A real HTTP server that answers like OpenAI's and Anthropic's services, and fails as a test wants it to."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Failure:
    """What a request meets instead of an answer; status 0 drops the connection."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Service:
    """The server's address, what it was asked, and what it does."""

    url: str = ""
    requests: list[dict] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    dies_after: int | None = None
    reply: Callable[[dict], str] = lambda _request: "yes"
    refuse: Callable[[dict], Failure | None] = lambda _request: None
    finish: str = "stop"
    tells_usage: bool = True
    seconds: float = 0.0
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_failure(self, request: dict) -> Failure | None:
        with self.lock:
            self.requests.append(request)
            if self.dies_after is not None and len(self.requests) > self.dies_after:
                return Failure(0)
            return self.refuse(request) or (self.failures.pop(0) if self.failures else None)

    @property
    def openai(self) -> str:
        return f"openai:tiny?base_url={self.url}/v1&key_variable=STAND_IN_KEY"

    @property
    def anthropic(self) -> str:
        return f"anthropic:tiny?base_url={self.url}&key_variable=STAND_IN_KEY"


def asked_text(request: dict) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def _openai_answer(service: Service, request: dict) -> dict:
    message = {"role": "assistant", "content": service.reply(request)}
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12, "prompt_tokens_details": {}}
    usage["prompt_tokens_details"] = {"cached_tokens": 4}
    choice = {"index": 0, "message": message, "finish_reason": service.finish}
    answer = {"id": "1", "object": "chat.completion", "created": 1, "model": request["model"], "choices": [choice]}
    return {**answer, "usage": usage} if service.tells_usage else answer


def _anthropic_answer(service: Service, request: dict) -> dict:
    usage = {
        "input_tokens": 6,
        "output_tokens": 2,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 1,
    }
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": [{"type": "text", "text": service.reply(request)}],
        "stop_reason": {"stop": "end_turn", "length": "max_tokens", "refused": "refusal"}[service.finish],
        "stop_sequence": None,
        "usage": usage,
    }


def _openai_stream(service: Service, request: dict) -> Iterator[bytes]:
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": request["model"]}
    for letter in service.reply(request):
        choice = {"index": 0, "delta": {"content": letter}, "finish_reason": None}
        yield b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"
        time.sleep(0.005)
    choice = {"index": 0, "delta": {}, "finish_reason": service.finish}
    yield b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    yield b"data: " + json.dumps({**head, "choices": [], "usage": usage}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def _anthropic_stream(service: Service, request: dict) -> Iterator[bytes]:
    def event(name: str, **fields: object) -> bytes:
        return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()

    whole = _anthropic_answer(service, request)
    yield event("message_start", message={**whole, "content": [], "stop_reason": None})
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for letter in service.reply(request):
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": letter})
        time.sleep(0.005)
    yield event("content_block_stop", index=0)
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=delta, usage={"output_tokens": 2})
    yield event("message_stop")


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            request["_key"] = self.headers.get("authorization") or self.headers.get("x-api-key")
            failure = service.next_failure(request)
            with service.lock:
                service.at_once += 1
                service.most_at_once = max(service.most_at_once, service.at_once)
            try:
                time.sleep(service.seconds if failure is None else failure.seconds)
                self.answer(request, failure)
            finally:
                with service.lock:
                    service.at_once -= 1

        def answer(self, request: dict, failure: Failure | None) -> None:
            is_openai = self.path.endswith("/chat/completions")
            if failure is not None and failure.status == 0:
                self.connection.close()
                return
            if failure is not None:
                self.send(failure.status, json.dumps({"error": failure.error}).encode(), failure.headers)
            elif request.get("stream"):
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                for piece in (_openai_stream if is_openai else _anthropic_stream)(service, request):
                    self.wfile.write(piece)
                    self.wfile.flush()
            else:
                answer = (_openai_answer if is_openai else _anthropic_answer)(service, request)
                self.send(200, json.dumps(answer).encode(), {})

        def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    return Handler


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_arguments: object) -> None:
        """A client that gave up is no news."""


@contextmanager
def serve() -> Iterator[Service]:
    """The server, until the end of the block."""
    service = Service()
    server = _Server(("127.0.0.1", 0), _handler(service))
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
