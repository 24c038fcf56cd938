"""The rows of a comparison, frozen: read once, audited for leaks, hashed, and every look at the test rows noted.

frozen.json   hash of every row of every split, and of what must not change while a comparison goes on
looks.jsonl   one line for each arm that was measured on the test rows
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from kivnun.data.conversation import Conversation
from kivnun.data.grouping import asked_text, count_common, group_rows
from kivnun.data.reading import ReadData
from kivnun.data.sources import first_problems
from kivnun.data.split import SPLITS
from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.runs import write_atomic

FROZEN_NAME, LOOKS_NAME = "frozen.json", "looks.jsonl"
MIN_TEST_ROWS = 20
"""Below this the 95 % interval of a share is wider than 40 points, whatever is measured."""
FORMAT = 1


@dataclass(frozen=True)
class Frozen:
    """Rows that may not change any more.

    Attributes:
        template: How they are written.
        splits: Rows by split.
        digest: Hash of the test rows, in their order.
        notes: What a user should know of how rows were read, cut and audited.
    """

    template: PromptTemplate
    splits: Mapping[str, Sequence[Conversation]]
    digest: str
    notes: tuple[str, ...]


def freeze_rows(read: ReadData, *, near: bool) -> Frozen:
    """Audit the rows and fix them.

    Args:
        read: The rows of the recipe.
        near: Whether test rows that are nearly a training row are refused; else they are counted aloud.

    Raises:
        UserError: `split-too-small` or `test-leaked`.
    """
    test = read.splits["test"]
    if len(test) < MIN_TEST_ROWS:
        widest = _widest_interval(len(test))
        raise UserError(
            "split-too-small",
            f"{len(test)} test rows: a share measured on them is uncertain by {widest}, which can decide nothing",
            hint=f"give data.test at least {MIN_TEST_ROWS} rows, and better 200: they can tell 10 points apart",
        )
    if not read.splits["train"]:
        raise UserError("data-empty", "there is no training row", hint="name rows to learn from in data.train")
    exact, alike = find_leaks(read.splits, read.template)
    refused = {**alike, **exact} if near else exact
    if refused:
        kind = "stand in the training rows, or are nearly the same" if near else "stand in the training rows"
        raise UserError(
            "test-leaked",
            f"{len(refused)} of {len(test)} test rows {kind}: nothing measured on them would be true",
            details=first_problems([f"{row} is {twin}" for row, twin in refused.items()]),
            hint="take them out of one file, or let data.split cut the rows, which keeps them together; rows that are "
            "alike and yet different questions are accepted with data.ignore_checks: [leak-near]",
        )
    counted = [f"{len(alike)} test rows are nearly the same as training rows, which the recipe allows"] if alike else []
    notes = [*read.notes, *(f"{count} row(s) left out: {why}" for why, count in read.left_out.items()), *counted]
    return Frozen(read.template, read.splits, hash_rows(test), tuple(notes))


def _widest_interval(num_rows: int) -> str:
    half = 1.96 * 0.5 / num_rows**0.5 if num_rows else 1.0
    return f"up to {min(half, 1.0):.0%} either way"


def find_leaks(
    splits: Mapping[str, Sequence[Conversation]], template: PromptTemplate
) -> tuple[dict[str, str], dict[str, str]]:
    """Test rows whose input stands in the training rows, to the word or nearly, each with the training row.

    Rows are compared as `data.split` compares them, so that a split which that cut never leaks: what very many rows
    share is no question, and is left aside.
    """
    rows = [(split, row) for split in SPLITS for row in splits[split]]
    names = template.prompt_fields if template.kind == "text" else ()
    inputs = [asked_text(row, names) for _, row in rows]
    hashes = [row.content_hash for _, row in rows]
    common = count_common(hashes, inputs)
    numbers = group_rows(hashes, inputs=inputs).numbers
    train_inputs: dict[str, str] = {}
    train_hashes: dict[str, str] = {}
    train_groups: dict[int, str] = {}
    for (split, row), text, digest, number in zip(rows, inputs, hashes, numbers, strict=True):
        if split == "train":
            train_hashes.setdefault(digest, row.where)
            train_groups.setdefault(number, row.where)
            if text not in common:
                train_inputs.setdefault(text, row.where)
    exact: dict[str, str] = {}
    alike: dict[str, str] = {}
    for (split, row), text, digest, number in zip(rows, inputs, hashes, numbers, strict=True):
        if split != "test":
            continue
        twin = train_hashes.get(digest) or train_inputs.get(text)
        if twin is not None:
            exact[row.where] = f"{twin}, word for word"
        elif number in train_groups:
            alike[row.where] = f"nearly {train_groups[number]}"
    return exact, alike


def hash_rows(rows: Sequence[Conversation]) -> str:
    """SHA-256 of rows in their order."""
    return hashlib.sha256("\n".join(row.content_hash for row in rows).encode()).hexdigest()


def require_same(folder: Path, frozen: Frozen, fixed: Mapping[str, object]) -> None:
    """Write down what was frozen, or compare it with what stands in the folder.

    Args:
        folder: The folder of the comparison.
        frozen: The rows.
        fixed: What else must not change, by the name that a user knows it by.

    Raises:
        UserError: `decide-differs`, naming what changed; `artifact-damaged` where the file cannot be read.
    """
    rows = {f"{split} rows": [row.content_hash for row in part] for split, part in frozen.splits.items()}
    now = cast("dict[str, Any]", json.loads(json.dumps({"format": FORMAT, **fixed, **rows})))
    path = folder / FROZEN_NAME
    if not path.exists():
        write_atomic(path, json.dumps(now, ensure_ascii=False, indent=1) + "\n")
        return
    try:
        kept = cast("dict[str, Any]", json.loads(path.read_text("utf-8")))
    except ValueError as error:
        hint = f"remove {folder}; the comparison is then made anew"
        raise UserError("artifact-damaged", f"{path} cannot be read ({error})", hint=hint) from error
    changed = [name for name in sorted(now.keys() | kept.keys()) if now.get(name) != kept.get(name)]
    if changed:
        raise UserError(
            "decide-differs",
            f"{folder} holds a comparison with other {', '.join(changed)}",
            details=[_say_change(name, kept.get(name), now.get(name)) for name in changed],
            hint="name another folder with --out, or bring back what it was; only arms, models, limits and budgets of "
            "`decide` may change",
        )


def _say_change(name: str, before: object, now: object) -> str:
    if isinstance(before, list) and isinstance(now, list):
        same = len(set(cast("list[str]", before)) & set(cast("list[str]", now)))
        return f"{name}: {len(before)} then, {len(now)} now, {same} of them the same"
    if isinstance(before, dict) and isinstance(now, dict):
        old, new = cast("dict[str, object]", before), cast("dict[str, object]", now)
        parts = [f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in new if old.get(key) != new.get(key)]
        return f"{name}: {'; '.join(parts)[:300]}"
    return f"{name}: was {before!r}, is {now!r}"


def note_look(folder: Path, digest: str, comparison: str, arm: str) -> None:
    """Write down that an arm was measured on the test rows; the same arm of the same comparison counts once."""
    path = folder / LOOKS_NAME
    known = _read_looks(path)
    if any((look["comparison"], look["arm"], look["rows"]) == (comparison, arm, digest) for look in known):
        return
    look = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "arm": arm, "comparison": comparison}
    lines = [json.dumps(each, ensure_ascii=False) for each in (*known, {**look, "rows": digest})]
    write_atomic(path, "\n".join(lines) + "\n")


def count_looks(folder: Path, digest: str) -> int:
    """How many comparisons have seen these test rows, in this folder and in those beside it."""
    folders = {path.parent for path in folder.resolve().parent.glob(f"*/{LOOKS_NAME}")} | {folder.resolve()}
    return len(
        {
            (place, look["comparison"])
            for place in folders
            for look in _read_looks(place / LOOKS_NAME)
            if look["rows"] == digest
        }
    )


def _read_looks(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    return [cast("dict[str, str]", json.loads(line)) for line in path.read_text("utf-8").splitlines() if line.strip()]
