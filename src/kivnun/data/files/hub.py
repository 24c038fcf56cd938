"""Data sets of the Hugging Face hub: their data files, fetched once; neither scripts nor pickles are ever fetched."""

import os
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from kivnun.data.files.cards import CARD_NAME, Part, choose_parts
from kivnun.data.files.dataset import DataFile
from kivnun.data.files.folder import Found, choose_files, walk
from kivnun.data.files.names import LAYOUT_OF_SUFFIX
from kivnun.data.files.unpack import PACKED_SUFFIXES
from kivnun.errors import UserError

_ALL_DATA = [f"*.{name}{packed}" for name in LAYOUT_OF_SUFFIX for packed in ("", *PACKED_SUFFIXES)]
_CONVERTED = "refs/convert/parquet"


def fetch_data(name: str, revision: str | None) -> Found:
    """Fetch the data files of a data set on the hub.

    Args:
        name: `org/name`, `org/name:configuration` where it has several, and `@revision` behind it for another one than
            the newest.
        revision: Commit, branch or tag, in place of the one in the name.

    Raises:
        UserError: `data-missing`, or `data-format` where it has no files that can be read or the configuration is not
            clear.
    """
    plain, _, named = name.partition("@")
    repo_id, _, config = plain.partition(":")
    revision = revision or named or None
    folder = _download(repo_id, revision, [CARD_NAME])
    parts = choose_parts(folder / CARD_NAME, repo_id, config)
    patterns = [pattern for part in parts for pattern in part.patterns] or _ALL_DATA
    folder = _download(repo_id, revision, [pattern for pattern in patterns if _is_inside(pattern)])
    paths = [path for path in sorted(walk(folder)) if _matches(path, folder, patterns)]
    files, notes = choose_files(folder, paths)
    if not files:
        raise UserError(
            "data-format",
            f"{name}: no data files on the hub; scripts are not run",
            hint=f"name a revision with files: {plain}@{_CONVERTED} is what the hub makes of most data sets",
        )
    return [_place(file, folder, parts) for file in files], notes


def _download(repo_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder with what was fetched; only data, whatever the patterns say."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - most data is local
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415 - see above

    try:
        return Path(
            snapshot_download(
                repo_id,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=["*.py", "*.pkl", "*.pickle", "*.pt", "*.bin", "*.npy", "*.npz"],
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        )
    except (HFValidationError, OSError) as error:
        raise UserError(
            "data-missing",
            f"{repo_id}: not a file or folder here, and the hub did not give it: {str(error).strip().splitlines()[0]}",
            hint="check the spelling and the connection (gated data sets: `hf auth login`, or set HF_TOKEN), or name a "
            "local file",
        ) from error


def _is_inside(pattern: str) -> bool:
    return "://" not in pattern and ".." not in pattern and not pattern.startswith("/")


def _matches(path: Path, folder: Path, patterns: Sequence[str]) -> bool:
    name = path.relative_to(folder).as_posix()
    return any(fnmatch(name, pattern) for pattern in patterns)


def _place(file: DataFile, folder: Path, parts: Sequence[Part]) -> DataFile:
    """The file with the split that the data set's card says, and with the commit that it was taken from."""
    commit = f"commit {folder.name[:12]}"
    for part in parts:
        if part.split and _matches(file.path, folder, part.patterns):
            reason = file.why.partition(";")[0]
            return replace(file, split=part.split, why=f"{reason}; {part.split} by the card, {part.why}; {commit}")
    return replace(file, why=f"{file.why}; {commit}")
