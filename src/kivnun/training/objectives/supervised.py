"""Next-token prediction: the answers of rows, or every token of running text."""

from torch import Tensor, nn

from kivnun.data.packing import PackedBatch
from kivnun.training.hidden_states import target_hidden_states
from kivnun.training.loss import summed_cross_entropy
from kivnun.training.objectives.base import BatchLoss, RowwiseObjective


class Supervised(RowwiseObjective):
    """The objectives `supervised` and `text`: they differ in which tokens of a row are trained, not in the loss."""

    def loss(self, model: nn.Module, batch: PackedBatch, prepared: object) -> BatchLoss:
        """Summed negative log likelihood of the trained tokens, each by its weight, in nats."""
        del prepared
        return BatchLoss(summed_loss(model, batch))


def summed_loss(model: nn.Module, batch: PackedBatch) -> Tensor:
    """Sum of the negative log likelihoods of a batch's trained tokens, in nats."""
    hidden_MC, weight_VC, target_M = target_hidden_states(model, batch)
    return summed_cross_entropy(hidden_MC, weight_VC, target_M, target_weights_M=batch.target_weights)
