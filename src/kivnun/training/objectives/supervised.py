"""Next-token prediction: the answers of rows, or every token of running text."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kivnun.data.packing import PackedBatch
from kivnun.training.hidden_states import target_hidden_states
from kivnun.training.loss import summed_cross_entropy
from kivnun.training.objectives.base import BatchLoss, RowwiseObjective

TOKEN_ACCURACY = "token_accuracy"  # noqa: S105 - the name of a metric


@dataclass(frozen=True)
class Supervised(RowwiseObjective):
    """The objectives `supervised` and `text`: they differ in which tokens of a row are trained, not in the loss.

    Attributes:
        token_accuracy: Whether the share of trained tokens with the largest logit is reported, each by its weight.
    """

    token_accuracy: bool = False

    def loss(self, model: nn.Module, batch: PackedBatch, prepared: object) -> BatchLoss:
        """Summed negative log likelihood of the trained tokens, each by its weight, in nats."""
        del prepared
        if not self.token_accuracy:
            return BatchLoss(summed_loss(model, batch))
        hidden_MC, weight_VC, target_M = target_hidden_states(model, batch)
        weights_M = batch.target_weights
        is_right_M = torch.empty(len(target_M), dtype=torch.bool, device=target_M.device)
        total = summed_cross_entropy(hidden_MC, weight_VC, target_M, target_weights_M=weights_M, is_right_M=is_right_M)
        right_M = is_right_M if weights_M is None else is_right_M.cpu() * weights_M
        return BatchLoss(total, metrics={TOKEN_ACCURACY: float(right_M.sum())})


def summed_loss(model: nn.Module, batch: PackedBatch) -> Tensor:
    """Sum of the negative log likelihoods of a batch's trained tokens, in nats."""
    hidden_MC, weight_VC, target_M = target_hidden_states(model, batch)
    return summed_cross_entropy(hidden_MC, weight_VC, target_M, target_weights_M=batch.target_weights)
