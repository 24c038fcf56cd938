"""Items that an answer extracts, a named value or a span of text each, and how much two sets of them share.

Exact: an item counts where name and value are the same, and the place too where both sets tell it. Overlapping: items
of one name are paired, the pair that shares most first, and count by what they share, as in the partial match of
MUC-5 and SemEval-2013 task 9.1.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kivnun.evaluation.short_answers import token_f1


@dataclass(frozen=True)
class Item:
    """What is extracted.

    Attributes:
        name: Name of the field, or label of the span.
        text: Its value as text.
        place: Start and end of a span in the text, where the answer tells them.
    """

    name: str
    text: str
    place: tuple[int, int] | None = None


def count_shared(given: Iterable[Item], expected: Iterable[Item]) -> Counter[str]:
    """By name, how many items are in both, as often as both have them.

    Args:
        given: The answer's items.
        expected: The reference's items.
    """
    answered, wanted = list(given), list(expected)
    if not all(item.place for item in answered + wanted):
        answered, wanted = ([Item(item.name, item.text) for item in items] for items in (answered, wanted))
    both = Counter(answered) & Counter(wanted)
    shared: Counter[str] = Counter()
    for item, count in both.items():
        shared[item.name] += count
    return shared


def overlap(given: Sequence[Item], expected: Sequence[Item]) -> float:
    """What the items share, as a number of whole items.

    Args:
        given: The answer's items.
        expected: The reference's items.
    """
    pairs = sorted(
        (
            (-share_of_pair(left, right), i, j)
            for i, left in enumerate(given)
            for j, right in enumerate(expected)
            if left.name == right.name
        ),
    )
    used_given: set[int] = set()
    used_expected: set[int] = set()
    total = 0.0
    for negative, i, j in pairs:
        if i not in used_given and j not in used_expected:
            used_given.add(i)
            used_expected.add(j)
            total -= negative
    return total


def share_of_pair(left: Item, right: Item) -> float:
    """F1 of the characters that two places share, or of the words where one has no place.

    Args:
        left: An item.
        right: Another one of the same name.
    """
    if left.place is None or right.place is None:
        return 1.0 if left.text == right.text else token_f1(left.text, right.text)
    shared = min(left.place[1], right.place[1]) - max(left.place[0], right.place[0])
    lengths = left.place[1] - left.place[0] + right.place[1] - right.place[0]
    return 2 * max(0, shared) / lengths if lengths else float(left.place == right.place)
