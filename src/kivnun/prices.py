"""What hosted services charge: a dated table that is shipped, and that a user may replace with their own."""

import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from kivnun.errors import UserError

SHIPPED = Path(__file__).with_name("prices.yaml")
OLD_AFTER_DAYS = 180

Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""US dollars for 1,000,000 tokens."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPrice(_Closed):
    """What one model costs."""

    model: str
    training: Dollars
    input: Dollars
    output: Dollars
    max_tokens_per_row: Annotated[int, Field(gt=0)]


class Service(_Closed):
    """A service, the page that its prices were read from, and its models."""

    service: str
    source: str
    note: str = ""
    models: tuple[ModelPrice, ...]


class PriceTable(_Closed):
    """Prices of a day."""

    as_of: datetime.date
    currency: Literal["USD"]
    services: tuple[Service, ...]

    def is_old(self, today: datetime.date) -> bool:
        """Whether the table is older than half a year."""
        return (today - self.as_of).days > OLD_AFTER_DAYS


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
    if table.as_of > datetime.datetime.now(tz=datetime.UTC).date():
        raise _refusal(chosen, f"as_of: {table.as_of} has not come yet", [])
    return table, chosen


def _refusal(path: Path, problem: str, details: list[str]) -> UserError:
    return UserError(
        "prices-invalid",
        f"{path}: {problem}",
        details=details,
        hint="write a fresh copy with `kivnun estimate --write-prices prices.yaml` and edit that",
    )
