"""The rows that are enriched, those that are held out, and the format that they are written in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kivnun.data.conversation import Conversation
from kivnun.data.files.dataset import DataFile
from kivnun.data.files.find import find_data
from kivnun.data.findings import RowError
from kivnun.data.formats import FORMATS, Detection, detect_format
from kivnun.data.formats.base import Format
from kivnun.data.formats.columns import COLUMNS, own_columns_format
from kivnun.data.rows import Row
from kivnun.data.sources import first_problems, read_data_file
from kivnun.errors import UserError

SAMPLE_ROWS = 100
OTHERWISE = "openai-chat"


@dataclass(frozen=True)
class EnrichRows:
    """What an enrichment starts from.

    Attributes:
        rows: Training rows.
        fields: The same rows as they stand in their files, where new rows can be written with the same fields; else
            none, and they are written anew in `format`.
        held_out: Validation and test rows.
        format: The format to write: that of the training rows, or OpenAI's where that one is only read.
        notes: What each file was taken for, and why.
    """

    rows: tuple[Conversation, ...]
    fields: tuple[Mapping[str, object], ...]
    held_out: tuple[Conversation, ...]
    format: Format
    notes: tuple[str, ...]


def read_enrich_rows(
    name: str,
    against: Sequence[str] = (),
    *,
    wanted: str | None = None,
    prompt: str | None = None,
    answer: str | None = None,
) -> EnrichRows:
    """Read a data set whole.

    Args:
        name: A file, folder or data set id; its validation and test files are held out.
        against: More data that is held out.
        wanted: Its format, where it is not to be detected.
        prompt: Of a table, the column that is read.
        answer: Of a table, the column that is learnt.

    Raises:
        UserError: What reading refuses, or `data-field` with every row that is no row of its format.
    """
    rows: list[Conversation] = []
    held_out: list[Conversation] = []
    notes: list[str] = []
    fields: list[Mapping[str, object]] = []
    chosen: Format | None = None
    names: set[str] = set()
    for part, is_held_out in [(name, False), *((other, True) for other in against)]:
        for file in find_data(part).files:
            detection, raw, read = _read(file, wanted, prompt, answer)
            notes.append(f"{file.path}: {len(read):,} rows of {detection.format.name} ({detection.why}); {file.why}")
            if is_held_out or file.split != "train":
                held_out += read
            else:
                rows += read
                fields += [row.fields for row in raw]
                names.add(detection.format.name)
                own = own_columns_format(raw[0].fields) if detection.format is COLUMNS else None
                chosen = chosen or own or detection.format
    # `COLUMNS` itself is left where several columns became one text: new rows cannot have the columns of the old ones.
    is_kept = len(names) == 1 and chosen is not None and chosen.write is not None and chosen is not COLUMNS
    if chosen is None or chosen.write is None or len(names) > 1:
        chosen = FORMATS[OTHERWISE]
    return EnrichRows(tuple(rows), tuple(fields) if is_kept else (), tuple(held_out), chosen, tuple(notes))


def _read(
    file: DataFile, wanted: str | None, prompt: str | None, answer: str | None
) -> tuple[Detection, list[Row], list[Conversation]]:
    rows = read_data_file(file)
    detection = detect_format(rows[:SAMPLE_ROWS], wanted=wanted, prompt=prompt, answer=answer)
    read: list[Conversation] = []
    problems: list[str] = []
    for row in rows:
        try:
            read.append(detection.format.read(row))
        except RowError as error:
            problems += [f"{finding.where}: {finding.message}" for finding in error.findings]
    if problems:
        raise UserError(
            "data-field",
            f"{len(problems)} problem(s) in {len(rows)} row(s) of {file.path}",
            details=first_problems(problems),
            hint=f"`kivnun check {file.path}` shows all of them",
        )
    return detection, rows, read
