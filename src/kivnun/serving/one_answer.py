"""One answer on its way: what is wanted, and how far it has come."""

from collections.abc import Callable
from dataclasses import dataclass, field

from kivnun.generation.row_model import Row
from kivnun.serving.answers import Asked, Receive
from kivnun.serving.choosing import Chooser

EXPECTED_TOKENS = 512


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
    def project(self) -> str:
        """Whose it is."""
        return self.asked.cache_salt

    @property
    def unread_tokens(self) -> int:
        """Tokens of its prompt that are not in its row yet."""
        return len(self.asked.prompt_ids) - self.fed

    @property
    def held_tokens(self) -> int:
        """Tokens that its row holds."""
        return 0 if self.row is None else self.row.num_tokens

    @property
    def expected_tokens(self) -> int:
        """Tokens that its row is expected to hold; few answers use all the room that they have."""
        prompt_tokens = len(self.asked.prompt_ids)
        return max(self.held_tokens, prompt_tokens + min(self.room, EXPECTED_TOKENS))
