"""The seam between a model, wherever it runs, and everything that asks it for text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Log = Callable[[str, Mapping[str, object]], None]
"""Takes events: `asked` with `model`, `done`, `num_requests`; `retrying` with `model`, `problem`, `seconds`."""


@dataclass(frozen=True)
class Request:
    """What a model is asked.

    Attributes:
        messages: The turns as (role, text), the last one the user's; roles are system, user and assistant.
        text: The whole prompt as plain text, for models that continue text; None where there are messages alone.
        shared_messages: How many of the first messages stand in many requests alike, which a service may keep ready.
    """

    messages: tuple[tuple[str, str], ...]
    text: str | None = None
    shared_messages: int = 0


@dataclass(frozen=True)
class Reply:
    """What a model answered.

    Attributes:
        text: The answer.
        finished: Why it ends; `refused` where a service would not answer this request.
        prompt_tokens: Tokens that were read.
        completion_tokens: Tokens that were written.
        cached_tokens: Tokens of the prompt that a service had kept ready, a part of `prompt_tokens`.
        written_tokens: Tokens of the prompt that a service now keeps and bills for keeping, a part of `prompt_tokens`.
        seconds: From request to last token; None where several were answered at once.
        first_token_seconds: From request to first token; None where it was not measured.
        is_kept: Whether it was answered earlier and kept.
    """

    text: str
    finished: Literal["stop", "length", "refused"]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    written_tokens: int = 0
    seconds: float | None = None
    first_token_seconds: float | None = None
    is_kept: bool = False


class AskedModel(Protocol):
    """A model that can be asked."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def place(self) -> str:
        """`this machine`, or an address without secrets."""
        ...

    @property
    def identity(self) -> str:
        """What its answers depend on: a hash of weights and template, or address and model name."""
        ...

    @property
    def kind(self) -> Literal["text", "chat"]:
        """`text` where it continues `Request.text`, `chat` where it answers messages."""
        ...

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together; None where that is unknown."""
        ...

    @property
    def price(self) -> str | None:
        """Name of the model in the price table; None for a model of this machine."""
        ...

    def count_tokens(self, request: Request) -> int | None:
        """Tokens of a prompt; None where only the service knows."""
        ...

    def ask(self, requests: Sequence[Request], *, max_new_tokens: int, keep: Callable[[int, Reply], None]) -> None:
        """Answer every request greedily, as fast as may be, and hand each reply to `keep` with its number at once.

        Args:
            requests: The requests.
            max_new_tokens: Longest answer.
            keep: Takes the number of a request and its reply, in any order; called from one thread at a time.

        Raises:
            UserError: `endpoint-failed` where the model cannot be reached any more; what was kept stays kept.
        """
        ...

    def time(self, request: Request, *, max_new_tokens: int) -> Reply:
        """Answer one request alone, with its times."""
        ...
