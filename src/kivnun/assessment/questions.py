"""The rows that a model is evaluated on: of a data file, of a recipe's test split, or of a run's own one."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, cast

import orjson
from pydantic import ValidationError

from kivnun.asking.rows import section_of
from kivnun.data.conversation import Conversation, Message
from kivnun.data.folder import read_dataset
from kivnun.data.reading import read_data
from kivnun.data.template import PromptTemplate, load_template
from kivnun.data.text_pairs import write_prompt
from kivnun.errors import UserError
from kivnun.evaluation.metrics import collect_labels, normalize_text
from kivnun.evaluation.scoring import ScoredRow, read_references
from kivnun.recipe.load import LoadedRecipe
from kivnun.recipe.schema import DataSection, EvaluationSection
from kivnun.recipe.values import Section
from kivnun.runs import read_lock

THE_ANSWER = "(the answer)"
"""Stands for the label's column where a row's answer is the label, whatever its column."""
SectionType = TypeVar("SectionType", bound=Section)
NOT_ASKED = ("text", "contrastive", "embedding")


@dataclass(frozen=True)
class Questions:
    """Rows to evaluate on.

    Attributes:
        conversations: The rows.
        template: How they are written.
        source: What they are called: a file, a recipe or a run.
        labels: The label set of a classification.
        hashes: Content hash of each file that they come from.
        notes: What a user should know of how they were read.
        left_out: How many rows were left out, by reason.
    """

    conversations: tuple[Conversation, ...]
    template: PromptTemplate
    source: str
    labels: tuple[str, ...] = ()
    hashes: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def rows_hash(self) -> str:
        """Hash of what is asked and what is right, in order."""
        return hashlib.sha256(orjson.dumps([row.content_hash for row in self.conversations])).hexdigest()

    def without(self, numbers: Sequence[int], reason: str) -> "Questions":
        """The others, with those that are left out counted.

        Args:
            numbers: Of the rows to leave out.
            reason: Why.
        """
        out = set(numbers)
        kept = tuple(row for number, row in enumerate(self.conversations) if number not in out)
        return replace(self, conversations=kept, left_out={**self.left_out, reason: len(out)} if out else self.left_out)


def read_file(data: DataSection, source: str) -> Questions:
    """Every row of a data file.

    Args:
        data: A section without splits, such as `asking.rows.section_of` makes.
        source: What the file is called.

    Raises:
        UserError: Whatever is wrong with the file or its fields.
    """
    read = read_data(data, "supervised")
    rows = tuple(read.splits["train"])
    return Questions(
        rows,
        read.template,
        source,
        collect_labels([row.answer for row in rows]),
        notes=_notes(read.notes, read.formats),
        left_out=read.left_out,
    )


def file_section(path: str, run_dir: Path | None, given: Mapping[str, object]) -> DataSection:
    """How the rows of a file are read: as it was said, or as a run that is evaluated was trained.

    Args:
        path: The file.
        run_dir: The run that is evaluated; None for another model.
        given: Fields of the data section that the user gave.
    """
    template = None
    if run_dir is not None and not given and (run_dir / "dataset").is_dir():
        template = load_template(run_dir / "dataset")
    section = section_of(path, template)
    return DataSection.model_validate({**section.model_dump(exclude_unset=True), **given})


def read_recipe_rows(loaded: LoadedRecipe) -> Questions:
    """The test rows of a recipe.

    Args:
        loaded: The recipe.

    Raises:
        UserError: `split-too-small` where it keeps none; whatever is wrong with its files.
    """
    from kivnun.inputs import find_inputs  # noqa: PLC0415 - loads torch, for which comparisons should not wait

    inputs = find_inputs(loaded)
    questions = _test_rows(inputs.recipe.data, inputs.recipe.training.objective.kind, str(loaded.path))
    return replace(questions, hashes=dict(inputs.hashes))


def read_run_rows(run_dir: Path) -> Questions:
    """The test rows of a run, as they stand in its dataset.

    Args:
        run_dir: The run.

    Raises:
        UserError: `run-missing` without a dataset; `evaluation-invalid` where its files are not what they were.
    """
    if not (run_dir / "dataset" / "test.jsonl").is_file():
        raise UserError("run-missing", f"{run_dir} has no finished dataset", hint="name rows with --data or --recipe")
    dataset = read_dataset(run_dir / "dataset")
    stored = dataset.rows("test")
    train = [row.answer for row in dataset.rows("train")]
    labels = collect_labels(train, [row.answer for row in stored])
    if dataset.template.kind == "text":
        template = dataset.template
        rows = tuple(_stored_row(row.fields, row.prompt, row.answer, row.where) for row in stored)
        return Questions(rows, template, str(run_dir), labels)
    # What stands there of a chat is a text for people; its turns stand in the files that it was made from.
    recipe = read_lock(run_dir).recipe
    section = read_part(DataSection, recipe.get("data"), run_dir)
    objective = cast("Mapping[str, Mapping[str, str]]", recipe["training"])["objective"]
    questions = _test_rows(section, str(cast("Mapping[str, str]", objective)["kind"]), str(run_dir))
    if sorted(row.content_hash for row in questions.conversations) != sorted(row.id for row in stored):
        raise UserError(
            "evaluation-invalid",
            f"the data files of {run_dir} are not those that its test rows were made from",
            hint="name the rows to evaluate on with --data, or run the recipe again",
        )
    return replace(questions, labels=labels)


def score_rows_of(questions: Questions, section: EvaluationSection) -> list[ScoredRow]:
    """The rows as they are scored; rows that are the same get names of their own.

    Args:
        questions: The rows.
        section: What is measured.

    Raises:
        UserError: `evaluation-label` where the answer is not the label; `evaluation-invalid` for further answers that
            cannot be read, or a column that is not there.
    """
    seen: Counter[str] = Counter()
    rows: list[ScoredRow] = []
    for conversation in questions.conversations:
        _require_label(conversation, section)
        seen[conversation.content_hash] += 1
        times = seen[conversation.content_hash]
        row_id = conversation.content_hash if times == 1 else f"{conversation.content_hash}-{times}"
        references = read_references(conversation.answer, conversation.fields, section.references, conversation.where)
        prompt = shown_prompt(conversation, questions.template)
        rows.append(ScoredRow(row_id, conversation.where, prompt, references, conversation.fields))
    return rows


def shown_prompt(conversation: Conversation, template: PromptTemplate) -> str:
    """What a row asks as people are shown it: of a text template the fields alone, since its words are always the same.

    Args:
        conversation: The row.
        template: How it is written.
    """
    names = template.prompt_fields if template.kind == "text" else ()
    return "\n".join(conversation.fields[name] for name in names) if names else write_prompt(conversation)


def with_trained_labels(questions: Questions, run_dir: Path) -> Questions:
    """The same with the labels that a classifying run was trained on: a file need not hold every one of them.

    Args:
        questions: The rows.
        run_dir: The run; without a data set of its own it adds none.
    """
    if not (run_dir / "dataset" / "train.jsonl").is_file():
        return questions
    trained = [row.answer for row in read_dataset(run_dir / "dataset").rows("train")]
    return replace(questions, labels=collect_labels(trained, questions.labels))


def read_part(section: type[SectionType], value: object, run_dir: Path) -> SectionType:
    """A section of a run's recipe; the others may be of an older form.

    Args:
        section: Which one.
        value: What the run's lock says.
        run_dir: The run.

    Raises:
        UserError: `evaluation-invalid` where this one is of an older form.
    """
    try:
        return section.model_validate(value)
    except ValidationError as error:
        raise UserError(
            "evaluation-invalid",
            f"the recipe of {run_dir} is of an older form: {error.errors()[0]['msg'].lower()}",
            hint="name the rows with --data and what is measured with --task",
        ) from error


def _test_rows(data: DataSection, objective: str, source: str) -> Questions:
    if objective in NOT_ASKED:
        raise UserError(
            "stage-unsupported",
            f"{source}: rows of the objective {objective} ask for no answer in words",
            hint="name rows with questions and answers",
        )
    read = read_data(data, objective)
    rows = tuple(read.splits["test"])
    if not rows:
        raise UserError(
            "split-too-small", f"{source} keeps no test rows", hint="set data.split.test, or name rows with --data"
        )
    labels = collect_labels([row.answer for row in read.splits["train"]], [row.answer for row in rows])
    return Questions(rows, read.template, source, labels, notes=_notes(read.notes, read.formats))


def _stored_row(fields: Mapping[str, str], prompt: str, answer: str, where: str) -> Conversation:
    turns = (Message("user", prompt, trained=False), Message("assistant", answer, trained=True))
    return Conversation(turns, fields, where)


def _notes(notes: Sequence[str], formats: Mapping[str, str]) -> tuple[str, ...]:
    return (*notes, *(f"{file} is read as {what}" for file, what in formats.items()))


def _require_label(conversation: Conversation, section: EvaluationSection) -> None:
    if section.label in (None, THE_ANSWER):
        return
    label = conversation.fields.get(section.label or "", "")
    if normalize_text(label) != normalize_text(conversation.answer):
        raise UserError(
            "evaluation-label",
            f"{conversation.where}: the label {section.label!r} is {label!r}, the answer is {conversation.answer!r}",
            hint="let the answer be the label alone, or measure another task",
        )
