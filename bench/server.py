"""The server's promises, measured against a real server process; one part at a time, or all.

    python bench/server.py streams [--quick] [--beside]   64 clients at once, overhead, repeated prompts, other engines
    python bench/server.py kills [--quick]                kill -9 at random moments: nothing lost, the same weights
    python bench/server.py upload [--quick]               a large upload in constant memory
    python bench/server.py listing [--quick]              pages of a database with many jobs and events
    python bench/server.py fuzz [--quick]                 requests that make no sense: never a 500, never a hang
    python bench/server.py all [--quick]                  these, one after the other

Each part is a module `server_NAME.py` with `run(options) -> dict`, and `add_options(parser)` where it has options of
its own. The last line with --json is one JSON object; the status is 1 where a part says `"passed": false`.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
PARTS = ("streams", "kills", "upload", "listing", "fuzz")
# They print a table while they measure.
SAYS_ITSELF = ("streams", "listing")


def main() -> int:
    sys.path.insert(0, str(BENCH))
    parser = argparse.ArgumentParser(description="The server's promises, measured.")
    chosen = parser.add_subparsers(dest="part", required=True)
    for name in (*PARTS, "all"):
        options_of(name, chosen.add_parser(name))
    options = parser.parse_args()
    parts = PARTS if options.part == "all" else (options.part,)
    results: dict[str, Any] = {}
    for part in parts:
        print(f"== {part}", flush=True)
        results[part] = importlib.import_module(f"server_{part}").run(options)
        if part not in SAYS_ITSELF:
            for name, value in results[part].items():
                print(f"{name:24} {value}", flush=True)
    if options.json:
        print(json.dumps(results))
    return 1 if any(result.get("passed") is False for result in results.values()) else 0


def options_of(name: str, parser: argparse.ArgumentParser) -> None:
    """The options that all parts have, and those of the parts that a command runs."""
    parser.add_argument("--quick", action="store_true", help="a short trial: small shapes, few repetitions")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    parser.add_argument("--json", action="store_true", help="the last line of the output is a JSON object")
    for part in PARTS if name == "all" else (name,):
        if (BENCH / f"server_{part}.py").is_file():
            add = getattr(importlib.import_module(f"server_{part}"), "add_options", None)
            if add is not None:
                add(parser)


if __name__ == "__main__":
    sys.exit(main())
