"""What the events of a job say about its files: what was mended, left out or accepted, each with its line."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from kivnun.data.files.dataset import Split
from kivnun.jobs.checked_files import PARAMS, TITLES, CheckedFiles
from kivnun.jobs.job_files import MendedLine

HOSTED_MINIMUM = 10
OPENAI_FORMATS = frozenset({"openai-chat", "openai-preference", "prompt-completion"})
ACCEPTED = frozenset({"label-single", "answer-empty", "tokens-unknown"})
"""Errors of Kivnun's own checks that the hosted service has nothing against; each is said in a warning."""
SHOWN = 20


@dataclass(frozen=True)
class JobNote:
    """Something about a job that its events should say.

    Attributes:
        level: info or warn.
        message: In words.
        data: For programs.
    """

    level: str
    message: str
    data: dict[str, object] = field(default_factory=dict[str, object])


def say_mended(mended: Mapping[Split, Sequence[MendedLine]]) -> Iterator[JobNote]:
    """Brackets that were closed.

    Args:
        mended: Lines, by split.
    """
    for split, lines in mended.items():
        if lines:
            shown = ", ".join(f"line {line.number} (`{line.added}` added)" for line in lines[:SHOWN])
            more = f" and {len(lines) - SHOWN:,} more" if len(lines) > SHOWN else ""
            words = "brackets that lines leave open at their ends were closed in the job's copy"
            data = _describe(split, [line.number for line in lines])
            yield JobNote("warn", f"{TITLES[split]}: {words}: {shown}{more}. The uploaded file is unchanged", data)


def say_rows(checked: CheckedFiles) -> Iterator[JobNote]:
    """Few rows, rows in another shape than OpenAI's, and rows that are left out."""
    num_rows = checked.num_rows("train")
    if num_rows < HOSTED_MINIMUM:
        words = f"Training file has {num_rows} example(s); a hosted service wants at least {HOSTED_MINIMUM}"
        yield JobNote("warn", f"{words}, and so few teach little", {"num_examples": num_rows})
    for split, name in checked.formats.items():
        if name not in OPENAI_FORMATS:
            words = f"{TITLES[split]}: the rows are read as {name}, which OpenAI does not take"
            yield JobNote("warn", words, {"file": PARAMS[cast("Split", split)], "format": name})
    for split, lines in checked.too_long.items():
        if lines:
            words = f"{len(lines):,} example(s) are longer than the model reads and are left out, the first in line"
            data = _describe(cast("Split", split), sorted(lines))
            yield JobNote("warn", f"{TITLES[split]}: {words} {min(lines)}", data)


def say_accepted(checked: CheckedFiles) -> Iterator[JobNote]:
    """What Kivnun would refuse and the hosted service takes."""
    for found in checked.report.found:
        if found.code in ACCEPTED:
            line = next((f"line {each.line}" for each in found.examples if each.line), "")
            often = f"{found.count:,} times" if found.count > 1 else ""
            place = f"the first in {line}" if often and line else line
            told = ", ".join(filter(None, (often, place)))
            words = f"{found.summary.rstrip('.')}{f' ({told})' if told else ''}. Accepted, as a hosted service does"
            yield JobNote("warn", words, {"code": found.code, "count": found.count})


def say_raw() -> JobNote:
    """Rows without a chat template."""
    words = "Prompts and completions are joined as they stand, without a chat template: ask the model at /completions"
    return JobNote("info", words)


def _describe(split: Split, lines: Sequence[int]) -> dict[str, object]:
    return {"file": PARAMS[split], "lines": list(lines[:SHOWN]), "count": len(lines)}
