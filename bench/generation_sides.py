"""One engine in a process of its own, asked in turns: `python generation_sides.py rows|genai|openvino PATH`.

A task is a line of JSON on standard input, its report a line on standard output:
{"prompts": [[token, ...], ...], "new_tokens": 64} -> {"seconds", "first", "tokens"}
One prompt is answered alone, several side by side, greedily, to the last token that is asked for. `first` is when the
first token of a single answer was there. OpenVINO's has a virtual environment of its own: nothing of Kivnun is imported
for it.
"""

import json
import sys
import time
from typing import Any

import numpy as np


class Rows:
    """The engine that the server uses, in a bare loop."""

    def __init__(self, path: str) -> None:
        from pathlib import Path

        from kivnun.generation.onnx_rows import OnnxRows

        self.model = OnnxRows(Path(path))

    def answer(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Answer, and tell when the first token was there."""
        started = time.perf_counter()
        rows = [self.model.begin() for _ in prompts]
        tokens = [int(self.model.feed(row, prompt).argmax()) for row, prompt in zip(rows, prompts, strict=True)]
        first = time.perf_counter() - started
        for _ in range(new_tokens - 1):
            tokens = self.model.step(rows, tokens).argmax(1).tolist()
        for row in rows:
            self.model.end(row)
        return first


class Genai:
    """onnxruntime-genai, as its own examples use it."""

    def __init__(self, path: str) -> None:
        import onnxruntime_genai as og

        self.og, self.model = og, og.Model(path)

    def answer(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Answer, and tell when the first token was there."""
        started = time.perf_counter()
        length = len(prompts[0]) + new_tokens
        parameters = self.og.GeneratorParams(self.model)
        sizes = {"max_length": length, "min_length": length, "do_sample": False, "batch_size": len(prompts)}
        parameters.set_search_options(**sizes)
        steps = self.og.Generator(self.model, parameters)
        steps.append_tokens(np.array(prompts, np.int32))
        steps.generate_next_token()
        first = time.perf_counter() - started
        for _ in range(new_tokens - 1):
            steps.generate_next_token()
        return first


class OpenVino:
    """OpenVINO GenAI's own pipeline, with its prefix cache, over a GGUF file."""

    def __init__(self, path: str) -> None:
        import openvino as ov
        import openvino_genai

        self.ov = ov
        self.genai = openvino_genai
        self.pipeline = openvino_genai.LLMPipeline(path, "CPU")

    def answer(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Answer, and tell when the first token was there."""
        config = self.genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = new_tokens
        config.ignore_eos, config.do_sample = True, False
        ids = np.array(prompts, np.int64)
        given = self.genai.TokenizedInputs(self.ov.Tensor(ids), self.ov.Tensor(np.ones_like(ids)))
        answered: Any = self.pipeline.generate(given, config)
        return answered.perf_metrics.get_ttft().mean / 1000


def main() -> None:
    side = {"rows": Rows, "genai": Genai, "openvino": OpenVino}[sys.argv[1]](sys.argv[2])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        started = time.perf_counter()
        first = side.answer(task["prompts"], task["new_tokens"])
        seconds = time.perf_counter() - started
        tokens = len(task["prompts"]) * task["new_tokens"]
        print(json.dumps({"seconds": seconds, "first": first, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main()
