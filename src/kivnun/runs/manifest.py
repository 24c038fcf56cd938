"""`artifact.json`: what a finished stage folder holds, from what it was made, and the hash of every file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.runs.atomic import hash_file

MANIFEST_NAME = "artifact.json"
CARD_NAME = "README.md"
"""The model card: written anew behind every run, about the folder and not of it, so no stage depends on it."""
FORMAT = 1
LIBRARIES = (
    "jinja2",
    "kivnun",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-genai",
    "peft",
    "safetensors",
    "scikit-learn",
    "tokenizers",
    "torch",
    "transformers",
)
"""The libraries whose versions can change what a stage makes."""


@dataclass(frozen=True)
class FileRecord:
    """One file of an artifact."""

    sha256: str
    """Hash of the content."""
    size_bytes: int
    """Size of the content."""


@dataclass(frozen=True)
class Manifest:
    """The content of `artifact.json`."""

    kind: str
    """What the artifact is, such as `dataset` or `model`."""
    key: str
    """Hash of everything that the stage was made from."""
    inputs: Mapping[str, object]
    """What the stage was made from, readable."""
    parents: Mapping[str, str]
    """Content hashes of the stages that it was made from."""
    files: Mapping[str, FileRecord]
    """Every file by its path in the folder."""
    versions: Mapping[str, str]
    """Versions of the libraries that made it."""
    created_at: str
    """When it was finished, in UTC."""
    format: int = FORMAT
    """Version of this layout."""

    @property
    def content_hash(self) -> str:
        """Hash of the files' names and contents; the time and the machine do not matter."""
        return hash_values({path: record.sha256 for path, record in self.files.items()})

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2, sort_keys=True, default=str) + "\n"


def hash_values(values: Mapping[str, object]) -> str:
    """SHA-256 over canonical JSON: the order of the keys does not matter, every value does.

    Raises:
        TypeError: When a value is not plain data, whose text could be the same for two different values.
    """
    text = json.dumps(values, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()


def library_versions(libraries: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """The installed versions, read without importing anything; what is not installed is left out."""
    versions: dict[str, str] = {}
    for library in libraries:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions


def now() -> str:
    """The time in UTC as ISO 8601 text."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished stage folder.

    Raises:
        UserError: `run-missing` when the folder has none; `artifact-damaged` when it cannot be read.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        problem = f"{folder} is not a finished stage: it has no {MANIFEST_NAME}"
        raise UserError("run-missing", problem, hint="run `kivnun run` with the recipe to make it") from error
    except UnicodeDecodeError as error:
        raise _damaged(path, "is not UTF-8") from error
    try:
        return _parse(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error


def verify_artifact(folder: Path) -> Manifest:
    """Hash every file of a stage folder again and compare with its manifest.

    Raises:
        UserError: `artifact-damaged`, naming every file that is missing, differs or does not belong.
    """
    manifest = read_manifest(folder)
    details: list[str] = []
    for name, record in sorted(manifest.files.items()):
        path = folder / name
        if not path.is_file():
            details.append(f"{path}: is missing")
        elif path.stat().st_size != record.size_bytes or hash_file(path) != record.sha256:
            details.append(f"{path}: differs from what was written")
    details += [
        f"{folder / name}: does not belong" for name in sorted(set(artifact_files(folder)) - set(manifest.files))
    ]
    if details:
        names = f"{len(details)} file{'s' if len(details) > 1 else ''}"
        hint = f"remove {folder} and run the recipe again to make it anew"
        raise UserError("artifact-damaged", f"{names} of {folder} cannot be trusted", hint=hint, details=details)
    return manifest


def artifact_files(folder: Path) -> list[str]:
    """Every file of a stage folder but its manifest and cards, as paths in the folder with forward slashes."""
    paths = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return sorted(name for name in names if name != MANIFEST_NAME and name.rpartition("/")[2] != CARD_NAME)


def _damaged(path: Path, problem: str) -> UserError:
    hint = f"remove {path.parent} and run the recipe again to make it anew"
    return UserError("artifact-damaged", f"{path} {problem}", hint=hint)


def _parse(value: object) -> Manifest:
    fields = cast("dict[str, object]", value)
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}, known is {FORMAT}")
    records = cast("dict[str, dict[str, object]]", fields["files"])
    files = {name: FileRecord(str(r["sha256"]), int(str(r["size_bytes"]))) for name, r in records.items()}
    return Manifest(
        kind=str(fields["kind"]),
        key=str(fields["key"]),
        inputs=dict(cast("dict[str, object]", fields["inputs"])),
        parents=dict(cast("dict[str, str]", fields["parents"])),
        files=files,
        versions=dict(cast("dict[str, str]", fields["versions"])),
        created_at=str(fields["created_at"]),
    )
