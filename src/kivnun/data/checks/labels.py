"""Answers that are labels: how many rows each has, and whether the splits and the spelling agree.

A data set is taken for a classification where its training rows have at least two and at most 200 different answers,
none of them longer than 80 characters, and at least five rows for each on average.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from kivnun.data.conversation import Conversation
from kivnun.data.findings import Finding

MAX_LABELS = 200
MAX_LABEL_CHARACTERS = 80
MIN_ROWS_PER_LABEL = 5
RARE_ROWS = 10
IMBALANCE = 10


@dataclass(frozen=True)
class LabelCount:
    """How often an answer stands in a split, and where first."""

    rows: int
    where: str


@dataclass(frozen=True)
class LabelCounts:
    """The answers of some rows, in bounded memory.

    Attributes:
        labels: Each answer with its count; a long one is cut and named by its hash. Empty where there are too many.
        num_rows: How many rows have an answer.
        are_short: Whether every answer is short enough for a label.
        are_too_many: Whether there are more than 200 different ones, or rows whose answer is no text alone.
    """

    labels: Mapping[str, LabelCount] = field(default_factory=dict[str, LabelCount])
    num_rows: int = 0
    are_short: bool = True
    are_too_many: bool = False

    @property
    def is_classification(self) -> bool:
        """Whether the answers are labels."""
        few = len(self.labels) > 1 and self.num_rows >= MIN_ROWS_PER_LABEL * len(self.labels)
        return few and self.are_short and not self.are_too_many

    def merge(self, later: "LabelCounts") -> "LabelCounts":
        """The counts of these rows and of later ones."""
        labels = dict(self.labels)
        for label, count in later.labels.items():
            known = labels.get(label)
            labels[label] = LabelCount(known.rows + count.rows, known.where) if known else count
        are_too_many = self.are_too_many or later.are_too_many or len(labels) > MAX_LABELS
        return LabelCounts(
            {} if are_too_many else labels,
            self.num_rows + later.num_rows,
            self.are_short and later.are_short,
            are_too_many,
        )


def count_labels(conversations: Sequence[Conversation]) -> LabelCounts:
    """Count the answers of some rows."""
    counts: dict[str, int] = {}
    places: dict[str, str] = {}
    are_short = True
    num_rows = 0
    for conversation in conversations:
        label = read_label(conversation)
        if label is None:
            return LabelCounts({}, len(conversations), are_short, are_too_many=True)
        num_rows += 1
        if len(label) > MAX_LABEL_CHARACTERS:
            are_short = False
            label = _shorten(label)
        if label not in counts:
            places[label] = conversation.where
        counts[label] = counts.get(label, 0) + 1
        if len(counts) > MAX_LABELS:
            return LabelCounts({}, len(conversations), are_short, are_too_many=True)
    labels = {label: LabelCount(count, places[label]) for label, count in counts.items()}
    return LabelCounts(labels, num_rows, are_short)


def read_label(conversation: Conversation) -> str | None:
    """The answer that may be a label; None where a row has no input, no answer, or one that is not text alone."""
    messages = conversation.messages
    if len(messages) < 2 or conversation.rejected is not None or conversation.desirable is not None:
        return None
    answer = messages[-1]
    if not answer.trained or answer.tool_calls or answer.images:
        return None
    return answer.content


def check_labels(counts: Mapping[str, LabelCounts]) -> Iterator[Finding]:
    """What the `label-*` checks find.

    Args:
        counts: The answers of each split.
    """
    train = counts.get("train")
    if train is None:
        return
    if len(train.labels) == 1 and train.num_rows > 1:
        label, count = next(iter(train.labels.items()))
        yield _finding("label-single", count, f"all {train.num_rows:,} rows have the answer {_quote(label)}")
    if not train.is_classification:
        return
    yield from _find_imbalance(train)
    for label, count in train.labels.items():
        if count.rows < RARE_ROWS:
            yield _finding("label-rare", count, f"label {_quote(label)} has only {count.rows} training row(s)")
    yield from _find_missing(train, counts)
    yield from _find_variants(counts)


def _find_imbalance(train: LabelCounts) -> Iterator[Finding]:
    by_rows = sorted(train.labels.items(), key=lambda item: item[1].rows)
    (rare, least), (frequent, most) = by_rows[0], by_rows[-1]
    if most.rows >= IMBALANCE * least.rows:
        message = (
            f"label {_quote(frequent)} has {most.rows:,} training rows ({most.rows / train.num_rows:.0%}), "
            f"{_quote(rare)} has {least.rows:,}"
        )
        yield Finding("label-imbalance", _split_place(least.where)[0], 0, message)


def _find_missing(train: LabelCounts, counts: Mapping[str, LabelCounts]) -> Iterator[Finding]:
    known = {_fold(label): label for label in train.labels}
    for name, part in counts.items():
        for label, count in part.labels.items():
            if label not in train.labels:
                near = known.get(_fold(label))
                written = f" (train writes it {_quote(near)})" if near else ""
                message = f"label {_quote(label)} of {count.rows:,} {name} row(s) never stands in train{written}"
                yield _finding("label-not-in-train", count, message)


def _find_variants(counts: Mapping[str, LabelCounts]) -> Iterator[Finding]:
    """Labels that are written in several ways, over all splits."""
    spellings: dict[str, dict[str, LabelCount]] = {}
    for part in counts.values():
        for label, count in part.labels.items():
            known = spellings.setdefault(_fold(label), {}).get(label)
            spellings[_fold(label)][label] = LabelCount(known.rows + count.rows, known.where) if known else count
    for ways in spellings.values():
        if len(ways) > 1:
            rarest = min(ways.values(), key=lambda count: count.rows)
            written = ", ".join(f"{_quote(label)} in {count.rows:,} row(s)" for label, count in ways.items())
            yield _finding("label-variants", rarest, f"one label is written in {len(ways)} ways: {written}")


def _fold(label: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def _quote(label: str) -> str:
    """A label for a message of one line."""
    return repr(label)


def _shorten(answer: str) -> str:
    digest = blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{answer[: MAX_LABEL_CHARACTERS // 2]}... ({digest})"


def _finding(code: str, count: LabelCount, message: str) -> Finding:
    file, line = _split_place(count.where)
    return Finding(code, file, line, message)


def _split_place(where: str) -> tuple[str, int]:
    file, _, line = where.rpartition(":")
    return file, int(line)
