"""Models in MLflow's format, as Azure keeps them: the plain folder inside, with its tokenizer where that lies apart.

Reference: mlflow/transformers/model_io.py (`model/`, `components/tokenizer/`), and before it Azure's own flavour
`hftransformersv2` (`data/model/`, `data/tokenizer/`). Nothing of MLflow is imported, and no code in the folder is run.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from kivnun.errors import UserError
from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error

DESCRIPTION = "MLmodel"
# A model that is fetched from a registry of Azure lies one folder deeper than one that a job is given.
ROOTS = (".", "mlflow_model_folder")
MODEL_PLACES = ("model", "data/model", "pipeline", "data")
TOKENIZER_PLACES = ("components/tokenizer", "data/tokenizer", "tokenizer")
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def plain_folder(folder: Path) -> Path:
    """The folder of a model as `save_pretrained` writes it; any folder but one of MLflow's is that itself.

    Args:
        folder: What the user named; it is only read.

    Returns:
        A folder inside, or one in the cache with links to the model and to the tokenizer that lies apart from it.

    Raises:
        UserError: `file-unwritable` or `disk-full` where the cache cannot be written.
    """
    root = next((folder / name for name in ROOTS if (folder / name / DESCRIPTION).is_file()), None)
    if root is None or (folder / "config.json").is_file():
        return folder
    model = next((root / name for name in MODEL_PLACES if (root / name / "config.json").is_file()), None)
    if model is None:
        return folder
    tokenizer = next((root / name for name in TOKENIZER_PLACES if _has_tokenizer(root / name)), None)
    if _has_tokenizer(model) or tokenizer is None or not any(model.glob("*.safetensors")):
        return model
    return _join(model, tokenizer)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_NAMES)


def _join(model: Path, tokenizer: Path) -> Path:
    """Both as one folder of links; one whose files changed since is another."""
    # The model's own files go before those of the same name that stand beside the tokenizer.
    files = {path.name: path.resolve() for part in (tokenizer, model) for path in sorted(part.iterdir())}
    files = {name: path for name, path in files.items() if path.is_file()}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{path}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}\0".encode())
    target = _cache_folder() / digest.hexdigest()[:32]
    if target.is_dir():
        return target
    try:
        with disk_full_as_user_error(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(suffix=PARTIAL_SUFFIX, dir=target.parent))
            try:
                for name, path in files.items():
                    (partial / name).symlink_to(path)
                _place(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        hint = f"set XDG_CACHE_HOME to a folder that can be written, or copy the files of {tokenizer} into {model}"
        problem = f"{target}: {error.strerror or error}"
        raise UserError("file-unwritable", f"the model and its tokenizer lie apart; {problem}", hint=hint) from error
    return target


def _place(partial: Path, target: Path) -> None:
    """Another process may have made the same folder meanwhile."""
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _cache_folder() -> Path:
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "kivnun" / "mlflow"
