"""A group of keys of an Olive file, taken key by key: each has a rule, and one without is refused."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import cast

from kivnun.olive.meanings import refused, same
from kivnun.olive.translation import OPENED, Draft, Meaning

Rule = Callable[[object], Meaning]

NO_CODE = "no code of a configuration is run; prepare the file beforehand, or use text_template"


@dataclass(frozen=True)
class Entry:
    """A key with its value."""

    key: str
    """The dotted key."""
    value: object
    """Its value."""


@dataclass(frozen=True)
class Group:
    """The keys of a group, those that older files nest in `config` or `params` among them."""

    draft: Draft
    key: str
    """The dotted key of the group itself."""
    entries: Mapping[str, Entry]
    """Keys and values by name."""

    def get(self, name: str) -> object:
        """The value of a key; None where it is not given."""
        entry = self.entries.get(name)
        return None if entry is None else entry.value

    def take(self, rules: Mapping[str, Rule], what: str) -> None:
        """Give every key its meaning.

        Args:
            rules: What each name becomes.
            what: What the group is, for keys that it does not have.
        """
        for name, entry in self.entries.items():
            rule = rules.get(name)
            meaning = _unknown(name, rules, what) if rule is None else rule(entry.value)
            self.draft.add(entry.key, entry.value, meaning)


def _unknown(name: str, rules: Mapping[str, Rule], what: str) -> Meaning:
    close = get_close_matches(name, list(rules), n=1)
    meant = f"; did you mean `{close[0]}`?" if close else "; it would have no effect: remove it"
    return refused(f"unknown key of {what}{meant}")


def open_group(draft: Draft, key: str, value: object, nested: str = "config") -> Group | None:
    """The keys of a group; what is no group is refused, and None.

    Args:
        draft: Takes what is wrong.
        key: The dotted key of the group.
        value: Its value.
        nested: Name of the group inside, whose keys count as the group's own.
    """
    if not isinstance(value, dict):
        draft.refuse(key, f"should be a group of keys (got {value!r})")
        return None
    entries: dict[str, Entry] = {}
    given = cast("dict[str, object]", value)
    inner = given.get(nested)
    for name, item in given.items():
        if name != nested:
            entries[name] = Entry(f"{key}.{name}", item)
        elif not isinstance(inner, dict):
            draft.refuse(f"{key}.{nested}", f"should be a group of keys (got {inner!r})")
    for name, item in (cast("dict[str, object]", inner) if isinstance(inner, dict) else {}).items():
        if name in entries:
            draft.refuse(f"{key}.{nested}.{name}", f"stands also beside `{nested}`; keep one of them")
        else:
            entries[name] = Entry(f"{key}.{nested}.{name}", item)
    return Group(draft, key, entries)


def field(path: str, note: str = "", *, name: str = "") -> Rule:
    """A key whose value goes into a field of the recipe as it is, under its own name where that is the field's last."""
    outcome = "used" if name and path.rpartition(".")[2] == name else "renamed"
    return lambda value: Meaning(outcome, {path: value}, note)


def only(allowed: tuple[object, ...], because: str, otherwise: str) -> Rule:
    """Values that say what Kivnun does anyway; any other one is an error."""

    def rule(value: object) -> Meaning:
        # True is 1 for Python, and a user means something else by it.
        is_allowed = any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed)
        return same(because) if is_allowed else refused(otherwise)

    return rule


def never(reason: str) -> Rule:
    """A key without a counterpart."""
    return lambda _: refused(reason)


def noted(note: str = "") -> Rule:
    """A key that is used elsewhere in the translation."""
    return lambda _: Meaning("used", note=note)


def opened(_: object) -> Meaning:
    """A group whose keys are taken one by one elsewhere."""
    return OPENED
