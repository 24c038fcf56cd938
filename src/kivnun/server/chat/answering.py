"""Answers on their way to a client: tokens of one or more streams become text, calls of functions, and their ends."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, cast

from kivnun.server.chat.call_form import CallForm
from kivnun.server.chat.call_reader import CallPart, CallReader
from kivnun.server.chat.sampling_fields import nth_seed
from kivnun.server.errors import ApiError
from kivnun.serving.answers import Asked, Ended, Receive, Running, Token
from kivnun.serving.json_schema import Grammar
from kivnun.serving.streams import answer
from kivnun.serving.text import AnswerText, Piece, TextToken, Vocabulary, vocabulary_of

if TYPE_CHECKING:
    from kivnun.serving.pool import OpenModel

MAX_SIDE_BY_SIDE = 32
FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Calling:
    """How calls of functions are read out of answers.

    Attributes:
        form: Of the model's template.
        mode: Whether an answer may be text, or is calls alone.
    """

    form: CallForm
    mode: Literal["auto", "required"]


@dataclass(frozen=True)
class Wish:
    """Answers that a client wants to one prompt.

    Attributes:
        asked: Each of them; those behind the first have seeds of their own.
        num_answers: How many.
        stops: Texts that end an answer.
        grammar: What each must look like; None for anything.
        calling: How calls are read; None where there are none.
        drops_space: Whether an answer is a text of its own, and not the continuation of the prompt.
    """

    asked: Asked
    num_answers: int = 1
    stops: tuple[str, ...] = ()
    grammar: Grammar | None = None
    calling: Calling | None = None
    drops_space: bool = True


@dataclass(frozen=True)
class Delta:
    """More of an answer.

    Attributes:
        index: Which answer.
        text: More text.
        calls: More of calls.
        tokens: The tokens that begin in it, those of the prompt first; none unless log-probabilities are asked for.
        num_answered: How many tokens of the answer were computed until then.
    """

    index: int
    text: str
    calls: tuple[CallPart, ...]
    tokens: tuple[TextToken, ...]
    num_answered: int


@dataclass(frozen=True)
class Finish:
    """The end of an answer.

    Attributes:
        index: Which answer.
        reason: Why.
        ended: What it took, in tokens.
    """

    index: int
    reason: FinishReason
    ended: Ended


@dataclass
class _Cancellable:
    """A model whose one answer can be stopped without giving up its stream, which then still tells how it ended."""

    model: "OpenModel"
    running: Running | None = None

    def ask(self, asked: Asked, receive: Receive) -> Running:
        self.running = self.model.ask(asked, receive)
        return self.running

    def after_step(self, function: Callable[[], None]) -> None:
        self.model.after_step(function)


@dataclass
class _Reading:
    """One answer as it is read: tokens to text, and text to calls."""

    index: int
    text: AnswerText
    calls: CallReader | None
    tells_tokens: bool
    num_tokens: int = field(default=0, init=False)

    def push(self, token: Token) -> Delta | None:
        if token.of_prompt:
            return Delta(self.index, "", (), (TextToken(token, 0),), 0)
        self.num_tokens += 1
        return self._to_delta(self.text.push((token,)), last=False)

    def end(self) -> Delta | None:
        return self._to_delta(self.text.end(), last=True)

    def _to_delta(self, piece: Piece, *, last: bool) -> Delta | None:
        if self.calls is None:
            found: list[str | CallPart] = [piece.text]
        else:
            found = [*self.calls.push(piece.text), *(self.calls.end() if last else ())]
        text = "".join(each for each in found if isinstance(each, str))
        parts = tuple(each for each in found if isinstance(each, CallPart))
        tokens = piece.tokens if self.tells_tokens else ()
        return Delta(self.index, text, parts, tokens, self.num_tokens) if text or parts or tokens else None


async def follow(model: "OpenModel", wishes: Sequence[Wish]) -> AsyncGenerator[Delta | Finish, None]:
    """Everything that the answers of some wishes give, as it comes; to close it is to stop the computing.

    Answers are numbered on from one wish to the next. At most 32 of them are asked for at once, so that one client with
    a long list neither fills the queue nor is refused for it.

    Args:
        model: That answers.
        wishes: What is wanted, at least one answer.

    Raises:
        UserError: As for `answer`.
        BusyError: Too many answers wait.
        ApiError: 503, if the server stops meanwhile.
    """
    vocabulary = await asyncio.to_thread(vocabulary_of, model.encoder)
    nth = [(wish, number) for wish in wishes for number in range(wish.num_answers)]
    streams = [
        _follow_one(model, _nth_asked(wish, vocabulary, number), _start_reading(wish, vocabulary, index))
        for index, (wish, number) in enumerate(nth)
    ]
    async with aclosing(streams[0] if len(streams) == 1 else _merge(streams)) as merged:
        async for told in merged:
            yield told


async def _follow_one(model: "OpenModel", asked: Asked, reading: _Reading) -> AsyncGenerator[Delta | Finish, None]:
    cancellable = _Cancellable(model)
    # `answer` asks, and calls after steps; nothing else of a model.
    async with aclosing(answer(cast("OpenModel", cancellable), asked)) as stream:
        async for told in stream:
            if isinstance(told, Token) and not reading.text.stopped:
                delta = reading.push(told)
                if reading.text.stopped and cancellable.running is not None:
                    cancellable.running.cancel()
            elif isinstance(told, Ended):
                delta = reading.end()
            else:
                continue
            if delta is not None:
                yield delta
            if isinstance(told, Ended):
                yield _finish(reading, told)


def _nth_asked(wish: Wish, vocabulary: Vocabulary, index: int) -> Asked:
    asked = wish.asked
    constraint = None if wish.grammar is None else wish.grammar.start(asked.stop_ids, vocabulary.num_tokens)
    sampling = replace(asked.sampling, seed=nth_seed(asked.sampling.seed, index))
    return replace(asked, sampling=sampling, constraint=constraint)


def _start_reading(wish: Wish, vocabulary: Vocabulary, index: int) -> _Reading:
    shown: frozenset[int] = frozenset()
    if wish.calling is not None:
        signs = map(vocabulary.special_id, vocabulary.split_special(wish.calling.form.texts))
        shown = frozenset(sign for sign in signs if sign is not None)
    text = AnswerText(vocabulary, wish.stops, shown, wish.drops_space)
    calls = None if wish.calling is None else CallReader(wish.calling.form, wish.calling.mode)
    return _Reading(index, text, calls, wish.asked.top_logprobs is not None)


def _finish(reading: _Reading, ended: Ended) -> Finish:
    stopped = reading.text.stopped
    if ended.reason == "cancelled" and not stopped:
        raise ApiError(503, "The server is stopping. Send the request again later.", type="server_error")
    reason: FinishReason = "length" if ended.reason == "length" and not stopped else "stop"
    if reason == "stop" and reading.calls is not None and reading.calls.num_calls:
        reason = "tool_calls"
    return Finish(reading.index, reason, replace(ended, answer_tokens=reading.num_tokens))


async def _merge(streams: Sequence[AsyncGenerator[Delta | Finish, None]]) -> AsyncGenerator[Delta | Finish, None]:
    """What several streams give, as it comes; an error of one ends all."""
    arrived: asyncio.Queue[Delta | Finish | Exception | None] = asyncio.Queue()
    places = asyncio.Semaphore(MAX_SIDE_BY_SIDE)

    async def pass_on(stream: AsyncGenerator[Delta | Finish, None]) -> None:
        try:
            async with places, aclosing(stream):
                async for told in stream:
                    arrived.put_nowait(told)
            arrived.put_nowait(None)
        except Exception as error:  # noqa: BLE001 - raised where the streams are read
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(pass_on(stream)) for stream in streams]
    num_open = len(tasks)
    try:
        while num_open:
            told = await arrived.get()
            if isinstance(told, Exception):
                raise told
            if told is None:
                num_open -= 1
            else:
                yield told
    finally:
        # Cancelled, a task closes its stream, which stops the computing.
        for task in tasks:
            task.cancel()
