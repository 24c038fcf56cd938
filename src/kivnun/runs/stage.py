"""Stage folders: made under a temporary name, complete when they appear, skipped when their inputs are unchanged."""

import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kivnun.errors import UserError
from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error, hash_file, sync_file, sync_folder
from kivnun.runs.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    artifact_files,
    hash_values,
    library_versions,
    now,
    read_manifest,
)

REPLACED_SUFFIX = ".replaced"
MAX_REHASHED_BYTES = 2**20
_NO_INPUTS: Mapping[str, object] = {}


def stage_key(inputs: Mapping[str, object]) -> str:
    """The hash of everything that a stage is made from: settings, content hashes of data and parents, versions."""
    return hash_values(inputs)


def content_hash(folder: Path) -> str:
    """The hash of what a finished stage folder holds.

    Raises:
        UserError: `run-missing` or `artifact-damaged` when the folder is not a finished stage.
    """
    return read_manifest(folder).content_hash


def stage_done(run_dir: Path, name: str, key: str) -> bool:
    """Whether a stage is finished with these inputs and whole: files are as written, parents have their content.

    Of files above 1 MiB only the size is compared, so that skipping a stage takes no time.
    """
    folder = run_dir / name
    try:
        manifest = read_manifest(folder)
        parents_kept = all(content_hash(run_dir / parent) == kept for parent, kept in manifest.parents.items())
    except UserError:
        return False
    return (
        manifest.key == key
        and parents_kept
        and all(_is_whole(folder / file, record) for file, record in manifest.files.items())
    )


@contextmanager
def write_stage(
    run_dir: Path,
    name: str,
    *,
    kind: str,
    key: str,
    inputs: Mapping[str, object] = _NO_INPUTS,
    parents: Sequence[str] = (),
) -> Generator[Path]:
    """A temporary folder to fill; on a clean exit it becomes the stage, on an exception it vanishes.

    Args:
        run_dir: The run folder.
        name: The stage's folder in it.
        kind: What the stage makes.
        key: `stage_key` of the inputs.
        inputs: What the key was made from, kept for the reader.
        parents: Names of the stages of this run that were read; their content hashes are kept.

    Raises:
        UserError: `disk-full` when anything ran out of space; an earlier stage of the same name is kept.
    """
    kept = {parent: content_hash(run_dir / parent) for parent in parents}
    folder = run_dir / name
    partial = folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")
    with disk_full_as_user_error(folder):
        _remove(partial)
        partial.mkdir(parents=True)
        try:
            yield partial
            _seal(partial, kind=kind, key=key, inputs=inputs, parents=kept)
            _put_in_place(partial, folder)
        except BaseException:
            _remove(partial)
            raise


def sweep(run_dir: Path) -> None:
    """Remove what killed processes left half-written, and bring back a stage whose replacement was cut short.

    The caller holds the run's lock: a partial folder of a living process must not be swept.
    """
    for replaced in sorted(run_dir.rglob(f".*{REPLACED_SUFFIX}")):
        folder = replaced.with_name(replaced.name.removeprefix(".").removesuffix(REPLACED_SUFFIX))
        if folder.exists():
            _remove(replaced)
        else:
            replaced.rename(folder)
    for partial in sorted(run_dir.rglob(f".*{PARTIAL_SUFFIX}")):
        _remove(partial)
    sync_folder(run_dir)


def _seal(folder: Path, *, kind: str, key: str, inputs: Mapping[str, object], parents: Mapping[str, str]) -> None:
    """Write the manifest and force everything to the disk."""
    files: dict[str, FileRecord] = {}
    for name in artifact_files(folder):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path} is a link or not a plain file: a stage folder could not be moved")
        sync_file(path)
        files[name] = FileRecord(hash_file(path), path.stat().st_size)
    manifest = Manifest(
        kind=kind, key=key, inputs=inputs, parents=parents, files=files, versions=library_versions(), created_at=now()
    )
    path = folder / MANIFEST_NAME
    path.write_text(manifest.to_json(), encoding="utf-8")
    sync_file(path)
    for inner in (path for path in folder.rglob("*") if path.is_dir()):
        sync_folder(inner)
    sync_folder(folder)


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename over the stage's name; a folder with files cannot be renamed over, so the old one steps aside first."""
    replaced = folder.with_name(f".{folder.name}{REPLACED_SUFFIX}")
    if folder.exists():
        _remove(replaced)
        folder.rename(replaced)
    try:
        partial.rename(folder)
    except BaseException:
        if replaced.exists():
            replaced.rename(folder)
        raise
    sync_folder(folder.parent)
    _remove(replaced)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_whole(path: Path, record: FileRecord) -> bool:
    if not path.is_file() or path.stat().st_size != record.size_bytes:
        return False
    return record.size_bytes > MAX_REHASHED_BYTES or hash_file(path) == record.sha256
