"""Personal data taken out: rows that hold it are dropped, or what they hold gives way to a word for its kind."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from kivnun.data.checks.personal import PERSONAL_KINDS, PersonalKind
from kivnun.data.formats.fields import is_deep
from kivnun.data.repair.masking import Mask
from kivnun.data.repair.rewrite import Change, Repair, Target, rewrite
from kivnun.data.repair.source import Show, Source
from kivnun.data.rows import Row
from kivnun.errors import UserError

_NAMED_ONCE = ("csv", "tsv")
"""Layouts that name their columns in a line of their own, which no row can change."""


def mask_personal_data(
    source: Source, target: Target, *, kinds: Collection[PersonalKind] = PERSONAL_KINDS, show: Show | None = None
) -> Repair:
    """Write a file without personal data: `[EMAIL]` stands in the place of an address, and so on.

    Texts, numbers and keys are masked at any depth. What only names a call or a picture inside a message stays, and is
    told.

    Args:
        source: The file.
        target: Where to.
        kinds: What is masked.
        show: Is told again and again how far the work is.

    Raises:
        UserError: What `rewrite` raises.
    """
    return _repair(source, target, kinds, _mask, show)


def drop_personal_data(
    source: Source, target: Target, *, kinds: Collection[PersonalKind] = PERSONAL_KINDS, show: Show | None = None
) -> Repair:
    """Write a file without the rows that hold personal data.

    Args:
        source: The file.
        target: Where to.
        kinds: What a row is dropped for.
        show: Is told again and again how far the work is.

    Raises:
        UserError: What `rewrite` raises.
    """
    return _repair(source, target, kinds, _drop, show)


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


def _repair(
    source: Source,
    target: Target,
    kinds: Collection[PersonalKind],
    change: Callable[[Mask, str], Change],
    show: Show | None,
) -> Repair:
    keeps_names = source.file.layout in _NAMED_ONCE
    notes: list[str] = []

    def decide(number: int, row: Row) -> Change | None:
        if keeps_names and number == 0:
            notes.extend(_judge_names(row.fields, kinds))
        if is_deep(row.fields):
            return Change("kept", "nested too deeply to look into", copies=1)
        mask = Mask(kinds, keeps_names=keeps_names)
        mask.mask_row(row.fields)
        kept = f"{_say_kinds(mask.kept)} in the name of a call or a picture" if mask.kept else ""
        if mask.found:
            return change(mask, f", kept {kept}" if kept else "")
        return Change("kept", kept, {"kept": dict(mask.kept)}, copies=1) if kept else None

    return rewrite(source, target, decide, notes=notes, show=show)


def _mask(mask: Mask, kept: str) -> Change:
    edit = Mask(mask.kinds, keeps_names=mask.keeps_names)
    log = {"pieces": dict(mask.found), **({"kept": dict(mask.kept)} if mask.kept else {})}
    return Change("masked", _say_kinds(mask.found) + kept, log, copies=1, edit=edit.mask_row)


def _drop(mask: Mask, _: str) -> Change:
    return Change("dropped", _say_kinds(mask.found), {"pieces": dict(mask.found)})


def _judge_names(fields: Mapping[str, object], kinds: Collection[PersonalKind]) -> list[str]:
    """What to say of columns whose names hold personal data: they stay."""
    found: Counter[PersonalKind] = Counter()
    places: list[int] = []
    for place, name in enumerate(fields, start=1):
        mask = Mask(kinds)
        mask.mask_row({"": name})
        places += [place] if mask.found else []
        found += mask.found
    if not places:
        return []
    columns = ", ".join(map(str, places))
    return [f"kept: {_say_kinds(found)} in the name of column {columns}, which no repair changes"]


def _say_kinds(found: Mapping[PersonalKind, int]) -> str:
    return ", ".join(f"personal-{kind}" for kind in PERSONAL_KINDS if kind in found)
