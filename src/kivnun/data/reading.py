"""The rows of a recipe: its files are found, their format detected, every row read as a conversation, the splits cut.

Nothing is tokenised and nothing is written here. Whatever was detected or chosen on the way is kept as notes, which a
run says aloud.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from kivnun.data.conversation import Conversation, Message
from kivnun.data.files.find import DataFile, Split, find_data
from kivnun.data.files.read import ReadOptions, stream_rows
from kivnun.data.findings import CHECKS, Finding, RowError
from kivnun.data.formats import detect_format
from kivnun.data.formats.base import Format
from kivnun.data.formats.fields import is_text_list, json_text
from kivnun.data.grouping import asked_text, count_common, group_rows, opening
from kivnun.data.pairs import PREFERENCE_KINDS
from kivnun.data.row_ranges import LEFT_OUT, take_ranges
from kivnun.data.rows import Row
from kivnun.data.sources import first_problems, read_data_file, require_file, shorten
from kivnun.data.split import SPLITS, Assignment, assign_by_time, assign_splits
from kivnun.data.template import MESSAGES_HINT, PromptTemplate, choose_template
from kivnun.data.times import read_moments
from kivnun.errors import UserError
from kivnun.recipe.rules import SPECIAL_GROUPS, list_files
from kivnun.recipe.schema import DataSection, SplitSection
from kivnun.recipe.values import DataFiles

MESSAGES_FORMAT, TEXT_FORMAT = "openai-chat", "text"
FIELDS_HINT = "fill or remove these rows: an empty field would be trained as if it were text"
MAX_SAMPLED_ROWS = 1000


@dataclass(frozen=True)
class ReadData:
    """The conversations of a recipe.

    Attributes:
        template: How rows are written.
        splits: Conversations by split.
        formats: What each file was taken for, and why, by file.
        notes: What a user should know of how files were chosen and rows were cut.
        left_out: How many rows were left out, by reason.
        cut: The splits that were cut from the training files, and not given.
        common_inputs: What so many of the rows that were cut ask that it stands in every split.
        learns_bad: Whether answers that are marked as bad are learnt from, and stand in the splits.
    """

    template: PromptTemplate
    splits: dict[str, list[Conversation]]
    formats: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: Sequence[str] = ()
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])
    cut: frozenset[str] = frozenset()
    common_inputs: frozenset[str] = frozenset()
    learns_bad: bool = False


@dataclass(frozen=True)
class FoundFiles:
    """The files of a recipe by split, and what a user should know of them."""

    files: Mapping[str, Sequence[DataFile]]
    notes: Sequence[str] = ()


def read_conversations(data: DataSection, objective: str) -> tuple[PromptTemplate, dict[str, list[Conversation]]]:
    """The template and the splits of `read_data`, for those who need no more."""
    read = read_data(data, objective)
    return read.template, read.splits


def read_data(data: DataSection, objective: str) -> ReadData:
    """Read every file of a recipe and cut the splits.

    Raises:
        UserError: Whatever is wrong with the files, the fields or the split.
    """
    found = find_files(data)
    options = ReadOptions(header=data.header)
    notes = [*found.notes]
    files = found.files.items()
    given = {split: [(file, _read_rows(file, options, notes)) for file in part] for split, part in files}
    rows, num_outside = take_ranges(given, data)
    columns = _list_columns(row for parts in rows.values() for _, part in parts for row in part[:MAX_SAMPLED_ROWS])
    wanted = data.split.model_copy(update={name: 0 for name in ("validation", "test") if name in rows})
    is_cut = bool(wanted.validation or wanted.test)
    needed = _split_columns(wanted, columns, data) if is_cut else {}
    reader = _choose_reader(data, objective, columns)
    read = {split: reader.read(parts, needed if split == "train" else {}) for split, parts in rows.items()}
    _require_sources(data.repeat, {conversation.fields.get("source", "") for conversation in read["train"]})
    learns_both = objective == "kto"
    wanted_rows = {
        split: [row for row in part if learns_both or row.desirable is not False] for split, part in read.items()
    }
    left_out = sum(map(len, read.values())) - sum(map(len, wanted_rows.values()))
    if read["train"] and not wanted_rows["train"]:
        raise UserError(
            "nothing-to-learn",
            f"all {len(read['train'])} training rows are marked as undesirable answers, which are not learnt",
            hint="mark the answers that are right with true, or leave the label out",
        )
    notes += _say_rejected(wanted_rows) if objective not in PREFERENCE_KINDS else []
    splits, common = wanted_rows, frozenset[str]()
    if is_cut:
        cut = cut_rows(wanted_rows["train"], wanted, columns=columns, template=reader.template)
        splits, common = _place_rows(wanted_rows, cut), _find_common(wanted_rows["train"], reader.template)
        notes += cut.notes
    made = frozenset(name for name in ("validation", "test") if getattr(wanted, name))
    counts = {LEFT_OUT: num_outside, "marked as undesirable answers": left_out}
    unwanted = {reason: count for reason, count in counts.items() if count}
    splits = {name: splits.get(name, []) for name in SPLITS}
    notes += _say_common(splits, made, common, reader.template)
    return ReadData(reader.template, splits, reader.formats, tuple(notes), unwanted, made, common, learns_both)


def _read_rows(file: DataFile, options: ReadOptions, notes: list[str]) -> list[Row]:
    """The rows of a file; what it holds beside them that is no error is added to the notes, each kind once."""
    for path in file.columns.values() or [file.path]:
        require_file(path)
    rows: list[Row] = []
    found: dict[str, list[Finding]] = {}
    for item in stream_rows(file, options):
        if isinstance(item, Row):
            rows.append(item)
        elif CHECKS[item.code].severity == "error":
            # Reads on, and refuses the file with all that is wrong in it.
            return read_data_file(file, options)
        else:
            found.setdefault(item.code, []).append(item)
    for same in found.values():
        more = f" (and {len(same) - 1:,} more such)" if len(same) > 1 else ""
        notes.append(f"{same[0].where}: {same[0].message}{more}")
    return rows


def _say_rejected(splits: Mapping[str, Sequence[Conversation]]) -> list[str]:
    count = sum(row.rejected is not None for part in splits.values() for row in part)
    return [f"{count} rows have a rejected answer, which is not learnt: only the preferred one is"] if count else []


def _place_rows(read: Mapping[str, Sequence[Conversation]], cut: Assignment) -> dict[str, list[Conversation]]:
    """The rows by split: those of the training files where they were placed, and then those of the other files."""
    splits: dict[str, list[Conversation]] = {name: [] for name in SPLITS}
    for conversation, place in zip(read["train"], cut.places, strict=True):
        splits[place].append(conversation)
    for name in ("validation", "test"):
        splits[name] += read.get(name, [])
    return splits


def _find_common(rows: Sequence[Conversation], template: PromptTemplate) -> frozenset[str]:
    if template.kind == "document":
        return frozenset()
    asked = [asked_text(row, template.prompt_fields) for row in rows]
    return frozenset(count_common([row.content_hash for row in rows], asked))


def _say_common(
    splits: Mapping[str, Sequence[Conversation]],
    made: Collection[str],
    common: Collection[str],
    template: PromptTemplate,
) -> list[str]:
    """How many rows that were cut off ask what very many rows ask, which no split can keep apart."""
    if not common:
        return []
    counts = {
        name: sum(asked_text(row, template.prompt_fields) in common for row in splits[name])
        for name in SPLITS
        if name in made
    }
    return [
        f"{count} of {len(splits[name])} {name} rows ask what very many rows ask: they were not kept together, and the "
        "checks do not count them as leaks"
        for name, count in counts.items()
        if count
    ]


def find_files(data: DataSection) -> FoundFiles:
    """The files of a recipe by split.

    A file belongs to the field that names it, whatever its own name says. Of a folder or data set that `train` names,
    validation and test files are used as such, unless the recipe names others.

    Raises:
        UserError: `data-missing` or `data-format`.
    """
    files: dict[str, list[DataFile]] = {"train": []}
    notes: list[str] = []
    for role in cast("tuple[Split, ...]", SPLITS):
        given: DataFiles | None = getattr(data, role)
        if isinstance(given, Mapping):
            columns = {name: Path(file) for name, file in given.items()}
            first = next(iter(columns.values()))
            files[role] = [DataFile(first, "lines", role, "named column by column in the recipe", columns=columns)]
            continue
        for name in list_files(given):
            dataset = find_data(name)
            notes += [f"{note.where}: {note.message}" for note in dataset.notes]
            for file in dataset.files:
                place, why_not = (role, "") if Path(name).is_file() else _place_file(file, role, data)
                if why_not:
                    notes.append(f"{file.path} is not used: {why_not}")
                else:
                    files.setdefault(place, []).append(file)
    if not files["train"]:
        raise UserError(
            "data-missing",
            f"{', '.join(list_files(data.train))}: no file with training rows",
            details=[f"{file.path}: {file.why}" for part in files.values() for file in part],
            hint="name the files one by one in data.train, data.validation and data.test",
        )
    return FoundFiles(files, notes)


def _place_file(file: DataFile, role: Split, data: DataSection) -> tuple[Split, str]:
    """The split of a file in a folder that `data.<role>` names, or why it is not used."""
    if role == "train":
        is_given = file.split != "train" and getattr(data, file.split) is not None
        return file.split, f"data.{file.split} is given" if is_given else ""
    # Files that say nothing of their split belong to the one that the folder is named for.
    return role, f"it holds {file.split} rows" if file.split not in (role, "train") else ""


def cut_rows(
    rows: Sequence[Conversation], split: SplitSection, *, columns: Collection[str], template: PromptTemplate
) -> Assignment:
    """Cut rows into splits as `data.split` says, with groups and near duplicates kept together.

    Raises:
        UserError: `split-too-small`, or `data-field` for times that are none.
    """
    hashes = [row.content_hash for row in rows]
    near = split.near_duplicates or ("ignore" if template.kind == "document" else "together")
    inputs = [asked_text(row, template.prompt_fields) for row in rows] if near == "together" else None
    groups = group_rows(hashes, inputs=inputs, keys=_group_keys(rows, split.group_by, columns))
    if split.time_by is not None:
        texts = [row.fields[split.time_by] for row in rows]
        times = read_moments(texts, [row.where for row in rows], split.time_by)
        cut = assign_by_time(hashes, times, split, groups=groups.numbers)
    else:
        strata = [row.fields[split.stratify_by] if split.stratify_by else "" for row in rows]
        cut = assign_splits(hashes, strata, split, groups=groups.numbers)
    return replace(cut, notes=(*groups.notes, *cut.notes))


def _group_keys(rows: Sequence[Conversation], group_by: str | None, columns: Collection[str]) -> list[object] | None:
    if group_by is None:
        return None
    if group_by in columns:
        return [row.fields[group_by] for row in rows]
    if group_by == "conversation":
        return [opening(row) for row in rows]
    return [row.fields.get("source") or row.where.rpartition(":")[0] for row in rows]


def _split_columns(split: SplitSection, columns: Collection[str], data: DataSection) -> dict[str, str]:
    """The columns that rows are cut by, with the field that names each."""
    named = {"stratify_by": split.stratify_by, "group_by": split.group_by, "time_by": split.time_by}
    needed = {column: f"data.split.{name}" for name, column in named.items() if column is not None}
    for column, name in list(needed.items()):
        if column in columns:
            continue
        if name == "data.split.group_by" and column in SPECIAL_GROUPS:
            del needed[column]
            continue
        raise UserError(
            "template-field",
            f"{', '.join(list_files(data.train))}: no column {column!r}",
            details=[f"{column!r} is named in {name}", f"columns: {', '.join(columns)}"],
            hint=f"name a column that is there in {name}, or leave it out",
        )
    return needed


@dataclass(frozen=True)
class _Reader:
    """How the rows of a recipe become conversations.

    Attributes:
        data: The recipe's section.
        template: How rows are written.
        wanted: Format of rows without a template; None where it is detected.
        formats: What each file was taken for; filled while files are read.
    """

    data: DataSection
    template: PromptTemplate
    wanted: str | None = None
    formats: dict[str, str] = field(default_factory=dict[str, str])

    def read(self, parts: Sequence[tuple[DataFile, Sequence[Row]]], needed: Mapping[str, str]) -> list[Conversation]:
        """The conversations of one split.

        Args:
            parts: Its files with their rows.
            needed: Columns that no row may lack.
        """
        problems: list[str] = []
        conversations: list[Conversation] = []
        is_messages = False
        for file, rows in parts:
            row_format = self._choose_format(file, rows)
            is_messages |= row_format is not None and row_format.name == MESSAGES_FORMAT
            for row in rows:
                read, wrong = self._read_row(row, row_format, needed)
                problems += wrong
                conversations += [read] if read is not None else []
        if problems:
            raise UserError(
                "messages-invalid" if is_messages else "data-field",
                f"{len(problems)} problem(s) in {sum(len(rows) for _, rows in parts)} row(s)",
                details=first_problems(problems),
                hint=MESSAGES_HINT if is_messages else FIELDS_HINT,
            )
        return conversations

    def _choose_format(self, file: DataFile, rows: Sequence[Row]) -> Format | None:
        if self.template.kind != "chat":
            return None
        detection = detect_format([self._shape(row)[0] for row in rows[:MAX_SAMPLED_ROWS]], wanted=self.wanted)
        if detection.format.name == TEXT_FORMAT:
            raise UserError(
                "data-format",
                f"{file.path}: the rows are running text ({detection.why}): there is no answer to learn",
                hint="set training.objective: text to learn the whole text, or name prompt and answer in a template",
            )
        self.formats[str(file.path)] = f"{detection.format.name}: {detection.why}"
        return detection.format

    def _read_row(
        self, row: Row, row_format: Format | None, needed: Mapping[str, str]
    ) -> tuple[Conversation | None, list[str]]:
        """A row as a conversation, or what is wrong with it."""
        if row_format is None:
            names = self.data.value_names
            fields, problems = read_fields(row, {*self.template.fields, *names, *needed}, names)
            return None if problems else Conversation(_make_turns(fields, self.template), fields, row.where), problems
        shaped, problems = self._shape(row)
        problems += read_fields(row, set(needed), {})[1]
        try:
            conversation = row_format.read(shaped)
        except RowError as error:
            return None, [*problems, *(f"{finding.where}: {finding.message}" for finding in error.findings)]
        except RecursionError:
            return None, [*problems, f"{row.where}: objects are nested too deeply"]
        if not any(message.trained for message in conversation.messages):
            problems.append(f"{row.where}: no assistant turn is trained")
        return None if problems else conversation, problems

    def _shape(self, row: Row) -> tuple[Row, list[str]]:
        """A row with its conversation in `messages` and names for its coded values, and what is wrong with these."""
        fields, column = row.fields, self.template.column
        if column != "messages":
            others = {name: value for name, value in fields.items() if name not in (column, "messages")}
            fields = {"messages": fields.get(column), **others}
        named, problems = read_fields(row, (), self.data.value_names) if self.data.value_names else ({}, [])
        named = {name: value for name, value in named.items() if name in self.data.value_names}
        return replace(row, fields={**fields, **named}), problems


def _choose_reader(data: DataSection, objective: str, columns: Sequence[str]) -> _Reader:
    has_template = objective == "text" or data.text_template is not None or data.prompt_template is not None
    if has_template or data.messages is not None:
        return _Reader(
            data, choose_template(data, objective, columns), wanted=None if has_template else MESSAGES_FORMAT
        )
    return _Reader(data, PromptTemplate("chat"), wanted=data.format)


def read_fields(
    row: Row, needed: Collection[str], value_names: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, str], list[str]]:
    """A row's fields as text, with names for coded values, and what is wrong with those that are needed."""
    fields: dict[str, str] = {}
    problems: list[str] = []
    for name in [*row.fields, *sorted(set(needed) - set(row.fields))]:
        value = row.fields.get(name)
        if isinstance(value, str | int | float):
            fields[name] = str(value).lower() if isinstance(value, bool) else str(value)
        elif name not in needed and is_text_list(value):
            fields[name] = json_text(value)
        names = value_names.get(name)
        if name in needed and not fields.get(name, "").strip():
            problems.append(f"{row.where}: field {name!r} {_describe(row, name)}")
        elif names is not None and name in fields:
            if fields[name] in names:
                fields[name] = names[fields[name]]
            else:
                known = ", ".join(names)
                problems.append(f"{row.where}: {name} {fields[name]!r} is not in data.value_names.{name} ({known})")
    return fields, problems


def _describe(row: Row, name: str) -> str:
    """What is wrong with a field that gives no text."""
    value = row.fields.get(name)
    if name not in row.fields:
        return "is missing"
    if value is None:
        return "is null"
    return f"is empty: {value!r}" if isinstance(value, str) else f"should be text, got {shorten(repr(value))}"


def _make_turns(fields: Mapping[str, str], template: PromptTemplate) -> tuple[Message, ...]:
    if template.kind == "document":
        return (Message("assistant", fields[template.column], trained=True),)
    prompt = Message("user", template.render_prompt(fields), trained=False)
    return (prompt, Message("assistant", template.render_answer(fields), trained=True))


def _list_columns(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.fields))


def _require_sources(repeat: Collection[str], sources: Collection[str]) -> None:
    """Refuse to repeat what is not there: a misspelt name would change nothing, silently."""
    for name in repeat:
        if name not in sources:
            close = get_close_matches(name, sources, n=1)
            known = ", ".join(sorted(filter(None, sources))) or "none; only text files have one"
            raise UserError(
                "recipe-invalid",
                f"data.repeat: `{name}` is no source of data.train{f'; did you mean `{close[0]}`?' if close else ''}",
                details=[f"sources: {known}"],
                hint="name a text file by its name up to the first dot",
            )
