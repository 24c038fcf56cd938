"""One model's answers: those that wait, those whose prompts are read, and those that take the common step.

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
from kivnun.generation.row_model import RowModel
from kivnun.serving.answers import Ended, Told
from kivnun.serving.choosing import choose_tokens
from kivnun.serving.failures import Log, as_user_error
from kivnun.serving.one_answer import Answer
from kivnun.serving.prefixes import PrefixStore
from kivnun.serving.prompts import PromptReader, can_go_on
from kivnun.serving.shares import next_to_start

# While a prompt with no more left is read, no other one begins; so the next may find what they share.
SHORT_TOKENS = 256
# Beside so many prompts only short ones begin to be read.
MOST_READING = 4


class Memory(Protocol):
    """What a model shares with the others: memory for rows, and the time of one thread."""

    def may_start(self, lane: "Lane", answer: Answer) -> bool:
        """Whether there is some for one more row."""
        ...

    def is_short(self) -> bool:
        """Whether the rows take more than there is for them."""
        ...

    def others_run(self, lane: "Lane") -> bool:
        """Whether answers of other models are running, which wait while this one computes."""
        ...


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
        reading: Those whose prompts are read, in the order in which they got their places.
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
    reading: list[Answer] = field(default_factory=list[Answer])
    running: list[Answer] = field(default_factory=list[Answer])
    num_open: Counter[str | None] = field(default_factory=Counter[str | None])
    retired: set[str | None] = field(default_factory=set[str | None])
    used_seconds: float = 0.0
    finished: list[Answer] = field(default_factory=list[Answer])
    _step_seconds: float = 0.0
    # Whether a long prompt was passed over at the last turn.
    _was_passed: bool = False
    _num_starts: int = 0
    # As many as there are projects.
    _latest_starts: dict[str, int] = field(default_factory=dict[str, int])
    _reader: PromptReader = field(init=False)

    def __post_init__(self) -> None:
        """Set up what reads its prompts."""
        self._reader = PromptReader(self.number, self.model, self.prefixes)

    @property
    def num_active(self) -> int:
        """Answers that have a place."""
        return len(self.running) + len(self.reading)

    @property
    def held_bytes(self) -> int:
        """Memory that the rows take."""
        # Padding also of rows that do not step yet or wait for memory, for it comes with their next step.
        return self._bytes_of([answer.held_tokens for answer in self._active if answer.held_tokens])

    @property
    def expected_bytes(self) -> int:
        """Memory that the rows are expected to take before they end."""
        return self._bytes_of([answer.expected_tokens for answer in self._active])

    def expected_bytes_with(self, answer: Answer) -> int:
        """The same with one more row, which may make others wider.

        Args:
            answer: Waits for its row.
        """
        return self._bytes_of([each.expected_tokens for each in (*self._active, answer)])

    def _bytes_of(self, lengths: Sequence[int]) -> int:
        return self.model.padded_tokens(lengths) * self.model.bytes_per_token

    @property
    def _active(self) -> list[Answer]:
        return [*self.running, *self.reading]

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
        answers = self._active
        self.running, self.reading = [], []
        # One by one: others may come meanwhile.
        while self.waiting:
            answers.append(self.waiting.popleft())
        for answer in answers:
            self._finish(answer, told(answer))

    def _drop_cancelled(self) -> bool:
        """End what nobody waits for."""
        cancelled = [answer for answer in self.running if answer.cancelled]
        for answer in cancelled:
            self._remove(answer)
        for answer in [answer for answer in self.reading if answer.cancelled]:
            self.reading.remove(answer)
            cancelled.append(answer)
        for answer in [answer for answer in tuple(self.waiting) if answer.cancelled]:
            self.waiting.remove(answer)
            cancelled.append(answer)
        for answer in cancelled:
            self._end(answer, "cancelled")
        return bool(cancelled)

    def _read_prompts(self, memory: "Memory") -> bool:
        """Feed prompts for about as long as a step takes; for longer where nobody waits for one."""
        waited_for = bool(self.running) or memory.others_run(self)
        budget = self._reader.budget(self._step_seconds if waited_for else None)
        may_pass, self._was_passed = not self._was_passed, False
        did = False
        while budget > 0:
            answer = self._next_to_read(memory, may_pass=may_pass)
            if answer is None:
                break
            did = True
            budget -= self._read_guarded(answer, budget)
        return did

    def _next_to_read(self, memory: "Memory", *, may_pass: bool) -> Answer | None:
        """Whose prompt goes on: the oldest; where that may be passed, the one that ends soonest.

        It may every second turn, so that a long prompt never stands still; whole turns, for small pieces cost more.
        """
        if not self.reading and not self._start_reading(memory):
            return None
        keeps = self.prefixes.limit_bytes > 0
        oldest = can_go_on(self.reading, keeps=keeps)[0]
        if not may_pass:
            return oldest
        while not any(map(_is_short, self.reading)) and self._start_reading(memory):
            pass
        soonest = min(can_go_on(self.reading, keeps=keeps), key=lambda each: each.unread_tokens)
        self._was_passed |= soonest is not oldest
        return soonest

    def _start_reading(self, memory: "Memory") -> bool:
        """Give a place to one that waits; False where there is none for it."""
        most_tokens = SHORT_TOKENS if len(self.reading) >= MOST_READING else None
        answer = next_to_start(tuple(self.waiting), self._active, self._latest_starts, most_tokens=most_tokens)
        if answer is None or self.num_active >= self.max_rows or not memory.may_start(self, answer):
            return False
        self.waiting.remove(answer)
        self.reading.append(answer)
        self._num_starts += 1
        self._latest_starts[answer.project] = self._num_starts
        return True

    def _read_guarded(self, answer: Answer, budget: int) -> int:
        """Feed one piece of a prompt; with the last one comes the first token. Returns what it cost, in tokens."""
        try:
            cost, logits_V = self._reader.read(answer, budget)
            if logits_V is not None:
                self._start_running(answer, logits_V)
        except Exception as error:  # noqa: BLE001 - this row's own error; the other answers and the thread go on
            if answer in self.reading:
                self.reading.remove(answer)
            self._finish(answer, as_user_error(error, self.model.name, self.log))
            return 1
        return cost

    def _start_running(self, answer: Answer, logits_V: NDArray[np.float32]) -> None:
        """Choose the first token; the answer takes the next step, unless that was all."""
        self.reading.remove(answer)
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


def _is_short(answer: Answer) -> bool:
    return answer.unread_tokens <= SHORT_TOKENS


def count_waiting(lanes: Sequence[Lane]) -> int:
    """Answers that wait for a place, of all models; those that find one at the next turn do not count."""
    return sum(max(0, len(lane.waiting) - (lane.max_rows - lane.num_active)) for lane in lanes)
