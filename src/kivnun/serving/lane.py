"""One model's answers: those that wait, the one whose prompt is read, and those that take the common step.

Everything here runs on the compute thread, except where it says otherwise.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kivnun.generation.engine import logits_not_finite
from kivnun.generation.row_model import Row, RowModel
from kivnun.serving.answers import Asked, Ended, Receive, Token, Told
from kivnun.serving.choosing import Chooser, choose_tokens, told_token
from kivnun.serving.failures import Log, as_user_error
from kivnun.serving.prefixes import PrefixStore

MOST_TOKENS = 512
FEWEST_TOKENS = 64
# Logits of every token of the prompt take memory.
MOST_TOLD_TOKENS = 64
PAUSE_SECONDS = 0.1
EXPECTED_TOKENS = 512


class Memory(Protocol):
    """What memory there is for the rows of all models."""

    def may_start(self, lane: "Lane", answer: "Answer") -> bool:
        """Whether there is some for one more row."""
        ...

    def is_short(self) -> bool:
        """Whether the rows take more than there is for them."""
        ...


@dataclass(eq=False)
class Answer:
    """An answer that waits or is being computed.

    Attributes:
        number: In the order of asking.
        adapter: What it is answered with.
        asked: What the client wants.
        receive: Takes its tokens.
        room: How many tokens it may have.
        wake: Tells the compute thread that there is something to do.
        cancelled: Whether nobody waits for it any more.
        row: Its row in the model, once it has one.
        fed: How many tokens of the prompt are in the row.
        cached: How many of them had been computed before.
        num_tokens: Tokens of the answer so far.
        token: The token that the next step starts from.
        has_ended: Whether its client was told the end.
    """

    number: int
    adapter: str | None
    asked: Asked
    receive: Receive
    room: int
    wake: Callable[[], None]
    cancelled: bool = False
    row: Row | None = None
    fed: int = 0
    cached: int = 0
    num_tokens: int = 0
    token: int = 0
    has_ended: bool = False
    chooser: Chooser = field(init=False)

    def __post_init__(self) -> None:
        """Seed its draws."""
        self.chooser = Chooser(self.asked)

    def cancel(self) -> None:
        """Stop computing at the next step; from any thread, more than once, and after the end too."""
        if not self.has_ended:
            self.cancelled = True
            self.wake()

    @property
    def held_tokens(self) -> int:
        """Tokens that its row holds."""
        return 0 if self.row is None else self.row.num_tokens

    @property
    def expected_tokens(self) -> int:
        """Tokens that its row is expected to hold; few answers use all the room that they have."""
        prompt_tokens = len(self.asked.prompt_ids)
        return max(self.held_tokens, prompt_tokens + min(self.room, EXPECTED_TOKENS))


@dataclass
class Lane:
    """A model and its answers.

    Attributes:
        number: Of the model, never used again.
        model: What computes.
        max_rows: Most answers side by side.
        prefixes: What is kept of prompts, of all models.
        log: Takes what fails unexpectedly.
        waiting: In the order of asking; any thread may append.
        reading: The answer whose prompt is read.
        running: Those that take the common step.
        num_open: Answers of each adapter that have not ended; under the scheduler's lock.
        retired: Adapters that are no longer answered with; None among them for all.
        used_seconds: Time that it was given.
        ended: When the last answers ended.
    """

    number: int
    model: RowModel
    max_rows: int
    prefixes: PrefixStore
    log: Log
    waiting: deque[Answer] = field(default_factory=deque[Answer])
    reading: Answer | None = None
    running: list[Answer] = field(default_factory=list[Answer])
    num_open: Counter[str | None] = field(default_factory=Counter[str | None])
    retired: set[str | None] = field(default_factory=set[str | None])
    used_seconds: float = 0.0
    finished: list[Answer] = field(default_factory=list[Answer])
    _seconds_per_token: float = 0.002
    _step_seconds: float = 0.0

    @property
    def num_active(self) -> int:
        """Answers that have a row."""
        return len(self.running) + (self.reading is not None)

    @property
    def held_bytes(self) -> int:
        """Memory that the rows take."""
        return sum(answer.held_tokens for answer in self._active) * self.model.bytes_per_token

    @property
    def expected_bytes(self) -> int:
        """Memory that the rows are expected to take before they end."""
        return sum(answer.expected_tokens for answer in self._active) * self.model.bytes_per_token

    @property
    def _active(self) -> list[Answer]:
        return [*self.running, *([self.reading] if self.reading else [])]

    @property
    def has_work(self) -> bool:
        """Whether a turn would do something, unless memory is short."""
        return bool(self.running or self.reading or self.waiting)

    def turn(self, memory: "Memory", delivered: Callable[[], None]) -> bool:
        """Read prompts for a while, then give every running answer one token.

        Args:
            memory: What there is for rows.
            delivered: Called when first tokens have been told, and before the step, so that they need not wait for it.

        Returns:
            Whether anything was done.
        """
        dropped = self._drop_cancelled()
        was_reading = self._read_prompts(memory)
        if was_reading or dropped:
            delivered()
        if self.running:
            # Where memory is short, the oldest goes on and the others wait with what they hold, until one has ended.
            self._step([min(self.running, key=lambda each: each.number)] if memory.is_short() else list(self.running))
            return True
        return was_reading or dropped

    def fail_all(self, told: Callable[[Answer], Told]) -> None:
        """End every answer.

        Args:
            told: What its client is told.
        """
        answers = [*self.running, *([self.reading] if self.reading else []), *self.waiting]
        self.running, self.reading = [], None
        self.waiting.clear()
        for answer in answers:
            self._finish(answer, told(answer))

    def _drop_cancelled(self) -> bool:
        """End what nobody waits for."""
        cancelled = [answer for answer in self.running if answer.cancelled]
        for answer in cancelled:
            self._remove(answer)
        if self.reading is not None and self.reading.cancelled:
            cancelled.append(self.reading)
            self.reading = None
        for answer in [answer for answer in tuple(self.waiting) if answer.cancelled]:
            self.waiting.remove(answer)
            cancelled.append(answer)
        for answer in cancelled:
            self._end(answer, "cancelled")
        return bool(cancelled)

    def _read_prompts(self, memory: "Memory") -> bool:
        """Feed prompts for about as long as a step takes; for longer where nobody waits for one."""
        budget = MOST_TOKENS
        if self.running:
            pause = max(PAUSE_SECONDS, self._step_seconds)
            budget = int(min(MOST_TOKENS, max(FEWEST_TOKENS, pause / self._seconds_per_token)))
        did = False
        while budget > 0:
            if self.reading is None:
                if not self.waiting or self.num_active >= self.max_rows or not memory.may_start(self, self.waiting[0]):
                    break
                self.reading = self.waiting.popleft()
            did = True
            budget -= self._read_guarded(self.reading, budget)
        return did

    def _read_guarded(self, answer: Answer, budget: int) -> int:
        try:
            return self._read(answer, budget)
        except Exception as error:  # noqa: BLE001 - this row's own error; the other answers and the thread go on
            self.reading = None
            self._finish(answer, as_user_error(error, self.model.name, self.log))
            return 1

    def _read(self, answer: Answer, budget: int) -> int:
        """Feed one piece of a prompt; with the last one comes the first token. Returns what it cost, in tokens."""
        prompt = answer.asked.prompt_ids
        if answer.row is None:
            logits_V = self._begin(answer)
            if logits_V is not None:
                self._start_running(answer, logits_V)
                return 1
        assert answer.row is not None  # noqa: S101 - begun above
        tells = answer.asked.tell_prompt
        count = min(budget, len(prompt) - answer.fed, MOST_TOLD_TOKENS if tells else budget)
        piece = prompt[answer.fed : answer.fed + count]
        started = time.perf_counter()
        logits = self.model.feed(answer.row, piece, every=tells)
        self._learn_speed(count, time.perf_counter() - started)
        answer.fed += count
        if tells:
            self._tell_prompt(answer, logits, count)
        if answer.fed == len(prompt):
            last_V = logits[-1] if tells else logits
            salt = answer.asked.cache_salt
            self.prefixes.keep(self.number, self.model, answer.row, prompt, last_V, salt=salt)
            self._start_running(answer, last_V)
        # However short a piece is, the model's weights are read for it.
        return max(count, FEWEST_TOKENS // 2)

    def _begin(self, answer: Answer) -> NDArray[np.float32] | None:
        """Give an answer its row, with what is kept of its prompt; the logits if that is all of it."""
        if answer.asked.tell_prompt:
            # The logits of kept tokens are gone.
            answer.row = self.model.begin(adapter=answer.adapter)
            return None
        asked = answer.asked
        found = self.prefixes.find(self.number, answer.adapter, asked.prompt_ids, salt=asked.cache_salt)
        answer.row = self.model.begin(adapter=answer.adapter, kept=found.pieces)
        answer.fed = answer.cached = found.num_tokens
        return found.logits

    def _learn_speed(self, count: int, seconds: float) -> None:
        if count >= FEWEST_TOKENS:
            self._seconds_per_token += 0.3 * (seconds / count - self._seconds_per_token)

    def _tell_prompt(self, answer: Answer, logits_TV: NDArray[np.float32], count: int) -> None:
        """Tell the prompt's tokens, each by the logits before it: the first piece tells its first token without."""
        prompt, first = answer.asked.prompt_ids, answer.fed - count
        wants = answer.asked.top_logprobs
        if first == 0:
            answer.receive(Token(prompt[0], of_prompt=True))
        for number, logits_V in enumerate(logits_TV, start=first + 1):
            if number < len(prompt):
                token = Token(prompt[number]) if wants is None else told_token(logits_V, prompt[number], wants)
                answer.receive(Token(token.token_id, token.logprob, token.top, of_prompt=True))

    def _start_running(self, answer: Answer, logits_V: NDArray[np.float32]) -> None:
        """Choose the first token; the answer takes the next step, unless that was all."""
        self.reading = None
        if answer.room == 0:
            self._end(answer, "length")
            return
        [chosen] = choose_tokens(logits_V[None], [answer.chooser])
        if self._take(answer, chosen, logits_V):
            self.running.append(answer)

    def _step(self, answers: Sequence[Answer]) -> None:
        """One token for each of some running answers."""
        started = time.perf_counter()
        try:
            rows = [answer.row for answer in answers if answer.row is not None]
            logits_BV = self.model.step(rows, [answer.token for answer in answers])
            chosen = choose_tokens(logits_BV, [answer.chooser for answer in answers])
        except Exception as error:  # noqa: BLE001 - these rows end with it; the thread and the other models go on
            told = as_user_error(error, self.model.name, self.log)
            for answer in answers:
                self._remove(answer)
                self._finish(answer, told)
            return
        self._step_seconds += 0.3 * (time.perf_counter() - started - self._step_seconds)
        for answer, choice, logits_V in zip(answers, chosen, logits_BV, strict=True):
            if not self._take(answer, choice, logits_V):
                self._remove(answer)

    def _take(self, answer: Answer, chosen: int | Exception | None, logits_V: NDArray[np.float32]) -> bool:
        """Tell what was chosen; True while the answer goes on."""
        if not isinstance(chosen, int):
            error = logits_not_finite(self.model.name) if chosen is None else chosen
            self._finish(answer, as_user_error(error, self.model.name, self.log))
            return False
        if chosen in answer.asked.stop_ids:
            self._end(answer, "stop")
            return False
        try:
            answer.chooser.take(chosen)
            token = answer.chooser.tell(logits_V, chosen)
        except Exception as error:  # noqa: BLE001 - a constraint's own
            self._finish(answer, as_user_error(error, self.model.name, self.log))
            return False
        answer.token = chosen
        answer.num_tokens += 1
        self._tell(answer, token)
        if answer.num_tokens == answer.room or answer.cancelled:
            self._end(answer, "length" if answer.num_tokens == answer.room else "cancelled")
            return False
        return True

    def _remove(self, answer: Answer) -> None:
        """Take an answer out of the step as its model does, the last into the gap, so that their orders stay alike."""
        place = self.running.index(answer)
        self.running[place] = self.running[-1]
        self.running.pop()

    def _end(self, answer: Answer, reason: Literal["stop", "length", "cancelled"]) -> None:
        prompt_tokens = len(answer.asked.prompt_ids)
        self._finish(answer, Ended(reason, prompt_tokens, answer.cached, answer.num_tokens))

    def _finish(self, answer: Answer, told: Told) -> None:
        if answer.row is not None:
            try:
                self.model.end(answer.row)
            except Exception as error:  # noqa: BLE001 - the answer ends in any case; what failed is logged
                as_user_error(error, self.model.name, self.log)
            answer.row = None
        answer.has_ended = True
        self._tell(answer, told)
        self.finished.append(answer)

    def _tell(self, answer: Answer, told: Told) -> None:
        try:
            answer.receive(told)
        except Exception as error:  # noqa: BLE001 - a receiver that fails is a client that is gone
            as_user_error(error, self.model.name, self.log)
            answer.cancelled = True


def count_waiting(lanes: Sequence[Lane]) -> int:
    """Answers that wait for a place, of all models; those that find one at the next turn do not count."""
    return sum(max(0, len(lane.waiting) - (lane.max_rows - lane.num_active)) for lane in lanes)
