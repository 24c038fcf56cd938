"""A recipe with a search from elsewhere: a file of ranges, `--trials`, and overrides of the search alone.

The file is a `search` section of its own, or has the two groups that others write:

    search_strategy: {type: random, num_trials: 20}
    search_space: {learning_rate: {type: float, low: 1e-6, high: 1e-3, log: true}}
"""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.recipe.complaints import describe_errors
from kivnun.recipe.document import MalformedDocumentError, Value, read_document
from kivnun.recipe.dump import plain_values
from kivnun.recipe.load import LoadedRecipe, load_recipe
from kivnun.recipe.override import MalformedOverrideError, apply_overrides, parse_override
from kivnun.recipe.schema import Recipe
from kivnun.recipe.search import SearchSection

GROUPS = ("search", "search_space", "search_strategy")
HINT = "`kivnun recipe explain search` lists the fields of a search with their defaults"


def load_search(
    path: Path, overrides: Sequence[str] = (), *, space: Path | None = None, num_trials: int | None = None
) -> LoadedRecipe:
    """Read a recipe and put the search of a file, if there is one, in place of its own.

    Args:
        path: The recipe.
        overrides: As in `--set`; those of `search` hold for the file as well.
        space: A file of ranges.
        num_trials: Trials in place of those that recipe or file ask for.

    Raises:
        UserError: `recipe-missing` or `recipe-invalid`; `search-invalid` for the file.
    """
    about_search = [text for text in overrides if text.partition("=")[0].split(".")[0].strip() == "search"]
    if space is None:
        more = [] if num_trials is None else [f"search.num_trials={num_trials}"]
        return load_recipe(path, [*overrides, *more])
    loaded = load_recipe(path, [text for text in overrides if text not in about_search])
    own = loaded.recipe.search
    section: dict[str, Value] = {} if own is None else cast("dict[str, Value]", plain_values(own, with_defaults=False))
    section |= read_space(space)
    if num_trials is not None:
        about_search.append(f"search.num_trials={num_trials}")
    try:
        section = cast("dict", apply_overrides({"search": section}, [parse_override(each) for each in about_search]))[
            "search"
        ]
    except MalformedOverrideError as error:
        raise _refusal(space, [f"--set: {error}"]) from error
    return replace(
        loaded, recipe=loaded.recipe.model_copy(update={"search": _validated(loaded.recipe, section, space)})
    )


def read_space(path: Path) -> dict[str, Value]:
    """The fields of a `search` section that a file of ranges gives.

    Raises:
        UserError: `search-invalid` when it cannot be read or has fields that mean nothing.
    """
    try:
        document = read_document(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError("search-invalid", f"cannot read {path}: {reason}", hint="name a file of ranges") from error
    except MalformedDocumentError as error:
        raise _refusal(path, [f"{path}:{error.line}: {error.problem}"]) from error
    value = document.value
    problems = [f"{path}:{line}: {'.'.join(map(str, field))}: {text}" for line, field, text in document.problems]
    if not isinstance(value, dict):
        raise _refusal(path, problems or [f"{path}:1: should hold search_space, and search_strategy if you like"])
    section: dict[str, Value] = {}
    for name, given in value.items():
        problem = _take(section, name, given)
        if problem:
            problems.append(f"{path}:{document.lines.get((name,), 1)}: {name}: {problem}")
    if problems:
        raise _refusal(path, problems)
    return section


def _take(section: dict[str, Value], name: str, given: Value) -> str | None:
    """Put one field of a file in its place in the section; what is wrong with it otherwise."""
    fields = SearchSection.model_fields
    if name in fields:
        section[name] = given
    elif name == "search_space":
        section["space"] = given
    elif name not in GROUPS:
        close = get_close_matches(name, [*GROUPS, *fields], n=1)
        return f"unknown field{f'; did you mean `{close[0]}`?' if close else ''}"
    elif not isinstance(given, dict):
        return "should be a group of fields"
    else:
        section |= {"sampler" if key == "type" else key: value for key, value in given.items()}
    return None


def _validated(recipe: Recipe, section: dict[str, Value], path: Path) -> SearchSection:
    value: Value = {**cast("dict[str, Value]", plain_values(recipe, with_defaults=False)), "search": section}
    try:
        checked = Recipe.model_validate(value)
    except ValidationError as error:
        described = describe_errors(error, value)
        details = [f"{path}: {'.'.join(map(str, field))}: {message}" for field, message in described]
        raise _refusal(path, details) from error
    return cast("SearchSection", checked.search)


def _refusal(path: Path, details: Sequence[str]) -> UserError:
    count = f"{len(details)} problem{'s' if len(details) > 1 else ''}"
    return UserError("search-invalid", f"{count} in {path}", hint=HINT, details=details)
