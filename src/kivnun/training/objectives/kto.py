"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306). R rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kivnun.data.packing import PackedBatch, iterate_in_order
from kivnun.data.tokens import TokenTable
from kivnun.training.objectives.base import BatchLoss, RowwiseObjective
from kivnun.training.objectives.log_probabilities import score_answers
from kivnun.training.objectives.reference import with_reference
from kivnun.training.objectives.selection import select_documents

OWN, MISMATCHED = 0, 1


@dataclass(frozen=True)
class StepFacts:
    """What the loss of a batch needs to know of the whole step.

    Attributes:
        kl: The estimate z0 of the distance to the base model, not below zero.
        num_good: Rows of the step with a good answer.
        num_bad: Rows of the step with a bad answer.
    """

    kl: float
    num_good: int
    num_bad: int


@dataclass(frozen=True)
class Kto(RowwiseObjective):
    """The objective `kto`: a row is an answer, whether it is a good one, and a mismatched answer beside it.

    The rows come from `data.mismatched.add_mismatched`.

    Attributes:
        beta: How strongly the model is held to the base model.
        desirable_weight: Weight of the good answers, lambda_D.
        undesirable_weight: Weight of the bad answers, lambda_U.
        asks_other_processes: That `prepare_step` adds up over all processes.
        read_only: The documents of a row that are not learnt from.
    """

    asks_other_processes: ClassVar[bool] = True
    read_only: ClassVar[tuple[int, ...]] = (MISMATCHED,)

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def start(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> TokenTable:
        """The table with what the base model thinks of the rows' own answers and of the mismatched ones."""
        return with_reference(model, table, batch_tokens=batch_tokens)

    def count(self, batch: PackedBatch) -> float:
        """The number of rows."""
        return len(batch.rows)

    @torch.no_grad()
    def prepare_step(self, model: nn.Module, batches: Sequence[PackedBatch]) -> Sequence[StepFacts]:
        """The step's z0: the mean log ratio of the mismatched answers of all its rows, cut off at zero (section 4.1).

        The paper and TRL take the rows that are computed at once; the whole step's does not depend on how it is cut.
        """
        ratios = [score_answers(model, select_documents(batch, MISMATCHED)).log_ratio.sum() for batch in batches]
        good = sum(int(_is_good(batch).sum()) for batch in batches)
        rows = sum(len(batch.rows) for batch in batches)
        device = next(model.parameters()).device
        sums = torch.tensor([float(sum(ratios)), good, rows], dtype=torch.float64, device=device)
        # Validation is the work of one process; only a step is shared.
        ratio, num_good, num_rows = _sum_over_processes(sums, is_shared=model.training).tolist()
        facts = StepFacts(max(0.0, ratio / max(num_rows, 1)), round(num_good), round(num_rows - num_good))
        return [facts] * len(batches)

    def loss(self, model: nn.Module, batch: PackedBatch, prepared: object) -> BatchLoss:
        """Sum over the rows of lambda_y - v (equations 7 and 8), without the constant: lambda (1 - sigmoid(...))."""
        if not isinstance(prepared, StepFacts):
            raise TypeError(f"not what prepare_step gave: {prepared!r}")
        own = select_documents(batch, OWN)
        reward_R = self.beta * score_answers(model, own).log_ratio[:, 0]
        is_good_R = _is_good(batch).to(reward_R.device)
        sign_R = torch.where(is_good_R, 1.0, -1.0)
        weight_R = torch.where(is_good_R, self.desirable_weight, self.undesirable_weight)
        total = (weight_R * torch.sigmoid(sign_R * (self.beta * prepared.kl - reward_R))).sum()
        metrics = _metrics(reward_R.detach(), is_good_R, prepared)
        return BatchLoss(total, metrics=metrics, num_targets=len(own.target_ids))

    @torch.no_grad()
    def measure(self, model: nn.Module, table: TokenTable, *, batch_tokens: int) -> dict[str, float]:
        """The mean loss and metrics of a table, whose rows share one z0, however they are cut into batches."""
        model.eval()
        batches = list(iterate_in_order(table, batch_tokens=batch_tokens))
        sums: dict[str, float] = {}
        for batch, facts in zip(batches, self.prepare_step(model, batches), strict=True):
            loss = self.loss(model, batch, facts)
            for name, value in {"loss": loss.reported, **loss.metrics}.items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: value / max(len(table), 1) for name, value in sums.items()}


def _is_good(batch: PackedBatch) -> Tensor:
    if batch.labels is None:
        raise ValueError("rows of KTO need labels")
    return batch.labels > 0


def _metrics(reward_R: Tensor, is_good_R: Tensor, step: StepFacts) -> dict[str, float]:
    """Sums that, divided by the step's rows, give its kl and the mean rewards of its good and of its bad rows."""
    num_rows = step.num_good + step.num_bad
    metrics = {"kl": step.kl * len(reward_R)}
    # A mean over no rows is not reported.
    if step.num_good:
        metrics["reward_good"] = float(reward_R[is_good_R].sum()) * num_rows / step.num_good
    if step.num_bad:
        metrics["reward_bad"] = float(reward_R[~is_good_R].sum()) * num_rows / step.num_bad
    return metrics


def _sum_over_processes(sums: Tensor, *, is_shared: bool) -> Tensor:
    distributed = torch.distributed
    if is_shared and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(sums)
    return sums
