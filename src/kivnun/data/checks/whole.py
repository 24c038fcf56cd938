"""What only all rows together show: mixed system turns, too few rows, rows far longer than the others, one-sided pairs.

Each block of rows leaves an `Evidence`; evidence merges, and its size does not grow with the rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Literal

from kivnun.data.checks.scripts import main_script
from kivnun.data.checks.statistics import Statistics
from kivnun.data.checks.tally import MAX_EXAMPLES
from kivnun.data.conversation import Conversation
from kivnun.data.findings import Finding

LEAST_ROWS = 10
FEW_ROWS = 200
OUTLIER_FACTOR = 20
OUTLIER_CHARACTERS = 2_000
LEAST_PAIRS = 20
ONE_SIDED_SHARE = 0.9
SMALL_SCRIPT_SHARE = 0.01

Counted = Literal["system", "no system", "pair", "longer", "shorter", "desirable", "undesirable", "compared", "foreign"]


@dataclass(slots=True)
class Evidence:
    """What some rows show that only counts together with all others.

    Attributes:
        counts: How many rows are of a kind.
        first: The first row (file, line) of a kind.
        longest: The longest rows: characters, file, line.
        foreign: First rows whose answer is in another script than the prompt.
    """

    counts: dict[Counted, int] = field(default_factory=dict[Counted, int])
    first: dict[Counted, tuple[str, int]] = field(default_factory=dict[Counted, tuple[str, int]])
    longest: list[tuple[int, str, int]] = field(default_factory=list[tuple[int, str, int]])
    foreign: list[Finding] = field(default_factory=list[Finding])

    def add(self, conversations: Sequence[Conversation], lines: Sequence[int], file: str, sizes: Sequence[int]) -> None:
        """Take in some rows with their lengths in characters."""
        for conversation, line in zip(conversations, lines, strict=True):
            for kind in _kinds(conversation):
                if kind not in self.first:
                    self.first[kind] = (file, line)
                    self.counts[kind] = 0
                self.counts[kind] += 1
            scripts = _scripts(conversation)
            if scripts is not None:
                self._compare(scripts, file, line)
        largest = nlargest(MAX_EXAMPLES, zip(sizes, lines, strict=True), key=lambda pair: (pair[0], -pair[1]))
        self._keep_longest([(size, file, line) for size, line in largest])

    def merge(self, later: "Evidence") -> None:
        """Take in what stands behind these rows."""
        for kind, count in later.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
        self.first = {**later.first, **self.first}
        self.foreign += later.foreign[: MAX_EXAMPLES - len(self.foreign)]
        self._keep_longest(later.longest)

    def count(self, kind: Counted) -> int:
        """How many rows are of a kind."""
        return self.counts.get(kind, 0)

    def _compare(self, scripts: tuple[str, str], file: str, line: int) -> None:
        prompt, answer = scripts
        self.counts["compared"] = self.count("compared") + 1
        if prompt == answer:
            return
        self.counts["foreign"] = self.count("foreign") + 1
        if len(self.foreign) < MAX_EXAMPLES:
            message = f"the answer is written in {answer}, what it answers in {prompt}"
            self.foreign.append(Finding("language-answer", file, line, message))

    def _keep_longest(self, more: list[tuple[int, str, int]]) -> None:
        # A stable sort: of rows of one length the first stays.
        self.longest = sorted([*self.longest, *more], key=lambda row: -row[0])[:MAX_EXAMPLES]


def _kinds(conversation: Conversation) -> list[Counted]:
    messages = conversation.messages
    kinds: list[Counted] = ["no system"]
    for message in messages:
        if message.role == "system" or message.role == "developer":  # noqa: PLR1714 - half the time of a set
            kinds = ["system"]
            break
    if conversation.rejected is not None and messages:
        kinds.append("pair")
        difference = len(messages[-1].content) - len(conversation.rejected.content)
        if difference:
            kinds.append("longer" if difference > 0 else "shorter")
    if conversation.desirable is not None:
        kinds.append("desirable" if conversation.desirable else "undesirable")
    return kinds


def _scripts(conversation: Conversation) -> tuple[str, str] | None:
    """The script of what is asked last and of the answer, where both have letters."""
    messages = conversation.messages
    if len(messages) < 2 or messages[-1].role != "assistant":
        return None
    asked, answer = messages[-2].content, messages[-1].content
    if messages[-2].role != "user" or not answer:
        return None
    if asked.isascii() and answer.isascii():
        # Both are Latin, or have no letters: the looking up would cost more than all the rest here.
        return ("Latin", "Latin")
    scripts = (main_script(asked), main_script(answer))
    return scripts if all(scripts) else None


def check_whole(
    evidence: Mapping[str, Evidence],
    statistics: Mapping[str, Statistics],
    files: Mapping[str, str],
    *,
    are_documents: bool,
    are_labels: bool,
) -> Iterator[Finding]:
    """Findings about the data as a whole.

    Args:
        evidence: By split.
        statistics: By split.
        files: The file that messages name, by split.
        are_documents: Whether the rows are running text, which has neither turns nor a usual number of rows.
        are_labels: Whether the answers are a few labels, which may well be written in another script.
    """
    for split, part in evidence.items():
        if not are_documents:
            yield from _check_systems(part)
            yield from _check_lengths(part, statistics[split])
        yield from _check_pairs(part)
        if not are_labels and 0 < part.count("foreign") < part.count("compared") / 2:
            yield from part.foreign
    yield from _check_scripts(statistics, next(iter(files.values()), ""))
    if "train" in evidence:
        yield from _check_sizes(statistics, files, are_documents=are_documents)


def count_unshown(evidence: Mapping[str, Evidence], tallied: Mapping[str, int]) -> dict[str, int]:
    """How many more rows than findings there are, by code, since evidence keeps the first places only."""
    shown = tallied.get("language-answer", 0)
    return {"language-answer": sum(part.count("foreign") for part in evidence.values()) - shown} if shown else {}


def _check_systems(part: Evidence) -> Iterator[Finding]:
    having, lacking = part.count("system"), part.count("no system")
    if having and lacking:
        rare: Counted = "system" if having < lacking else "no system"
        file, line = part.first[rare]
        yield Finding("system-mixed", file, line, f"{having:,} rows have a system turn, {lacking:,} have none")


def _check_lengths(part: Evidence, statistics: Statistics) -> Iterator[Finding]:
    middle = statistics.rows.quantile(0.5)
    limit = max(OUTLIER_FACTOR * middle, OUTLIER_CHARACTERS)
    if statistics.rows.num_texts >= FEW_ROWS:
        # Lengths of many rows have a long tail; a row counts only if it lies far behind the tail as well.
        limit = max(limit, 3 * statistics.rows.quantile(0.99))
    for size, file, line in sorted((row for row in part.longest if row[0] > limit), key=lambda row: row[1:]):
        yield Finding("length-outlier", file, line, f"{size:,} characters, where the middle row has {middle:,}")


def _check_pairs(part: Evidence) -> Iterator[Finding]:
    longer, shorter, pairs = part.count("longer"), part.count("shorter"), part.count("pair")
    if pairs >= LEAST_PAIRS and longer >= ONE_SIDED_SHARE * pairs:
        file, _ = part.first["pair"]
        words = f"the preferred answer is longer in {longer:,} of {pairs:,} pairs, shorter in {shorter:,}"
        yield Finding("preference-length", file, 0, words)
    good, bad = part.count("desirable"), part.count("undesirable")
    if (good > 0) != (bad > 0) and good + bad > 1:
        file, _ = part.first["desirable" if good else "undesirable"]
        yield Finding("kto-one-sided", file, 0, f"all {good + bad:,} labels are {'true' if good else 'false'}")


def _check_scripts(statistics: Mapping[str, Statistics], file: str) -> Iterator[Finding]:
    letters: dict[str, int] = {}
    for part in statistics.values():
        for script, count in part.scripts.items():
            letters[script] = letters.get(script, 0) + count
    total = sum(letters.values())
    shares = sorted(((count / total, script) for script, count in letters.items()), reverse=True)
    named = [(share, script) for share, script in shares if share >= SMALL_SCRIPT_SHARE]
    if len(named) > 1:
        words = ", ".join(f"{script} {share:.1%}" for share, script in named)
        yield Finding("language-mix", file, 0, f"{words} of the letters")


def _check_sizes(
    statistics: Mapping[str, Statistics], files: Mapping[str, str], *, are_documents: bool
) -> Iterator[Finding]:
    rows = statistics["train"].rows.num_texts
    if rows < LEAST_ROWS and not are_documents:
        yield Finding("rows-below-minimum", files["train"], 0, f"{rows} rows to train on")
    elif rows < FEW_ROWS and not are_documents:
        yield Finding("rows-few", files["train"], 0, f"{rows} rows to train on")
    if "test" not in statistics or not statistics["test"].rows.num_texts:
        yield Finding("split-missing", files["train"], 0, f"{', '.join(statistics)} rows only")
