"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290). R rows, P documents in a row."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from kivnun.data.packing import PackedBatch
from kivnun.data.tokens import TokenTable
from kivnun.training.objectives.base import BatchLoss, RowwiseObjective
from kivnun.training.objectives.log_probabilities import score_answers
from kivnun.training.objectives.pair_metrics import log_probability_metrics, reward_metrics
from kivnun.training.objectives.reference import with_reference


@dataclass(frozen=True)
class Dpo(RowwiseObjective):
    """The objective `dpo`: a row is its preferred answer and its rejected one.

    Attributes:
        beta: How strongly the model is held to the base model.
        label_smoothing: Share of the preferences that is taken to be the wrong way round.
    """

    beta: float
    label_smoothing: float = 0.0

    def start(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> TokenTable:
        """The table with what the base model thinks of both answers."""
        return with_reference(model, table, batch_tokens=batch_tokens)

    def count(self, batch: PackedBatch) -> float:
        """The number of pairs."""
        return len(batch.rows)

    def loss(self, model: nn.Module, batch: PackedBatch, prepared: object) -> BatchLoss:
        """Sum over the pairs of equation 7, and the rewards that it implies: beta times the log ratio to the base."""
        del prepared
        scores = score_answers(model, batch)
        reward_RP = self.beta * scores.log_ratio
        total = preference_losses(reward_RP[:, 0] - reward_RP[:, 1], self.label_smoothing).sum()
        metrics = {**reward_metrics(reward_RP), **log_probability_metrics(scores.log_probability)}
        return BatchLoss(total, metrics=metrics)


def preference_losses(margin_R: Tensor, label_smoothing: float) -> Tensor:
    """-log sigmoid(margin) of each pair, mixed with that of the pair turned round (Mitchell 2023, conservative DPO)."""
    return -(1 - label_smoothing) * logsigmoid(margin_R) - label_smoothing * logsigmoid(-margin_R)
