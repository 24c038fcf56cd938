"""The kinds of values that a recipe's fields take, and the base of its sections."""

from math import isfinite
from typing import Annotated, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictStr,
    StringConstraints,
    Tag,
)
from pydantic_core import PydanticCustomError

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
PositiveNumber = Annotated[Number, Field(gt=0)]
NonNegativeNumber = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
ShareBelowOne = Annotated[Number, Field(ge=0, lt=1)]
Whole = Annotated[int, Field(strict=True)]
PositiveWhole = Annotated[Whole, Field(gt=0)]
NonNegativeWhole = Annotated[Whole, Field(ge=0)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Text = Annotated[StrictStr, StringConstraints(min_length=1)]
RunName = Annotated[StrictStr, StringConstraints(pattern=r"^\w[\w.-]*$")]


_POSITION = r"(\d+|100%|\d{1,2}%)"
RowRange = Annotated[StrictStr, StringConstraints(pattern=rf"^({_POSITION}:{_POSITION}?|:{_POSITION})$")]
"""A slice of rows, such as `0:4096`, `4096:` or `10%:20%`."""


def tag_kind(value: object, *, field: str = "kind") -> str | None:
    """The tag of a variant that a field such as `kind` chooses; the angle brackets keep it apart from field names."""
    if isinstance(value, BaseModel):
        value = dict(value)
    kind = cast("dict[object, object]", value).get(field) if isinstance(value, dict) else None
    return f"<{kind}>" if isinstance(kind, str) else None


def tag_shape(value: object) -> str | None:
    """The tag of a variant that is chosen by the shape of the value: text, list or mapping."""
    if isinstance(value, str):
        return "<text>"
    if isinstance(value, list | tuple):
        return "<list>"
    return "<mapping>" if isinstance(value, dict | BaseModel) else None


def _check_split_size(value: object) -> object:
    """Accept a fraction below one or a whole number of rows; 1.0 is refused since it could mean either."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("split_size", "input should be a fraction below 1 or a whole number of rows")
    if isinstance(value, float) and not 0 <= value < 1:
        raise PydanticCustomError("split_size", "a fraction should be at least 0 and below 1")
    if value < 0:
        raise PydanticCustomError("split_size", "a number of rows should be 0 or more")
    return value


def _text_keys(value: object) -> object:
    """Turn the keys of a mapping into text, since codes such as 0 and 1 are compared with cells of a file."""
    if not isinstance(value, dict):
        return value
    entries = cast("dict[object, object]", value)
    return {str(key) if isinstance(key, int) else key: name for key, name in entries.items()}


def _check_switch(value: object) -> object:
    """Keep 1 and 0 from passing for true and false."""
    if value == "auto" or isinstance(value, bool):
        return value
    raise PydanticCustomError("switch", "input should be auto, true or false")


def _check_plain(value: object) -> object:
    """One complaint in place of one for each kind of value."""
    if isinstance(value, str | int) or (isinstance(value, float) and isfinite(value)):
        return value
    raise PydanticCustomError("plain_value", "input should be text, a finite number, true or false")


def tag_number(value: object) -> str:
    """The tag of a variant that is a word or a number."""
    return "<text>" if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else "<number>"


PlainValue = Annotated[StrictBool | Whole | Number | StrictStr, BeforeValidator(_check_plain)]
"""Text, a number, true or false."""

TokenBudget = Annotated[
    Annotated[Literal["auto"], Tag("<text>")] | Annotated[PositiveWhole, Tag("<number>")], Discriminator(tag_number)
]
"""A number of tokens, or as it suits the machine."""

SplitSize = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)],
    BeforeValidator(_check_split_size),
]
"""A fraction of the rows (0.1) or a number of rows (200)."""

DataFiles = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[tuple[Text, ...], Tag("<list>"), Field(min_length=1)]
    | Annotated[dict[Text, Text], Tag("<mapping>"), Field(min_length=1)],
    Discriminator(tag_shape),
]
"""A file, a folder or a hub id, several of them, or column names with one line-by-line text file each."""

DataFormat = Literal[
    "openai-chat",
    "openai-preference",
    "openai-reinforcement",
    "prompt-completion",
    "alpaca",
    "sharegpt",
    "kto",
    "preference",
    "gemini",
    "gemini-preference",
    "gemini-1.0",
    "palm-text",
    "palm-chat",
    "bedrock-claude",
    "columns",
    "text",
    "taskmaster",
    "super-ni",
    "snips",
    "squad",
]
"""Shapes of rows that are read without a template; `kivnun.data.formats.FORMATS` reads them."""

LayerNames = Annotated[
    Annotated[Literal["all-linear"], Tag("<text>")] | Annotated[tuple[Text, ...], Tag("<list>"), Field(min_length=1)],
    Discriminator(tag_shape),
]
"""Every linear layer but the output, or a list of layer names."""

Switch = Annotated[Literal["auto"] | bool, BeforeValidator(_check_switch)]
"""Yes, no, or as it suits the machine."""

ValueNames = Annotated[dict[Text, Text], Field(min_length=1), BeforeValidator(_text_keys)]
"""Names for the coded values of one column."""


class Section(BaseModel):
    """A closed, frozen group of fields."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )
