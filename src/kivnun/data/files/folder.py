"""The data files of a folder: of which kind the folder is, what in it is data, and what goes together."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import orjson

from kivnun.data.files.dataset import DataFile
from kivnun.data.files.llama_factory import INFO_NAME, Entry, read_info
from kivnun.data.files.names import LAYOUT_OF_SUFFIX, describe_file, find_split, find_suffix, is_documentation
from kivnun.data.files.sniff import find_no_rows
from kivnun.data.findings import Finding
from kivnun.errors import UserError

_TEXT_END, _LABEL_END, _MAPPING_NAME = "_text.txt", "_labels.txt", "mapping.txt"
_MAX_SHOWN = 20
_NO_FILE = "it is no file, but a pipe, a device or a link that leads nowhere"
Found = tuple[list[DataFile], list[Finding]]


def find_in_folder(folder: Path) -> Found:
    """The data files of a folder and notes about what is left out.

    Raises:
        UserError: `data-format`, if it holds no data.
    """
    entries = read_info(folder / INFO_NAME) if is_file(folder / INFO_NAME) else None
    if entries is not None:
        files, notes = _find_entries(folder, entries)
    elif (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        files, notes = _find_saved(folder), []
    else:
        files, notes = choose_files(folder, sorted(walk(folder)))
    if not files:
        raise UserError(
            "data-format",
            f"{folder}: no data files",
            details=[f"{note.file}: {note.message}" for note in notes[:_MAX_SHOWN]],
            hint=f"put files into it that end in one of {', '.join('.' + name for name in LAYOUT_OF_SUFFIX)}",
        )
    return files, notes


def choose_files(folder: Path, paths: Sequence[Path]) -> Found:
    """What of some files below a folder is data; the others are noted with the reason."""
    notes = [_skip(path, _NO_FILE) for path in paths if not is_file(path)]
    odd = {note.file for note in notes}
    paths = [path for path in paths if str(path) not in odd]
    files, used = _find_parallel(folder, paths)
    candidates: list[Path] = []
    for path in paths:
        reason = None if path in used else _refuse_name(path, paths)
        if reason:
            notes.append(_skip(path, reason))
        elif path not in used:
            candidates.append(path)
    has_rows = bool(files) or any(LAYOUT_OF_SUFFIX[find_suffix(path)] != "text" for path in candidates)
    for path in candidates:
        file = describe_file(path, inside=folder)
        if file.layout == "text" and has_rows:
            notes.append(_skip(path, "plain text beside files of rows"))
        elif file.layout == "json" and (reason := find_no_rows(path)):
            notes.append(_skip(path, reason))
        else:
            files.append(file)
    return sorted(files, key=lambda file: file.path), notes


def is_file(path: Path) -> bool:
    """Whether a path leads to a file that can be read to its end: to a pipe or a device one would wait for ever."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        # A name that no file can have: too long, or with a zero byte.
        return False


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder, be it a path that none can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder; links to folders are not followed, so that it ends."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(place) / name for name in names)


def _refuse_name(path: Path, others: Sequence[Path]) -> str | None:
    reason = is_documentation(path, others)
    if reason is None and find_suffix(path) not in LAYOUT_OF_SUFFIX:
        return "it ends like no data file"
    return reason


def _find_parallel(folder: Path, paths: Sequence[Path]) -> tuple[list[DataFile], set[Path]]:
    """`*_text.txt` with `*_labels.txt`, line by line, and `mapping.txt` with the labels' names."""
    files: list[DataFile] = []
    used: set[Path] = set()
    known = set(paths)
    for texts in paths:
        labels = texts.with_name(texts.name.removesuffix(_TEXT_END) + _LABEL_END)
        if not texts.name.endswith(_TEXT_END) or labels not in known:
            continue
        mapping = texts.with_name(_MAPPING_NAME)
        names = _read_mapping(mapping) if mapping in known else {}
        split, why = find_split(texts, inside=folder)
        reason = f"line by line with {labels.name}" + (f", names by {_MAPPING_NAME}" if names else "")
        columns = {"text": texts, "label": labels}
        values = {"label": names} if names else {}
        files.append(DataFile(texts, "lines", split, f"{reason}; {why}", columns, values))
        used |= {texts, labels} | ({mapping} if names else set())
    return files, used


def _read_mapping(path: Path) -> dict[str, str]:
    """Names by value from lines of a value, a tab and a name; nothing unless every line is one."""
    lines = [line.split("\t") for line in path.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return {parts[0].strip(): parts[1].strip() for parts in lines} if all(len(parts) == 2 for parts in lines) else {}


def _find_entries(folder: Path, entries: Sequence[Entry]) -> Found:
    """The files that a dataset_info.json names and that are there."""
    files: list[DataFile] = []
    notes: list[Finding] = []
    absent = 0
    for entry in entries:
        path = folder / entry.file_name
        # The file comes from strangers: it may not lead out of its folder.
        if not _is_inside(path, folder):
            notes.append(_skip(path, f"{INFO_NAME} leads out of the folder with {entry.name!r}"))
        elif is_file(path) and find_suffix(path) in LAYOUT_OF_SUFFIX:
            files.append(_describe_entry(folder, path, entry))
        elif is_folder(path):
            inner = choose_files(folder, sorted(walk(path)))
            files += [_describe_entry(folder, file.path, entry) for file in inner[0]]
        else:
            absent += 1
    named = {file.path for file in files}
    others = [path for path in sorted(walk(folder)) if path not in named and path.name != INFO_NAME]
    notes += [_skip(path, f"{INFO_NAME} does not name it") for path in others]
    if absent:
        notes.append(_skip(folder / INFO_NAME, f"{absent} of its entries name files that are not here"))
    return files, notes


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path stays within a folder; one that no file can have stays, for it leads nowhere."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return True


def _describe_entry(folder: Path, path: Path, entry: Entry) -> DataFile:
    file = describe_file(path, inside=folder)
    why = f"{file.why}; `{entry.name}` of {INFO_NAME}"
    return DataFile(path, file.layout, file.split, why, renames=entry.renames, tags=entry.tags)


def _find_saved(folder: Path) -> list[DataFile]:
    """The Arrow files that Hugging Face's `save_to_disk` wrote, whose state.json lists them."""
    files: list[DataFile] = []
    for state in sorted({folder / "state.json", *folder.glob("*/state.json")}):
        for name in _read_state(state) if is_file(state) else ():
            path = state.parent / name
            if Path(name).name == name and is_file(path):
                split, why = find_split(path, inside=folder.parent)
                files.append(DataFile(path, "arrow", split, f"Arrow, saved by Hugging Face datasets; {why}"))
    return files


def _read_state(path: Path) -> list[str]:
    try:
        listed = cast("dict[str, list[dict[str, str]]]", orjson.loads(path.read_bytes()))["_data_files"]
        return [str(file["filename"]) for file in listed]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return []


def _skip(path: Path, reason: str) -> Finding:
    return Finding("file-skipped", str(path), 0, f"not read: {reason}")
