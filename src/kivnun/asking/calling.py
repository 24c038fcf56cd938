"""Calls to a service: several at once, tried again with growing pauses, and what cannot be mended is said."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal

from kivnun.asking.request import Log, Reply
from kivnun.errors import UserError

MAX_PROBLEM_LETTERS = 300
# Request time-out and "too early" pass; a conflict and every failure of the server itself may.
PASSING_STATUSES = frozenset({408, 409, 425, 429})
OVERLOADED = 500
HTTP_MODULES = ("httpx", "httpx2", "httpcore", "httpcore2")
CONTEXT_WORDS = ("context_length_exceeded", "maximum context length", "prompt is too long", "context window")
QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached")


@dataclass(frozen=True)
class Patience:
    """How long a service is tried.

    Attributes:
        tries: Calls of one request, the first one among them.
        first_seconds: First pause; each one after it is twice as long.
        longest_seconds: Longest pause of our own.
        longest_told_seconds: Longest pause that a service may ask for; one that asks for more is given up.
    """

    tries: int = 8
    first_seconds: float = 1.0
    longest_seconds: float = 30.0
    longest_told_seconds: float = 600.0


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a call.

    Attributes:
        kind: Whether it may pass, the request is too long, or its content is refused; else it cannot be mended here.
        problem: What it is, in a few words.
        told_seconds: Pause that the service asks for.
    """

    kind: Literal["passing", "too long", "refused", "lasting"]
    problem: str
    told_seconds: float | None = None


@dataclass(frozen=True)
class Caller:
    """Calls one service.

    Attributes:
        name: The model.
        place: Address without secrets.
        key: What no message may hold.
        key_variable: Environment variable that holds it.
        patience: How long it is tried.
        log: Takes `retrying`.
        stop: Ends pauses and keeps new calls from being made.
    """

    name: str
    place: str
    key: str
    key_variable: str
    log: Log
    patience: Patience = Patience()
    stop: threading.Event = field(default_factory=threading.Event)

    def call(self, make: Callable[[], Reply]) -> Reply:
        """Make a call until it succeeds or patience ends.

        Args:
            make: The call.

        Raises:
            UserError: `endpoint-failed`, or `prompt-invalid` for what is longer than the model's context.
        """
        for number in range(1, self.patience.tries + 1):
            try:
                return make()
            except UserError:
                raise
            # SDKs and their HTTP libraries raise many kinds; what is no trouble of theirs is raised again.
            except Exception as error:
                trouble = read_trouble(error)
                if trouble is None:
                    raise
                if trouble.kind == "refused":
                    return Reply("", "refused", 0, 0)
                if not self._may_pass(trouble, number):
                    raise self.failure(trouble) from error
                self._pause(trouble, number)
        raise AssertionError("the last try ends in a reply or an error")

    def failure(self, trouble: Trouble) -> UserError:
        """The error of a call that is given up.

        Args:
            trouble: What was wrong with it.
        """
        problem = self.hide_key(f"{self.name} at {self.place}: {trouble.problem}")
        if trouble.kind == "too long":
            return UserError(
                "prompt-invalid",
                problem,
                hint="show fewer examples or shorter passages, or ask a model with a longer context",
            )
        hint = f"check the address, the model's name and the key in ${self.key_variable}"
        if trouble.kind == "passing":
            hint = "give the same command again when the service is back"
        return UserError("endpoint-failed", problem, hint=f"{hint}; answers so far are kept")

    def hide_key(self, text: str) -> str:
        """A text without the key."""
        return text.replace(self.key, "***") if len(self.key) > len("none") else text

    def _may_pass(self, trouble: Trouble, number: int) -> bool:
        told = trouble.told_seconds or 0.0
        is_short = told <= self.patience.longest_told_seconds
        return trouble.kind == "passing" and is_short and number < self.patience.tries and not self.stop.is_set()

    def _pause(self, trouble: Trouble, number: int) -> None:
        own = min(self.patience.first_seconds * 2 ** (number - 1), self.patience.longest_seconds)
        seconds = own if trouble.told_seconds is None else trouble.told_seconds
        self.log(
            "retrying", {"model": self.name, "problem": self.hide_key(trouble.problem), "seconds": round(seconds, 2)}
        )
        self.stop.wait(seconds)


def read_trouble(error: Exception) -> Trouble | None:
    """What is wrong with a call, from what an SDK raised; None for what is no trouble of the service.

    The SDKs of OpenAI and Anthropic share these names and are not imported here: either may be missing.

    Args:
        error: What was raised.
    """
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return _read_status(error, status)
    names = {base.__name__ for base in type(error).__mro__}
    if "APITimeoutError" in names:
        return Trouble("passing", "no answer in time")
    if "APIConnectionError" in names or type(error).__module__.partition(".")[0] in HTTP_MODULES:
        cause = error.__cause__ or error
        return Trouble("passing", _shorten(f"cannot be reached: {type(cause).__name__}: {cause}"))
    if names & {"OpenAIError", "AnthropicError"}:
        # An error in the middle of a stream says what it is, and has no status.
        return Trouble("lasting", _shorten(f"{type(error).__name__}: {error}"))
    if isinstance(error, ValueError | AttributeError | TypeError | IndexError):
        return Trouble("lasting", _shorten(f"answered something that is no chat answer: {error}"))
    return None


def _read_status(error: Exception, status: int) -> Trouble:
    text = str(error)
    problem = _shorten(text if text.startswith("Error code") else f"status {status}: {text}")
    codes = {str(getattr(error, name, "")) for name in ("code", "type", "error_code")}
    if status in PASSING_STATUSES or status >= OVERLOADED:
        if codes & set(QUOTA_CODES):
            return Trouble("lasting", problem)
        return Trouble("passing", problem, told_pause(error))
    if "content_filter" in codes:
        return Trouble("refused", problem)
    if any(word in text for word in CONTEXT_WORDS):
        return Trouble("too long", problem)
    return Trouble("lasting", problem)


def told_pause(error: Exception) -> float | None:
    """Seconds that a service asks to wait, by its `retry-after` header: a number, or a date (RFC 9110, 10.2.3)."""
    response = getattr(error, "response", None)
    headers: Mapping[str, str] = getattr(response, "headers", {})
    exact = headers.get("retry-after-ms")
    text = headers.get("retry-after")
    try:
        if exact is not None:
            return max(0.0, float(exact) / 1000)
        return None if text is None else max(0.0, float(text))
    except ValueError:
        pass
    try:
        return None if text is None else max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def call_all(
    answer: Callable[[int], Reply],
    count: int,
    *,
    parallel: int,
    keep: Callable[[int, Reply], None],
    stop: threading.Event,
) -> None:
    """Answer requests by their numbers, several at once; after a failure what is under way is still kept.

    Args:
        answer: Answers one request.
        count: Number of requests.
        parallel: Most that are under way.
        keep: Takes each reply, in this thread.
        stop: Set when no more should be asked.

    Raises:
        UserError: What the first request that failed raised.
    """
    stop.clear()
    work = _Work(answer, stop)
    for number in range(count):
        work.numbers.put(number)
    # Daemons: a call that hangs must not hold up the end of a process that was interrupted.
    workers = [threading.Thread(target=work.run, daemon=True) for _ in range(min(parallel, count))]
    failures: list[Exception] = []
    try:
        for worker in workers:
            worker.start()
        running = len(workers)
        while running:
            result = work.results.get()
            if result is None:
                running -= 1
            elif isinstance(result, Exception):
                failures.append(result)
            else:
                keep(*result)
    finally:
        stop.set()
    if failures:
        raise failures[0]


@dataclass(frozen=True)
class _Work:
    """What threads share: numbers to answer, and what became of them; None where a thread ended."""

    answer: Callable[[int], Reply]
    stop: threading.Event
    numbers: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue)
    results: "queue.SimpleQueue[tuple[int, Reply] | Exception | None]" = field(default_factory=queue.SimpleQueue)

    def run(self) -> None:
        """Answer numbers until none is left, one fails, or no more should be asked."""
        try:
            while not self.stop.is_set():
                number = self.numbers.get_nowait()
                self.results.put((number, self.answer(number)))
        except queue.Empty:
            pass
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self.stop.set()
            self.results.put(error)
        finally:
            self.results.put(None)


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_PROBLEM_LETTERS else flat[:MAX_PROBLEM_LETTERS] + "..."
