"""The training loop: a generator that takes one optimizer step each time it is asked for one.

    for report in fit(model, weights, table, settings, plan=plan, start_step=state.step):
        ...   # logging, validation, checkpoints and stopping are the caller's plain code

Nothing is hidden in it: no callbacks, no hooks. Whoever wants to stop does not ask for the next step. The order of
rows, the learning rate and the random state of a step depend on the recipe and the step's number alone, so a run that
starts at step k is the same as one that came there.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kivnun.data.packing import PackedBatch, pack, plan_epoch, split_rows
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.models.attention import group_documents, packed_hidden_states
from kivnun.recipe.training import TrainingSection
from kivnun.training.loss import summed_cross_entropy
from kivnun.training.optimizer import MasterWeights
from kivnun.training.schedule import learning_rate_at

ROUNDING = 1e-9


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        step: Number of the step, 1 after the first.
        num_steps: Steps of the whole run.
        epoch: Passes over the data so far, as a fraction.
        loss: Mean negative log likelihood of the step's trained tokens, in nats.
        grad_norm: Norm of all gradients before clipping.
        learning_rate: Rate used in this step.
        num_tokens: Real tokens processed.
        num_targets: Trained tokens among them.
        seconds: Wall time of the step.
    """

    step: int
    num_steps: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    num_tokens: int
    num_targets: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Which rows each step trains on, for the whole run; a function of the recipe and the row lengths alone.

    Attributes:
        lengths: Tokens in each row.
        num_steps: Steps of the run.
        epoch_steps: Steps of the first epoch; those of the others differ by a few at most.
        step_tokens: Token budget of a step: `batch_tokens` times `gradient_accumulation_steps`.
        seed: Seed of the row order.
    """

    lengths: list[int]
    num_steps: int
    epoch_steps: int
    step_tokens: int
    seed: int

    def batches(self, start_step: int) -> Iterator[tuple[float, list[int]]]:
        """(epoch as a fraction, rows) of each step from `start_step` on."""
        step = epoch = 0
        while step < self.num_steps:
            batches = plan_epoch(self.lengths, batch_tokens=self.step_tokens, seed=self.seed, epoch=epoch)
            for index, rows in enumerate(batches):
                if step >= self.num_steps:
                    return
                if step >= start_step:
                    yield epoch + (index + 1) / len(batches), rows
                step += 1
            epoch += 1


def make_plan(lengths: list[int], settings: TrainingSection) -> Plan:
    """The plan of a run: as many steps as `epochs` passes need, or `max_steps` where that is fewer.

    Raises:
        UserError: `nothing-to-learn` where there is no row.
    """
    if not lengths:
        raise UserError("nothing-to-learn", "there are no training rows", hint="give data.train at least one row")
    step_tokens = settings.batch_tokens * settings.gradient_accumulation_steps
    limit = math.inf if settings.max_steps is None else settings.max_steps
    num_steps = epoch_steps = epoch = 0
    while epoch < settings.epochs and num_steps < limit:
        num_batches = len(plan_epoch(lengths, batch_tokens=step_tokens, seed=settings.seed, epoch=epoch))
        epoch_steps = epoch_steps or num_batches
        # 1.1 epochs are a little more than that as a float, which must not cost a step.
        num_steps += math.ceil(num_batches * min(settings.epochs - epoch, 1.0) - ROUNDING)
        epoch += 1
    return Plan(lengths, int(min(max(num_steps, 1), limit)), epoch_steps, step_tokens, settings.seed)


def fit(
    model: nn.Module,
    weights: MasterWeights,
    table: TokenTable,
    settings: TrainingSection,
    *,
    plan: Plan,
    start_step: int = 0,
) -> Iterator[StepReport]:
    """Train, one optimizer step per item.

    Args:
        model: A causal language model with packed attention switched on.
        weights: Its trainable weights and their optimizers.
        table: Tokenised training rows.
        settings: The recipe's `training` section.
        plan: Row order, from `make_plan`.
        start_step: Steps already done; the first report is for the next one.

    Raises:
        UserError: `loss-not-finite`, before the weights are touched, naming the step and its rows.
    """
    for step, (epoch, rows) in enumerate(plan.batches(start_step), start=start_step):
        started = time.perf_counter()
        model.train()  # the caller may have validated in between
        # Dropout's random numbers depend on the step alone, so that a resumed run draws the same ones.
        torch.manual_seed(settings.seed * 1_000_003 + step)
        loss_sum, num_tokens, num_targets = 0.0, 0, 0
        for part in split_rows(rows, plan.lengths, settings.gradient_accumulation_steps):
            batch = pack(table, part)
            loss = summed_loss(model, batch)
            loss.backward()
            weights.collect_gradients()
            loss_sum += float(loss.detach())
            num_tokens += batch.num_tokens
            num_targets += len(batch.target_ids)
        _require_finite("loss", loss_sum, step, rows)
        grad_norm = weights.scale_and_clip(1 / max(num_targets, 1), settings.max_grad_norm)
        _require_finite("gradient norm", grad_norm, step, rows)
        learning_rate = learning_rate_at(step, plan.num_steps, settings)
        weights.step(learning_rate)
        yield StepReport(
            step=step + 1,
            num_steps=plan.num_steps,
            epoch=epoch,
            loss=loss_sum / max(num_targets, 1),
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            num_tokens=num_tokens,
            num_targets=num_targets,
            seconds=time.perf_counter() - started,
        )


def summed_loss(model: nn.Module, batch: PackedBatch) -> Tensor:
    """Sum of the negative log likelihoods of a batch's trained tokens, in nats."""
    hidden_MC, weight_VC, target_M = target_hidden_states(model, batch)
    return summed_cross_entropy(hidden_MC, weight_VC, target_M)


def target_hidden_states(model: nn.Module, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states before each trained token, the head's weight, and the trained tokens, on the model's device."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    device = head.weight.device
    groups = group_documents(batch.lengths, device)
    hidden_NC = packed_hidden_states(model, batch.input_ids.to(device), batch.position_ids.to(device), groups)
    return hidden_NC.index_select(0, batch.target_positions.to(device)), head.weight, batch.target_ids.to(device)


def _require_finite(what: str, value: float, step: int, rows: list[int]) -> None:
    if not math.isfinite(value):
        raise UserError(
            "loss-not-finite",
            f"the {what} of step {step + 1} is {value}",
            details=[f"training rows of the step: {', '.join(map(str, rows[:10]))}{' ...' if len(rows) > 10 else ''}"],
            hint="lower training.learning_rate; if it happens on step 1, the base model's own weights are not finite",
        )
