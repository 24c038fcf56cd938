"""The `decide` section: which ways to customise a model are compared, within which limits."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kivnun.recipe import rules, strategy_rules
from kivnun.recipe.values import (
    NonNegativeNumber,
    PositiveNumber,
    PositiveWhole,
    Section,
    Seed,
    ShareBelowOne,
    Text,
    Whole,
)

ArmName = Literal["prompt", "few_shot", "few_shot_nearest", "rag", "tuned", "rag_tuned"]
"""A way to customise a model."""
ARMS: tuple[ArmName, ...] = ("prompt", "few_shot", "few_shot_nearest", "rag", "tuned", "rag_tuned")
"""All of them, from the cheapest to the dearest."""

CurveShare = Annotated[float, Field(strict=True, gt=0, le=1)]
"""A share of the training rows."""


class DecideSection(Section):
    """The comparison of strategies on the test rows; only `kivnun decide` runs it."""

    arms: Annotated[tuple[ArmName, ...], Field(min_length=1)] = ARMS
    """What is compared; those that are left out are listed as not asked for."""
    models: dict[Text, Text] = Field(default={})
    """Further models for the arms without training, by a name of your own: a run, a folder, \
`openai:MODEL?base_url=ADDRESS` or `anthropic:MODEL`."""
    instruction: Text | None = None
    """What models that are not tuned are told before the row's prompt, such as what the labels are."""
    shots: Annotated[tuple[PositiveWhole, ...], Field(min_length=1)] = (2, 4, 8)
    """Numbers of examples that few-shot arms try on the validation rows; the best one is used."""
    min_gain: ShareBelowOne = 0.03
    """Gain in the task's metric for which a dearer arm is worth taking."""
    max_regret: ShareBelowOne = 0.05
    """Gain that must be ruled out before a cheaper arm is chosen for certain."""
    budget_minutes: PositiveNumber | None = None
    """Longest time on this machine; arms that do not fit are listed as not run."""
    budget_dollars: NonNegativeNumber | None = None
    """Most that endpoints may cost, by the price table; arms that do not fit are listed as not run."""
    machine_dollars_per_hour: NonNegativeNumber | None = None
    """Price of this machine, for the cost of arms that run on it; without it their cost is stated in seconds."""
    expected_requests: PositiveWhole = 100_000
    """Requests over which the training is paid off, for the cost per 1,000."""
    max_latency_ms: PositiveNumber | None = None
    """Longest answer that may be chosen, at the 95th percentile."""
    max_dollars_per_1000: PositiveNumber | None = None
    """Dearest 1,000 requests that may be chosen."""
    max_stale_minutes: PositiveNumber | None = None
    """Longest time from a changed document to right answers."""
    learning_curve: tuple[CurveShare, ...] = (0.25, 0.5, 1.0)
    """Shares of the training rows that are trained on, for the learning curve; the arms themselves use all."""
    num_seeds: PositiveWhole = 1
    """Trainings of each trained arm, with seeds that follow one another; the spread is reported."""
    distractors: Annotated[Whole, Field(ge=0)] = 2
    """Wrong passages beside the right one in a training row of rag_tuned (Zhang et al. 2024, arXiv:2403.10131)."""
    without_gold: ShareBelowOne = 0.2
    """Share of those rows that have wrong passages alone, so that the model learns not to trust each of them."""
    pilot_rows: PositiveWhole = 50
    """Validation rows on which arms are tried before they may see the test rows."""
    timed_requests: PositiveWhole = 20
    """Requests that are timed one by one."""
    freshness_documents: Annotated[Whole, Field(ge=0)] = 5
    """Documents that are changed and asked about again, in a copy of the index; 0 for none."""
    probe: Text | None = None
    """File of texts of other kinds, for what tuning makes the model forget; one that is shipped if not given."""
    seed: Seed = 0
    """Seed of samples and intervals."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(strategy_rules.check_decide(self))
        return self
