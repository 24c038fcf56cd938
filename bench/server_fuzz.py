"""Sends ten thousand bad requests to a real server: none may be answered with a 5xx, a traceback, or silence.

    python bench/server.py fuzz [--count 10000] [--seed 1] [--threads 4] [--quick] [--json]

Requests are drawn by `tests/server/bad_requests.py` and sent as bytes over sockets: wrong JSON, wrong bytes, wrong
addresses, headers, lengths, chunks and forms, and what is no HTTP. The server is `kivnun serve` on a tiny model, with
keys and without worker processes. What it keeps in memory is looked at before and after.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "server"))

import httpx
import psutil
from bad_requests import fuzz
from running import run_server, write_chat_model

COUNT, QUICK_COUNT = 10_000, 500
# Each request must end within this time; a long answer of the model is one that ends.
SECONDS = 60.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--count", type=int, default=None, help=f"requests (default: 10,000; {QUICK_COUNT} if quick)")
    parser.add_argument("--threads", type=int, default=4, help="that send them (default: 4)")


def run(options: argparse.Namespace) -> dict[str, object]:
    """Send them, and say what came back."""
    count = options.count or (QUICK_COUNT if options.quick else COUNT)
    with tempfile.TemporaryDirectory() as folder:
        model = write_chat_model(Path(folder) / "tiny")
        with run_server(Path(folder) / "data", model, "--workers", "0") as server:
            body = {"model": server.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
            asked = httpx.post(f"{server.base_url}/chat/completions", headers=server.headers, json=body, timeout=60)
            asked.raise_for_status()
            process = psutil.Process(server.process.pid)
            before, began = process.memory_info().rss, time.perf_counter()
            report = fuzz(
                server.root_url,
                server.key,
                count=count,
                seed=options.seed,
                threads=options.threads,
                seconds=SECONDS,
            )
            seconds = time.perf_counter() - began
            health = httpx.get(f"{server.root_url}/health").json()["status"]
            failures = server.log_file.read_text("utf-8").count("failed with")
            after = process.memory_info().rss
    return {
        "requests": count,
        "seed": options.seed,
        "seconds": round(seconds, 1),
        "statuses": {str(status): count for status, count in sorted(report.statuses.items())},
        "no_reply": report.statuses[0],
        "slowest_seconds": round(report.slowest_seconds, 2),
        "server_errors": sum(count for status, count in report.statuses.items() if status >= 500),
        "failures_in_the_log": failures,
        "health_after": health,
        "rss_mib_before": round(before / 2**20),
        "rss_mib_after": round(after / 2**20),
        "problems": report.problems[:20],
        "passed": not report.problems and not failures and health == "ok",
    }
