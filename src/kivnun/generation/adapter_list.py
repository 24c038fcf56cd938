"""The adapters of an ONNX folder: `adapters.json` names them, and `adapters/NAME.onnx_adapter` holds each.

What is not named in `adapters.json` is not there: files are written before their name and removed after it, so that an
interruption leaves at most a file that nobody reads.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kivnun.errors import UserError
from kivnun.runs import hash_file, write_atomic

LIST_NAME = "adapters.json"
FOLDER_NAME = "adapters"
SUFFIX = ".onnx_adapter"
FORMAT = 1


@dataclass(frozen=True)
class AdapterRecord:
    """One adapter of the folder.

    Attributes:
        name: What requests call it.
        source: The folder that it was read from.
        rank: Of its matrices.
        layers: How many layers it changes.
        targets: The last parts of their names.
        sha256: Of its file.
        size_bytes: Likewise.
        stop_ids: Tokens that end its answers.
        prompts: Prompts that were asked when it was added.
        identical: How many of them were answered as the tuned torch model does, token by token, or to a tie.
        token_agreement: Share of that model's tokens that this one would choose after the same tokens.
    """

    name: str
    source: str
    rank: int
    layers: int
    targets: tuple[str, ...]
    sha256: str
    size_bytes: int
    stop_ids: tuple[int, ...]
    prompts: int
    identical: int
    token_agreement: float


@dataclass(frozen=True)
class AdapterList:
    """A base model and its adapters.

    Attributes:
        base_model: What the base was called when the folder was made.
        base_hash: Hash over the weight files of the base, as adapters keep it.
        form: Number format of the graph, such as `int4 k_quant/32 ONNX`.
        precision: Likewise, in one word.
        adapters: In the order of adding.
    """

    base_model: str
    base_hash: str
    form: str
    precision: str
    adapters: tuple[AdapterRecord, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters."""
        return tuple(record.name for record in self.adapters)

    def find(self, name: str, folder: Path) -> AdapterRecord:
        """The adapter of a name.

        Raises:
            UserError: `adapter-unknown`, with the names that there are.
        """
        for record in self.adapters:
            if record.name == name:
                return record
        raise unknown_adapter(name, self.names, folder)

    def with_adapter(self, record: AdapterRecord) -> "AdapterList":
        """The list with one more."""
        return replace(self, adapters=(*self.adapters, record))

    def without(self, name: str) -> "AdapterList":
        """The list with one fewer."""
        return replace(self, adapters=tuple(each for each in self.adapters if each.name != name))


def unknown_adapter(name: str, names: Sequence[str], where: object) -> UserError:
    """The error of a request that names an adapter which is not there."""
    hint = f"the adapters are {', '.join(names)}" if names else "it has none; `kivnun adapters add` adds one"
    return UserError("adapter-unknown", f"{where} has no adapter {name!r}", hint=hint)


def has_adapters(folder: Path) -> bool:
    """Whether a folder is an ONNX model that adapters share."""
    return (folder / LIST_NAME).is_file()


def adapter_file(folder: Path, name: str) -> Path:
    """Where an adapter's matrices are."""
    return folder / FOLDER_NAME / f"{name}{SUFFIX}"


def read_list(folder: Path) -> AdapterList:
    """The adapters of a folder.

    Raises:
        UserError: `model-invalid` where the folder is no model that adapters share, or its list is damaged.
    """
    path = folder / LIST_NAME
    try:
        return _parse(json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        problem = f"{folder} holds no model that adapters share: {LIST_NAME} is missing"
        raise UserError("model-invalid", problem, hint="`kivnun generate-adapter` makes one") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "copy the folder again from where it was made, or make it anew with `kivnun generate-adapter`"
        raise UserError("model-invalid", f"{path} cannot be read: {error}", hint=hint) from error


def _parse(fields: dict[str, Any]) -> AdapterList:
    if fields.pop("format") != FORMAT:
        raise ValueError("made by another version of Kivnun")
    records = tuple(
        AdapterRecord(**{**each, "targets": tuple(each["targets"]), "stop_ids": tuple(each["stop_ids"])})
        for each in fields.pop("adapters")
    )
    return AdapterList(**fields, adapters=records)


def write_list(folder: Path, adapters: AdapterList) -> None:
    """Write the list, whole or not at all."""
    text = json.dumps({"format": FORMAT, **asdict(adapters)}, indent=2, ensure_ascii=False)
    write_atomic(folder / LIST_NAME, text + "\n")


@contextmanager
def changing(folder: Path) -> Generator[None]:
    """Change a folder's adapters, alone: within this no other process does. What a killed one left is swept first.

    Raises:
        UserError: `run-locked` where another process is at it.
    """
    place = folder / FOLDER_NAME
    place.mkdir(exist_ok=True)
    # The folder itself is locked: no file is needed, and the system gives it free when the process ends.
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            problem = f"another process is adding or removing adapters of {folder}"
            raise UserError("run-locked", problem, hint="wait until it ends, and give the command again") from error
        for left in place.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


def require_unchanged(folder: Path, record: AdapterRecord) -> Path:
    """The file of an adapter, if it is the one that was added.

    Raises:
        UserError: `artifact-damaged`.
    """
    path = adapter_file(folder, record.name)
    if not path.is_file() or hash_file(path) != record.sha256:
        raise UserError(
            "artifact-damaged",
            f"{path} is {'not as it was when it was added' if path.is_file() else 'missing'}",
            hint=f"remove the adapter with `kivnun adapters remove {folder} {record.name}` and add it again",
        )
    return path
