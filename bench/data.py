"""How fast data is checked, and in how much memory: `python bench/data.py` (about 20 minutes), `--quick` (about 2).

Prints rows a second of the structure checks over 300-byte chat rows, tokens a second of the tokenised checks, the time
and memory of the search for near duplicates, and the peak memory of checking a 2 GB file. Every figure is that of the
installed command in a process of its own: start, detection, checks and report together.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

KIVNUN = Path(sys.executable).with_name("kivnun")
SAMPLE_SECONDS = 0.1
ROW_BYTES = 300
ENGLISH = "the of and to in was that his with for had she not but they have which one were all there been when what"
HEBREW = "של את על לא הוא היא זה כל אני גם כי אם יותר רק היה אחד שלום בית ילד מים יום לילה דרך עיר"
SYSTEM = "You answer in one short sentence."


@dataclass(frozen=True)
class Measured:
    """One run of a command.

    Attributes:
        seconds: Wall time.
        peak_mib: Most memory of the process and its children together (proportional set size).
        report: What it printed.
    """

    seconds: float
    peak_mib: float
    report: dict


@dataclass(frozen=True)
class Sizes:
    """How many rows each part reads."""

    structure_rows: int
    token_rows: int
    near_rows: int
    large_bytes: int


FULL = Sizes(2_000_000, 300_000, 1_000_000, 2_000_000_000)
QUICK = Sizes(200_000, 20_000, 50_000, 100_000_000)


def write_rows(path: Path, *, num_rows: int | None = None, num_bytes: int | None = None) -> int:
    """Chat rows of about 300 bytes, one in four in Hebrew, no two alike; returns how many."""
    draws = random.Random(7)  # noqa: S311 - not for secrets
    written = rows = 0
    with path.open("wb") as file:
        for line in make_lines(draws):
            if (num_rows is not None and rows >= num_rows) or (num_bytes is not None and written >= num_bytes):
                return rows
            written += file.write(line)
            rows += 1
    return rows


def make_lines(draws: random.Random) -> Iterator[bytes]:
    languages = [ENGLISH.split()] * 3 + [HEBREW.split()]
    number = 0
    while True:
        words = languages[number % 4]
        number += 1
        text = " ".join(draws.choices(words, k=24 if number % 4 else 14))
        answer = " ".join(draws.choices(words, k=8 if number % 4 else 5))
        turns = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{text} {number}?"},
            {"role": "assistant", "content": f"{answer}."},
        ]
        yield json.dumps({"messages": turns}, ensure_ascii=False).encode() + b"\n"


def tree_mib(pid: int) -> float:
    """Proportional set size of a process and its descendants, so that shared pages count once."""
    total = 0
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        try:
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text("ascii")
            children = Path(f"/proc/{each}/task/{each}/children").read_text("ascii")
        except OSError:
            continue  # it ended in between
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        waiting += map(int, children.split())
    return total / 1024


def measure(*arguments: str) -> Measured:
    """Run `kivnun` and watch its memory."""
    peak = 0.0
    started = time.perf_counter()
    with subprocess.Popen([KIVNUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(SAMPLE_SECONDS):
                peak = max(peak, tree_mib(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, errors = process.communicate()
        seconds = time.perf_counter() - started
        ended.set()
        watcher.join()
    if process.returncode == 1 or not out:
        raise SystemExit(errors)
    return Measured(seconds, peak, json.loads(out))


def summarise(found: Measured, rows: int) -> dict:
    """What every part tells."""
    return {
        "rows": rows,
        "seconds": round(found.seconds, 1),
        "rows_per_second": round(rows / found.seconds),
        "peak_mib": round(found.peak_mib),
    }


def bench_structure(folder: Path, sizes: Sizes) -> dict:
    path = folder / "structure.jsonl"
    rows = write_rows(path, num_rows=sizes.structure_rows)
    found = measure("check", str(path), "--near", "off", "--json")
    return {**summarise(found, rows), "bytes_per_row": round(path.stat().st_size / rows)}


def bench_tokens(folder: Path, sizes: Sizes) -> dict:
    path = folder / "tokens.jsonl"
    rows = write_rows(path, num_rows=sizes.token_rows)
    plain = measure("check", str(path), "--near", "off", "--json")
    found = measure("check", str(path), "--near", "off", "--model", "bundled", "--json")
    tokens = find_tokens(found.report)
    return {
        **summarise(found, rows),
        "tokens": tokens,
        "seconds_without_a_model": round(plain.seconds, 1),
        "tokens_per_second": round(tokens / found.seconds),
    }


def find_tokens(report: dict) -> int:
    """Tokens of all rows, as the report of `kivnun check --model` counts them."""
    return int(report["statistics"]["train"]["tokens"]["row_tokens"]["total"])


def bench_near(folder: Path, sizes: Sizes) -> dict:
    path = folder / "near.jsonl"
    rows = write_rows(path, num_rows=sizes.near_rows)
    return summarise(measure("check", str(path), "--near", "on", "--json"), rows)


def bench_large(folder: Path, sizes: Sizes) -> dict:
    path = folder / "large.jsonl"
    rows = write_rows(path, num_bytes=sizes.large_bytes)
    found = measure("check", str(path), "--near", "off", "--json")
    return {**summarise(found, rows), "gigabytes": round(path.stat().st_size / 1e9, 2)}


PARTS = {"structure": bench_structure, "tokens": bench_tokens, "near_duplicates": bench_near, "large_file": bench_large}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    sizes = QUICK if chosen.quick else FULL
    results: dict[str, object] = {"cores": os.cpu_count(), "sizes": asdict(sizes)}
    for name, bench in PARTS.items():
        if chosen.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                results[name] = bench(Path(folder), sizes)
            if not chosen.json:
                print(name, results[name], flush=True)
    if chosen.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
