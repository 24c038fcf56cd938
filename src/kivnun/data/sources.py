"""Data files as lists of rows, for those who need whole and sound files: what is wrong in them is one error."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kivnun.data.files.dataset import DataFile, ReadOptions
from kivnun.data.files.documents import DOCUMENT_SEPARATOR
from kivnun.data.files.encoding import TextSource, describe_bad_bytes
from kivnun.data.files.find import describe_file
from kivnun.data.files.objects import shorten
from kivnun.data.files.read import stream_rows
from kivnun.data.findings import CHECKS, Finding
from kivnun.data.rows import Row
from kivnun.errors import UserError

__all__ = ["DOCUMENT_SEPARATOR", "Row", "first_problems", "read_data_file", "read_rows", "read_text", "shorten"]

MAX_SHOWN_PROBLEMS = 20


def read_rows(files: str | Sequence[str] | Mapping[str, str]) -> list[Row]:
    """Read one file, several files one after another, or one text file per column line by line.

    Raises:
        UserError: `data-missing`, `data-empty`, `data-format`, `data-encoding` or `data-malformed`.
    """
    if isinstance(files, Mapping):
        columns = {name: Path(file) for name, file in files.items()}
        first = next(iter(columns.values()))
        return read_data_file(DataFile(first, "lines", "train", "named column by column", columns=columns))
    names = [files] if isinstance(files, str) else files
    return [row for name in names for row in read_data_file(describe_file(require_file(Path(name))))]


def read_data_file(file: DataFile, options: ReadOptions | None = None) -> list[Row]:
    """All rows of one file.

    Raises:
        UserError: `data-missing`, `data-empty`, `data-encoding` or `data-malformed`.
    """
    for path in file.columns.values() or [file.path]:
        require_file(path)
    rows: list[Row] = []
    faults: list[Finding] = []
    for item in stream_rows(file, options):
        if isinstance(item, Row):
            rows.append(item)
        elif CHECKS[item.code].severity == "error":
            faults.append(item)
    if faults:
        raise _refuse(file.path, faults)
    return rows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, unpacked if it is packed; a byte-order mark is dropped.

    Raises:
        UserError: `data-missing`, `data-malformed` or `data-encoding`, with the line of the first wrong byte.
    """
    source = TextSource(require_file(path))
    data = b"".join(source.chunks())
    faults = [finding for finding in source.take_findings() if CHECKS[finding.code].severity == "error"]
    faults = faults or describe_bad_bytes(str(path), 1, source.skipped, data)
    if faults:
        raise _refuse(path, faults[:1])
    return data.decode()


def require_file(path: Path) -> Path:
    """The path itself, if a file is there that may be read.

    Raises:
        UserError: `data-missing`.
    """
    if not path.is_file():
        raise UserError(
            "data-missing",
            f"{path}: no such file",
            hint="paths start from the current folder, or else from the recipe's folder",
        )
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(
            "data-missing", f"{path}: cannot be read: {error.strerror}", hint="name a file that you may read"
        ) from error
    return path


def _refuse(path: Path, faults: Sequence[Finding]) -> UserError:
    """What is wrong with a file as one error; its encoding first, since that spoils all the rest."""
    wrong = [fault for fault in faults if fault.code.startswith("encoding-")]
    if wrong:
        said = [f"{fault.where}: {fault.message}" for fault in wrong]
        return UserError(
            "data-encoding",
            said[0],
            details=first_problems(said[1:]),
            hint=f"`kivnun repair fix-encoding {path} fixed{path.suffix}` decodes it, and says what it guesses",
        )
    said = [f"{fault.where}: {fault.message}" for fault in faults]
    hint = CHECKS[faults[0].code].hint
    if faults[0].code == "file-empty":
        return UserError("data-empty", said[0], hint=hint)
    if faults[0].code == "columns-unequal":
        return UserError("data-malformed", "column files differ in length", details=said, hint=hint)
    if len(faults) == 1 and faults[0].line == 0:
        return UserError("data-malformed", said[0], hint=hint)
    problem = f"{len(faults)} malformed row(s) in {path}"
    return UserError("data-malformed", problem, details=first_problems(said), hint=hint)


def first_problems(problems: list[str]) -> list[str]:
    """The first problems of a long list, and how many more there are."""
    more = len(problems) - MAX_SHOWN_PROBLEMS
    return problems[:MAX_SHOWN_PROBLEMS] + ([f"... and {more} more"] if more > 0 else [])
