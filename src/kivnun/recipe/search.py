"""The `search` section: which values of a recipe are tried, and how."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, StrictBool, Tag, model_validator

from kivnun.recipe import rules
from kivnun.recipe.training import ValidationMetric
from kivnun.recipe.values import Number, PlainValue, PositiveWhole, Section, Seed, Text, Whole, tag_kind


class FloatRange(Section):
    """Numbers between two bounds."""

    type: Literal["float"] = "float"
    """The kind of range."""
    low: Number
    """Smallest value."""
    high: Number
    """Largest value."""
    log: StrictBool = False
    """Whether the logarithm is drawn evenly, as it suits learning rates."""


class IntRange(Section):
    """Whole numbers between two bounds."""

    type: Literal["int"] = "int"
    """The kind of range."""
    low: Whole
    """Smallest value."""
    high: Whole
    """Largest value."""
    step: PositiveWhole = 1
    """Distance between neighbours."""
    log: StrictBool = False
    """Whether the logarithm is drawn evenly."""


class Choice(Section):
    """One of some values."""

    type: Literal["choice"] = "choice"
    """The kind of range."""
    values: Annotated[tuple[PlainValue, ...], Field(min_length=1)]
    """The values."""


Range = Annotated[
    Annotated[FloatRange, Tag("<float>")] | Annotated[IntRange, Tag("<int>")] | Annotated[Choice, Tag("<choice>")],
    Discriminator(lambda value: tag_kind(value, field="type")),
]
"""What a field may be, chosen by `type`."""


class SearchSection(Section):
    """A search for the values that validate best; `kivnun search` runs it, `kivnun run` does not."""

    space: Annotated[dict[Text, Range], Field(min_length=1)]
    """Ranges by field, such as `training.learning_rate: {type: float, low: 1e-5, high: 1e-2, log: true}`; \
`learning_rate`, `lora_r` and `batch_size` are short for training.learning_rate, method.rank and training.batch_size."""
    num_trials: PositiveWhole = 20
    """Number of trainings."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How the next values are chosen: where earlier ones were good (Bergstra et al. 2011), or at random."""
    pruner: Literal["median", "successive_halving", "none"] = "median"
    """Which trainings are stopped early: those below the median of the earlier ones at the same share of the steps, \
those outside the best third at a ninth and at a third of the steps (Li et al. 2018, arXiv:1810.05934), or none."""
    prune_after: PositiveWhole = 5
    """Finished trainings before `median` stops one."""
    metric: ValidationMetric | None = None
    """Metric of the validation split that is made best, `training.best_metric` if not given; whether high or low is \
good is known."""
    workers: PositiveWhole = 1
    """Trainings at a time."""
    seed: Seed = 0
    """Seed of the choices."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_search(self))
        return self
