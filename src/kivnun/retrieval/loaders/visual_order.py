"""Lines as they are seen become text as it is read: the Unicode Bidirectional Algorithm (UAX #9) the other way round.

A PDF places letters; nothing in it says in which order a line with Hebrew and English is read. Letters are taken from
left to right and put into logical order: runs of the other direction are turned, with the numbers, spaces and signs
inside them as rules W4 to W7 and N0 to N2 would have placed them. Where two orders look alike, English is taken to come
before the number beside it.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">", "«": "»", "‹": "›"}
_MIRRORED = _BRACKETS | {closing: opening for opening, closing in _BRACKETS.items()}
_RIGHT, _LEFT, _NUMBER, _SEPARATOR, _TERMINATOR, _NEUTRAL = "RLNST "
_CLASSES = {"R": _RIGHT, "AL": _RIGHT, "L": _LEFT, "EN": _NUMBER, "AN": _NUMBER, "ES": _SEPARATOR, "CS": _SEPARATOR}
_CLASSES |= {"ET": _TERMINATOR}

_SENTENCE_ENDS = frozenset(".?!")

# What is read from left to right in a line of the other direction: words with what stands between them, or a number.
_FORWARD_RUN = re.compile(r"(?=[^R]*L)[LNT](?:[^R]*[LNT])?|T*N(?:S?N)*T*")
_BACKWARD_RUN = re.compile(r"R(?:[^L]*R)?")


def is_right_to_left(letters: Sequence[str], *, page_is: bool) -> bool:
    """Whether a line is read from right to left.

    Args:
        letters: Its letters as they are seen, from left to right.
        page_is: Whether most letters of the page are of such a script, for lines that leave it open.
    """
    classes = [kind for kind in map(_classify, letters) if kind in (_RIGHT, _LEFT)]
    if _RIGHT not in classes or _LEFT not in classes:
        return _RIGHT in classes
    starts, ends = letters[0] in _SENTENCE_ENDS, letters[-1] in _SENTENCE_ENDS
    if starts != ends:
        return starts
    if classes[0] == classes[-1] == _RIGHT or classes.count(_RIGHT) > len(classes) / 2:
        return True
    return page_is and _RIGHT in (classes[0], classes[-1])


def order_line(letters: Sequence[str], *, right_to_left: bool) -> str:
    """A line in the order in which it is read.

    Args:
        letters: Its letters as they are seen, from left to right, each with the marks upon it.
        right_to_left: Whether the line as a whole is read so.
    """
    classes = "".join(map(_classify, letters))
    if right_to_left:
        return _mend_brackets("".join(_turn(letters, classes)))
    parts: list[str] = []
    place = 0
    for run in _BACKWARD_RUN.finditer(classes):
        parts += letters[place : run.start()]
        parts += _turn(letters[run.start() : run.end()], run[0])
        place = run.end()
    return _mend_brackets("".join([*parts, *letters[place:]]))


def _turn(letters: Sequence[str], classes: str) -> Iterator[str]:
    """Letters from the last to the first, with runs that are read forward left as they are."""
    parts: list[str] = []
    place = 0
    for start, end in _find_forward_runs(letters, classes):
        parts += [*letters[place:start], "".join(letters[start:end])]
        place = end
    return reversed([*parts, *letters[place:]])


def _find_forward_runs(letters: Sequence[str], classes: str) -> Iterator[tuple[int, int]]:
    for run in _FORWARD_RUN.finditer(classes):
        start, end = run.span()
        brackets = [place for place in range(start, end) if letters[place] in _MIRRORED]
        if len(brackets) % 2 == 0:
            yield start, end
        elif end < len(letters) and letters[end] in _MIRRORED:
            # A pair of which one stands inside such a run belongs to it (rule N0).
            yield start, end + 1
        else:
            # The other one of the pair stands beyond words of the line's own direction, and so does this one.
            for before, after in pairwise([start - 1, *brackets, end]):
                part = _FORWARD_RUN.search(classes, before + 1, after)
                if part:
                    yield part.span()


def _classify(letter: str) -> str:
    return _CLASSES.get(unicodedata.bidirectional(letter[0]), _NEUTRAL)


def _mend_brackets(line: str) -> str:
    """Brackets that open before a word and close behind one: what a PDF says of their shape depends on who wrote it."""
    mended = list(line)
    for place, sign in enumerate(line):
        if sign in "<>" or sign not in _MIRRORED:
            continue
        is_after = place > 0 and not line[place - 1].isspace() and line[place - 1] not in _BRACKETS
        is_before = place + 1 < len(line) and (line[place + 1].isalnum() or line[place + 1] in _MIRRORED)
        if is_after != is_before:
            is_opening = is_before
            mended[place] = sign if (sign in _BRACKETS) == is_opening else _MIRRORED[sign]
    return "".join(mended)
