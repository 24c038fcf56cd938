"""Answers for asyncio: the compute thread's tokens as an asynchronous stream of each client's own.

The event loop is woken once after each step for all of its streams together: a wake-up for each of 64 tokens would cost
the compute thread more than choosing them does.
"""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kivnun.errors import UserError
from kivnun.serving.answers import Asked, Ended, Token, Told

if TYPE_CHECKING:
    from kivnun.serving.pool import OpenModel


@dataclass(eq=False)
class _Stream:
    """What was told and not yet taken by the client; only the event loop touches it."""

    told: deque[Told] = field(default_factory=deque[Told])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, told: Told) -> None:
        self.told.append(told)
        self.arrived.set()

    async def take(self) -> Told:
        while not self.told:
            self.arrived.clear()
            await self.arrived.wait()
        return self.told.popleft()


class _Mailbox:
    """What the compute thread has for the streams of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # A loop that was forgotten must not be kept by what it is the key of.
        self._loop = weakref.ref(loop)
        self._letters: deque[tuple[_Stream, Told]] = deque()

    def put(self, stream: _Stream, told: Told) -> None:
        """Take something in; on the compute thread."""
        self._letters.append((stream, told))

    def wake(self) -> None:
        """Have the loop hand everything out; on the compute thread."""
        loop = self._loop()
        # A loop that has ended has no clients.
        with suppress(RuntimeError):
            if loop is not None:
                loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        while self._letters:
            stream, told = self._letters.popleft()
            stream.put(told)


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox] = weakref.WeakKeyDictionary()
_mailboxes_lock = threading.Lock()


def _mailbox() -> _Mailbox:
    loop = asyncio.get_running_loop()
    with _mailboxes_lock:
        return _mailboxes.setdefault(loop, _Mailbox(loop))


async def answer(model: "OpenModel", asked: Asked) -> AsyncGenerator[Token | Ended, None]:
    """One answer, token by token, and its end; to close the stream is to stop the computing.

    Args:
        model: What answers.
        asked: What is wanted; asked for when the first token is.

    Raises:
        UserError: `prompt-invalid` before the first token, and whatever ends the answer later.
        BusyError: Too many answers wait.
    """
    stream, mailbox = _Stream(), _mailbox()

    def receive(told: Told) -> None:
        mailbox.put(stream, told)
        model.after_step(mailbox.wake)

    running = model.ask(asked, receive)
    try:
        while True:
            told = await stream.take()
            if isinstance(told, UserError):
                raise told
            yield told
            if isinstance(told, Ended):
                return
    finally:
        running.cancel()
