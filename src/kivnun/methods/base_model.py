"""The base model that an adapter was trained on, kept beside it: an adapter on other weights answers nonsense."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kivnun.errors import UserError
from kivnun.methods.adapter import CONFIG_NAME
from kivnun.runs import hash_file

BASE_MODEL_NAME = "base_model.json"
# The hub's cache keeps a model's files in `models--OWNER--NAME/snapshots/REVISION`.
_HUB_PREFIX = "models--"


@dataclass(frozen=True)
class BaseModelName:
    """A base model as an adapter refers to it.

    Attributes:
        name: What the recipe called it.
        folder: Where it is on this machine.
    """

    name: str
    folder: Path

    @property
    def content_hash(self) -> str:
        """Hash over the names and contents of its weight files."""
        return hash_weights(self.folder)


def hash_weights(folder: Path) -> str:
    """Hash over the names and contents of a model folder's weight files.

    The tokenizer and the configuration are left out, so that an edited chat template does not part a model from its
    adapters. A file that is neither longer nor newer than when it was last hashed is not read again in this process.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        state = path.stat()
        digest.update(f"{path.name}\0{_hash_unchanged(path, state.st_size, state.st_mtime_ns)}\0".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _hash_unchanged(path: Path, size_bytes: int, modified_ns: int) -> str:
    del size_bytes, modified_ns  # part of the key alone
    return hash_file(path)


def write_base_model(folder: Path, base_model: BaseModelName) -> None:
    """Write which base model an adapter belongs to, in a file of its own: PEFT warns of keys that it does not know."""
    about = {"name": base_model.name, "content_hash": base_model.content_hash}
    (folder / BASE_MODEL_NAME).write_text(json.dumps(about, indent=2) + "\n", "utf-8")


def require_base_model(base_folder: Path, adapter_folder: Path) -> None:
    """Refuse an adapter that was trained on another base model, even one of the same shapes.

    A folder without `base_model.json` comes from elsewhere; there, only the hub's names of both can be compared.

    Raises:
        UserError: `adapter-invalid`, with both hashes or both names.
    """
    path = adapter_folder / BASE_MODEL_NAME
    if not path.is_file():
        _require_hub_name(base_folder, adapter_folder)
        return
    try:
        about = json.loads(path.read_text("utf-8"))
        name, wanted = str(about["name"]), str(about["content_hash"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{path}: cannot be read: {type(error).__name__}: {error}"
        raise UserError("adapter-invalid", problem, hint="get the adapter again from where it came") from error
    found = hash_weights(base_folder)
    if found != wanted:
        raise UserError(
            "adapter-invalid",
            f"{adapter_folder}: the adapter was trained on other weights than those in {base_folder}",
            details=[f"trained on {name}: {wanted}", f"given: {found}"],
            hint=f"load it on the very model it was trained on: {name}",
        )


def _require_hub_name(base_folder: Path, adapter_folder: Path) -> None:
    """Both names must agree where both are the hub's; a folder of any other name may hold a copy of the right model."""
    cached = base_folder.parent.parent.name
    try:
        wanted = json.loads((adapter_folder / CONFIG_NAME).read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return  # the reader of the adapter says what is wrong with it
    if not cached.startswith(_HUB_PREFIX) or not isinstance(wanted, str) or wanted.count("/") != 1:
        return
    found = cached.removeprefix(_HUB_PREFIX).replace("--", "/")
    if wanted.startswith((".", "/", "~")) or Path(wanted).is_dir() or found.lower() == wanted.lower():
        return
    raise UserError(
        "adapter-invalid",
        f"{adapter_folder}: the adapter was trained on {wanted}, not on {found}",
        hint=f"set base_model: {wanted}",
    )
