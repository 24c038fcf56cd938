"""The process that builds one ONNX folder; `kivnun.optimization.onnx` runs this file by its path and never imports it.

It imports nothing of Kivnun, so that it starts without the package being installed. Arguments: model folder, folder to
write, cache folder, precision, then the builder's `key=value` options.
"""

# onnxruntime-genai's names come from a compiled module without type stubs.
# pyright: reportAttributeAccessIssue=false

import os
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from onnxruntime_genai.models import builder


def _end_with_parent() -> None:
    """Leave when the parent dies, even by kill -9: its end of the pipe to our standard input then closes."""
    # The bare descriptor: a thread that waits in a buffered reader breaks the interpreter's own exit.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _build(model_folder: str, out_folder: str, cache_folder: str, precision: str, options: list[str]) -> None:
    target = (None, model_folder, out_folder, precision, "cpu", cache_folder)
    builder.create_model(*target, **builder.parse_extra_options(*target, options))


def _check(out_folder: str) -> None:
    """Run one token: the builder also ends well on graphs that do not load and on weights that are NaN."""
    og.disable_telemetry_events()
    model = og.Model(out_folder)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=2)
    steps = og.Generator(model, parameters)
    steps.append_tokens(np.array([0], dtype=np.int32))
    if not np.isfinite(steps.get_logits()).all():
        raise ValueError("the exported model's logits are NaN or infinite")


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    model_argument, out_argument, cache_argument, precision_argument, *option_arguments = sys.argv[1:]
    _build(model_argument, out_argument, cache_argument, precision_argument, option_arguments)
    _check(str(Path(out_argument)))
