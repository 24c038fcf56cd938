"""Rows that repeat or contradict each other within a split, or leak from the test rows into the training rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kivnun.data.duplicates.fingerprint import Fingerprints, concatenate
from kivnun.data.duplicates.groups import connect, first_equal, pair_rows
from kivnun.data.duplicates.minhash import estimate_similarity
from kivnun.data.findings import Finding

_SPLIT_ORDER = ("train", "validation", "test")
_LEAK_CODES = {"test": "leak-exact", "validation": "leak-validation"}
# More than one test row in twenty that was trained on moves a score by more than most changes of a recipe do.
LARGE_LEAK = 0.05
# Larger groups of near duplicates are told as one: they may only share an instruction.
LARGE_GROUP = 20
_PAIR_MIX = np.uint64(0xFF51AFD7ED558CCD)


def check_repeats(prints: Mapping[str, Fingerprints], files: Sequence[str]) -> Iterator[Finding]:
    """What the checks `duplicate-*`, `conflicting-answers` and `leak-*` find.

    Args:
        prints: The rows of each split; near duplicates are looked for where all have signatures.
        files: The names of the files that the rows number.
    """
    names = sorted(prints, key=lambda name: (_SPLIT_ORDER.index(name) if name in _SPLIT_ORDER else 9, name))
    for name in names:
        yield from _find_duplicates(prints[name], files)
        yield from _find_conflicts(prints[name], files)
    for name in _LEAK_CODES:
        if name in prints and "train" in prints:
            yield from _find_leaks(name, prints[name], prints["train"], files)
    # Joined rows are a copy, which many millions of rows have no memory for; signatures are of fewer rows.
    if all(prints[name].signatures is not None for name in names):
        rows = concatenate([prints[name] for name in names])
        split = np.repeat(np.arange(len(names)), [len(prints[name]) for name in names])
        yield from _find_near(rows, names, split, files)


def _find_duplicates(rows: Fingerprints, files: Sequence[str]) -> Iterator[Finding]:
    """Rows equal to an earlier one: to the letter, or in all but case, points, punctuation and spaces."""
    exact = first_equal(rows.row)
    for place in _places(exact != np.arange(len(rows))):
        yield _finding("duplicate-exact", rows, place, files, f"the same row as {_where(rows, exact[place], files)}")
    worded = first_equal(rows.question * _PAIR_MIX + rows.answer)
    # The row that the words stand in first may itself be repeated to the letter, which is said already.
    for place in _places((worded != np.arange(len(rows))) & (exact == np.arange(len(rows)))):
        same = _where(rows, worded[place], files)
        message = f"differs from {same} only in case, points, punctuation or spaces"
        yield _finding("duplicate-near", rows, place, files, message)


def _find_conflicts(rows: Fingerprints, files: Sequence[str]) -> Iterator[Finding]:
    """Rows whose answer is another than that of the first row with the same question."""
    first = first_equal(rows.question)
    for place in _places(rows.answer != rows.answer[first]):
        message = f"another answer to the same input as {_where(rows, first[place], files)}"
        yield _finding("conflicting-answers", rows, place, files, message)


def _find_leaks(name: str, rows: Fingerprints, train: Fingerprints, files: Sequence[str]) -> Iterator[Finding]:
    """Rows whose input stands in train, and how many they are."""
    known, first = np.unique(train.input, return_index=True)
    places = np.minimum(np.searchsorted(known, rows.input), max(0, len(known) - 1))
    leaked = _places(known[places] == rows.input) if len(known) else []
    found = ((_where(rows, place, files), _where(train, int(first[places[place]]), files)) for place in leaked)
    yield from name_leaks(name, found, len(leaked), len(rows))


def name_leaks(name: str, leaked: Iterable[tuple[str, str]], num_leaked: int, num_rows: int) -> Iterator[Finding]:
    """The findings for rows whose input stands in train, and one more where they are many.

    Args:
        name: The split: `test` or `validation`.
        leaked: The place of each such row, and of the training row that asks the same.
        num_leaked: How many they are.
        num_rows: Rows of the split.
    """
    share = f"{num_leaked:,} of {num_rows:,} {name} rows"
    is_large = name == "test" and num_leaked > LARGE_LEAK * num_rows
    for where, twin in leaked:
        file, _, line = where.rpartition(":")
        if is_large:
            message = f"{share} ({num_leaked / num_rows:.0%}) have an input that stands in train"
            yield Finding("leak-large", file, 0, message)
            is_large = False
        yield Finding(_LEAK_CODES[name], file, int(line), f"its input stands in train, {twin} (so do {share})")


def _find_near(
    rows: Fingerprints, names: Sequence[str], split: NDArray[np.int64], files: Sequence[str]
) -> Iterator[Finding]:
    """Rows with nearly the same input as another: with the same answer in one split, or across train and another."""
    pairs = pair_rows(rows)
    first, second = pairs.T
    inside = split[first] == split[second]
    alike = inside & (rows.answer[first] == rows.answer[second])
    yield from _name_near("duplicate-near", rows, pairs[alike], files)
    if "train" in names:
        train = names.index("train")
        for name in (name for name in _LEAK_CODES if name in names):
            leaks = pairs[(split[first] == train) & (split[second] == names.index(name))]
            yield from _name_near("leak-near", rows, leaks, files)


def _name_near(code: str, rows: Fingerprints, pairs: NDArray[np.int64], files: Sequence[str]) -> Iterator[Finding]:
    """A finding for the later row of each pair, once; one alone for each group that is too large for copies."""
    if rows.signatures is None:
        return
    groups = connect(np.arange(len(rows)), pairs)
    sizes = np.bincount(groups)
    # Of several earlier rows the first is named; pairs are sorted by it.
    later, index = np.unique(pairs[:, 1], return_index=True)
    alike = estimate_similarity(rows.signatures, pairs[index])
    side = " of train" if code == "leak-near" else ""
    large: set[int] = set()
    for place, twin, share in zip(later.tolist(), pairs[index, 0].tolist(), alike.tolist(), strict=True):
        group = int(groups[place])
        size = int(sizes[group])
        message = f"about {min(share, 0.99):.0%} of its input stands in {_where(rows, twin, files)}{side}"
        if size <= LARGE_GROUP:
            yield _finding(code, rows, place, files, message)
        elif group not in large:
            large.add(group)
            grouped = f"{size:,} rows hang together so: copies, or a long text that all of them share"
            yield _finding(code, rows, place, files, f"{message}; {grouped}")


def _places(chosen: NDArray[np.bool_]) -> list[int]:
    return np.flatnonzero(chosen).tolist()


def _where(rows: Fingerprints, place: int, files: Sequence[str]) -> str:
    return f"{files[int(rows.file[place])]}:{rows.line[place]}"


def _finding(code: str, rows: Fingerprints, place: int, files: Sequence[str], message: str) -> Finding:
    return Finding(code, files[int(rows.file[place])], int(rows.line[place]), message)
