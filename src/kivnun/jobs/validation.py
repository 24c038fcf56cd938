"""The files of a job, checked as the run will read them: what is wrong fails the job, what is doubtful is said.

The hosted service has two rules that stand in the way of somebody who tries something on his own machine: at least ten
rows, and every line whole. `strict` keeps both. Otherwise few rows are a warning, and brackets that a line leaves open
at its end are closed in the job's own copy of the file, which is said with the line. Nothing else is ever mended.

Rows that are longer than the model reads are left out and counted aloud. The hosted service cuts them at their end, so
that a model learns answers without ends; to refuse the whole file would help nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kivnun.data.checks.tokens import TokenLimits
from kivnun.data.encode import Encoder
from kivnun.data.files.dataset import Split
from kivnun.data.findings import Finding
from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.jobs.advice import advise
from kivnun.jobs.checked_files import PARAMS, TOO_LONG, CheckedFiles, FilesOfJob, check_files
from kivnun.jobs.continued import make_base
from kivnun.jobs.hyperparameters import MethodName
from kivnun.jobs.job_error import INVALID_FORMAT, JobError, from_user_error, invalid_n_examples
from kivnun.jobs.job_files import MendedLine, mend_lines, place_file
from kivnun.jobs.validation_notes import ACCEPTED, HOSTED_MINIMUM, JobNote, say_accepted, say_mended, say_raw, say_rows
from kivnun.models.context import folder_context
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import resolve_model

__all__ = ["FilesOfJob", "JobNote", "Validated", "validate_files"]

Mended = Mapping[Split, Sequence[MendedLine]]
MOST_TOKENS = 65_536
COMPLETION = "prompt-completion"
FORMATS: Mapping[MethodName, tuple[str, ...]] = {
    "supervised": (
        "openai-chat",
        COMPLETION,
        "alpaca",
        "sharegpt",
        "gemini",
        "gemini-1.0",
        "palm-text",
        "palm-chat",
        "bedrock-claude",
    ),
    "dpo": ("openai-preference", "preference", "gemini-preference"),
}
"""Kinds of rows that each method learns from."""
COMPLETION_MODELS = ("babbage", "davinci")
RAW_PROMPT, RAW_ANSWER = "{prompt}", "{completion}"
# Judged elsewhere, with words of their own.
_JUDGED_APART = ACCEPTED | TOO_LONG | {"template-missing", "hosted-rows", "hosted-length", "file-empty"}
SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Validated:
    """Files that can be trained on.

    Attributes:
        num_rows: Training rows that are learnt.
        num_validation_rows: Validation rows.
        num_tokens: Of the training rows, in one pass.
        max_seq_len: Tokens that a row may have.
        formats: What the rows are, by split.
        is_raw: Whether prompt and completion are joined as they stand, without the model's chat template.
        accepted: Codes of checks that must not refuse the run.
        notes: What the job's events should say.
    """

    num_rows: int
    num_validation_rows: int
    num_tokens: int
    max_seq_len: int
    formats: Mapping[str, str]
    is_raw: bool
    accepted: tuple[str, ...]
    notes: tuple[JobNote, ...]


def validate_files(files: FilesOfJob) -> Validated | JobError:
    """Check a job's files and put them into its folder, under names that its recipe can use.

    It may be called again for the same job, as after a kill. Memory does not grow with the files.

    Args:
        files: What is to be validated.
    """
    files.folder.mkdir(parents=True, exist_ok=True)
    try:
        for split, source in files.sources.items():
            problem = place_file(source, files.copy_of(split))
            if problem is not None:
                return JobError(INVALID_FORMAT, f"Invalid file format. {problem}", PARAMS[split])
        return _validate_copies(files)
    except UserError as error:
        return from_user_error(error, files.folder, files.base_model)


def _validate_copies(files: FilesOfJob) -> Validated | JobError:
    folder = resolve_model(make_base(files.base_model, files.folder)).folder
    encoder = Encoder(load_tokenizer(folder))
    context = folder_context(folder)
    limits = TokenLimits(min(context, MOST_TOKENS) if isinstance(context, int) else MOST_TOKENS)
    mended: Mended = {}
    checked = check_files(files, encoder, limits)
    if not files.strict and "json-syntax" in checked.codes:
        mended = {split: mend_lines(files.copy_of(split)) for split in files.sources}
        checked = check_files(files, encoder, limits)
    is_raw = _is_raw(checked, files.model)
    if is_raw:
        template = PromptTemplate("text", RAW_PROMPT, RAW_ANSWER)
        checked = check_files(files, encoder, replace(limits, template=template))
    problem = _find_problem(checked, files, mended, is_raw=is_raw)
    if problem is not None:
        # A line that was cut often reads as a whole row that lacks something.
        return replace(problem, notes=tuple(note.message for note in say_mended(mended)))
    notes = (*say_mended(mended), *say_rows(checked), *say_accepted(checked), *([say_raw()] if is_raw else []))
    return Validated(
        num_rows=checked.num_left("train"),
        num_validation_rows=checked.num_left("validation"),
        num_tokens=checked.num_tokens("train"),
        max_seq_len=limits.max_seq_len,
        formats=checked.formats,
        is_raw=is_raw,
        accepted=tuple(sorted(ACCEPTED & checked.codes)),
        notes=notes,
    )


def _is_raw(checked: CheckedFiles, model: str) -> bool:
    """Whether prompts and completions are for a model that completes texts, and not for one that chats."""
    are_completions = set(checked.formats.values()) == {COMPLETION}
    return are_completions and (model.startswith(COMPLETION_MODELS) or "template-missing" in checked.codes)


def _find_problem(checked: CheckedFiles, files: FilesOfJob, mended: Mended, *, is_raw: bool) -> JobError | None:
    """The first reason not to train."""
    for split in files.sources:
        added = {line.number: line.added for line in mended.get(split, ())}
        problem = _find_bad_rows(checked, files, split, added) or _find_too_few(checked, files, split)
        problem = problem or _find_wrong_format(checked, files, split)
        if problem is not None:
            return problem
    if "template-missing" in checked.codes and not is_raw:
        words = "has no chat template of its own, so that it cannot learn where an answer ends"
        return JobError("model_not_available", f"The model {files.model} {words}", "model")
    return None


def _find_bad_rows(checked: CheckedFiles, files: FilesOfJob, split: Split, added: Mapping[int, str]) -> JobError | None:
    errors = [finding for finding in checked.findings(split, "error") if finding.code not in _JUDGED_APART]
    if not errors:
        return None
    errors.sort(key=lambda finding: finding.line)
    codes = {finding.code for finding in errors}
    # Where both files have many of one kind, the count is of both.
    count = max(len(errors), sum(found.count for found in checked.report.found if found.code in codes))
    own = f"{files.copy_of(split)}: "
    said = [f"{_place(each)}: {each.message.removeprefix(own)}{_say_added(each, added)}" for each in errors]
    problems = tuple(f"{what} ({each.code})" for what, each in zip(said[:SHOWN_PROBLEMS], errors, strict=False))
    more = f" (and {count - 1:,} more problem(s))" if count > 1 else ""
    is_mended = errors[0].line in added
    hint = "upload the file with the whole line" if is_mended else advise(errors[0], files.copy_of(split))
    words = f"The job failed due to an invalid {PARAMS[split].replace('_', ' ')}. Invalid file format."
    message = f"{words} {_begin(said[0])}{more}. {_begin(hint)}."
    return JobError(INVALID_FORMAT, message, PARAMS[split], problems)


def _begin(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _say_added(finding: Finding, added: Mapping[int, str]) -> str:
    closing = added.get(finding.line)
    return "" if closing is None else f" (the line ended too early and was closed with `{closing}`: it may be cut)"


def _place(finding: Finding) -> str:
    return f"line {finding.line}" if finding.line else "the file"


def _find_too_few(checked: CheckedFiles, files: FilesOfJob, split: Split) -> JobError | None:
    num_rows = checked.num_rows(split)
    minimum = HOSTED_MINIMUM if files.strict and split == "train" else 1
    if num_rows < minimum:
        return invalid_n_examples(num_rows, minimum, param=PARAMS[split])
    if checked.num_left(split):
        return None
    words = f"All {num_rows:,} example(s) are longer than the model reads"
    return JobError(INVALID_FORMAT, f"{words}; shorten them, or choose a model with a longer context", PARAMS[split])


def _find_wrong_format(checked: CheckedFiles, files: FilesOfJob, split: Split) -> JobError | None:
    found = checked.formats[split]
    if found in FORMATS[files.method]:
        return None
    wanted = "chat rows (`messages`), or `prompt` and `completion`"
    if files.method == "dpo":
        wanted = "preference rows (`input`, `preferred_output`, `non_preferred_output`)"
    fitting = next((method for method, formats in FORMATS.items() if found in formats), None)
    advice = f". Ask for the method {fitting}, or upload other rows." if fitting else ""
    words = f"Invalid file format. The rows look like {found}; the method {files.method} needs {wanted}{advice}"
    return JobError(INVALID_FORMAT, words, PARAMS[split])
