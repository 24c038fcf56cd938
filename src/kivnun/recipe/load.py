"""A recipe file as a `Recipe`: every problem at once, each with its line."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.recipe import document
from kivnun.recipe.complaints import describe_errors
from kivnun.recipe.document import Document, MalformedDocumentError
from kivnun.recipe.fields import walk_fields
from kivnun.recipe.override import MalformedOverrideError, Override, apply_overrides, parse_override
from kivnun.recipe.rules import list_files
from kivnun.recipe.schema import Recipe
from kivnun.recipe.values import DataFiles

DATA_ENDINGS = (
    *(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".md", ".parquet", ".arrow"),
    *(".gz", ".xz", ".zst"),
)
# Where a file lies does not matter, only what is in it: its hash stands in for its path.
DATA_FILES = {"train", "validation", "test"}
HINT = "`kivnun recipe explain` lists every field with its default"


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where it came from."""

    recipe: Recipe
    """What the run does."""
    path: Path
    """The file."""
    text: str
    """The file's text, without overrides."""
    provenance: Mapping[str, str]
    """Where each value came from, by dotted path: `file`, `--set` or `default`."""

    def locate(self, file: str) -> Path:
        """The path of a data file: from the current folder, or if it is missing there, from the recipe's folder."""
        path = Path(file).expanduser()
        beside = self.path.parent / path
        return beside if not path.exists() and beside.exists() else path


class _Complaint(NamedTuple):
    """A line of the report, with what it is sorted by."""

    line: int
    where: str
    path: document.Path
    message: str

    def __str__(self) -> str:
        name = ".".join(str(part) for part in self.path)
        return f"{self.where}: {name}: {self.message}" if name else f"{self.where}: {self.message}"


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe file and its `--set` overrides.

    Raises:
        UserError: `recipe-missing` when there is no such file; `recipe-invalid` with all problems of the file.
    """
    return parse_recipe(path, _read_text(path), overrides)


def parse_recipe(path: Path, text: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe's text and its `--set` overrides.

    Args:
        path: The file that the text stands in, or was translated from.
        text: The text.
        overrides: As in `--set`.

    Raises:
        UserError: `recipe-invalid` with all problems of the text.
    """
    try:
        written = document.read_document(text)
    except MalformedDocumentError as error:
        raise _refusal(path, [_Complaint(error.line, f"{path}:{error.line}", (), error.problem)]) from error
    parsed = _parse_overrides(path, overrides)
    origin = _Origin(path, written, parsed)
    complaints = [_Complaint(line, f"{path}:{line}", field, problem) for line, field, problem in written.problems]
    if written.value is None and not parsed:
        raise _refusal(path, [_Complaint(1, f"{path}:1", (), "the file is empty")])
    try:
        value = apply_overrides(written.value, parsed)
    except MalformedOverrideError as error:
        raise _refusal(path, [_Complaint(0, "--set", (), str(error))]) from error
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        complaints += [origin.complaint(field, message) for field, message in describe_errors(error, value)]
        raise _refusal(path, complaints) from error
    if complaints:
        raise _refusal(path, complaints)
    return LoadedRecipe(recipe, path, text, MappingProxyType(_provenance(recipe, origin)))


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "`kivnun recipe init` writes a recipe to start from"
        raise UserError("recipe-missing", f"there is no recipe {path}", hint=hint) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(
            "recipe-missing", f"cannot read {path}: {reason}", hint="name a file that you may read"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError("recipe-invalid", f"{path} is not UTF-8", hint="save the file as UTF-8") from error


def _parse_overrides(path: Path, texts: Sequence[str]) -> list[Override]:
    overrides: list[Override] = []
    complaints: list[_Complaint] = []
    for text in texts:
        try:
            overrides.append(parse_override(text))
        except MalformedOverrideError as error:
            complaints.append(_Complaint(0, f"--set {text}", (), str(error)))
    if complaints:
        raise _refusal(path, complaints)
    return overrides


def _refusal(path: Path, complaints: Sequence[_Complaint]) -> UserError:
    details = dict.fromkeys(str(complaint) for complaint in sorted(complaints, key=lambda complaint: complaint.line))
    count = f"{len(details)} problem{'s' if len(details) > 1 else ''}"
    return UserError("recipe-invalid", f"{count} in {path}", hint=HINT, details=tuple(details))


class _Origin(NamedTuple):
    """Knows which line or which override a field came from."""

    path: Path
    written: Document
    overrides: Sequence[Override]

    def complaint(self, field: document.Path, message: str) -> _Complaint:
        """A complaint at the field's own line, or at the nearest group of fields that is written."""
        near = field
        while near:
            override = self.override(near)
            if override is not None:
                return _Complaint(0, f"--set {override.text}", field, message)
            if near in self.written.lines:
                break
            near = near[:-1]
        line = self.written.lines.get(near, 1)
        return _Complaint(line, f"{self.path}:{line}", field, message)

    def override(self, field: document.Path) -> Override | None:
        """The last override that gave the field; one of a part of it counts if the file lacks the field."""
        for override in reversed(self.overrides):
            if field[: len(override.path)] == override.path:
                return override
        parts = (override for override in self.overrides if override.path[: len(field)] == field)
        return next(parts, None) if field not in self.written.lines else None

    def source(self, field: document.Path) -> str:
        """`file`, `--set` or `default`."""
        if self.override(field) is not None or any(o.path[: len(field)] == field for o in self.overrides):
            return "--set"
        return "file" if field in self.written.lines else "default"


def _provenance(recipe: Recipe, origin: _Origin) -> dict[str, str]:
    return {".".join(path): origin.source(path) for path, _ in walk_fields(recipe)}


def located_recipe(loaded: LoadedRecipe) -> Recipe:
    """The recipe with the paths of its data files as they are found from here."""

    def locate(files: DataFiles | None) -> DataFiles | None:
        if isinstance(files, str):
            return str(loaded.locate(files))
        if isinstance(files, Mapping):
            return {name: str(loaded.locate(file)) for name, file in files.items()}
        return files and tuple(str(loaded.locate(file)) for file in files)

    data = loaded.recipe.data
    located = {name: locate(getattr(data, name)) for name in DATA_FILES}
    return loaded.recipe.model_copy(update={"data": data.model_copy(update=located)})


def require_data_files(loaded: LoadedRecipe) -> None:
    """Check that the data files and folders exist; ids of Hugging Face data sets are left to whoever fetches them.

    Raises:
        UserError: `data-missing`, naming everything that does not.
    """
    data = loaded.recipe.data
    named = (("data.train", data.train), ("data.validation", data.validation), ("data.test", data.test))
    missing = [
        f"{name}: {file}"
        for name, files in named
        for file in list_files(files)
        if not loaded.locate(file).exists() and (isinstance(files, dict) or not _may_be_hub_id(file))
    ]
    if missing:
        hint = "paths start from the current folder, or else from the recipe's folder"
        problem = f"{loaded.path} names {len(missing)} data file{'s' if len(missing) > 1 else ''} that cannot be found"
        raise UserError("data-missing", problem, hint=hint, details=missing)


def _may_be_hub_id(name: str) -> bool:
    """Whether a name that is no path could be `owner/name`; a name with a data file's ending is a path misspelt."""
    owner, slash, rest = name.partition("/")
    is_id = bool(slash) and re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name) is not None
    return is_id and not Path(owner).exists() and not rest.lower().endswith(DATA_ENDINGS)
