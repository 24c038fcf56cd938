"""A base model's name becomes a folder on this machine and a hash of what is in it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from kivnun.errors import UserError
from kivnun.models.mlflow_folder import plain_folder
from kivnun.runs import hash_file
from kivnun.runs.manifest import MANIFEST_NAME

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).parent / "bundled"
READER = "bundled-reader"
READER_FOLDER = Path(__file__).parent / "bundled_reader"
# Weights in pickle files are never fetched: loading one runs whatever code is in it.
HUB_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]

NOT_FETCHED = (
    "check the spelling and the connection (gated models: `hf auth login`, or set HF_TOKEN), or name a local folder"
)


@dataclass(frozen=True)
class ResolvedModel:
    """A model folder on this machine.

    Attributes:
        folder: Where it is.
        name: What the recipe called it.
        revision: The hub's commit, for a model from the hub.
        content_hash: Hash over the names and contents of its files.
    """

    folder: Path
    name: str
    revision: str | None
    content_hash: str


def bundled_folder(name: str) -> Path | None:
    """Where a model lies that comes with Kivnun; None for another name."""
    return {BUNDLED: BUNDLED_FOLDER, READER: READER_FOLDER}.get(name)


def resolve_model(base_model: str, *, revision: str | None = None) -> ResolvedModel:
    """Find a model: `bundled`, `bundled-reader`, a folder, or a Hugging Face id (fetched once, then from the cache).

    Of a folder in MLflow's format, as Azure keeps models, the model inside is found.

    Args:
        base_model: What the recipe calls it.
        revision: The commit of a hub model, as an earlier `ResolvedModel` names it; None is the newest.

    Raises:
        UserError: `model-missing` or `model-invalid`.
    """
    folder = bundled_folder(base_model)
    if folder is not None:
        if not folder.is_dir():
            raise UserError(
                "model-missing",
                f"the model {base_model} is not in {folder}",
                hint="install Kivnun again, with its data files",
            )
    elif revision is None and Path(base_model).is_dir():
        folder = plain_folder(Path(base_model))
    elif base_model.startswith((".", "/", "~")) or base_model.count("/") != 1:
        raise UserError(
            "model-missing",
            f"{base_model}: no such folder",
            hint="name a folder with config.json and *.safetensors, a Hugging Face id like org/name, or `bundled`",
        )
    else:
        folder = _fetch(base_model, revision)
        revision = folder.name
    require_model_files(folder)
    return ResolvedModel(folder, base_model, revision, revision or hash_folder(folder))


def require_model_files(folder: Path) -> None:
    """Refuse a folder that cannot be a model.

    Raises:
        UserError: `model-invalid`, naming what is missing.
    """
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors (pickled weights are not loaded)")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    if missing:
        raise UserError(
            "model-invalid",
            f"{folder} lacks {', '.join(missing)}",
            hint="save the model and its tokenizer with save_pretrained into one folder",
        )


def hash_folder(folder: Path) -> str:
    """Hash over the names and contents of a model folder's files; a stage's manifest is none, for it holds the time."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        is_part = path.is_file() and path.suffix in {".json", ".safetensors", ".model", ".jinja", ".txt"}
        if is_part and path.name != MANIFEST_NAME:
            digest.update(f"{path.name}\0{hash_file(path)}\0".encode())
    return digest.hexdigest()


def _fetch(repo_id: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=HUB_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise UserError(
            "model-missing",
            f"{repo_id}: not a folder here, and the hub did not give it: {str(error).splitlines()[0]}",
            hint=NOT_FETCHED,
        ) from error
