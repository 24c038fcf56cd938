"""Training, validation and test rows, chosen by a hash of each row's content.

The same row lands in the same split on every machine, whatever the order of the file; equal rows land together, so that
no test row was ever trained on word for word.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from kivnun.errors import UserError
from kivnun.recipe.schema import SplitSection

SPLITS = ("train", "validation", "test")


def assign_splits(hashes: Sequence[str], strata: Sequence[str], split: SplitSection) -> list[str]:
    """The split of every row: `train`, `validation` or `test`.

    Each stratum is cut in the recipe's proportions, rounded so that the totals are right as well.

    Args:
        hashes: Content hash of each row; equal hashes stay together.
        strata: Value of `stratify_by` for each row, or "" for all.
        split: The recipe's `data.split`.

    Raises:
        UserError: `split-too-small` where a split that the recipe asks for would be empty.
    """
    # Equal rows may stand in several strata; the choice between them must not follow the order of the file.
    stratum_of = dict(sorted(zip(hashes, strata, strict=True), reverse=True))
    groups: dict[str, list[str]] = defaultdict(list)
    for digest, stratum in stratum_of.items():
        groups[stratum].append(digest)
    num_groups = sum(map(len, groups.values()))
    sizes = {name: _count(getattr(split, name), num_groups) for name in ("validation", "test")}
    if sum(sizes.values()) >= num_groups or any(getattr(split, name) and not size for name, size in sizes.items()):
        raise UserError(
            "split-too-small",
            f"{num_groups} different row(s) cannot give validation {split.validation} and test {split.test}",
            hint="add rows, or lower data.split.validation and data.split.test",
        )
    place: dict[str, str] = {}
    for stratum, members in groups.items():
        ordered = sorted(members, key=lambda digest: hashlib.sha256(f"{split.seed}:{digest}".encode()).digest())
        groups[stratum] = ordered
    for name in ("test", "validation"):
        shares = {stratum: len(members) * sizes[name] / num_groups for stratum, members in groups.items()}
        for stratum, count in _round_shares(shares, sizes[name]).items():
            free = [digest for digest in groups[stratum] if digest not in place]
            if count >= len(free) and len(free) > 0 and split.stratify_by:
                raise UserError(
                    "split-too-small",
                    f"{split.stratify_by}={stratum!r} has only {len(groups[stratum])} different row(s): none would be "
                    "left to train on",
                    hint="add rows with this value, or leave data.split.stratify_by out",
                )
            place.update(dict.fromkeys(free[:count], name))
    return [place.get(digest, "train") for digest in hashes]


def _count(size: float, total: int) -> int:
    return round(size * total) if isinstance(size, float) else int(size)


def _round_shares(shares: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers near the shares that sum to `total` (largest remainder)."""
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
