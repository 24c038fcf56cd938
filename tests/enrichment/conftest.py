"""A real HTTP server that answers like an OpenAI endpoint, with answers that a test lays down."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from endpoint_state import Endpoint


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.requests.append(request)
            state.keys.append(self.headers["authorization"])
            if state.fail_after is not None and len(state.requests) > state.fail_after:
                status, answer = 401, {"error": {"message": f"bad key {self.headers['authorization']}", "code": "x"}}
            else:
                message = {"role": "assistant", "content": state.reply(request)}
                status = 200
                answer = {
                    "id": "chatcmpl-1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": request["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                }
            body = json.dumps(answer).encode() if state.raw is None else state.raw
            time.sleep(state.seconds)
            self.send_response(status)
            self.send_header("content-type", "text/html" if state.raw is not None else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
