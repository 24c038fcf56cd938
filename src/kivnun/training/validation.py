"""What a model in training is worth on the validation split, and whether that is better than before."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from kivnun.data.packing import iterate_in_order
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.recipe.training import TrainingSection, higher_is_better
from kivnun.training.checkpoint import Progress
from kivnun.training.objectives.base import MeasuresTable, Objective
from kivnun.training.objectives.supervised import Supervised

Measure = Callable[[], Mapping[str, float]]
"""Further metrics of the model in training, such as the accuracy of answers that it generates."""


@dataclass(frozen=True)
class Validation:
    """How a model in training is measured.

    Attributes:
        table: The rows of the validation split; there may be none.
        measure: Further metrics; None for the loss alone.
    """

    table: TokenTable
    measure: Measure | None = None


@torch.no_grad()
def mean_loss(
    model: nn.Module, table: TokenTable, *, batch_tokens: int, objective: Objective | None = None
) -> dict[str, float]:
    """The objective's mean over a table as `loss`, with its other metrics: of supervised learning in nats a token.

    Args:
        model: The model, left in evaluation mode.
        table: The rows.
        batch_tokens: Tokens that are computed at once.
        objective: What is learnt; next tokens if not given.
    """
    objective = objective or Supervised()
    model.eval()
    if isinstance(objective, MeasuresTable):
        return objective.measure(model, table, batch_tokens=batch_tokens)
    sums, count = {"loss": 0.0}, 0.0
    for batch in iterate_in_order(table, batch_tokens=batch_tokens):
        [prepared] = objective.prepare_step(model, [batch])
        loss = objective.loss(model, batch, prepared)
        count += objective.count(batch)
        for name, value in {"loss": loss.reported, **loss.metrics}.items():
            sums[name] = sums.get(name, 0.0) + value
    return {name: value / max(count, 1e-12) for name, value in sums.items()}


def judge(progress: Progress, metrics: Mapping[str, float], settings: TrainingSection) -> tuple[Progress, bool]:
    """Where a run stands after a validation, and whether this was its best step.

    Raises:
        UserError: `loss-not-finite`; `recipe-invalid` for a metric that the objective does not measure.
    """
    if settings.best_metric not in metrics:
        raise UserError(
            "recipe-invalid",
            f"training.best_metric: {settings.best_metric} is not among what was measured: {', '.join(metrics)}",
            hint="name one of these",
        )
    value = metrics[settings.best_metric]
    if not math.isfinite(value):
        raise UserError(
            "loss-not-finite",
            f"the validation {settings.best_metric} after step {progress.step} is {value}",
            hint="lower training.learning_rate",
        )
    if progress.best_value is None:
        return replace(progress, best_step=progress.step, best_value=value, stale_validations=0), True
    gain = value - progress.best_value if higher_is_better(settings.best_metric) else progress.best_value - value
    stale = 0 if gain > settings.early_stopping_min_delta else progress.stale_validations + 1
    progress = replace(progress, stale_validations=stale)
    # Metrics of few rows are often equal: then the lower loss is the better step.
    is_best = gain > 0 or (gain == 0 and metrics.get("loss", math.inf) < _loss_of_best(progress))
    if is_best:
        progress = replace(progress, best_step=progress.step, best_value=value)
    return progress, is_best


def _loss_of_best(progress: Progress) -> float:
    return next((loss for step, _, loss in progress.history if step == progress.best_step), -math.inf)


def patience_is_over(progress: Progress, settings: TrainingSection) -> bool:
    """Whether training stops early."""
    patience = settings.early_stopping_patience
    return patience is not None and progress.stale_validations >= patience
