"""The base of a job that goes on from a tuned model: the adapter is added to the weights that it was trained upon."""

import secrets
import shutil
from pathlib import Path

import torch

from kivnun.errors import UserError
from kivnun.jobs.tuned_base import MERGED_NAME, is_tuned, job_of
from kivnun.methods import load_tuned, merge
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.models.save import save_model
from kivnun.recipe.load import load_recipe
from kivnun.runs.atomic import PARTIAL_SUFFIX, disk_full_as_user_error, sync_file, sync_folder

RECIPE_NAME = "recipe.yaml"


def make_base(base_model: str, folder: Path) -> str:
    """The base model of a job as a recipe in its folder finds it; a tuned model is merged first, once.

    In float32: the base's own numbers may be too coarse for what an adapter changes.

    Args:
        base_model: The job's.
        folder: The job's, in the data folder.

    Returns:
        The name, a whole path for a merged model.

    Raises:
        UserError: `model-missing` or `model-invalid`.
    """
    if not is_tuned(base_model):
        return base_model
    merged = folder.resolve() / MERGED_NAME
    if not merged.is_dir():
        jobs = folder.resolve().parent
        tuned, parent = jobs.parent / base_model, jobs / job_of(base_model)
        if not tuned.is_dir():
            problem = f"the model that {parent.name} made does not exist any more"
            raise UserError("model-missing", problem, hint="start from its base model, or from another tuned model")
        model = load_tuned(_find_base(parent), tuned, dtype=torch.float32)
        partial = merged.with_name(f".{MERGED_NAME}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
        with disk_full_as_user_error(merged):
            try:
                save_model(merge(model), load_tokenizer(tuned), partial)
                for file in partial.iterdir():
                    sync_file(file)
                partial.replace(merged)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            sync_folder(merged.parent)
    return str(merged)


def _find_base(job_folder: Path) -> Path:
    """What the adapter of another job lies upon."""
    name = load_recipe(job_folder / RECIPE_NAME).recipe.base_model
    return job_folder / MERGED_NAME if name == MERGED_NAME else resolve_model(str(name)).folder
