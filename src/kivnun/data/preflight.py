"""The checks that run before every training: errors refuse the run, warnings are kept beside the data set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import orjson

from kivnun.data.checks.block import TokenChecks
from kivnun.data.checks.labels import check_labels, count_labels
from kivnun.data.checks.page import render_page
from kivnun.data.checks.repeats import name_leaks
from kivnun.data.checks.report import CheckReport, FoundCode, ignore_codes, list_found
from kivnun.data.checks.stream import CheckOptions, check_conversations
from kivnun.data.checks.tally import Tally
from kivnun.data.checks.token_pass import TokenPass
from kivnun.data.checks.tokens import TokenLimits
from kivnun.data.conversation import Conversation
from kivnun.data.encode import Encoder
from kivnun.data.findings import CHECKS, Finding
from kivnun.data.grouping import asked_text
from kivnun.data.reading import ReadData
from kivnun.data.sources import first_problems
from kivnun.errors import UserError
from kivnun.recipe.schema import DataSection

_Splits = Mapping[str, Sequence[Conversation]]

CHECK_NAME, PAGE_NAME = "check.json", "check.html"
EXAMPLES_SHOWN = 3
LEAK_CODES = {"test": ("leak-exact", "leak-large"), "validation": ("leak-validation",)}
# Tokenising refuses these with their own words, or leaves the rows out where the recipe says so.
TOKENISED_LATER = frozenset(
    {"answer-cut", "prompt-too-long", "special-token-text", "template-missing", "template-refuses"}
)


def require_known_checks(codes: Sequence[str]) -> None:
    """Refuse codes in `data.ignore_checks` that do not exist: a misspelt one would accept nothing, silently.

    Raises:
        UserError: `recipe-invalid`.
    """
    problems: list[str] = []
    for code in codes:
        if code not in CHECKS:
            close = get_close_matches(code, CHECKS, n=1)
            problems.append(f"no check has the code `{code}`{f'; did you mean `{close[0]}`?' if close else ''}")
    if problems:
        raise UserError(
            "recipe-invalid",
            f"data.ignore_checks: {'; '.join(problems)}",
            hint="`kivnun check` names the code of everything that it finds",
        )


def check_splits(
    read: ReadData, data: DataSection, *, name: str, encoder: Encoder | None = None, options: CheckOptions | None = None
) -> CheckReport:
    """Check the rows of a recipe, as they were read and cut.

    Args:
        read: The rows.
        data: The recipe's section.
        name: What the report calls the data.
        encoder: The tokenizer, where one is there; it is not used on running text, which cannot be cut off.
        options: What else is asked for.

    Raises:
        UserError: `recipe-invalid` for codes in `data.ignore_checks` that do not exist.
    """
    require_known_checks(data.ignore_checks)
    options = options or CheckOptions()
    options = replace(options, ignore=options.ignore | set(data.ignore_checks))
    if read.template.kind == "document":
        # Documents repeat each other's sentences; near duplicates among them are no leak of an answer.
        return check_conversations(read.splits, replace(options, near="off"), name=name, format_name="text")
    fields = read.template.prompt_fields
    bare = {
        split: [_without_frame(row, fields, has_label=read.learns_bad) for row in part]
        for split, part in read.splits.items()
    }
    if encoder is not None:
        tokens = TokenPass(encoder, TokenLimits(data.max_seq_len, read.template))
        options = replace(options, tokens=_WrittenRows(read.splits, bare, tokens))
    report = check_conversations(bare, options, name=name, format_name=_name_format(read))
    return _judge_cut(report, read, bare)


def check_before_training(
    read: ReadData, data: DataSection, *, recipe: str, encoder: Encoder | None = None
) -> CheckReport:
    """Check the rows of a recipe, without what tokenising will refuse with its own words, or drop if it may.

    Raises:
        UserError: `recipe-invalid` for codes in `data.ignore_checks` that do not exist.
    """
    report = check_splits(read, data, name=recipe, encoder=encoder)
    return replace(report, found=tuple(each for each in report.found if each.code not in TOKENISED_LATER))


def require_no_errors(report: CheckReport, *, recipe: str) -> None:
    """Refuse data in which a check found an error.

    Args:
        report: What was found.
        recipe: The recipe's file, for the hint.

    Raises:
        UserError: `data-check`.
    """
    wrong = [found for found in report.found if found.severity == "error"]
    if wrong:
        codes = ", ".join(found.code for found in wrong)
        raise UserError(
            "data-check",
            f"{report.num_findings('error')} error(s) in the data: {codes}",
            details=first_problems([line for found in wrong for line in _show_examples(found)]),
            hint=f"`kivnun check {recipe}` shows all of them; to train nevertheless: data.ignore_checks: [{codes}]",
        )


def write_check(report: CheckReport, folder: Path) -> None:
    """Write what was found into an existing folder, for programs and for people."""
    # How long it took would make equal data sets differ, and whatever is made from them be made again.
    report = replace(report, seconds=0.0)
    values = {name: value for name, value in report.to_json().items() if name not in {"seconds", "rows_per_second"}}
    text = orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    (folder / CHECK_NAME).write_bytes(text + b"\n")
    (folder / PAGE_NAME).write_text(render_page(report), "utf-8")


def _judge_cut(report: CheckReport, read: ReadData, bare: _Splits) -> CheckReport:
    """What was found, with splits that Kivnun itself cut judged by what a cut can do.

    A question that very many rows ask stands in every split, and a label of one row in one: a user who gave neither
    split can mend neither.
    """
    replaced: set[str] = set()
    tally = Tally()
    if read.common_inputs:
        replaced = {code for name in read.cut for code in LEAK_CODES[name]}
        tally.add(finding for name in sorted(read.cut) for finding in _find_own_leaks(name, read))
    given = {name: count_labels(part) for name, part in bare.items() if name not in read.cut}
    is_own = all(finding.code != "label-not-in-train" for finding in check_labels(given))
    changed = {
        each.code: _soften(each) if is_own and each.code == "label-not-in-train" else each
        for each in (*report.found, *report.ignored, *list_found(tally))
        if each.code not in replaced or each.code in tally.counts
    }
    ignored = {each.code for each in report.ignored}
    return ignore_codes(replace(report, found=tuple(changed.values()), ignored=()), ignored)


def _find_own_leaks(name: str, read: ReadData) -> Iterator[Finding]:
    """Rows of a split that was cut which ask what a training row asks, unless very many rows ask it."""
    fields = read.template.prompt_fields
    train: dict[str, str] = {}
    for row in read.splits["train"]:
        train.setdefault(asked_text(row, fields), row.where)
    asked = [(row.where, asked_text(row, fields)) for row in read.splits[name]]
    leaked = [(where, train[text]) for where, text in asked if text in train and text not in read.common_inputs]
    return name_leaks(name, leaked, len(leaked), len(asked))


def _soften(found: FoundCode) -> FoundCode:
    return replace(found, severity="warning", hint="add rows of the label, or drop it; the recipe cut it off by chance")


class _WrittenRows:
    """Token checks of rows as the template writes them, whatever the other checks are given."""

    def __init__(self, read: _Splits, bare: _Splits, checks: TokenChecks) -> None:
        # By the object: several rows may stand in one line. The rows are kept, so that no other gets their identity.
        self._bare = bare
        self._written = {
            id(shown): written for split, part in bare.items() for shown, written in zip(part, read[split], strict=True)
        }
        self._checks = checks
        self.judge, self.summary = checks.judge, checks.summary

    def check(
        self, conversations: Sequence[Conversation], lines: Sequence[int], file: str, split: str
    ) -> Sequence[Finding]:
        """What is wrong with some rows of a file."""
        written = [self._written[id(row)] for row in conversations]
        return self._checks.check(written, lines, file, split)


def _without_frame(row: Conversation, prompt_fields: Sequence[str], *, has_label: bool) -> Conversation:
    """A row with the values of its fields as the prompt: what the template adds makes no two rows alike."""
    if row.desirable is not None and not has_label:
        # Only wanted answers are left to train on: that all are marked alike is no fault.
        row = replace(row, desirable=None)
    if not prompt_fields:
        return row
    prompt = replace(row.messages[0], content="\n".join(row.fields[name] for name in prompt_fields))
    return replace(row, messages=(prompt, *row.messages[1:]))


def _name_format(read: ReadData) -> str:
    names = {why.partition(":")[0] for why in read.formats.values()}
    return names.pop() if len(names) == 1 else "recipe"


def _show_examples(found: FoundCode) -> list[str]:
    """The first places of a code, and how many more there are."""
    shown = [f"{example.where}: {example.message} ({found.code})" for example in found.examples[:EXAMPLES_SHOWN]]
    more = found.count - len(shown)
    return [*shown, f"... and {more:,} more of {found.code}"] if more else shown
