"""A name becomes a data set: a file, a folder, or the id of a data set on the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from kivnun.data.files.dataset import DataFile, DataSet, Split
from kivnun.data.files.folder import find_in_folder, is_file, is_folder
from kivnun.data.files.hub import fetch_data
from kivnun.data.files.names import LAYOUT_OF_SUFFIX, describe_file, find_suffix
from kivnun.data.findings import Finding
from kivnun.errors import UserError

__all__ = ["DataFile", "DataSet", "Split", "describe_file", "find_data"]

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(:[\w.-]+)?(@[\w./-]+)?")


def find_data(name: str, *, revision: str | None = None) -> DataSet:
    """Find the files that a name stands for.

    Args:
        name: A file, a folder, or a Hugging Face id `org/name` or `org/name:configuration`, fetched once.
        revision: The commit, branch or tag of a data set on the hub.

    Raises:
        UserError: `data-missing`, or `data-format` where nothing that is found can be read as rows.
    """
    if not name.strip():
        # An unset variable in a script; as a path it would be the current folder.
        raise UserError("data-missing", "the name of the data is empty", hint="name a file or a folder; . is this one")
    path = Path(name)
    notes: Sequence[Finding] = ()
    if revision is None and is_file(path):
        files = [describe_file(path)]
    elif revision is None and is_folder(path):
        files, notes = find_in_folder(path)
    elif _is_hub_id(name):
        files, notes = fetch_data(name, revision)
    else:
        raise UserError(
            "data-missing",
            f"{name}: no such file or folder",
            hint="name a file, a folder, or a Hugging Face data set like org/name",
        )
    return DataSet(name, tuple(files), tuple(notes))


def _is_hub_id(name: str) -> bool:
    """Whether a name can only mean a data set on the hub: `data/tome.jsonl` is a file that is not there."""
    path = Path(name)
    return bool(_HUB_ID.fullmatch(name)) and find_suffix(path) not in LAYOUT_OF_SUFFIX and not is_folder(path.parent)
