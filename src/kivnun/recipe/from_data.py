"""A recipe for data that has none yet: its file, a model, and defaults for the rest."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.recipe.complaints import describe_errors
from kivnun.recipe.document import Value
from kivnun.recipe.load import HINT, LoadedRecipe
from kivnun.recipe.override import MalformedOverrideError, apply_overrides, parse_override
from kivnun.recipe.schema import Recipe


def recipe_for_data(data: str, base_model: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """The recipe that trains a model on some data; rows that are too long for the model are left out and counted.

    Args:
        data: A file, folder or data set id.
        base_model: The model to start from.
        overrides: `--set` values.

    Raises:
        UserError: `recipe-invalid` for overrides that do not fit.
    """
    value: Value = {"base_model": base_model, "data": {"train": data, "on_too_long": "drop"}}
    try:
        written = apply_overrides(value, [parse_override(text) for text in overrides])
        recipe = Recipe.model_validate(written)
    except MalformedOverrideError as error:
        raise UserError("recipe-invalid", f"--set: {error}", hint=HINT) from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, path))}: {message}" for path, message in describe_errors(error, value)]
        raise UserError("recipe-invalid", f"{len(lines)} problem(s) in --set", details=lines, hint=HINT) from error
    return LoadedRecipe(recipe, Path(), "", {})
