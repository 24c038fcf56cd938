"""What a torch model computes: held back, written down, and what it says to one prompt alone."""

import threading

from heard import SECONDS
from tiny_llama import END

from kivnun.generation.torch_engine import TorchEngine
from kivnun.generation.torch_rows import TorchRows


class Gate:
    """Holds every forward pass of a model while it is shut, and writes down the shapes of their inputs."""

    def __init__(self, rows: TorchRows) -> None:
        self.shapes: list[tuple[int, int]] = []
        self._open = threading.Event()
        self._open.set()
        rows._model.register_forward_pre_hook(self._before, with_kwargs=True)

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def _before(self, _model, _args, inputs) -> None:
        self.shapes.append(tuple(inputs["input_ids"].shape))
        assert self._open.wait(SECONDS)


def answer_alone(rows: TorchRows, prompt, num_tokens: int, adapter: str | None = None) -> tuple[int, ...]:
    engine = TorchEngine(rows._model, pad_id=END, adapters=rows._adapters)
    [answer] = engine.generate([prompt], max_new_tokens=num_tokens, stop_ids=frozenset(), adapters=[adapter])
    return answer.token_ids
