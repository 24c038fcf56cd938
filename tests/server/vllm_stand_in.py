"""A stand-in for vLLM, which needs a GPU: the same command, flags, environment and protocol, and answers of its own.

It answers with what it was asked, so that a test sees what arrived. What happens is written as lines of JSON to
the file that VLLM_STAND_IN_LOG names.
"""

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY = os.environ.get("VLLM_API_KEY", "")
STREAM_PAUSE_SECONDS = 0.02


def tell(**facts: object) -> None:
    with Path(os.environ["VLLM_STAND_IN_LOG"]).open("a") as file:
        file.write(json.dumps(facts) + "\n")


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        starting = time.monotonic() < self.server.ready_at
        self.reply(503 if starting or self.path != "/health" else 200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {KEY}":
            self.reply(401, {"error": "Unauthorized"})
        elif self.path == "/v1/load_lora_adapter":
            self.load(body)
        elif body["model"] not in self.server.names:
            self.fail(404, f"The model `{body['model']}` does not exist.")
        elif body.get("seed") == 500:
            self.fail(500, "secret of the engine")
        elif body.get("seed") == 0:
            self.server.shutdown()
        elif body.get("seed") == 7:
            # An answer that takes long: who waits for it may leave.
            self.rfile.read(1)
            tell(event="client left")
        elif body.get("stream"):
            self.stream(body)
        else:
            message = {"role": "assistant", "content": json.dumps(body)}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            usage = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
            kind = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
            self.reply(200, {**kind, "choices": choices, "usage": usage, "path": self.path})

    def load(self, body: dict) -> None:
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") != "True":
            self.fail(404, "Not Found")
        elif not (Path(body["lora_path"]) / "adapter_model.safetensors").is_file():
            self.fail(400, "LoRA rank is greater than max_lora_rank")
        elif body["lora_name"] in self.server.names:
            self.fail(400, "already loaded")
        else:
            time.sleep(0.1)
            self.server.names.add(body["lora_name"])
            tell(event="adapter", name=body["lora_name"])
            self.reply(200, {})

    def stream(self, body: dict) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        count = body.get("max_tokens", 3)
        try:
            for number in range(count):
                self.event({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": f"{number} "}}]})
                time.sleep(STREAM_PAUSE_SECONDS)
            self.chunk(b"data: [DONE]\n\n")
            self.chunk(b"")
            tell(event="streamed", count=count)
        except OSError:
            tell(event="client left")

    def event(self, value: dict) -> None:
        self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def fail(self, status: int, message: str) -> None:
        self.reply(status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}})

    def reply(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--enable-lora", action="store_true", required=True)
    for flag in ("--max-num-seqs", "--max-loras", "--max-lora-rank"):
        parser.add_argument(flag, type=int, required=True)
    flags = parser.parse_args()
    # An engine of its own, as vLLM has: it must not outlive the command.
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tell(event="start", pid=os.getpid(), engine=engine.pid, model=flags.model, rank=flags.max_lora_rank, argv=sys.argv)
    if flags.model.endswith("broken"):
        sys.stderr.write("ValueError: this architecture is not supported\n")
        sys.exit(3)
    server = ThreadingHTTPServer((flags.host, flags.port), Answers)
    server.daemon_threads = True
    server.names = {flags.served_model_name}
    server.ready_at = time.monotonic() + 0.2
    server.serve_forever(poll_interval=0.05)


main()
