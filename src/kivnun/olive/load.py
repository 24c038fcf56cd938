"""An Olive file where a recipe is wanted: translated, with overrides, as a loaded recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kivnun.olive.translate import read_translation
from kivnun.olive.translation import Translation, write_recipe
from kivnun.recipe.load import LoadedRecipe, parse_recipe


@dataclass(frozen=True)
class LoadedOlive:
    """An Olive file that was translated."""

    loaded: LoadedRecipe
    """The recipe, with overrides; its text is the recipe's, and its path the Olive file's."""
    translation: Translation
    """What became of each key."""


def load_olive(path: Path, overrides: Sequence[str] = ()) -> LoadedOlive | None:
    """Translate an Olive file; None for any other file.

    Raises:
        UserError: `olive-invalid` with all problems of the file; `recipe-invalid` for overrides.
    """
    translation = read_translation(path)
    if translation is None:
        return None
    text = write_recipe(translation, path.name)
    return LoadedOlive(parse_recipe(path, text, overrides), translation)
