"""The values of a recipe one by one, and how two recipes differ."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from kivnun.recipe.schema import Recipe


@dataclass(frozen=True)
class Difference:
    """A field that two recipes set differently."""

    path: str
    """The field."""
    left: object
    """Its value in the first recipe; None where it has none."""
    right: object
    """Its value in the second recipe; None where it has none."""


def walk_fields(section: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every field that is no section itself, with its path, in the order of the schema."""
    for name, value in section:
        here = (*path, name)
        if isinstance(value, BaseModel):
            yield from walk_fields(value, here)
        else:
            yield here, value


def diff_recipes(left: Recipe, right: Recipe) -> list[Difference]:
    """Every field whose value differs; how the files were written does not matter."""
    lefts = {".".join(path): value for path, value in walk_fields(left)}
    rights = {".".join(path): value for path, value in walk_fields(right)}
    paths = sorted(lefts.keys() | rights.keys())
    pairs = ((path, lefts.get(path), rights.get(path)) for path in paths)
    return [Difference(path, a, b) for path, a, b in pairs if a != b]
