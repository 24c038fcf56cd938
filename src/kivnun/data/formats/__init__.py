"""Rows become conversations and back: one module per family of formats, and which of them a file is in."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from kivnun.data.formats.alpaca import ALPACA
from kivnun.data.formats.base import Format
from kivnun.data.formats.bedrock import BEDROCK_CLAUDE
from kivnun.data.formats.columns import COLUMNS, columns_format
from kivnun.data.formats.completion import PROMPT_COMPLETION
from kivnun.data.formats.fields import did_you_mean
from kivnun.data.formats.gemini import GEMINI
from kivnun.data.formats.gemini_preference import GEMINI_PREFERENCE
from kivnun.data.formats.instances import SNIPS, SQUAD, SUPER_NI
from kivnun.data.formats.kto import KTO
from kivnun.data.formats.openai_chat import OPENAI_CHAT
from kivnun.data.formats.openai_preference import OPENAI_PREFERENCE
from kivnun.data.formats.openai_reinforcement import OPENAI_REINFORCEMENT
from kivnun.data.formats.preference import PREFERENCE
from kivnun.data.formats.seeds import GEMINI_1_0, PALM_CHAT, PALM_TEXT
from kivnun.data.formats.sharegpt import SHAREGPT
from kivnun.data.formats.taskmaster import TASKMASTER
from kivnun.data.formats.text import TEXT
from kivnun.data.rows import Row
from kivnun.errors import UserError

_ALL = (
    OPENAI_PREFERENCE,
    GEMINI_PREFERENCE,
    PREFERENCE,
    KTO,
    OPENAI_REINFORCEMENT,
    GEMINI,
    GEMINI_1_0,
    PALM_CHAT,
    PALM_TEXT,
    BEDROCK_CLAUDE,
    SHAREGPT,
    OPENAI_CHAT,
    TASKMASTER,
    SUPER_NI,
    SNIPS,
    SQUAD,
    ALPACA,
    PROMPT_COMPLETION,
    COLUMNS,
    TEXT,
)

FORMATS: dict[str, Format] = {format_.name: format_ for format_ in _ALL}
"""Every format by its name, the most specific first: where rows look like several, the first one is meant."""

SHOWN_KEYS = 12
SIGNS = {
    "preferred_output": "openai-preference",
    "non_preferred_output": "openai-preference",
    "chosen": "preference",
    "rejected": "preference",
    "messages": "openai-chat",
    "conversations": "sharegpt",
    "contents": "gemini",
    "completions": "gemini-preference",
    "input_text": "palm-text",
    "output_text": "palm-text",
    "generation": "taskmaster",
    "definition": "super-ni",
    "answers": "squad",
    "instruction": "alpaca",
    "completion": "prompt-completion",
    "prompt": "prompt-completion",
    "text": "text",
}
"""Keys that tell a format, for keys that are nearly so called."""


@dataclass(frozen=True)
class Detection:
    """What rows were taken for.

    Attributes:
        format: The format.
        why: What speaks for it, for people: "`messages` with `role` and `content` in 100 of 100 rows".
    """

    format: Format
    why: str


def detect_format(
    rows: Sequence[Row], *, wanted: str | None = None, prompt: str | None = None, answer: str | None = None
) -> Detection:
    """The format of some rows, or the one that was asked for.

    Args:
        rows: The first rows of a file.
        wanted: A format's name, which is taken whatever the rows look like.
        prompt: The column that is read, of a table whose columns have other names than the known ones.
        answer: The column that is learnt, of such a table.

    Raises:
        UserError: `data-format` for an unknown name, for columns that are not there, or where most rows look like no
            known format; `data-empty` where there are no rows.
    """
    if not rows:
        raise UserError("data-empty", "there are no rows to tell the format from", hint="check the file")
    if wanted is not None and wanted not in FORMATS:
        raise UserError(
            "data-format",
            f"`{wanted}` is no known format{did_you_mean(wanted, FORMATS)}",
            hint=f"use one of {', '.join(FORMATS)}",
        )
    if prompt is not None or answer is not None:
        return _take_columns(rows, wanted, prompt, answer)
    if wanted is not None:
        return Detection(FORMATS[wanted], "it was asked for")
    counts: dict[str, int] = {}
    for format_ in FORMATS.values():
        reasons = Counter(filter(None, (format_.recognise(row.fields) for row in rows)))
        counts[format_.name] = reasons.total()
        # A more general format may know more rows: those in which the more specific one has a fault.
        if reasons.total() * 2 >= len(rows):
            reason = reasons.most_common(1)[0][0].removeprefix("has ")
            return Detection(format_, f"{reason} in {reasons.total():,} of {len(rows):,} rows")
    raise _unknown_format(rows, counts)


def _take_columns(rows: Sequence[Row], wanted: str | None, prompt: str | None, answer: str | None) -> Detection:
    if prompt is None or answer is None or wanted not in (None, "columns"):
        raise UserError(
            "data-format",
            "a table's columns are named in pairs: the one that is read and the one that is learnt",
            hint="give both --prompt and --answer, and no other format",
        )
    names = list(dict.fromkeys(name for row in rows for name in row.fields))
    missing = [name for name in (prompt, answer) if name not in names]
    if missing:
        raise UserError(
            "data-format",
            f"{rows[0].file}: no column {' and no column '.join(f'`{name}`' for name in missing)}",
            details=[f"columns: {', '.join(names)}{did_you_mean(missing[0], names)}"],
            hint="name columns that are there",
        )
    return Detection(columns_format(prompt, answer), f"columns `{prompt}` and `{answer}` were named")


def _unknown_format(rows: Sequence[Row], counts: dict[str, int]) -> UserError:
    keys = Counter(key for row in rows for key in row.fields)
    shown = [f"`{key}`" + (f" ({count:,})" if count < len(rows) else "") for key, count in keys.most_common(SHOWN_KEYS)]
    more = [f"{len(keys) - SHOWN_KEYS:,} more"] if len(keys) > SHOWN_KEYS else []
    near = [f"{count:,} of {len(rows):,} rows look like {name}" for name, count in counts.items() if count]
    found = {key: get_close_matches(key, SIGNS, n=1) for key in keys if key not in SIGNS}
    meant = [f"`{key}`: did you mean `{sign[0]}` ({SIGNS[sign[0]]})?" for key, sign in found.items() if sign]
    return UserError(
        "data-format",
        f"{rows[0].file}: the rows look like no known format",
        details=[f"keys in {len(rows):,} row(s): {', '.join([*shown, *more]) or 'none'}", *near, *meant[:SHOWN_KEYS]],
        hint="name the columns with --prompt and --answer, or the format with --from",
    )
