"""What hosted services charge: a dated table that is shipped, and that a user may replace with their own."""

import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from kivnun.errors import UserError

SHIPPED = Path(__file__).with_name("prices.yaml")
OLD_AFTER_DAYS = 180
VERSION_DAY = re.compile(r"-(?:\d{8}|\d{4}-\d{2}-\d{2}|latest)$")

Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""US dollars for 1,000,000 tokens."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPrice(_Closed):
    """What one model costs.

    One that can be tuned has `training` and `max_tokens_per_row`, and its other prices are those after tuning.
    """

    model: str
    input: Dollars
    output: Dollars
    training: Dollars | None = None
    max_tokens_per_row: Annotated[int, Field(gt=0)] | None = None
    cached_input: Dollars | None = None
    cache_write: Dollars | None = None

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if (self.training is None) != (self.max_tokens_per_row is None):
            raise ValueError("training and max_tokens_per_row go together")
        return self


class Service(_Closed):
    """A service, the page that its prices were read from, on which day if not the table's, and its models."""

    service: str
    source: str
    as_of: datetime.date | None = None
    note: str = ""
    models: tuple[ModelPrice, ...]


@dataclass(frozen=True)
class AnswerPrice:
    """What answers of one model cost, in dollars for 1,000,000 tokens.

    Attributes:
        input: Tokens that are read.
        cached_input: Those of them that the service had kept ready.
        cache_write: Those of them that it keeps for later.
        output: Tokens that are written.
        as_of: Day of the price.
        source: The page.
        note: What must be known of it.
    """

    input: float
    cached_input: float
    cache_write: float
    output: float
    as_of: datetime.date
    source: str
    note: str

    def is_old(self, today: datetime.date) -> bool:
        """Whether it is older than half a year."""
        return (today - self.as_of).days > OLD_AFTER_DAYS


class PriceTable(_Closed):
    """Prices of a day, or of several where a service has its own."""

    as_of: datetime.date
    currency: Literal["USD"]
    services: tuple[Service, ...]

    def is_old(self, today: datetime.date) -> bool:
        """Whether the table is older than half a year."""
        return (today - self.as_of).days > OLD_AFTER_DAYS


def find_price(table: PriceTable, name: str) -> AnswerPrice | None:
    """What a model's answers cost, by the name that its service knows it under; None where the table lacks it.

    A name may end in the day of its version; `ft:BASE:...` is a tuned model of OpenAI.
    """
    is_tuned = name.startswith("ft:")
    plain = name.split(":")[1] if is_tuned else name
    names = (plain, VERSION_DAY.sub("", plain))
    for wanted in names:
        for service in table.services:
            for model in service.models:
                if model.model == wanted and (model.training is not None) == is_tuned:
                    return _answer_price(table, service, model)
    return None


def _answer_price(table: PriceTable, service: Service, model: ModelPrice) -> AnswerPrice:
    return AnswerPrice(
        input=model.input,
        # Who keeps nothing ready bills every token alike.
        cached_input=model.input if model.cached_input is None else model.cached_input,
        cache_write=model.input if model.cache_write is None else model.cache_write,
        output=model.output,
        as_of=service.as_of or table.as_of,
        source=service.source,
        note=service.note,
    )


def own_table() -> Path:
    """Where a user's own table lies if they want it used always."""
    return Path.home() / ".config" / "kivnun" / "prices.yaml"


def load_prices(path: Path | None = None) -> tuple[PriceTable, Path]:
    """The price table and where it was read: the file that is named, else the user's own, else the shipped one.

    Raises:
        UserError: `prices-invalid`, naming the field.
    """
    chosen = path or (own_table() if own_table().is_file() else SHIPPED)
    try:
        value = YAML(typ="safe", pure=True).load(chosen.read_text("utf-8"))
        table = PriceTable.model_validate(value)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in error.errors()]
        raise _refusal(chosen, f"{len(lines)} problem(s)", lines) from error
    except (OSError, RecursionError, ValueError, YAMLError) as error:
        # Dates that do not exist and bytes that are not UTF-8 are plain ValueErrors.
        raise _refusal(chosen, next(iter(str(error).splitlines()), type(error).__name__), []) from error
    latest = max(table.as_of, *(service.as_of or table.as_of for service in table.services))
    if latest > datetime.datetime.now(tz=datetime.UTC).date():
        raise _refusal(chosen, f"as_of: {latest} has not come yet", [])
    return table, chosen


def _refusal(path: Path, problem: str, details: list[str]) -> UserError:
    return UserError(
        "prices-invalid",
        f"{path}: {problem}",
        details=details,
        hint="write a fresh copy with `kivnun estimate --write-prices prices.yaml` and edit that",
    )
