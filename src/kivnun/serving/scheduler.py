"""One compute thread that answers all clients: their answers share each step of a model, and come and go one by one.

This is continuous batching (Yu et al. 2022, "Orca", OSDI): an answer that ends gives its place to one that waits before
the next step. Long prompts are read in pieces between steps, so that answers on their way never stall. Models take
turns by the time that they used. Whatever fails ends the answers that it concerns; the thread goes on.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from kivnun.generation.engine import answer_room, require_prompts_fit
from kivnun.generation.row_model import RowModel
from kivnun.serving.answers import Asked, BusyError, Ended, Receive
from kivnun.serving.failures import Log, as_user_error, quiet
from kivnun.serving.lane import Lane, count_waiting
from kivnun.serving.one_answer import Answer
from kivnun.serving.prefixes import PrefixStore
from kivnun.serving.shares import may_wait

T = TypeVar("T")
SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
# Answers whose ends tell how fast places become free.
REMEMBERED_ENDS = 32


class Scheduler:
    """The compute thread and what it works on.

    Args:
        max_rows: Most answers of one model side by side.
        max_waiting: Most answers that wait for a place, of all models; more where one project holds more than its
            equal share of that, see `kivnun.serving.shares.may_wait`.
        log: Takes what fails unexpectedly.
    """

    def __init__(self, *, max_rows: int, max_waiting: int, log: Log = quiet) -> None:
        if max_rows < 1 or max_waiting < 0:
            raise ValueError(f"max_rows must be at least 1 and max_waiting at least 0 (got {max_rows}, {max_waiting})")
        self.prefixes = PrefixStore(0)
        self._row_bytes = 0
        self._max_rows, self._max_waiting, self._log = max_rows, max_waiting, log
        self._lanes: list[Lane] = []
        self._num_lanes = 0
        self._numbers = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._after_step: dict[Callable[[], None], None] = {}
        self._ends: deque[float] = deque(maxlen=REMEMBERED_ENDS)
        self._changed = threading.Condition()
        self._closed = self._has_news = False
        self._thread = threading.Thread(target=self._run, name="kivnun-compute", daemon=True)
        self._thread.start()

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The models."""
        with self._changed:
            return tuple(self._lanes)

    def share_memory(self, *, row_bytes: int, prefix_bytes: int) -> None:
        """Say how much memory there is beside the weights.

        Args:
            row_bytes: For the caches of answers on their way.
            prefix_bytes: For beginnings of prompts.
        """

        def share() -> None:
            self._row_bytes = row_bytes
            self.prefixes.limit_bytes = prefix_bytes
            self.prefixes.shrink()

        self.call(share)

    def add(self, model: RowModel) -> Lane:
        """Take a model in.

        Args:
            model: Called by the compute thread alone from now on.
        """
        with self._changed:
            self._num_lanes += 1
            lane = Lane(self._num_lanes, model, self._max_rows, self.prefixes, self._log)
            # A model that comes later has no claim on the time that others used before.
            lane.used_seconds = min((each.used_seconds for each in self._lanes), default=0.0)
            self._lanes.append(lane)
        return lane

    def retire(self, lane: Lane, adapter: str | None = None) -> bool:
        """Take a model out, or one of its adapters, unless answers of it are on their way; blocks until a step ends.

        Args:
            lane: The model.
            adapter: The adapter; None for the whole model.
        """

        def take_out() -> bool:
            with self._changed:
                num_open = lane.num_open.total() if adapter is None else lane.num_open[adapter]
                if num_open:
                    return False
                lane.retired.add(adapter)
                if adapter is None and lane in self._lanes:
                    self._lanes.remove(lane)
            self.prefixes.forget(lane.number, adapter)
            if adapter is not None:
                lane.model.remove_adapter(adapter)
            return True

        return self.call(take_out)

    def restore(self, lane: Lane, adapter: str) -> None:
        """Let an adapter be answered with again that was retired.

        Args:
            lane: The model.
            adapter: The adapter.
        """
        with self._changed:
            lane.retired.discard(adapter)

    def call(self, function: Callable[[], T]) -> T:
        """What a function gives that the compute thread calls between two steps; blocks until then.

        Args:
            function: Short, for every answer waits for it.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - raised where it was called from
                future.set_exception(error)

        with self._changed:
            if self._closed:
                raise RuntimeError("the scheduler is closed")
            self._calls.append(run)
            self._tell_thread()
        return future.result()

    def ask(self, lane: Lane, adapter: str | None, asked: Asked, receive: Receive) -> Answer:
        """Ask a model; never waits.

        Args:
            lane: The model.
            adapter: What it shall answer with.
            asked: What is wanted.
            receive: Called by the compute thread with every token and at last with the end or the error; it must
                return at once.

        Raises:
            UserError: `prompt-invalid`.
            BusyError: Too many answers wait, or the model has just been taken out of memory.
        """
        context = lane.model.context_tokens
        require_prompts_fit([asked.prompt_ids], context_tokens=context, engine=lane.model.name)
        room = 0
        if asked.max_new_tokens:
            room = answer_room(len(asked.prompt_ids), max_new_tokens=asked.max_new_tokens, context_tokens=context)
        answer = Answer(next(self._numbers), adapter, asked, receive, room, self._wake)
        with self._changed:
            if self._closed or not lane.retired.isdisjoint((adapter, None)):
                raise BusyError(SHORTEST_WAIT_SECONDS)
            no_place = len(lane.waiting) >= lane.max_rows - lane.num_active
            if no_place and not self._may_wait(answer.project):
                raise BusyError(self._estimate_wait())
            if not lane.has_work:
                # After a rest a model has no claim on the time that others used meanwhile.
                busy = [each.used_seconds for each in self._lanes if each.has_work]
                lane.used_seconds = max([lane.used_seconds, *([min(busy)] if busy else [])])
            lane.num_open[adapter] += 1
            lane.waiting.append(answer)
            self._tell_thread()
        return answer

    def after_step(self, function: Callable[[], None]) -> None:
        """Call a function once, when everything of this step has been told; only for receivers, on the compute thread.

        Args:
            function: Returns at once; given twice, it is called once.
        """
        self._after_step[function] = None

    def may_start(self, lane: Lane, answer: Answer) -> bool:
        """Whether there is memory for one more row; each model may have one in any case.

        Args:
            lane: The model.
            answer: What would start.
        """
        if lane.num_active == 0:
            return True
        others = sum(each.expected_bytes for each in self.lanes if each is not lane)
        return others + lane.expected_bytes_with(answer) <= self._row_bytes

    def is_short(self) -> bool:
        """Whether the rows of all models take more memory than there is for them."""
        return sum(each.held_bytes for each in self.lanes) > self._row_bytes

    def others_run(self, lane: Lane) -> bool:
        """Whether answers of other models are running, which wait while this one computes.

        Args:
            lane: This one.
        """
        return any(each.running for each in self.lanes if each is not lane)

    def close(self) -> None:
        """End every answer and the thread."""
        with self._changed:
            self._closed = True
            self._tell_thread()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _may_wait(self, project: str) -> bool:
        waiting = [answer for lane in self._lanes for answer in tuple(lane.waiting)]
        return may_wait(project, waiting, num_waiting=count_waiting(self._lanes), max_waiting=self._max_waiting)

    def _wake(self) -> None:
        with self._changed:
            self._tell_thread()

    def _tell_thread(self) -> None:
        self._has_news = True
        self._changed.notify_all()

    def _estimate_wait(self) -> float:
        """Seconds until half of those that wait have got a place, as fast as answers ended of late."""
        if len(self._ends) < 2:
            return 1.0
        # Until now, so that a server that stands still does not promise what it did before.
        pace = (time.monotonic() - self._ends[0]) / len(self._ends)
        wait = pace * max(1.0, count_waiting(self._lanes) / 2)
        return min(LONGEST_WAIT_SECONDS, max(SHORTEST_WAIT_SECONDS, wait))

    def _run(self) -> None:
        idle = False
        while True:
            with self._changed:
                if idle and not self._has_news:
                    # What waits without a turn being able to do anything waits for memory; it is looked at again soon.
                    waits = any(lane.has_work for lane in self._lanes)
                    self._changed.wait(timeout=0.05 if waits else None)
                self._has_news = False
                if self._closed:
                    break
                calls = list(self._calls)
                self._calls.clear()
                lanes = sorted((lane for lane in self._lanes if lane.has_work), key=lambda each: each.used_seconds)
            for call in calls:
                call()
            idle = not any(self._give_turn(lane) for lane in lanes) and not calls
        self._stop()

    def _give_turn(self, lane: Lane) -> bool:
        started = time.perf_counter()
        try:
            did = lane.turn(self, self._deliver)
        except Exception as error:  # noqa: BLE001 - a mistake of ours ends this model's answers, not the thread
            told = as_user_error(error, lane.model.name, self._log)
            lane.fail_all(lambda _answer: told)
            did = True
        lane.used_seconds += time.perf_counter() - started
        self._deliver()
        return did

    def _deliver(self) -> None:
        """Count what has ended, and let the receivers pass on what they were told."""
        with self._changed:
            for lane in self._lanes:
                for answer in lane.finished:
                    lane.num_open[answer.adapter] -= 1
                    self._ends.append(time.monotonic())
                lane.finished.clear()
        functions, self._after_step = list(self._after_step), {}
        for function in functions:
            try:
                function()
            except Exception as error:  # noqa: BLE001 - a receiver's own
                as_user_error(error, "a receiver", self._log)

    def _stop(self) -> None:
        for lane in self.lanes:
            lane.fail_all(lambda each: Ended("cancelled", len(each.asked.prompt_ids), each.cached, each.num_tokens))
        self._deliver()
        with self._changed:
            calls = list(self._calls)
            self._calls.clear()
        for call in calls:
            call()
