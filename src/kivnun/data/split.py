"""Training, validation and test rows: chosen by a hash of each row's content, or by time.

The same row lands in the same split on every machine, whatever the order of the file. Rows of one group never straddle
a split; equal rows always are one group, so that no test row was ever trained on word for word.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from kivnun.data.times import Moment
from kivnun.errors import UserError
from kivnun.recipe.schema import SplitSection

SPLITS = ("train", "validation", "test")
GROUPS_HINT = "ask for smaller splits, choose near_duplicates: ignore, or group by something finer"


@dataclass(frozen=True)
class Assignment:
    """Where rows go.

    Attributes:
        places: The split of every row: `train`, `validation` or `test`.
        notes: What a user should know: cut times, and sizes that differ from those asked for.
    """

    places: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Block:
    """Rows that stay together.

    Attributes:
        digest: Smallest content hash of the rows, which stands for all of them.
        stratum: Stratum of that row.
        size: Number of different rows.
    """

    digest: str
    stratum: str
    size: int


def assign_splits(
    hashes: Sequence[str], strata: Sequence[str], split: SplitSection, *, groups: Sequence[Hashable] | None = None
) -> Assignment:
    """Cut rows at random, by nothing but their content and the seed.

    Each stratum is cut in the recipe's proportions, rounded so that the totals are right as well. Sizes count
    different rows; where groups make them impossible, they are as near as groups taken in their order can come.

    Args:
        hashes: Content hash of each row; equal hashes stay together.
        strata: Value of `stratify_by` for each row, or "" for all.
        split: The recipe's `data.split`.
        groups: What each row must stay together with; rows of equal hash share their group. None: equal rows only.

    Raises:
        UserError: `split-too-small` where a split that the recipe asks for would be empty.
    """
    groups = hashes if groups is None else groups
    blocks = _make_blocks(hashes, strata, groups)
    sizes = _require_sizes(split, sum(block.size for block in blocks.values()))
    by_stratum: dict[str, list[_Block]] = defaultdict(list)
    for block in sorted(blocks.values(), key=lambda block: _draw(split.seed, block.digest)):
        by_stratum[block.stratum].append(block)
    place: dict[str, str] = {}
    for name in ("test", "validation"):
        for stratum, count in _share_out(by_stratum, sizes[name]).items():
            free = [block for block in by_stratum[stratum] if block.digest not in place]
            taken = _take_blocks(free, count)
            if free and len(taken) == len(free) and split.stratify_by:
                _refuse_stratum(split.stratify_by, stratum, by_stratum[stratum])
            place.update((block.digest, name) for block in taken)
    places = [place.get(blocks[group].digest, "train") for group in groups]
    return Assignment(places, _check_sizes(hashes, places, sizes, max(block.size for block in blocks.values())))


def assign_by_time(
    hashes: Sequence[str], times: Sequence[Moment], split: SplitSection, *, groups: Sequence[Hashable] | None = None
) -> Assignment:
    """Cut rows by time: the oldest train, later ones validate, the newest ones test.

    A group goes where its newest row goes, so that nothing in train is newer than what it is measured on. Rows of one
    time stay together, so that sizes are as near as the times allow.

    Raises:
        UserError: `split-too-small` where a split that the recipe asks for, or train, would be empty.
    """
    groups = hashes if groups is None else groups
    blocks = _make_blocks(hashes, [""] * len(hashes), groups)
    sizes = _require_sizes(split, sum(block.size for block in blocks.values()))
    newest: dict[Hashable, Moment] = {}
    for group, time in zip(groups, times, strict=True):
        newest[group] = max(newest.get(group, time), time)
    rows_at: dict[Moment, int] = defaultdict(int)
    for group, block in blocks.items():
        rows_at[newest[group]] += block.size
    moments = sorted(rows_at, reverse=True)
    notes: list[str] = []
    place: dict[Moment, str] = {}
    for name in ("test", "validation"):
        taken = _take_newest([moment for moment in moments if moment not in place], rows_at, sizes[name])
        if taken:
            until = f" to {taken[0].text}" if name == "validation" else " on"
            notes.append(f"{name}: rows from {taken[-1].text}{until}")
        place.update(dict.fromkeys(taken, name))
    places = [place.get(newest[group], "train") for group in groups]
    return Assignment(places, (*notes, *_check_sizes(hashes, places, sizes, max(rows_at.values()))))


def _make_blocks(hashes: Sequence[str], strata: Sequence[str], groups: Sequence[Hashable]) -> dict[Hashable, _Block]:
    """The rows of each group, in no order of the file."""
    members: dict[Hashable, dict[str, str]] = defaultdict(dict)
    for digest, stratum, group in zip(hashes, strata, groups, strict=True):
        # Equal rows may stand in several strata; the choice between them must not follow the order of the file.
        kept = members[group].get(digest, stratum)
        members[group][digest] = min(kept, stratum)
    return {group: _Block(*min(strata_of.items()), len(strata_of)) for group, strata_of in members.items()}


def _require_sizes(split: SplitSection, num_rows: int) -> dict[str, int]:
    """Number of different rows of each split that is cut off."""
    sizes = {name: _count(getattr(split, name), num_rows) for name in ("validation", "test")}
    if sum(sizes.values()) >= num_rows or any(getattr(split, name) and not size for name, size in sizes.items()):
        raise UserError(
            "split-too-small",
            f"{num_rows} different row(s) cannot give validation {split.validation} and test {split.test}",
            hint="add rows, or ask for smaller validation and test splits",
        )
    return sizes


def _count(size: float, total: int) -> int:
    return round(size * total) if isinstance(size, float) else int(size)


def _draw(seed: int, digest: str) -> bytes:
    """What a block is ordered by: random, but the same everywhere."""
    return hashlib.sha256(f"{seed}:{digest}".encode()).digest()


def _share_out(by_stratum: dict[str, list[_Block]], total: int) -> dict[str, int]:
    """How many rows each stratum gives: whole numbers near its share that sum to `total` (largest remainder)."""
    rows = {stratum: sum(block.size for block in blocks) for stratum, blocks in by_stratum.items()}
    shares = {stratum: count * total / sum(rows.values()) for stratum, count in rows.items()}
    counts = {stratum: int(share) for stratum, share in shares.items()}
    by_remainder = sorted(shares, key=lambda stratum: (counts[stratum] - shares[stratum], stratum))
    for stratum in by_remainder[: total - sum(counts.values())]:
        counts[stratum] += 1
    return counts


def _take_blocks(free: Sequence[_Block], count: int) -> list[_Block]:
    """Blocks in their order while they fit, and one that is too large if the sum comes nearer, or is zero otherwise."""
    taken: list[_Block] = []
    left: list[_Block] = []
    missing = count
    for block in free:
        (taken if block.size <= missing else left).append(block)
        missing -= block.size if block.size <= missing else 0
    smallest = min(left, key=lambda block: block.size, default=None)
    if missing and smallest is not None and (not taken or smallest.size - missing < missing):
        taken.append(smallest)
    return taken


def _take_newest(moments: Sequence[Moment], rows_at: dict[Moment, int], count: int) -> list[Moment]:
    """The newest moments whose rows come nearest to `count`; at least one where any row is wanted."""
    taken: list[Moment] = []
    total = 0
    for moment in moments:
        nearer = abs(total + rows_at[moment] - count) < abs(total - count)
        if not count or (taken and not nearer):
            break
        taken.append(moment)
        total += rows_at[moment]
    return taken


def _check_sizes(hashes: Sequence[str], places: Sequence[str], sizes: dict[str, int], largest: int) -> tuple[str, ...]:
    """What to say of sizes that groups, or rows of one time, have changed."""
    found = {
        name: len({digest for digest, place in zip(hashes, places, strict=True) if place == name}) for name in SPLITS
    }
    empty = [name for name in SPLITS if not found[name] and (name == "train" or sizes[name])]
    if empty:
        raise UserError(
            "split-too-small",
            f"no row is left for {' and '.join(empty)}: rows that stay together are too many (up to {largest})",
            hint=GROUPS_HINT,
        )
    return tuple(
        f"{name}: {found[name]} different row(s) in place of {size}, since rows stay together (up to {largest})"
        for name, size in sizes.items()
        if found[name] != size
    )


def _refuse_stratum(column: str, stratum: str, blocks: Sequence[_Block]) -> None:
    num_rows = sum(block.size for block in blocks)
    in_groups = "" if len(blocks) == num_rows else f" in {len(blocks)} group(s)"
    raise UserError(
        "split-too-small",
        f"{column}={stratum!r} has only {num_rows} different row(s){in_groups}: none would be left to train on",
        hint="add rows with this value, or do not stratify by this column",
    )
