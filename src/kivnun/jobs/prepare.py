"""`python -m kivnun.jobs.prepare FOLDER`: what is made of a job's files before it may train, in a process of its own.

Data that nobody checked is read here first. Whatever it does to this process, it ends alone, and the worker that waits
for it says why the job failed. Asked in `job.json`; the answer is `prepared.json`, next to the recipe.
"""

import sys
from pathlib import Path
from typing import cast

from kivnun.errors import UserError
from kivnun.jobs.hyperparameters import MethodName, resolve
from kivnun.jobs.job_error import JobError, from_user_error
from kivnun.jobs.memory import count_need, read_shapes
from kivnun.jobs.prepared import Asked, Note, Prepared, read_asked, write_answer
from kivnun.jobs.recipe_of_job import JobRow, tracker_environment, write_recipe
from kivnun.jobs.validation import FilesOfJob, validate_files
from kivnun.models.resolve import resolve_model
from kivnun.recipe.load import load_recipe
from kivnun.recipe.methods import LoraMethod
from kivnun.recipe.schema import Recipe


def prepare(asked: Asked, folder: Path) -> Prepared | JobError:
    """Check the files and write the recipe.

    Args:
        asked: The job.
        folder: The job's.
    """
    files = FilesOfJob(
        training=Path(asked.training),
        validation=Path(asked.validation) if asked.validation else None,
        folder=folder,
        model=asked.model,
        base_model=asked.base_model,
        method=cast("MethodName", asked.asked.get("type", "supervised")),
        strict=asked.strict,
    )
    try:
        validated = validate_files(files)
        if isinstance(validated, JobError):
            return validated
        numbers = resolve(asked.asked, validated.num_rows, validated.num_tokens)
        path = write_recipe(cast("JobRow", asked), folder, validated, numbers)
        recipe = load_recipe(path).recipe
        row_tokens = -(-validated.num_tokens // max(1, validated.num_rows))
        batch_tokens = row_tokens * int(numbers["batch_size"])
        need, least = (recipe_need(recipe, num_tokens) for num_tokens in (batch_tokens, row_tokens))
        notes = tuple(Note(note.level, note.message, note.data) for note in validated.notes)
        return Prepared(numbers, need, least, notes, tracker_environment(asked.integrations, asked.id))
    except UserError as error:
        # Paths are taken out where the job is ended.
        return from_user_error(error)


def recipe_need(recipe: Recipe, batch_tokens: int) -> int:
    """Bytes that a recipe's training takes.

    Args:
        recipe: The recipe; its model is on this machine.
        batch_tokens: Tokens that are computed at once.
    """
    if not isinstance(recipe.base_model, str):
        return 0
    rank = recipe.method.rank if isinstance(recipe.method, LoraMethod) else None
    return count_need(read_shapes(resolve_model(recipe.base_model).folder), rank=rank, batch_tokens=batch_tokens)


def main() -> None:
    """Prepare the job whose folder is named."""
    folder = Path(sys.argv[1])
    write_answer(prepare(read_asked(folder), folder), folder)


if __name__ == "__main__":
    main()
