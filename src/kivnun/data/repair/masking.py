"""What masking makes of one row: texts, numbers and keys at any depth, but for what only names a call or a picture."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import cast

from kivnun.data.checks.personal import PersonalKind, PersonalSpan, find_personal
from kivnun.data.formats.fields import is_deep

MASKS: dict[PersonalKind, str] = {
    "email": "[EMAIL]",
    "phone": "[PHONE]",
    "card": "[CARD]",
    "israeli-id": "[ID]",
    "secret": "[SECRET]",
}
_CALL_NAMES = frozenset({"tool_call_id", "call_id"})
_CALL_SIGNS = frozenset({"role", "type", "function", "arguments", "args", "response"})
_ADDRESS_KEYS = frozenset({"url", "uri", "fileUri", "file_uri", "data", "image_url", "image"})
_ADDRESS = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]{1,20}://|data:)\S+|(?:[A-Za-z0-9+/]{4}){8,}(?:[A-Za-z0-9+/=]{4})?")
_CALL_DATA = frozenset({"arguments", "args", "response"})
_COUNTS_AS_ID = "ID number: "
_HEAD_CHARACTERS = 60


class Mask:
    """Replaces personal data in a row, and counts it.

    Inside messages, the id of a call and the address of a picture stay, for what they name could not be found again;
    no check looks there. A row's own columns are masked whatever they are called, for any of them may be learnt.

    Attributes:
        kinds: What is masked.
        keeps_names: Whether the row's own keys stay: names of columns that stand elsewhere.
        found: How many pieces were masked, by kind.
        kept: How many were seen and kept.
    """

    def __init__(
        self,
        kinds: Collection[PersonalKind],
        *,
        keeps_names: bool = False,
        keeps_addresses: bool = True,
        before: str = "",
    ) -> None:
        self.kinds = kinds
        self.keeps_names = keeps_names
        self.found: Counter[PersonalKind] = Counter()
        self.kept: Counter[PersonalKind] = Counter()
        self._keeps_addresses = keeps_addresses
        self._before = before

    def mask_row(self, fields: Mapping[str, object]) -> Mapping[str, object]:
        """The row with masks in it.

        Args:
            fields: The row's fields.
        """
        values = [self.mask_value(value) for value in fields.values()]
        keys = list(fields) if self.keeps_names else self._mask_keys(fields)
        return dict(zip(keys, self._mask_joined(values), strict=True))

    def mask_value(self, value: object) -> object:
        """A value with masks in it, at any depth.

        Args:
            value: Text, number, list or object.
        """
        if isinstance(value, str):
            return self._mask_text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._mask_number(value)
        if isinstance(value, dict):
            return self._mask_object(cast("dict[str, object]", value))
        return self._mask_list(value) if isinstance(value, list) else value

    def _mask_number(self, number: float, key: str = "") -> object:
        before = self._before or (f'"{key}": ' if key else "")
        masked = self._mask_behind(before, str(number))
        return number if masked == str(number) else masked

    def _mask_object(self, value: Mapping[str, object]) -> dict[str, object]:
        keys = self._mask_keys(value)
        masked: dict[str, object] = {}
        for key, name, inner in zip(value, keys, value.values(), strict=True):
            if self._keeps_addresses and _names_something(key, value):
                self.kept.update(kind for kind, _, _ in self._spans(str(inner)))
                masked[name] = inner
            elif key in _CALL_DATA and isinstance(inner, dict | list):
                masked[name] = self._mask_call_data(inner)
            elif not self._keeps_addresses and isinstance(inner, int | float) and not isinstance(inner, bool):
                masked[name] = self._mask_number(inner, name)
            else:
                masked[name] = self.mask_value(inner)
        return masked

    def _mask_list(self, items: Sequence[object]) -> list[object]:
        masked = [self.mask_value(item) for item in items]
        # The parts of a message are read as one text.
        parts = [item for item in masked if isinstance(item, dict) and isinstance(item.get("text"), str)]
        if len(parts) > 1:
            texts = self._mask_pieces([part["text"] for part in parts])
            for part, text in zip(parts, texts, strict=True):
                part["text"] = text
        return masked

    def _mask_text(self, text: str) -> str:
        # Cells that hold messages, and arguments of calls: what is masked must still be JSON.
        inner = _parse(text) if text.lstrip()[:1] in ("{", "[") else None
        if inner is not None:
            for trial in self._trials():
                masked = trial.mask_value(inner)
                changed = _dump(masked) if trial.found else text
                if not self._spans(changed):
                    self._add(trial)
                    return changed
        return self._mask_behind(self._before, text)

    def _mask_call_data(self, value: object) -> object:
        """The arguments of a call, or its result, as an object: a check reads it as JSON text."""
        _, gentle, thorough = self._trials()
        masked = gentle.mask_value(value)
        if not self._spans(_dump(masked)):
            self._add(gentle)
            return masked
        masked = thorough.mask_value(value)
        self._add(thorough)
        self.kept.update(kind for kind, _, _ in self._spans(_dump(masked)))
        return masked

    def _trials(self) -> "list[Mask]":
        """Ways to mask an object, each more thorough than the one before it."""
        return [
            Mask(self.kinds, keeps_addresses=self._keeps_addresses),
            Mask(self.kinds, keeps_addresses=False),
            Mask(self.kinds, keeps_addresses=False, before=_COUNTS_AS_ID),
        ]

    def _add(self, trial: "Mask") -> None:
        self.found += trial.found
        self.kept += trial.kept

    def _mask_joined(self, values: Sequence[object]) -> list[object]:
        """Values of columns, two of which may be read as one text: words in one make a number in the next one an ID."""
        masked = list(values)
        # Numbers are read as texts too.
        texts = {place: str(value) for place, value in enumerate(values) if _is_text_or_number(value)}
        for place, text in texts.items():
            if not self._spans(_COUNTS_AS_ID + text[:_HEAD_CHARACTERS]):
                continue
            shown = text
            for other in texts.keys() - {place}:
                words = texts[other][-_HEAD_CHARACTERS:] + "\n\n"
                shown = self._mask_behind(words, shown)
            if shown != text:
                masked[place] = shown
        return masked

    def _mask_keys(self, fields: Mapping[str, object]) -> list[str]:
        """The keys with masks in them; two that would be the same are told apart by a number."""
        keys: list[str] = []
        for key in fields:
            masked = self._mask_pieces([key])[0]
            if masked != key:
                taken = {*fields, *keys}
                masked = next(name for name in _numbered(masked) if name not in taken)
            keys.append(masked)
        return keys

    def _mask_behind(self, before: str, text: str) -> str:
        """A text with masks in it, as it is read behind other words."""
        return self._mask_pieces([before, text], first=len(before))[1]

    def _mask_pieces(self, pieces: list[str], *, first: int = 0) -> list[str]:
        """Texts that are read as one, each with masks in it from a first place on."""
        # A mask is shorter or longer than what it replaces, so that other words stand near the numbers behind it.
        while spans := [span for span in self._spans("".join(pieces)) if span[1] >= first]:
            for kind, start, stop in reversed(spans):
                self.found[kind] += 1
                pieces = _replace(pieces, start, stop, MASKS[kind])
        return pieces

    def _spans(self, text: str) -> list[PersonalSpan]:
        return [span for span in find_personal(text) if span[0] in self.kinds]


def _is_text_or_number(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _names_something(key: str, fields: Mapping[str, object]) -> bool:
    """Whether a value inside a message is the id of a call, or the address or the packed bytes of a picture."""
    value = fields[key]
    if not isinstance(value, str) or any(map(str.isspace, value)):
        return False
    if key in _ADDRESS_KEYS:
        return _ADDRESS.fullmatch(value) is not None
    return "@" not in value and (key in _CALL_NAMES or (key == "id" and not _CALL_SIGNS.isdisjoint(fields)))


def _replace(pieces: Sequence[str], start: int, stop: int, mask: str) -> list[str]:
    """The pieces with a mask for what stands between two places of their whole."""
    replaced: list[str] = []
    begin = 0
    for piece in pieces:
        left, right = (min(max(place - begin, 0), len(piece)) for place in (start, stop))
        word = mask if begin <= start < begin + len(piece) else ""
        replaced.append(piece[:left] + word + piece[right:])
        begin += len(piece)
    return replaced


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name} {number}" for number in count(2))


def _parse(text: str) -> object:
    # The standard library keeps integers of any size.
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if is_deep(value) else value


def _dump(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which JSON may spell and UTF-8 cannot hold.
        return json.dumps(value)
    return text
