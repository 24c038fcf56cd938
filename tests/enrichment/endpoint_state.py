"""What a stand-in endpoint was asked, and what it answers."""

from collections.abc import Callable
from dataclasses import dataclass, field

Reply = Callable[[dict], str]


@dataclass
class Endpoint:
    """The server's address, what it was asked, and what it answers."""

    url: str = ""
    requests: list[dict] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    reply: Reply = lambda _request: "[]"
    fail_after: int | None = None
    raw: bytes | None = None
    seconds: float = 0.0
