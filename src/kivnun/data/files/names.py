"""What a file's name says: how it is laid out, which split its rows belong to, and whether it is data at all."""

import re
from collections.abc import Sequence
from pathlib import Path

from kivnun.data.files.dataset import DataFile, Split
from kivnun.data.files.sniff import read_beginning, sniff_json
from kivnun.data.files.tables import SEPARATOR_NAMES, find_separator
from kivnun.data.files.unpack import PACKED_SUFFIXES
from kivnun.errors import UserError

LAYOUT_OF_SUFFIX = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "txt": "text",
    "md": "text",
    "markdown": "text",
}
SPLIT_OF_WORD: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev", "devel", "development"), "validation"),
    # As Hugging Face's own readers take `eval`.
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
# What `kivnun split` leaves beside the files that it writes.
SPLIT_RECORD = "split.json"
_NO_DATA = re.compile(
    r"(src_)?licen[cs]e.*|readme.*|source|copying.*|notice|changelog|contributing|authors|citation.*|code_of_conduct"
    r"|dataset_infos?|dataset_dict|state|mapping|requirements|package(-lock)?|metadata|config|(.*[_-])?(list|index)",
    re.IGNORECASE,
)


def describe_file(path: Path, *, inside: Path | None = None) -> DataFile:
    """What a file is, by the end of its name and, for JSON, by how it begins.

    Args:
        path: The file.
        inside: The folder that was named, whose subfolders may tell the split.

    Raises:
        UserError: `data-format`, if the name ends like no data file's.
    """
    suffix = find_suffix(path)
    if suffix not in LAYOUT_OF_SUFFIX:
        raise UserError(
            "data-format",
            f"{path}: cannot tell the format from the name",
            hint=f"use a file that ends in one of {', '.join('.' + name for name in LAYOUT_OF_SUFFIX)}"
            " (packed too: .gz, .bz2, .xz, .zst)",
        )
    layout, reason = LAYOUT_OF_SUFFIX[suffix], f"{suffix.upper()} by its name"
    if layout in ("json", "jsonl"):
        layout, reason = sniff_json(path, layout)
    elif layout == "csv" and (separator := find_separator(read_beginning(path))) != ",":
        reason += f", with {SEPARATOR_NAMES[separator]} between its cells"
    split, why = find_split(path, inside=inside)
    return DataFile(path, layout, split, f"{reason}; {why}")


def find_suffix(path: Path) -> str:
    """The end of a name in lower case, without the ending that says how the file is packed."""
    name = path.name.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return name.rpartition(".")[2] if "." in name else ""


def find_split(path: Path, *, inside: Path | None = None) -> tuple[Split, str]:
    """The split of a file and why: a word of its name, or else of a folder's below `inside`."""
    folders: Sequence[str] = path.relative_to(inside).parts[-2::-1] if inside else ()
    for name in (path.name, *folders):
        words = [word for word in _split_words(name) if word in SPLIT_OF_WORD]
        if words:
            split = SPLIT_OF_WORD[words[0]]
            others = {SPLIT_OF_WORD[word] for word in words} - {split}
            also = f", though it also says {' and '.join(sorted(others))}" if others else ""
            return split, f"{split} by `{words[0]}` in {name}{also}"
    return "train", "train since no word of its name says otherwise"


def is_documentation(path: Path, others: Sequence[Path]) -> str | None:
    """Why a file of a folder is about the data and no data itself, or None."""
    stem = path.name.partition(".")[0]
    if path.name.startswith("."):
        return "its name begins with a dot"
    if _NO_DATA.fullmatch(stem) or path.name == SPLIT_RECORD:
        return "its name is one of a file about the data"
    # README, LICENSE, TASKS and the like; in a folder where all names are in capitals this says nothing.
    if stem.isupper() and len(stem) > 2 and any(not other.name.partition(".")[0].isupper() for other in others):
        return "its name is in capitals, as of README and LICENSE"
    return None


def _split_words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())
