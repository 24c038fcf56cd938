"""Tokens from an ONNX folder through onnxruntime-genai; tokens are chosen by our own code from its logits.

onnxruntime-genai 0.18 hides from the model every token at a prompt's end that equals the padding token, without a word
and even where there is one prompt and hence no padding. Most models pad with the token that also ends a message, so
such prompts are common; `_start` feeds those tokens one by one, as if they were generated, and they count.

Prompts are answered one at a time: only the first feed of a batch is allowed, so the way above is closed to it, and its
rows end at the model's own end token instead of ours. The gain would be small for int4 on a CPU (measured: 15 %).

A folder may hold adapters too (`adapter_list.py`). They share the loaded model; each request says which one it uses.
"""

# onnxruntime-genai's names come from a compiled module without type stubs.
# pyright: reportAttributeAccessIssue=false

import copy
import json
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.generation.adapter_list import has_adapters, read_list, require_unchanged, unknown_adapter
from kivnun.generation.engine import Generation, answer_room, logits_not_finite, require_prompts_fit
from kivnun.generation.sampling import Sampling, choose_token, start_draws

LOG_FATAL_ONLY = 4


class OnnxEngine:
    """`Engine` over a folder with `genai_config.json` and `model.onnx`.

    Args:
        folder: Made by `kivnun.optimization.onnx.export_onnx` or by onnxruntime-genai's model builder.
        name: Shown in errors and reports.
        num_threads: Cores that one token may use; None lets ONNX Runtime take all.

    Raises:
        UserError: model-invalid, for a folder that does not load.
    """

    def __init__(self, folder: Path, *, name: str = "onnx", num_threads: int | None = None) -> None:
        self.name = name
        self.context_tokens, self._padding_id = _read_facts(folder)
        self._model = _load(folder, num_threads)
        self._adapters = _Adapters(self._model, folder)
        self._adapter: str | None = None

    def with_adapter(self, name: str | None) -> Self:
        """This engine with one of its adapters, or with none; the model is loaded once for all of them.

        Args:
            name: Of the adapter.

        Raises:
            UserError: adapter-unknown; artifact-damaged or model-invalid for a file that cannot be used.
        """
        chosen = copy.copy(self)
        chosen._adapter = None if name is None else self._adapters.load(name)
        return chosen

    def with_adapter_file(self, path: Path) -> Self:
        """This engine with an adapter that its folder does not name, such as one that is still to be checked.

        Args:
            path: An `.onnx_adapter` file.

        Raises:
            UserError: model-invalid.
        """
        chosen = copy.copy(self)
        chosen._adapter = self._adapters.load_file(path, str(path))
        return chosen

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: frozenset[int],
        adapters: Sequence[str | None] | None = None,
    ) -> list[Generation]:
        """Answer every prompt greedily, in the order given.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: At most this many tokens an answer; fewer where the model's context ends.
            stop_ids: Tokens that end an answer.
            adapters: The adapter of each prompt, None for the base model; this engine's own for all if not given.

        Raises:
            UserError: prompt-invalid, logits-not-finite, and what `with_adapter` raises.
        """
        self._require_prompts_fit(prompts)
        chosen = [self] * len(prompts) if adapters is None else [self.with_adapter(name) for name in adapters]
        rooms = [self._room(prompt, max_new_tokens) for prompt in prompts]
        rows = zip(chosen, prompts, rooms, strict=True)
        return [engine._answer(prompt, room, stop_ids) for engine, prompt, room in rows]

    def stream(
        self, prompt_ids: Sequence[int], *, max_new_tokens: int, stop_ids: frozenset[int], sampling: Sampling
    ) -> Iterator[int]:
        """Answer one prompt token by token, without the stop token. Bad prompts are refused before the first token.

        Args:
            prompt_ids: Token ids of the prompt.
            max_new_tokens: At most this many tokens; fewer where the model's context ends.
            stop_ids: Tokens that end the answer.
            sampling: How each token is chosen.

        Raises:
            UserError: prompt-invalid, logits-not-finite.
        """
        self._require_prompts_fit([prompt_ids])
        return self._stream(prompt_ids, self._room(prompt_ids, max_new_tokens), stop_ids, sampling)

    def forced_logits(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """What the model would choose from at each step of a given answer: A + 1 times the logits, shape (V,).

        Args:
            prompt_ids: Token ids of the prompt.
            answer_ids: The A tokens of the answer, whatever the model itself would choose.

        Raises:
            UserError: prompt-invalid, logits-not-finite.
        """
        self._require_prompts_fit([[*prompt_ids, *answer_ids]])
        steps = self._start(prompt_ids, len(answer_ids) + 1)
        yield self._logits(steps)
        for token in answer_ids:
            steps.append_tokens(np.array([token], dtype=np.int32))
            yield self._logits(steps)

    def _stream(
        self, prompt_ids: Sequence[int], room: int, stop_ids: frozenset[int], sampling: Sampling
    ) -> Iterator[int]:
        draws = start_draws(sampling)
        steps = self._start(prompt_ids, room)
        for number in range(room):
            token = choose_token(self._logits(steps), sampling, draws)
            if token in stop_ids:
                return
            yield token
            if number + 1 < room:
                steps.append_tokens(np.array([token], dtype=np.int32))

    def _answer(self, prompt_ids: Sequence[int], room: int, stop_ids: frozenset[int]) -> Generation:
        token_ids: list[int] = []
        margins: list[float] = []
        steps = self._start(prompt_ids, room)
        while True:
            logits_V = self._logits(steps)
            token = int(logits_V.argmax())
            margins.append(top_two_margin(logits_V, token))
            if token in stop_ids:
                return Generation(tuple(token_ids), "stop", tuple(margins))
            token_ids.append(token)
            if len(token_ids) == room:
                return Generation(tuple(token_ids), "length", tuple(margins))
            steps.append_tokens(np.array([token], dtype=np.int32))

    def _start(self, prompt_ids: Sequence[int], room: int) -> og.Generator:
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=len(prompt_ids) + room)
        steps = og.Generator(self._model, parameters)
        if self._adapter is not None:
            steps.set_active_adapter(self._adapters.loaded, self._adapter)
        end = len(prompt_ids)
        while end > 1 and prompt_ids[end - 1] == self._padding_id:
            end -= 1
        steps.append_tokens(np.array(prompt_ids[:end], dtype=np.int32))
        for token in prompt_ids[end:]:
            steps.append_tokens(np.array([token], dtype=np.int32))
        return steps

    def _logits(self, steps: og.Generator) -> NDArray[np.float32]:
        """Logits after the last token, one per token of the vocabulary."""
        logits_V = steps.get_logits()[0, -1]
        # The extremes are NaN or infinite where any logit is, and no array is made for them.
        if not (math.isfinite(logits_V.max()) and math.isfinite(logits_V.min())):
            raise logits_not_finite(self.name)
        return logits_V

    def _room(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        return answer_room(len(prompt), max_new_tokens=max_new_tokens, context_tokens=self.context_tokens)

    def _require_prompts_fit(self, prompts: Sequence[Sequence[int]]) -> None:
        require_prompts_fit(prompts, context_tokens=self.context_tokens, engine=self.name)


def top_two_margin(logits_V: NDArray[np.float32], best: int) -> float:
    """Best minus second-best logit, from two passes without a copy: sorting costs a large vocabulary milliseconds.

    Args:
        logits_V: Finite logits of two tokens or more.
        best: The place of the largest one.
    """
    second = max(side_V.max() for side_V in (logits_V[:best], logits_V[best + 1 :]) if side_V.size)
    return float(logits_V[best] - second)


class _Adapters:
    """The adapters of a loaded model, each read from its file when it is first asked for."""

    def __init__(self, model: og.Model, folder: Path) -> None:
        self.loaded = og.Adapters(model)
        self._folder = folder
        self._keys: set[str] = set()
        self._lock = threading.Lock()

    def load(self, name: str) -> str:
        """What the runtime calls an adapter, which is read if it was not yet.

        The list is read anew each time, so that adapters may be added and removed while the model stays loaded; one
        that was removed and added again is another one.
        """
        if not has_adapters(self._folder):
            raise unknown_adapter(name, (), self._folder)
        record = read_list(self._folder).find(name, self._folder)
        key = f"{name} {record.sha256}"
        return key if key in self._keys else self.load_file(require_unchanged(self._folder, record), key)

    def load_file(self, path: Path, key: str) -> str:
        """Read a file, unless it was, and call it by a key, which is returned."""
        with self._lock:
            if key not in self._keys:
                try:
                    self.loaded.load(str(path), key)
                except (RuntimeError, ValueError) as error:
                    raise _folder_invalid(path, str(error)[:500]) from error
                self._keys.add(key)
        return key


def _read_facts(folder: Path) -> tuple[int, int]:
    """Tokens of the model's context, and its padding token."""
    path = folder / "genai_config.json"
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        return int(model["context_length"]), int(model["pad_token_id"])
    except FileNotFoundError as error:
        raise _folder_invalid(folder, "genai_config.json is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _folder_invalid(folder, f"genai_config.json cannot be read: {error!r}") from error


def _load(folder: Path, num_threads: int | None) -> og.Model:
    og.disable_telemetry_events()
    # ONNX Runtime prints errors by itself and throws them too; the exception is enough.
    options: dict[str, int] = {"log_severity_level": LOG_FATAL_ONLY}
    if num_threads is not None:
        options["intra_op_num_threads"] = num_threads
    try:
        config = og.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        return og.Model(config)
    except (RuntimeError, ValueError, TypeError) as error:
        raise _folder_invalid(folder, str(error)[:500]) from error


def _folder_invalid(folder: Path, detail: str) -> UserError:
    return UserError(
        "model-invalid",
        f"{folder} is not an ONNX model that onnxruntime-genai can load",
        hint="export the model again",
        details=[detail],
    )
