"""How rules say what a key means, and what the meaning of a training argument depends on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kivnun.olive.translation import Meaning


@dataclass(frozen=True)
class Surroundings:
    """What the meaning of an argument depends on beside its value."""

    block_tokens: int | None = None
    """Tokens of a row of Olive's, where it joins rows into blocks; None where a row is a row of the data."""
    has_validation: bool = True
    """Whether validation rows are named or split off."""
    splits_validation: bool = False
    """Whether they are split off the training rows."""
    given: Mapping[str, object] = field(default_factory=dict[str, object])
    """All arguments that are given."""


ArgumentRule = Callable[[str, object, Surroundings], Meaning]


def refused(reason: str) -> Meaning:
    """A key that is an error, for this reason."""
    return Meaning("refused", note=reason)


def same(note: str) -> Meaning:
    """A key that asks for what Kivnun does anyway."""
    return Meaning("same", note=note)


def becomes(name: str, path: str, value: object, note: str = "") -> Meaning:
    """A key that is a field of the recipe, under its own name or another."""
    return Meaning("used" if path.rpartition(".")[2] == name else "renamed", {path: value}, note)


def is_number(value: object, *, whole: bool = False) -> bool:
    """Whether a value is a number, which true and false are not."""
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)
