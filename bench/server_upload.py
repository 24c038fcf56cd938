"""Sends a large file to a real server, at once and in parts, while the server's memory is watched.

    python bench/server.py upload [--mib 2048] [--part-mib 64] [--side-by-side 4] [--quick] [--json]

The file is read from a pipe of random bytes, so that this program does not hold it either. Both ways go through
OpenAI's own library where it can stream (parts), and through HTTP as that library writes it where it cannot (whole
files: it reads them into memory). What comes back is compared by its SHA-256. Memory is the resident set of the server
process, sampled twenty times a second; what counts is how far it grows above where it was before.
"""

import argparse
import hashlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "server"))

import httpx
import numpy as np
import psutil
from openai import OpenAI
from running import RunningServer, run_server, write_chat_model

MIB = 1 << 20
QUICK_MIB = 128
SAMPLE_SECONDS = 0.05
# Above where it was before the upload; buffers of sockets and threads need a little.
ALLOWED_GROWTH_MIB = 64
BOUNDARY = "kivnun-bench-boundary"
TIMEOUT = httpx.Timeout(600)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--mib", type=int, default=None, help=f"of the file (default: 2,048; {QUICK_MIB} if quick)")
    parser.add_argument("--part-mib", type=int, default=None, help="size of a part (default: 64; 16 if quick)")
    parser.add_argument("--side-by-side", type=int, default=4, help="parts sent at once (default: 4)")


class Memory:
    """The most that a process had while it was watched."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self.peak = self._process.memory_info().rss

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch it while a block runs."""
        self.before = self.peak = self._process.memory_info().rss
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                self.peak = max(self.peak, self._process.memory_info().rss)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def growth_mib(self) -> float:
        """How far it grew."""
        return round((self.peak - self.before) / MIB, 1)


def block(number: int) -> bytes:
    """A mebibyte that nothing can shorten, the same one for the same number."""
    return np.random.default_rng(number).bytes(MIB)


def hash_blocks(mib: int) -> str:
    digest = hashlib.sha256()
    for number in range(mib):
        digest.update(block(number))
    return digest.hexdigest()


def send_whole(server: RunningServer, mib: int) -> str:
    """`files.create`, as the library writes it, from a generator."""
    opening = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="large.bin"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    closing = f"\r\n--{BOUNDARY}--\r\n".encode()

    def body() -> Iterator[bytes]:
        yield opening
        for number in range(mib):
            yield block(number)
        yield closing

    headers = {
        **server.headers,
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": str(len(opening) + mib * MIB + len(closing)),
    }
    reply = httpx.post(f"{server.base_url}/files", headers=headers, content=body(), timeout=TIMEOUT)
    reply.raise_for_status()
    return reply.json()["id"]


def send_parts(server: RunningServer, options: argparse.Namespace) -> str:
    """`uploads`: parts side by side, the last ones first."""
    size = options.part_mib
    starts = list(range(0, options.mib, size))
    with OpenAI(base_url=server.base_url, api_key=server.key, timeout=600, max_retries=0) as client:
        upload = client.uploads.create(
            filename="large.bin", purpose="fine-tune", bytes=options.mib * MIB, mime_type="application/octet-stream"
        )

        def send(start: int) -> str:
            data = b"".join(block(number) for number in range(start, min(start + size, options.mib)))
            return client.uploads.parts.create(upload.id, data=data).id

        with ThreadPoolExecutor(options.side_by_side) as threads:
            part_ids = list(threads.map(send, reversed(starts)))
        done = client.uploads.complete(upload.id, part_ids=part_ids[::-1])
    if done.file is None:
        raise RuntimeError("the upload became no file")
    return done.file.id


def hash_content(server: RunningServer, file_id: str) -> str:
    digest = hashlib.sha256()
    address = f"{server.base_url}/files/{file_id}/content"
    with httpx.stream("GET", address, headers=server.headers, timeout=TIMEOUT) as reply:
        reply.raise_for_status()
        for chunk in reply.iter_raw():
            digest.update(chunk)
    return digest.hexdigest()


def run(options: argparse.Namespace) -> dict[str, object]:
    """Both ways, one after the other."""
    options.mib = options.mib or (QUICK_MIB if options.quick else 2048)
    options.part_mib = options.part_mib or (16 if options.quick else 64)
    result: dict[str, object] = {"mib": options.mib, "part_mib": options.part_mib, "side_by_side": options.side_by_side}
    expected = hash_blocks(options.mib)
    passed = True
    with tempfile.TemporaryDirectory() as folder:
        model = write_chat_model(Path(folder) / "tiny")
        with run_server(Path(folder) / "data", model, "--workers", "0") as server:
            # That memory is no upload's.
            server.wait_for_libraries()
            memory = Memory(server.process.pid)
            for name in ("whole", "parts"):
                began = time.perf_counter()
                with memory.watched():
                    file_id = send_whole(server, options.mib) if name == "whole" else send_parts(server, options)
                seconds, growth = time.perf_counter() - began, memory.growth_mib()
                with memory.watched():
                    same = hash_content(server, file_id) == expected
                httpx.delete(f"{server.base_url}/files/{file_id}", headers=server.headers).raise_for_status()
                passed = passed and same and max(growth, memory.growth_mib()) <= ALLOWED_GROWTH_MIB
                result[name] = {
                    "seconds": round(seconds, 1),
                    "mib_per_second": round(options.mib / seconds, 1),
                    "rss_before_mib": round(memory.before / MIB),
                    "growth_while_sending_mib": growth,
                    "growth_while_reading_mib": memory.growth_mib(),
                    "same_bytes": same,
                }
    return result | {"passed": passed}
