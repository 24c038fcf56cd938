"""Tokens from an ONNX folder through onnxruntime-genai; tokens are chosen by our own code from its logits.

onnxruntime-genai 0.18 hides from the model every token at a prompt's end that equals the padding token, without a word
and even where there is one prompt and hence no padding. Most models pad with the token that also ends a message, so
such prompts are common; `_start` feeds those tokens one by one, as if they were generated, and they count.

Prompts are answered one at a time: only the first feed of a batch is allowed, so the way above is closed to it, and its
rows end at the model's own end token instead of ours. The gain would be small for int4 on a CPU (measured: 15 %).
"""

# onnxruntime-genai's names come from a compiled module without type stubs.
# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from kivnun.errors import UserError
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
        self._context_tokens, self._padding_id = _read_facts(folder)
        self._model = _load(folder, num_threads)

    def generate(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, stop_ids: frozenset[int]
    ) -> list[Generation]:
        """Answer every prompt greedily, in the order given.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: At most this many tokens an answer; fewer where the model's context ends.
            stop_ids: Tokens that end an answer.

        Raises:
            UserError: prompt-invalid, logits-not-finite.
        """
        self._require_prompts_fit(prompts)
        return [self._answer(prompt, self._room(prompt, max_new_tokens), stop_ids) for prompt in prompts]

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
            second, best = np.partition(logits_V, -2)[-2:]
            margins.append(float(best - second))
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
        if not np.isfinite(logits_V).all():
            raise logits_not_finite(self.name)
        return logits_V

    def _room(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        return answer_room(len(prompt), max_new_tokens=max_new_tokens, context_tokens=self._context_tokens)

    def _require_prompts_fit(self, prompts: Sequence[Sequence[int]]) -> None:
        require_prompts_fit(prompts, context_tokens=self._context_tokens, engine=self.name)


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
