"""The training loop: a generator that takes one optimizer step each time it is asked for one.

    for report in fit(model, weights, table, settings, plan=plan, objective=objective, start_step=state.step):
        ...   # logging, validation, checkpoints and stopping are the caller's plain code

Nothing is hidden in it: no callbacks, no hooks. Whoever wants to stop does not ask for the next step. The order of
rows, the learning rate and the random state of a step depend on the recipe and the step's number alone, so a run that
starts at step k is the same as one that came there.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from kivnun.data.packing import PackedBatch, pack, plan_epoch, split_to_fit
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.recipe.training import TrainingSection
from kivnun.training.bad_batch import require_finite
from kivnun.training.memory import is_out_of_memory, out_of_memory
from kivnun.training.objectives.base import Objective
from kivnun.training.objectives.supervised import Supervised
from kivnun.training.optimizer import MasterWeights
from kivnun.training.parallel import ALONE, Parallel, StepSums
from kivnun.training.schedule import learning_rate_at

ROUNDING = 1e-9


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        step: Number of the step, 1 after the first.
        num_steps: Steps of the whole run.
        epoch: Passes over the data so far, as a fraction.
        loss: The objective's mean over the step: for supervised learning the mean negative log likelihood of the
            trained tokens, in nats.
        grad_norm: Norm of all gradients before clipping.
        learning_rate: Rate used in this step.
        num_tokens: Real tokens processed.
        num_targets: Trained tokens among them.
        seconds: Wall time of the step.
        micro_batch_tokens: Most tokens that were computed at once; None where whole batches were.
        metrics: What the objective reports beside its loss.
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
    micro_batch_tokens: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])

    def to_event(self) -> dict[str, object]:
        """The fields of a `step` event."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "metrics"}
        return {**values, **self.metrics}


@dataclass(frozen=True)
class Plan:
    """Which rows each step trains on, for the whole run; a function of the recipe and the row lengths alone.

    Attributes:
        lengths: Tokens in each row.
        num_steps: Steps of the run.
        epoch_steps: Steps of the first epoch; those of the others differ by a few at most.
        step_tokens: Token budget of a step: `batch_tokens` times `gradient_accumulation_steps`.
        seed: Seed of the row order.
        step_rows: Rows of a step, in place of the budget.
    """

    lengths: list[int]
    num_steps: int
    epoch_steps: int
    step_tokens: int
    seed: int
    step_rows: int | None = None

    @property
    def largest_step_tokens(self) -> int:
        """Tokens that a step may have at most."""
        longest = max(self.lengths)
        if self.step_rows is not None:
            return sum(sorted(self.lengths)[-self.step_rows :])
        return max(longest, min(self.step_tokens, sum(self.lengths)))

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        """The rows of every step of an epoch."""
        return plan_epoch(
            self.lengths, batch_tokens=self.step_tokens, seed=self.seed, epoch=epoch, batch_size=self.step_rows
        )

    def batches(self, start_step: int) -> Iterator[tuple[float, list[int]]]:
        """(epoch as a fraction, rows) of each step from `start_step` on."""
        step = epoch = 0
        while step < self.num_steps:
            batches = self.epoch_batches(epoch)
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
    accumulated = settings.gradient_accumulation_steps
    rows = None if settings.batch_size is None else settings.batch_size * accumulated
    plan = Plan(lengths, 0, 0, settings.batch_tokens * accumulated, settings.seed, rows)
    limit = math.inf if settings.max_steps is None else settings.max_steps
    num_steps = epoch_steps = epoch = 0
    while epoch < settings.epochs and num_steps < limit:
        num_batches = len(plan.epoch_batches(epoch))
        epoch_steps = epoch_steps or num_batches
        # 1.1 epochs are a little more than that as a float, which must not cost a step.
        num_steps += math.ceil(num_batches * min(settings.epochs - epoch, 1.0) - ROUNDING)
        epoch += 1
    return replace(plan, num_steps=int(min(max(num_steps, 1), limit)), epoch_steps=epoch_steps)


def fit(  # noqa: PLR0913 - each is a part that the caller made
    model: nn.Module,
    weights: MasterWeights,
    table: TokenTable,
    settings: TrainingSection,
    *,
    plan: Plan,
    objective: Objective | None = None,
    start_step: int = 0,
    micro_batch_tokens: int | None = None,
    parallel: Parallel = ALONE,
) -> Iterator[StepReport]:
    """Train, one optimizer step per item.

    Args:
        model: A causal language model with packed attention switched on.
        weights: Its trainable weights and their optimizers.
        table: Tokenised training rows.
        settings: The recipe's `training` section.
        plan: Row order, from `make_plan`.
        objective: What is learnt; next tokens if not given.
        start_step: Steps already done; the first report is for the next one.
        micro_batch_tokens: Most tokens that are computed at once; whole batches if not given.
        parallel: The processes that share the work.

    Raises:
        NotFiniteError: Before the weights are touched, naming the step and its rows.
        UserError: `memory-full`, where no smaller micro-batch is allowed or possible.
    """
    learner = Learner(model, weights, objective or Supervised(), table, plan.lengths, settings, parallel)
    for step, (epoch, rows) in enumerate(plan.batches(start_step), start=start_step):
        started = time.perf_counter()
        model.train()  # the caller may have validated in between
        own, micro_batch_tokens = _add_gradients(learner, step, rows, micro_batch_tokens)
        sums = parallel.sum_step(own)
        require_finite("loss", sums.loss, step + 1, rows)
        parallel.sum_gradients(weights)
        grad_norm = weights.scale_and_clip(1 / max(sums.count, 1e-12), settings.max_grad_norm)
        require_finite("gradient norm", grad_norm, step + 1, rows)
        learning_rate = learning_rate_at(step, plan.num_steps, settings)
        weights.step(learning_rate)
        yield StepReport(
            step=step + 1,
            num_steps=plan.num_steps,
            epoch=epoch,
            loss=sums.loss / max(sums.count, 1e-12),
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            num_tokens=sums.num_tokens,
            num_targets=sums.num_targets,
            seconds=time.perf_counter() - started,
            micro_batch_tokens=micro_batch_tokens,
            metrics={name: value / max(sums.count, 1e-12) for name, value in sums.metrics.items()},
        )


@dataclass(frozen=True)
class Learner:
    """What learns, from what, and how: the same for every step.

    Attributes:
        model: The model.
        weights: Its trainable weights and their optimizers.
        objective: What is learnt.
        table: Tokenised training rows.
        lengths: Tokens of every row of the table.
        settings: The recipe's `training` section.
        parallel: The processes that share the work.
    """

    model: nn.Module
    weights: MasterWeights
    objective: Objective
    table: TokenTable
    lengths: list[int]
    settings: TrainingSection
    parallel: Parallel


def _add_gradients(
    learner: Learner, step: int, rows: list[int], micro_batch_tokens: int | None
) -> tuple[StepSums, int | None]:
    """Add the gradients of a step to the masters; where memory runs out, again in smaller micro-batches."""
    parallel, table, settings = learner.parallel, learner.table, learner.settings
    num_parts = settings.gradient_accumulation_steps * parallel.world_size
    while True:
        parts = split_to_fit(rows, learner.lengths, num_parts=num_parts, max_tokens=micro_batch_tokens)
        batches = [pack(table, part) for part in parallel.share(parts)]
        uncounted = [pack(table, part) for part in parallel.fill(parts)]
        try:
            return _compute(learner, step, batches, uncounted), micro_batch_tokens
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            tokens, num_rows = max((batch.num_tokens, len(batch.rows)) for batch in (*batches, *uncounted))
            is_auto = settings.micro_batch_tokens == "auto"
            if not is_auto or num_rows == 1 or parallel.world_size > 1:
                raise out_of_memory(tokens, step=step + 1, num_rows=num_rows, is_auto=is_auto) from error
        # Outside of the handler, where the exception no longer holds the tensors of the failed attempt.
        learner.model.zero_grad(set_to_none=True)
        learner.weights.clear_gradients()
        torch.cuda.empty_cache()
        micro_batch_tokens = max(tokens // 2, 1)


def _compute(learner: Learner, step: int, batches: Sequence[PackedBatch], uncounted: Sequence[PackedBatch]) -> StepSums:
    """Forward and backward of every micro-batch of this process."""
    model, objective = learner.model, learner.objective
    # Random numbers (dropout) depend on seed, step and process alone, so that a resumed run draws the same ones.
    seed_step(learner.settings.seed, step, rank=learner.parallel.rank)
    prepared = objective.prepare_step(model, batches)
    seed_step(learner.settings.seed, step, rank=learner.parallel.rank)
    loss, count, num_targets, metrics = 0.0, 0.0, 0, dict[str, float]()
    for batch, known in zip(batches, prepared, strict=True):
        batch_loss = objective.loss(model, batch, known)
        batch_loss.total.backward()
        learner.weights.collect_gradients()
        loss += batch_loss.reported
        count += objective.count(batch)
        num_targets += len(batch.target_ids) if batch_loss.num_targets is None else batch_loss.num_targets
        for name, value in batch_loss.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
    for batch in uncounted:
        _compute_in_vain(model, objective, batch)
    num_tokens = sum(batch.num_tokens for batch in batches)
    return StepSums(loss, count, num_tokens, num_targets, metrics)


def _compute_in_vain(model: nn.Module, objective: Objective, batch: PackedBatch) -> None:
    """Forward and backward with gradients of zero, for the other processes, which wait for it."""
    [known] = objective.prepare_step(model, [batch])
    (objective.loss(model, batch, known).total * 0).backward()


def seed_step(seed: int, step: int, *, rank: int = 0) -> None:
    """Seed torch for one step of one process."""
    # Only the lowest 32 bits count on a CPU: the golden ratio's spread processes over them, far from other steps'.
    torch.manual_seed(seed * 1_000_003 + step + rank * 2_654_435_761)
