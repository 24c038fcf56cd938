"""Which rows must stay in one split: equal ones, near duplicates, and those that the user groups by a column.

The groups depend on the rows alone and not on their order. A text that many rows share, such as the instruction before
each question, says nothing about whether two rows are alike, and is cut off before texts are compared.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kivnun.data.conversation import Conversation
from kivnun.data.duplicates.fingerprint import input_words
from kivnun.data.duplicates.groups import connect
from kivnun.data.duplicates.minhash import MIN_CHARACTERS, near_pairs, signatures
from kivnun.data.duplicates.words import comparable

SHARED_ROWS = 20
SHARED_SHARE = 0.05
MIN_FRAME_WORDS = 4
LARGE_ROWS = 5


@dataclass(frozen=True)
class Groups:
    """Rows that stay together.

    Attributes:
        numbers: The group of each row: the index of its first row.
        notes: What a user should know: groups that are large, inputs that were not compared.
    """

    numbers: Sequence[int]
    notes: Sequence[str] = ()


def group_rows(
    hashes: Sequence[str], *, inputs: Sequence[str] | None = None, keys: Sequence[Hashable] | None = None
) -> Groups:
    """Group rows that are equal, that ask nearly the same, or that share a key.

    Args:
        hashes: Content hash of each row.
        inputs: Comparable text of what each row asks; None: near duplicates are not looked for.
        keys: Value of the column that groups the rows; None: there is none.
    """
    pairs = _pairs_of_equal(hashes)
    notes: list[str] = []
    if inputs is not None:
        texts, notes = _comparable_inputs(hashes, inputs)
        pairs += _pairs_of_equal(text or None for text in texts)
        pairs += _find_near(texts)
        whole_pairs, whole_notes = _find_near_whole(inputs, texts, _limit(hashes))
        pairs += whole_pairs
        notes += whole_notes
    if keys is not None:
        pairs += _pairs_of_equal(keys)
    places = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    numbers: list[int] = connect(np.arange(len(hashes), dtype=np.int64), places).tolist()
    return Groups(numbers, (*notes, *_say_large(hashes, numbers)))


def count_common(hashes: Sequence[str], inputs: Sequence[str]) -> dict[str, int]:
    """Inputs that are no questions, since so many different rows have them, with the number of these rows.

    Rows are not kept together for such an input, so that it stands in every split.
    """
    different = Counter(dict(zip(hashes, inputs, strict=True)).values())
    limit = _limit(hashes)
    return {text: count for text, count in sorted(different.items()) if count > limit and text}


def _limit(hashes: Sequence[str]) -> float:
    """How many different rows may share a text before it says nothing about whether they are alike."""
    return max(SHARED_ROWS, SHARED_SHARE * len(set(hashes)))


def asked_text(conversation: Conversation, prompt_fields: Sequence[str] = ()) -> str:
    """What a row asks, in a form that can be compared: its turns before the answer, or the text of a document.

    Args:
        conversation: The row.
        prompt_fields: Fields of a prompt template, whose values are compared in place of the whole prompt: what the
            template adds is the same in every row.
    """
    if prompt_fields:
        return comparable("\n".join(conversation.fields[name] for name in prompt_fields))
    return input_words(conversation)


def opening(conversation: Conversation) -> Hashable:
    """The turns up to the first answer: rows that open alike are pieces of one conversation."""
    turns = conversation.messages
    first = next((index for index, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    return tuple((turn.role, comparable(turn.content)) for turn in turns[: max(first, 1)])


def _pairs_of_equal(keys: Iterable[Hashable]) -> list[tuple[int, int]]:
    """Each row with the first one of an equal key; a row whose key is None stays alone."""
    first: dict[Hashable, int] = {}
    return [(first.setdefault(key, row), row) for row, key in enumerate(keys) if key is not None]


def _comparable_inputs(hashes: Sequence[str], inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The inputs without what many of them share, and "" for inputs that are no questions but an instruction."""
    common = count_common(hashes, inputs)
    notes = [
        f"{count} different rows ask the same ({_shorten(text)}): they are not kept together for that"
        for text, count in common.items()
    ]
    unique = sorted({text for text in inputs if text not in common})
    bare = dict(zip(unique, _cut_frames([text.split(" ") for text in unique], _limit(hashes)), strict=True))
    return [bare.get(text, "") for text in inputs], notes


def _cut_frames(texts: Sequence[Sequence[str]], limit: float) -> list[str]:
    """Different texts without the words at the beginning and the end that more than `limit` of them share."""
    starts = _shared_lengths(texts, limit)
    ends = _shared_lengths([words[::-1] for words in texts], limit)
    return [
        " ".join(words[start : len(words) - end] if start + end < len(words) else words)
        for words, start, end in zip(texts, starts, ends, strict=True)
    ]


def _shared_lengths(texts: Sequence[Sequence[str]], limit: float) -> list[int]:
    """How many words at its beginning each text shares with many others; a few words are no instruction."""
    lengths = [0] * len(texts)
    alike = [list(range(len(texts)))]
    depth = 0
    while alike:
        deeper: list[list[int]] = []
        for members in alike:
            by_word: dict[str, list[int]] = defaultdict(list)
            for text in members:
                if depth < len(texts[text]):
                    by_word[texts[text][depth]].append(text)
            deeper += [found for found in by_word.values() if len(found) > limit]
        depth += 1
        for members in deeper:
            for text in members:
                lengths[text] = depth
        alike = deeper
    return [length if length >= MIN_FRAME_WORDS else 0 for length in lengths]


def _find_near(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of rows whose texts are nearly the same; each different text is compared once."""
    first = {text: row for row, text in reversed(list(enumerate(texts))) if text}
    # Of many texts that are all alike not every pair is found: which ones must not follow the order of the file.
    unique = sorted(first)
    pairs = near_pairs(signatures(unique)).tolist() if unique else []
    return [(first[unique[one]], first[unique[other]]) for one, other in pairs]


def _find_near_whole(
    inputs: Sequence[str], texts: Sequence[str], limit: float
) -> tuple[list[tuple[int, int]], list[str]]:
    """Pairs of rows whose own words are too few to compare, found by their whole inputs, and what is to be said.

    Where more than `limit` inputs hang together so, it is the text around their words that is alike, and not they.

    Args:
        inputs: The whole inputs.
        texts: The inputs without what many of them share.
        limit: How many different inputs may hang together.
    """
    whole = [
        full if 0 < len(text) < MIN_CHARACTERS <= len(full) else "" for full, text in zip(inputs, texts, strict=True)
    ]
    pairs = _find_near(whole)
    numbers = connect(np.arange(len(whole), dtype=np.int64), np.array(pairs, dtype=np.int64).reshape(-1, 2)).tolist()
    members: dict[int, set[str]] = defaultdict(set)
    for number, full in zip(numbers, whole, strict=True):
        members[number].add(full)
    kept = [pair for pair in pairs if len(members[numbers[pair[0]]]) <= limit]
    notes = [
        f"{len(alike)} different inputs are alike in all but a few words ({_shorten(min(alike))}): "
        "they are not kept together for that"
        for alike in sorted(members.values(), key=min)
        if len(alike) > limit
    ]
    return kept, notes


def _say_large(hashes: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """The largest group, where it is so large that the splits may come out otherwise than asked for."""
    members: dict[int, set[str]] = defaultdict(set)
    for digest, number in zip(hashes, numbers, strict=True):
        members[number].add(digest)
    largest = max(map(len, members.values()), default=0)
    total = len(set(hashes))
    if largest <= max(LARGE_ROWS, SHARED_SHARE * total):
        return []
    return [f"{largest} of {total} different rows stay together in one group"]


def _shorten(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
