"""The rows that `kivnun preview` shows: of any data, or of a recipe, with what was found out on standard error."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # For types only: the command line must start without torch.
    from kivnun.data.chosen_rows import ChosenRow
    from kivnun.data.files.dataset import DataFile, DataSet
    from kivnun.data.findings import Finding
    from kivnun.data.formats import Detection
    from kivnun.data.preview import Shower, ShownRow
    from kivnun.data.reading import ReadData
    from kivnun.data.rows import Row

SPLITS = ("train", "validation", "test")
MAX_FINDINGS = 5
QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class RowsWanted:
    """What of a data set is shown, and how it is read.

    Attributes:
        split: The split; None takes the first that there is.
        numbers: Rows of the split, from 1.
        model: The model whose tokenizer shows them.
        wanted: The format; None finds it out.
        prompt: The column that is read.
        answer: The column that is learnt.
        header: Whether tables begin with column names; None finds it out.
        encoding: How texts are encoded; None finds it out.
    """

    split: str | None
    numbers: Sequence[int]
    model: str | None = None
    wanted: str | None = None
    prompt: str | None = None
    answer: str | None = None
    header: bool | None = None
    encoding: str | None = None


def show_data(name: str, choice: RowsWanted) -> "tuple[list[ShownRow], str, list[str]]":
    """Rows of any data, and what was found out about it, which is said on standard error too."""
    from kivnun.data.chosen_rows import read_chosen
    from kivnun.data.encode import Encoder
    from kivnun.data.files.dataset import ReadOptions
    from kivnun.data.files.find import find_data
    from kivnun.data.findings import Finding
    from kivnun.data.preview import Shower
    from kivnun.models.resolve import BUNDLED
    from kivnun.models.tokenizer import open_tokenizer

    dataset = find_data(name)
    split, files = _choose_split(dataset, choice.split)
    named = open_tokenizer(choice.model or BUNDLED)
    context = f"reads {named.context:,} tokens at once" if named.context else "does not say how much it reads at once"
    facts: list[str] = []
    _tell(facts, f"tokens of {named.name}{'' if choice.model else ', since no --model was given'}; it {context}")

    def detect(file: "DataFile", first_rows: "Sequence[Row]") -> "Detection":
        from kivnun.data.formats import detect_format

        found = detect_format(first_rows, wanted=choice.wanted, prompt=choice.prompt, answer=choice.answer)
        _tell(facts, f"{file.path}: {file.why}; {found.format.name}: {found.why}")
        return found

    shower = Shower(Encoder(named.tokenizer), named.context)
    shown: list[ShownRow] = []
    # A licence that is no data is nothing to read about here.
    skipped = [note for note in dataset.notes if note.code == "file-skipped"]
    if skipped:
        _tell(facts, f"{len(skipped)} file(s) beside them are no data; `kivnun check` lists them")
    findings: list[Finding] = [note for note in dataset.notes if note.code != "file-skipped"]
    num_findings = len(findings)
    reading = _Reading(choice.numbers[-1])
    options = ReadOptions(header=choice.header, encoding=choice.encoding)
    for item in read_chosen(files, choice.numbers, options, detect=detect, passed=reading.pass_row):
        if isinstance(item, Finding):
            num_findings += 1
            findings += [item] * (len(findings) <= MAX_FINDINGS)
        else:
            shown.append(_show_row(item, shower))
    _tell_findings(findings, num_findings)
    _tell_missing(choice.numbers, shown, f"the {split} rows of {name}")
    return shown, f"{split} rows of {name}", facts


def _choose_split(dataset: "DataSet", wanted: str | None) -> "tuple[str, list[DataFile]]":
    """The files of the split that was asked for, or of the first that there is."""
    from kivnun.errors import UserError

    there = [name for name in SPLITS if any(file.split == name for file in dataset.files)]
    split = wanted or there[0]
    files = [file for file in dataset.files if file.split == split]
    if not files:
        raise UserError(
            "split-too-small",
            f"{dataset.name} has no {split} rows, only {' and '.join(there)}",
            details=[f"{file.path}: {file.why}" for file in dataset.files[:MAX_FINDINGS]],
            hint=f"say --split {there[0]}",
        )
    return split, files


def _show_row(item: "ChosenRow", shower: "Shower") -> "ShownRow":
    from kivnun.data.findings import RowError
    from kivnun.data.preview import ShownRow, show_conversation

    try:
        conversation = item.format.read(item.row)
    except RowError as error:
        problem = "; ".join(finding.message for finding in error.findings)
        return ShownRow(item.row.where, item.number, item.format.name, problem=problem)
    shown = show_conversation(conversation, item.number, item.format.name, shower)
    if conversation.rejected is None:
        return shown
    return replace(shown, notes=(*shown.notes, "the rejected answer counts for the objectives dpo, orpo and kto only"))


def show_recipe(path: Path, choice: RowsWanted, overrides: list[str]) -> "tuple[list[ShownRow], str, list[str]]":
    """Rows of a recipe's split, prepared as a run would prepare them."""
    from kivnun.data.encode import Encoder
    from kivnun.data.prepare import tokenize_splits
    from kivnun.data.preview import show_prepared
    from kivnun.data.reading import read_data
    from kivnun.errors import UserError
    from kivnun.inputs import located_recipe
    from kivnun.models.tokenizer import open_tokenizer
    from kivnun.recipe.load import load_recipe

    given = [*overrides, *([f"base_model={choice.model}"] if choice.model else [])]
    loaded = load_recipe(path, given)
    recipe, split = loaded.recipe, choice.split or "train"
    if not isinstance(recipe.base_model, str):
        raise UserError(
            "stage-unsupported",
            f"{loaded.path}: base_model is a new model, whose tokenizer does not exist before it is trained",
            hint="preview with a model that exists: --model bundled, or the base/ folder of the finished run",
        )
    data = located_recipe(loaded).data
    read = read_data(data, recipe.training.objective.kind)
    conversations = read.splits
    if not conversations[split]:
        raise UserError(
            "split-too-small", f"the {split} split of {loaded.path} has no rows", hint="choose another --split"
        )
    facts = _tell_reading(read)
    named = open_tokenizer(recipe.base_model)
    tokenizer = named.tokenizer
    if named.context is not None and named.context < data.max_seq_len:
        # A run trains no row that the model cannot read, whatever the recipe allows.
        data = data.model_copy(update={"max_seq_len": named.context})
    num_all = max(map(len, conversations.values()))
    # The classes of a classification are known once all rows are.
    num_read = num_all if recipe.training.objective.kind == "classification" else choice.numbers[-1]
    while True:
        first = {name: part[:num_read] for name, part in conversations.items()}
        try:
            prepared = tokenize_splits(
                read.template, first, data, Encoder(tokenizer), recipe.training.objective
            ).splits[split]
        except UserError as error:
            if error.code != "answer-cut" or data.on_too_long == "refuse" or num_read >= num_all:
                raise
        else:
            if len(prepared) >= choice.numbers[-1] or num_read >= len(conversations[split]):
                break
        # Rows that are dropped as too long may stand first: then more are read.
        num_read *= 4
    chosen = [(number, prepared[number - 1]) for number in choice.numbers if number <= len(prepared)]
    shown = [show_prepared(row, number, tokenizer) for number, row in chosen]
    _tell_missing(choice.numbers, shown, f"the {split} split of {loaded.path}")
    return shown, f"{split} rows of {path}", facts


def _tell(facts: list[str], fact: str) -> None:
    from kivnun.cli.output import tell

    facts.append(fact)
    tell(fact)


def _tell_reading(read: "ReadData") -> list[str]:
    """What a run would say of how the rows were read and cut."""
    facts: list[str] = []
    for fact in (*(f"{file}: {why}" for file, why in read.formats.items()), *read.notes):
        _tell(facts, fact)
    return facts


def _tell_findings(findings: "Sequence[Finding]", number: int) -> None:
    """What was wrong on the way to the rows."""
    from kivnun.cli.output import tell

    for finding in findings[:MAX_FINDINGS]:
        tell(f"{finding.where}: {finding.code}: {finding.message}")
    if number > MAX_FINDINGS:
        sys.stderr.write(f"... and {number - MAX_FINDINGS:,} more; `kivnun check` lists them\n")


def _tell_missing(numbers: Sequence[int], shown: "Sequence[ShownRow]", what: str) -> None:
    """Refuse rows that are all beyond the end, and say it of some; fewer than --rows is nothing to tell."""
    from kivnun.errors import UserError

    if not shown:
        raise UserError(
            "split-too-small",
            f"{what} end before row {numbers[0]:,}",
            hint="name a row that is there; rows are counted from 1 in the order of the files",
        )
    missing = [number for number in numbers if number > shown[-1].number]
    if missing and [*numbers] != [*range(1, len(numbers) + 1)]:
        sys.stderr.write(f"{what} end at row {shown[-1].number:,} of those that were asked for\n")


class _Reading:
    """Says how long it takes to get to a row far behind, once it takes longer than two seconds."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._started = self._said_at = time.monotonic()

    def pass_row(self, number: int) -> None:
        """Hear that a row was read."""
        # A look at the clock for every row would take longer than reading it.
        if number % 1000:
            return
        now = time.monotonic()
        is_terminal = sys.stderr.isatty()
        if now - self._started >= QUIET_SECONDS and now - self._said_at >= (1.0 if is_terminal else 10.0):
            from kivnun.cli.progress import say_seconds

            left = say_seconds((now - self._started) * (self._last - number) / number)
            end = "\r" if is_terminal else "\n"
            sys.stderr.write(f"reading: row {number:,} of {self._last:,}, at most {left} left   {end}")
            self._said_at = now
