"""What is found under a name: the files to read, their layout and their split."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kivnun.data.findings import Finding

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class DataFile:
    """One file, or several that go together line by line.

    Attributes:
        path: What messages name.
        layout: How bytes become rows: one of `read.LAYOUTS`.
        split: What its rows are for; `train` where the name says nothing.
        why: Why it was taken for this layout and split, for people.
        columns: Parallel files by column, of the layout `lines`.
        value_names: Names in place of values, by column (mapping.txt of folders such as TweetEval's).
        renames: The conventional name of a column by its name in the file (LLaMA-Factory's dataset_info.json).
        tags: The conventional names of a message's keys and roles by their names in the file.
    """

    path: Path
    layout: str
    split: Split
    why: str
    columns: Mapping[str, Path] = field(default_factory=dict[str, Path])
    value_names: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    renames: Mapping[str, str] = field(default_factory=dict[str, str])
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class DataSet:
    """The files that a name stands for.

    Attributes:
        name: As the user gave it.
        files: At least one.
        notes: What was left out, and why.
    """

    name: str
    files: tuple[DataFile, ...]
    notes: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class ReadOptions:
    """What a user may say about files whose content is ambiguous.

    Attributes:
        header: Whether tables begin with a line of column names; None finds out.
        encoding: How texts are encoded; None is UTF-8, or what a byte-order mark says.
    """

    header: bool | None = None
    encoding: str | None = None
