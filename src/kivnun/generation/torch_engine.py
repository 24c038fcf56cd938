"""Tokens from a torch model: greedy in left-padded batches with a key-value cache, or one answer as a stream.

Shapes: B rows still running, T tokens so far (padding included), V vocabulary.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kivnun.generation.adapter_list import unknown_adapter
from kivnun.generation.engine import Generation, answer_room, logits_not_finite, require_prompts_fit
from kivnun.generation.sampling import Sampling, choose_token, start_draws
from kivnun.models.types import Model
from kivnun.models.virtual_tokens import context_tokens


class RowAdapters(Protocol):
    """Named adapters on a torch model, of which each row of a batch may use another: `kivnun.methods.many_lora`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that there are."""
        ...

    def applied(self, rows: Sequence[str | None]) -> AbstractContextManager[None]:
        """Within this, row k of a batch uses the adapter `rows[k]`, None the base model."""
        ...


@dataclass
class _Answer:
    """One answer in the making."""

    row: int
    room: int
    adapter: str | None
    token_ids: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    stopped: bool = False

    def take(self, token: int, margin: float, stop_ids: frozenset[int]) -> bool:
        """Add one step; True while the answer goes on."""
        self.margins.append(margin)
        self.stopped = token in stop_ids
        if not self.stopped:
            self.token_ids.append(token)
        return not self.stopped and len(self.token_ids) < self.room

    def result(self) -> Generation:
        """The finished answer."""
        return Generation(tuple(self.token_ids), "stop" if self.stopped else "length", tuple(self.margins))


class TorchEngine:
    """`Engine` over a causal language model in torch.

    Args:
        model: In eval mode, on its device.
        pad_id: Any token id; padding is masked.
        batch_size: Prompts answered together.
        name: Shown in errors and reports.
        adapters: Adapters on this very model, if it has several.
    """

    def __init__(
        self,
        model: Model,
        *,
        pad_id: int,
        batch_size: int = 32,
        name: str = "torch",
        adapters: RowAdapters | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 (got {batch_size})")
        self.name = name
        self._model = model
        self._pad_id = pad_id
        self._batch_size = batch_size
        self.context_tokens = context_tokens(model)
        # A few architectures have no position ids; asked once, at the foreign border.
        self._model_inputs = frozenset(inspect.signature(model.forward).parameters)
        self._adapters = adapters
        self._adapter: str | None = None

    def with_adapter(self, name: str | None) -> Self:
        """This engine with one of its adapters, or with none; they share the model.

        Args:
            name: Of the adapter.

        Raises:
            UserError: adapter-unknown.
        """
        self._require_known([name])
        chosen = copy.copy(self)
        chosen._adapter = name
        return chosen

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: frozenset[int],
        adapters: Sequence[str | None] | None = None,
    ) -> list[Generation]:
        """Answer every prompt greedily, in the order given; equal to answering one at a time.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: At most this many tokens an answer; fewer where the model's context ends.
            stop_ids: Tokens that end an answer.
            adapters: The adapter of each prompt, None for the base model; this engine's own for all if not given.

        Raises:
            UserError: prompt-invalid, logits-not-finite, adapter-unknown.
        """
        require_prompts_fit(prompts, context_tokens=self.context_tokens, engine=self.name)
        names = [self._adapter] * len(prompts) if adapters is None else adapters
        self._require_known(names)
        rows = enumerate(zip(prompts, names, strict=True))
        answers = [_Answer(row, self._room(prompt, max_new_tokens), name) for row, (prompt, name) in rows]
        # Neighbours in length share a batch, so that little padding is computed; the longest come first, so that a
        # batch that does not fit in memory fails at once.
        longest_first = sorted(answers, key=lambda answer: -len(prompts[answer.row]))
        for start in range(0, len(answers), self._batch_size):
            self._answer_batch(longest_first[start : start + self._batch_size], prompts, stop_ids)
        return [answer.result() for answer in answers]

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
        require_prompts_fit([prompt_ids], context_tokens=self.context_tokens, engine=self.name)
        return self._stream(prompt_ids, self._room(prompt_ids, max_new_tokens), stop_ids, sampling)

    def forced_logits(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        """What the model would choose from at each step of a given answer: A + 1 times the logits, shape (V,).

        Args:
            prompt_ids: Token ids of the prompt.
            answer_ids: The A tokens of the answer, whatever the model itself would choose.

        Raises:
            UserError: prompt-invalid, logits-not-finite.
        """
        require_prompts_fit([[*prompt_ids, *answer_ids]], context_tokens=self.context_tokens, engine=self.name)
        # In one pass, since every token is known: many times faster than one by one.
        steps = self._steps([[*prompt_ids, *answer_ids]], [self._adapter], num_logits=len(answer_ids) + 1)
        yield from steps.logits_BTV[0].cpu().numpy()

    def _stream(
        self, prompt_ids: Sequence[int], room: int, stop_ids: frozenset[int], sampling: Sampling
    ) -> Iterator[int]:
        draws = start_draws(sampling)
        steps = self._steps([prompt_ids], [self._adapter])
        for number in range(room):
            token = choose_token(steps.logits_BV[0].cpu().numpy(), sampling, draws)
            if token in stop_ids:
                return
            yield token
            if number + 1 < room:
                steps.feed(torch.tensor([token], device=self._model.device), kept=None)

    def _answer_batch(
        self, answers: Sequence[_Answer], prompts: Sequence[Sequence[int]], stop_ids: frozenset[int]
    ) -> None:
        steps = self._steps([prompts[answer.row] for answer in answers], [answer.adapter for answer in answers])
        running = list(answers)
        while True:
            tokens_B = steps.logits_BV.argmax(-1)
            best_B2 = steps.logits_BV.topk(2).values
            margins = (best_B2[:, 0] - best_B2[:, 1]).tolist()
            chosen = zip(running, tokens_B.tolist(), margins, strict=True)
            kept = [row for row, (answer, token, margin) in enumerate(chosen) if answer.take(token, margin, stop_ids)]
            if not kept:
                return
            # A row that is done leaves at once: it costs no more time, and it never runs past the model's context.
            if len(kept) == len(running):
                steps.feed(tokens_B, kept=None)
            else:
                running = [running[row] for row in kept]
                rows = torch.tensor(kept, device=tokens_B.device)
                steps.feed(tokens_B[rows], kept=rows)

    def _steps(self, prompts: Sequence[Sequence[int]], names: Sequence[str | None], *, num_logits: int = 1) -> "_Steps":
        batch = _Batch(self._model, self._model_inputs, self._adapters, self.name)
        return _Steps(batch, *self._left_padded(prompts), names, num_logits=num_logits)

    def _require_known(self, names: Sequence[str | None]) -> None:
        known = () if self._adapters is None else self._adapters.names
        for name in names:
            if name is not None and name not in known:
                raise unknown_adapter(name, known, self.name)

    def _room(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        return answer_room(len(prompt), max_new_tokens=max_new_tokens, context_tokens=self.context_tokens)

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both (B, T): every prompt ends at the last column, where the next token is predicted."""
        width = max(len(prompt) for prompt in prompts)
        ids = [[self._pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=self._model.device), torch.tensor(mask, device=self._model.device)


@dataclass(frozen=True)
class _Batch:
    """What the batches of an engine have in common."""

    model: Model
    model_inputs: frozenset[str]
    adapters: RowAdapters | None
    name: str

    def applied(self, names: Sequence[str | None]) -> AbstractContextManager[None]:
        """Within this, each row uses its adapter; another batch may stand between two steps of this one."""
        return nullcontext() if self.adapters is None else self.adapters.applied(names)


class _Steps:
    """A batch in the model: the logits after the last tokens fed, and the cache that the next token needs."""

    def __init__(
        self, batch: _Batch, input_ids_BT: Tensor, mask_BT: Tensor, names: Sequence[str | None], *, num_logits: int
    ) -> None:
        if batch.model.training:
            raise ValueError("the model must be in eval mode: dropout would change its answers")
        self._batch = batch
        self._names = names
        self._mask_BT = mask_BT
        self._cache = None
        self.logits_BTV = self._forward(input_ids_BT, (mask_BT.cumsum(-1) - 1).clamp(min=0), num_logits)
        self.logits_BV = self.logits_BTV[:, -1]

    def feed(self, tokens_B: Tensor, *, kept: Tensor | None) -> None:
        """Feed one more token to each row, after dropping the rows not in `kept`."""
        if kept is not None:
            self._mask_BT = self._mask_BT[kept]
            self._names = [self._names[row] for row in kept.tolist()]
            self._cache.batch_select_indices(kept)  # type: ignore[union-attr]
        self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(len(tokens_B), 1)], dim=1)
        self.logits_BV = self._forward(tokens_B[:, None], self._mask_BT.sum(-1, keepdim=True) - 1, 1)[:, -1]

    # Not inference_mode: a rotary cache made under it could not be used by a training step that follows.
    @torch.no_grad()
    def _forward(self, input_ids_BT: Tensor, position_ids_BT: Tensor, num_logits: int) -> Tensor:
        optional: dict[str, Tensor | int] = {"position_ids": position_ids_BT, "logits_to_keep": num_logits}
        with self._batch.applied(self._names):
            output = self._batch.model(
                input_ids=input_ids_BT,
                attention_mask=self._mask_BT,
                past_key_values=self._cache,
                use_cache=True,
                **{name: value for name, value in optional.items() if name in self._batch.model_inputs},
            )
        self._cache = output.past_key_values
        logits_BTV = output.logits[:, -num_logits:].float()
        if not bool(logits_BTV.isfinite().all()):
            raise logits_not_finite(self._batch.name)
        return logits_BTV
