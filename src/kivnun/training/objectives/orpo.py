"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691). R rows, P documents in a row."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from kivnun.data.packing import PackedBatch
from kivnun.training.objectives.base import BatchLoss, RowwiseObjective
from kivnun.training.objectives.log_probabilities import score_answers
from kivnun.training.objectives.pair_metrics import log_probability_metrics, reward_metrics

LOG_HALF = -0.6931471805599453
# A mean log-probability nearer to zero is rounding: its odds are infinite.
LARGEST = -1e-7


@dataclass(frozen=True)
class Orpo(RowwiseObjective):
    """The objective `orpo`: a row is its preferred answer, which is learnt, and its rejected one. No base model.

    Attributes:
        beta: Weight of the odds ratio, lambda in the paper.
    """

    beta: float

    def count(self, batch: PackedBatch) -> float:
        """The number of pairs."""
        return len(batch.rows)

    def loss(self, model: nn.Module, batch: PackedBatch, prepared: object) -> BatchLoss:
        """Sum over the pairs of equation 6, where an answer's log-probability is its mean over tokens (equation 1)."""
        del prepared
        mean_RP = score_answers(model, batch).mean
        log_odds_RP = log_odds(mean_RP)
        ratio_R = log_odds_RP[:, 0] - log_odds_RP[:, 1]
        total = (self.beta * -logsigmoid(ratio_R) - mean_RP[:, 0]).sum()
        metrics = {
            **reward_metrics(self.beta * mean_RP),
            **log_probability_metrics(mean_RP),
            "log_odds_ratio": float(ratio_R.detach().sum()),
        }
        return BatchLoss(total, metrics=metrics)


def log_odds(log_p: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, exact where p is nearly one or nearly zero."""
    log_p = log_p.clamp(max=LARGEST)
    # Maechler 2012: each form loses digits where the other one keeps them. The form that is not taken gets a value
    # that it can take, since the gradient of an infinite one would be no number.
    near = torch.log(-torch.expm1(log_p.clamp(min=LOG_HALF)))
    far = torch.log1p(-torch.exp(log_p.clamp(max=LOG_HALF)))
    return log_p - torch.where(log_p > LOG_HALF, near, far)
