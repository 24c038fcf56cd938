"""A recipe as YAML text that loads back equal."""

from io import StringIO
from typing import cast

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from kivnun.recipe.schema import Recipe


def dump_recipe(recipe: Recipe, *, with_defaults: bool = True) -> str:
    """The YAML text of a recipe; without defaults it holds only what differs from them."""
    return _dump(plain_values(recipe, with_defaults=with_defaults), flow=False)


def dump_value(value: object) -> str:
    """One value as YAML on one line."""
    plain: object = plain_value(value)
    if isinstance(plain, dict | list):
        return _dump(cast("object", plain), flow=True).strip()
    return _dump([plain], flow=True).strip()[1:-1]


def plain_values(section: BaseModel, *, with_defaults: bool = True) -> dict[str, object]:
    """The fields of a section as plain values; a field without a value is left out, and so may be a default."""
    values: dict[str, object] = {}
    for name, field in type(section).model_fields.items():
        value = cast("object", dict(section)[name])
        # The kind of a variant is how it is recognised, so it is always written.
        is_default = value == cast("object", field.default) and name != "kind"
        if value is None or (is_default and not with_defaults):
            continue
        values[name] = plain_value(value, with_defaults=with_defaults)
    return values


def plain_value(value: object, *, with_defaults: bool = True) -> object:
    """A value of a recipe as JSON knows it."""
    if isinstance(value, BaseModel):
        return plain_values(value, with_defaults=with_defaults)
    if isinstance(value, tuple | list):
        return [plain_value(item, with_defaults=with_defaults) for item in cast("tuple[object, ...]", value)]
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return {key: plain_value(item, with_defaults=with_defaults) for key, item in entries.items()}
    return value


def _dump(value: object, *, flow: bool) -> str:
    yaml = YAML(typ="rt", pure=True)
    yaml.default_flow_style = flow
    yaml.allow_unicode = True
    yaml.width = 10**9
    stream = StringIO()
    yaml.dump(_quoted(value), stream)  # pyright: ignore[reportUnknownMemberType]
    return stream.getvalue()


def _quoted(value: object) -> object:
    """Text in double quotes unless it is a plain word: quotes keep line ends, blanks and look-alike numbers exact."""
    if isinstance(value, dict):
        return {_quoted(key): _quoted(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_quoted(item) for item in cast("list[object]", value)]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not _is_word(value) else value


def _is_word(text: str) -> bool:
    is_word = text.isascii() and text[:1].isalpha() and all(letter.isalnum() or letter in "_./-" for letter in text)
    return is_word and text.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
