"""A comparison of models as a page for people, and where it is written."""

import re
from collections.abc import Sequence
from pathlib import Path

import orjson

from kivnun.assessment import compare_words as words
from kivnun.assessment.compare import ModelComparison
from kivnun.assessment.page import open_pages
from kivnun.assessment.pairs import comparison_folder
from kivnun.assessment.sides import Side
from kivnun.assessment.verdict_words import say_verdicts, verdict_columns, verdict_rows
from kivnun.errors import UserError
from kivnun.evaluation.wording import VERDICT_WORDS
from kivnun.runs.atomic import write_atomic

TEMPLATE = "compare.html.jinja"
PAGE_NAME, VALUES_NAME = "compare.html", "compare.json"
MAX_CHANGES = 40


def render_comparison(comparison: ModelComparison) -> str:
    """The page: verdicts, metrics, parts of the rows, people and judges, and the rows that changed, losses first.

    Args:
        comparison: The comparison.
    """
    pairs = comparison.pairs
    return (
        open_pages()
        .get_template(TEMPLATE)
        .render(
            comparison=comparison,
            sentences=[words.say_pair(pair, num_pairs=len(pairs)) for pair in pairs],
            changes=[words.say_changes(pair) for pair in pairs],
            verdict_words=VERDICT_WORDS,
            words=words,
            say_verdicts=say_verdicts,
            verdict_columns=verdict_columns,
            verdict_rows=verdict_rows,
            max_changes=MAX_CHANGES,
        )
    )


def write_comparison(comparison: ModelComparison, folder: Path) -> None:
    """Write `compare.html` and `compare.json`.

    Args:
        comparison: The comparison.
        folder: Where to; ratings and judgements may lie there.

    Raises:
        UserError: `file-unwritable` or `disk-full`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / VALUES_NAME, orjson.dumps(comparison.to_json(), option=orjson.OPT_INDENT_2))
        write_atomic(folder / PAGE_NAME, render_comparison(comparison))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError("file-unwritable", f"{folder}: {reason}", hint="name another folder with --out") from error


def default_comparison_folder(sides: Sequence[Side]) -> Path:
    """`comparisons/<A>-vs-<B>`: of two evaluations the folder where their ratings are kept too.

    Args:
        sides: The models.
    """
    folders = [side.folder for side in sides if side.folder is not None]
    if len(sides) == len(folders) == 2:
        return comparison_folder(folders[0], folders[1])
    names = (side.name if side.folder is None else side.folder.name for side in sides)
    return Path("comparisons") / "-vs-".join(re.sub(r"[^\w.-]+", "-", name).strip("-.") for name in names)
