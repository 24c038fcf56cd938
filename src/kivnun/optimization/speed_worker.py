"""The process in which one ONNX folder is measured; `kivnun.optimization.measure` runs this file by its path.

Its argument is the number of the process that waits for it. It reads a request as JSON on standard input and writes the
figures as JSON on standard output. Nothing is loaded here but the runtime and the model, so that the peak of this
process's memory is what a server of the model needs.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.optimization.measure import decode_tokens_per_second, first_token_ms
from kivnun.runs.peak_memory import peak_memory_bytes


def main() -> None:
    """Load, answer, measure."""
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    request = json.loads(sys.stdin.read())

    started = time.perf_counter()
    engine = OnnxEngine(Path(request["folder"]), num_threads=request["num_threads"])
    loaded = time.perf_counter() - started
    prompts = request["prompts"]
    figures = {
        "load_seconds": loaded,
        "first_token_ms": first_token_ms(engine, prompts),
        "tokens_per_second": decode_tokens_per_second(engine, prompts, num_tokens=request["num_tokens"]),
        "memory_bytes": peak_memory_bytes(),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def _end_with(parent: int) -> None:
    """Leave when the parent dies, even by kill -9: a large model would be measured for minutes, for nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
