"""Personal data taken out: rows that hold it are dropped, or what they hold gives way to a word for its kind."""

from collections import Counter
from collections.abc import Collection, Mapping

import orjson

from kivnun.data.checks.personal import PERSONAL_KINDS, PersonalKind, find_personal
from kivnun.data.repair.rewrite import Change, Repair, Target, rewrite
from kivnun.data.repair.source import Show, Source
from kivnun.data.rows import Row
from kivnun.errors import UserError

MASKS: dict[PersonalKind, str] = {
    "email": "[EMAIL]",
    "phone": "[PHONE]",
    "card": "[CARD]",
    "israeli-id": "[ID]",
    "secret": "[SECRET]",
}
KEPT_KEYS = frozenset(
    {"id", "tool_call_id", "call_id", "url", "uri", "fileUri", "file_uri", "data", "image_url", "image"}
)
"""Keys whose values are not masked unless they hold white space: what they name could not be found again."""


def mask_personal_data(
    source: Source, target: Target, *, kinds: Collection[PersonalKind] = PERSONAL_KINDS, show: Show | None = None
) -> Repair:
    """Write a file without personal data in its texts: `[EMAIL]` stands in the place of an address, and so on.

    Args:
        source: The file.
        target: Where to.
        kinds: What is masked.
        show: Is told again and again how far the work is.

    Raises:
        UserError: What `rewrite` raises.
    """

    def decide(_: int, row: Row) -> Change | None:
        found = find_in_row(row.fields, kinds)
        if not found:
            return None
        edit = _Mask(kinds)
        return Change("masked", _say_kinds(found), {"pieces": dict(found)}, copies=1, edit=edit.mask_fields)

    return rewrite(source, target, decide, show=show)


def drop_personal_data(
    source: Source, target: Target, *, kinds: Collection[PersonalKind] = PERSONAL_KINDS, show: Show | None = None
) -> Repair:
    """Write a file without the rows whose texts hold personal data.

    Args:
        source: The file.
        target: Where to.
        kinds: What a row is dropped for.
        show: Is told again and again how far the work is.

    Raises:
        UserError: What `rewrite` raises.
    """

    def decide(_: int, row: Row) -> Change | None:
        found = find_in_row(row.fields, kinds)
        return Change("dropped", _say_kinds(found), {"pieces": dict(found)}) if found else None

    return rewrite(source, target, decide, show=show)


def choose_kinds(names: Collection[str]) -> tuple[PersonalKind, ...]:
    """The kinds that some names mean; all for no names.

    Raises:
        UserError: `data-field` for a name that is none.
    """
    unknown = [name for name in names if name not in PERSONAL_KINDS]
    if unknown:
        raise UserError(
            "data-field",
            f"`{unknown[0]}` is no kind of personal data",
            hint=f"use one of {', '.join(PERSONAL_KINDS)}",
        )
    return tuple(kind for kind in PERSONAL_KINDS if not names or kind in names)


def find_in_row(fields: Mapping[str, object], kinds: Collection[PersonalKind]) -> Counter[PersonalKind]:
    """How many pieces of personal data the texts of a row hold, by kind."""
    mask = _Mask(kinds)
    mask.mask_fields(fields)
    return mask.found


class _Mask:
    """Replaces personal data in texts at any depth, and counts it."""

    def __init__(self, kinds: Collection[PersonalKind]) -> None:
        self.found: Counter[PersonalKind] = Counter()
        self._kinds = kinds

    def mask_fields(self, fields: Mapping[str, object]) -> Mapping[str, object]:
        return {
            key: value if key in KEPT_KEYS and _is_name(value) else self._mask(value) for key, value in fields.items()
        }

    def _mask(self, value: object) -> object:
        if isinstance(value, str):
            return self._mask_text(value)
        if isinstance(value, dict):
            return self.mask_fields(value)
        return [self._mask(item) for item in value] if isinstance(value, list) else value

    def _mask_text(self, text: str) -> str:
        spans = [span for span in find_personal(text) if span[0] in self._kinds]
        if not spans:
            return text
        if text.lstrip()[:1] in ("{", "[") and (inner := _parse(text)) is not None:
            # Arguments of calls, and cells that hold messages: what is masked must still be JSON.
            masked = self._mask_json(inner)
            return text if masked == inner else orjson.dumps(masked).decode()
        for kind, start, stop in reversed(spans):
            self.found[kind] += 1
            text = text[:start] + MASKS[kind] + text[stop:]
        return text

    def _mask_json(self, value: object) -> object:
        """As `_mask`, but numbers too: in a text they are found as any other digits."""
        if isinstance(value, int) and not isinstance(value, bool):
            text = str(value)
            masked = self._mask_text(text)
            return value if masked == text else masked
        if isinstance(value, dict):
            return {
                key: each if key in KEPT_KEYS and _is_name(each) else self._mask_json(each)
                for key, each in value.items()
            }
        return [self._mask_json(each) for each in value] if isinstance(value, list) else self._mask(value)


def _is_name(value: object) -> bool:
    """Whether a value may be an id, an address or packed bytes rather than a text."""
    return isinstance(value, int) or (isinstance(value, str) and not any(map(str.isspace, value)))


def _parse(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _say_kinds(found: Mapping[PersonalKind, int]) -> str:
    return ", ".join(f"personal-{kind}" for kind in PERSONAL_KINDS if kind in found)
