"""A client of the compute thread: it hears tokens and the end, and can be waited for."""

import threading
from collections.abc import Iterable

from kivnun.errors import UserError
from kivnun.generation.sampling import Sampling
from kivnun.serving.answers import Asked, Ended, Token, Told

SECONDS = 20
NO_STOP: frozenset[int] = frozenset()


class Heard:
    def __init__(self) -> None:
        self.told: list[Told] = []
        self._changed = threading.Condition()

    def __call__(self, told: Told) -> None:
        with self._changed:
            self.told.append(told)
            self._changed.notify_all()

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(each.token_id for each in self.told if isinstance(each, Token) and not each.of_prompt)

    @property
    def end(self) -> Ended | UserError | None:
        last = self.told[-1] if self.told else None
        return None if isinstance(last, Token) else last

    def wait_for(self, num_tokens: int) -> "Heard":
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.tokens) >= num_tokens or self.end is not None, SECONDS)
        return self

    def wait(self) -> "Heard":
        with self._changed:
            assert self._changed.wait_for(lambda: self.end is not None, SECONDS)
        return self


def ask_for(prompt: Iterable[int], num_tokens: int = 8, **more: object) -> Asked:
    """Greedy and without stop tokens, unless `more` says otherwise."""
    return Asked(tuple(prompt), num_tokens, **{"stop_ids": NO_STOP, "sampling": Sampling(), **more})
