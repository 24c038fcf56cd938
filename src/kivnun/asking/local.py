"""Models of this machine that are asked: batches of neighbours in length, one alone to be timed, and likelihoods."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kivnun.asking.request import Reply, Request
from kivnun.assistant import Assistant, HeadedModel
from kivnun.data.chat import Segment, Turn
from kivnun.data.encode import Encoder
from kivnun.errors import UserError
from kivnun.generation.sampling import Sampling

THIS_MACHINE = "this machine"
BATCH_SIZE = 32

Kind = Literal["text", "chat"]


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds an answer.

    Attributes:
        nll: Negative log likelihood of its tokens together, in nats; of the sign that ends it too.
        num_tokens: Those tokens.
        num_bytes: Bytes of its text in UTF-8.
    """

    nll: float
    num_tokens: int
    num_bytes: int


@dataclass(frozen=True)
class LocalModel:
    """A model of this machine that writes text; an `AskedModel`.

    Attributes:
        assistant: Engine, tokenizer and template.
        name: What people call it.
        identity: Hash of weights, template and engine.
        kind: Whether it continues text or answers messages.
        place: Where it runs.
        price: Never set: nobody charges for it by the token.
        batch_size: Prompts that are answered together, and kept together.
    """

    assistant: Assistant
    name: str
    identity: str
    kind: Kind
    place: str = THIS_MACHINE
    price: str | None = None
    batch_size: int = BATCH_SIZE

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together."""
        return self.assistant.engine.context_tokens

    def count_tokens(self, request: Request) -> int | None:
        """Tokens of a prompt.

        Raises:
            UserError: As for `prompt_text`.
        """
        return len(self._encode(request))

    def ask(self, requests: Sequence[Request], *, max_new_tokens: int, keep: Callable[[int, Reply], None]) -> None:
        """Answer every request greedily; a batch's replies are handed on when it is done.

        Raises:
            UserError: `prompt-invalid` for prompts that leave no room for an answer, before any is answered.
        """
        prompts = [self._encode(request) for request in requests]
        require_room(prompts, self.context_tokens, self.name)
        for batch in longest_first(prompts, self.batch_size):
            answers = self.assistant.engine.generate(
                [prompts[number] for number in batch],
                max_new_tokens=max_new_tokens,
                stop_ids=self.assistant.stop_ids,
            )
            for number, answer in zip(batch, answers, strict=True):
                text = self.assistant.encoder.decode(answer.token_ids)
                keep(number, Reply(text, answer.finished, len(prompts[number]), len(answer.token_ids)))

    def time(self, request: Request, *, max_new_tokens: int) -> Reply:
        """Answer one request alone, with its times; reading the prompt belongs to the first token.

        Raises:
            UserError: As for `ask`.
        """
        begun = time.perf_counter()
        prompt = self._encode(request)
        tokens: list[int] = []
        first: float | None = None
        stream = self.assistant.engine.stream(
            prompt, max_new_tokens=max_new_tokens, stop_ids=self.assistant.stop_ids, sampling=Sampling()
        )
        for token in stream:
            first = time.perf_counter() - begun if first is None else first
            tokens.append(token)
        seconds = time.perf_counter() - begun
        # A stream ends at its room without saying so: with fewer tokens than it may have, the model ended it.
        finished = "length" if len(tokens) >= self._room(len(prompt), max_new_tokens) else "stop"
        text = self.assistant.encoder.decode(tokens)
        return Reply(text, finished, len(prompt), len(tokens), seconds=seconds, first_token_seconds=first)

    def likelihoods(self, requests: Sequence[Request], answers: Sequence[str]) -> Iterator[Likelihood | None]:
        """How likely each given answer is after its request; None where both do not fit the context.

        Args:
            requests: What would be asked.
            answers: The answer to each.

        Raises:
            UserError: `prompt-invalid`, for an answer that holds a special token.
        """
        encoder, limit = self.assistant.encoder, self.context_tokens
        for request, answer in zip(requests, answers, strict=True):
            encoder.require_plain(answer)
            prompt = Segment(self.prompt_text(request), trained=False)
            row = encoder.encode([prompt, Segment(self._ended(request, answer), trained=True)])
            start = row.trained.index(True)
            if limit is not None and len(row.input_ids) > limit:
                yield None
                continue
            prompt_ids, answer_ids = row.input_ids[:start], row.input_ids[start:]
            # The last token is only predicted, never fed, so that a row as long as the context fits.
            steps = self.assistant.engine.forced_logits(prompt_ids, answer_ids[:-1])
            nll = sum(_nll(logits_V, token) for logits_V, token in zip(steps, answer_ids, strict=True))
            yield Likelihood(nll, len(answer_ids), len(answer.encode()))

    def prompt_text(self, request: Request) -> str:
        """The prompt as the model reads it.

        Args:
            request: What is asked.

        Raises:
            UserError: `stage-unsupported` where the request lacks what this kind of model needs; `prompt-invalid` where
                a text holds a special token.
        """
        return render_request(request, self.kind, self.assistant, self.name)

    def _encode(self, request: Request) -> list[int]:
        return self.assistant.encoder.encode_prompt(self.prompt_text(request))

    def _ended(self, request: Request, answer: str) -> str:
        """An answer with the sign that ends it."""
        encoder = self.assistant.encoder
        if self.kind == "text":
            return answer + encoder.end
        turns: list[Turn] = [{"role": role, "content": text} for role, text in request.messages]
        opened = encoder.render_chat(turns, open_turn=True)
        closed = encoder.render_chat([*turns, {"role": "assistant", "content": answer}], open_turn=False)
        if not closed.startswith(opened):
            return answer + encoder.end
        return closed[len(opened) :].rstrip()

    def _room(self, num_tokens: int, max_new_tokens: int) -> int:
        limit = self.context_tokens
        return max_new_tokens if limit is None else min(max_new_tokens, limit - num_tokens)


@dataclass(frozen=True)
class LabellingModel:
    """A run's classifier, which answers with a label; an `AskedModel`.

    Attributes:
        headed: The classifier.
        name: What people call it.
        identity: Hash of weights, head and template.
        kind: Whether it was trained on plain text or on messages.
        place: Where it runs.
        price: Never set.
        batch_size: Texts that are labelled together.
    """

    headed: HeadedModel
    name: str
    identity: str
    kind: Kind
    place: str = THIS_MACHINE
    price: str | None = None
    batch_size: int = BATCH_SIZE

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of a prompt."""
        return self.headed.head.max_seq_len

    def count_tokens(self, request: Request) -> int | None:
        """Tokens of a prompt."""
        return len(self.headed.encoder.encode_prompt(self._prompt(request)))

    def ask(self, requests: Sequence[Request], *, max_new_tokens: int, keep: Callable[[int, Reply], None]) -> None:
        """Label every request; a label has no tokens, so `max_new_tokens` does not bind it.

        Raises:
            UserError: `prompt-invalid` for a text longer than the classifier was trained for.
        """
        del max_new_tokens
        texts = [self._prompt(request) for request in requests]
        ids = [self.headed.encoder.encode_prompt(text) for text in texts]
        for batch in longest_first(ids, self.batch_size):
            shares = self.headed.classify([texts[number] for number in batch])
            for number, by_label in zip(batch, shares, strict=True):
                keep(number, Reply(max(by_label, key=lambda label: by_label[label]), "stop", len(ids[number]), 0))

    def time(self, request: Request, *, max_new_tokens: int) -> Reply:
        """Label one request alone, with its time."""
        begun = time.perf_counter()
        replies: list[Reply] = []
        self.ask([request], max_new_tokens=max_new_tokens, keep=lambda _number, reply: replies.append(reply))
        seconds = time.perf_counter() - begun
        return Reply(replies[0].text, "stop", replies[0].prompt_tokens, 0, seconds=seconds, first_token_seconds=seconds)

    def _prompt(self, request: Request) -> str:
        return render_request(request, self.kind, self.headed, self.name)


def render_request(request: Request, kind: Kind, model: Assistant | HeadedModel, name: str) -> str:
    """The prompt of a request as a model of this machine reads it.

    Args:
        request: What is asked.
        kind: Whether the model continues text or answers messages.
        model: The model with its tokenizer and template.
        name: Shown in errors.

    Raises:
        UserError: `stage-unsupported` where the request lacks what the model needs; `prompt-invalid` for a special
            token.
    """
    encoder: Encoder = model.encoder
    if kind == "text":
        if request.text is None:
            raise UserError(
                "stage-unsupported",
                f"{name} continues text, and the rows have messages alone",
                hint="write the rows with a --prompt-template and an --answer-template, or ask a chat model",
            )
        encoder.require_plain(request.text)
        # Running text was trained behind an end-of-text token.
        return encoder.end + request.text if model.template.kind == "document" else request.text
    for _, text in request.messages:
        encoder.require_plain(text)
    turns: list[Turn] = [{"role": role, "content": text} for role, text in request.messages]
    return encoder.render_chat(turns, open_turn=True)


def require_room(prompts: Sequence[Sequence[int]], context_tokens: int | None, name: str) -> None:
    """Refuse prompts that are empty, or leave no room for an answer.

    Args:
        prompts: Token ids of each.
        context_tokens: Of the model; None for no limit.
        name: Of the model.

    Raises:
        UserError: `prompt-invalid`, with how many there are and the longest one.
    """
    limit = math.inf if context_tokens is None else context_tokens
    bad = [number for number, prompt in enumerate(prompts, start=1) if not 0 < len(prompt) < limit]
    if bad:
        longest = max(len(prompt) for prompt in prompts)
        raise UserError(
            "prompt-invalid",
            f"{len(bad)} of {len(prompts)} prompts are empty or leave {name} no room for an answer: prompt and answer "
            f"may have {context_tokens} tokens together, the longest prompt has {longest}",
            hint="show fewer examples or shorter passages, shorten the rows, or ask a model with a longer context",
            details=[f"request {number}: {len(prompts[number - 1])} tokens" for number in bad[:5]],
        )


def longest_first(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Numbers of prompts in batches of neighbours in length, the longest first: what does not fit in memory fails soon.

    Args:
        prompts: Token ids of each.
        batch_size: Prompts of a batch.
    """
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _nll(logits_V: np.ndarray, token: int) -> float:
    """Negative log likelihood of one token, in nats."""
    logits = logits_V.astype(np.float64)
    best = logits.max()
    return float(best + np.log(np.exp(logits - best).sum()) - logits[token])
