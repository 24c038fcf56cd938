"""One training from start or checkpoint to end: the loop's caller, with validation, checkpoints and early stopping."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from kivnun.data.packing import iterate_in_order
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.recipe.training import TrainingSection
from kivnun.training.checkpoint import (
    FOLDER,
    Progress,
    find_checkpoints,
    load_checkpoint,
    name_of,
    prune_checkpoints,
    save_checkpoint,
)
from kivnun.training.interrupt import deferred_interrupt
from kivnun.training.loop import StepReport, fit, make_plan, summed_loss
from kivnun.training.optimizer import MasterWeights

SAVE_EVERY_SECONDS = 300.0

Log = Callable[[str, Mapping[str, object]], None]
"""Where events go: `log(event, fields)`."""


@dataclass(frozen=True)
class TrainingData:
    """The token tables of a training; validation may be empty."""

    train: TokenTable
    validation: TokenTable


@dataclass(frozen=True)
class Checkpoints:
    """Where checkpoints go, and the key that says to which training they belong."""

    run_dir: Path
    key: str


def train(
    model: nn.Module,
    weights: MasterWeights,
    data: TrainingData,
    settings: TrainingSection,
    *,
    checkpoints: Checkpoints,
    log: Log,
) -> Progress:
    """Train to the end and leave the best weights in the model.

    Starts from the latest checkpoint of the same training if there is one. Where there are validation rows, the weights
    of the step with the lowest validation loss are restored at the end, else the last ones stay.

    Raises:
        UserError: `loss-not-finite`, `disk-full` or `artifact-damaged`.
        KeyboardInterrupt: After Ctrl-C, when the step is finished and saved.
    """
    plan = make_plan(data.train.lengths(), settings)
    progress = _resume(weights, checkpoints, log)
    log("fit_started", {"key": checkpoints.key, "from_step": progress.step})
    validate_every = settings.validate_every_steps or plan.epoch_steps
    saved_at = time.monotonic()
    stopped = _patience_is_over(progress, settings)
    reports = iter(()) if stopped else fit(model, weights, data.train, settings, plan=plan, start_step=progress.step)
    with deferred_interrupt() as interrupted:
        for report in reports:
            log("step", asdict(report))
            progress = _advance(progress, report)
            is_last = report.step == plan.num_steps
            is_best = False
            if len(data.validation) and (report.step % validate_every == 0 or is_last):
                progress, is_best = _validate(model, data.validation, settings, progress, log)
                stopped = _patience_is_over(progress, settings)
            halted = interrupted()
            if is_best or is_last or stopped or halted or _is_time_to_save(settings, report.step, saved_at):
                _save(weights, progress, checkpoints, keep=settings.keep_checkpoints)
                log("checkpoint", {"step": progress.step, "best": is_best})
                saved_at = time.monotonic()
            if halted:
                log("interrupted", {"step": progress.step})
                break
            if stopped:
                log("early_stop", {"step": progress.step, "best_step": progress.best_step})
                break
    if progress.best_step is not None and progress.best_step != progress.step:
        load_checkpoint(checkpoints.run_dir / FOLDER / name_of(progress.best_step), weights)
    return progress


@torch.no_grad()
def mean_loss(model: nn.Module, table: TokenTable, *, batch_tokens: int) -> float:
    """Mean negative log likelihood of a table's trained tokens, in nats."""
    model.eval()
    total, count = 0.0, 0
    for batch in iterate_in_order(table, batch_tokens=batch_tokens):
        total += float(summed_loss(model, batch))
        count += len(batch.target_ids)
    return total / max(count, 1)


def _resume(weights: MasterWeights, checkpoints: Checkpoints, log: Log) -> Progress:
    found = find_checkpoints(checkpoints.run_dir, checkpoints.key)
    while found:
        try:
            progress = load_checkpoint(found[-1], weights)
        except UserError as error:
            # What is damaged, itself or its best one, is said aloud; an older whole one, or the start, still leads to
            # the same weights.
            log("checkpoint_damaged", {"folder": found.pop().name, "problem": error.problem})
            continue
        log("resumed", {"step": progress.step, "key": checkpoints.key})
        return progress
    return Progress()


def _advance(progress: Progress, report: StepReport) -> Progress:
    return replace(
        progress,
        step=report.step,
        num_tokens=progress.num_tokens + report.num_tokens,
        seconds=progress.seconds + report.seconds,
    )


def _save(weights: MasterWeights, progress: Progress, checkpoints: Checkpoints, *, keep: int) -> None:
    save_checkpoint(checkpoints.run_dir, weights, progress, key=checkpoints.key)
    prune_checkpoints(checkpoints.run_dir, progress, key=checkpoints.key, keep=keep)


def _validate(
    model: nn.Module, table: TokenTable, settings: TrainingSection, progress: Progress, log: Log
) -> tuple[Progress, bool]:
    loss = mean_loss(model, table, batch_tokens=settings.batch_tokens)
    if not math.isfinite(loss):
        raise UserError(
            "loss-not-finite",
            f"the validation loss after step {progress.step} is {loss}",
            hint="lower training.learning_rate",
        )
    is_best = progress.best_loss is None or loss < progress.best_loss
    if is_best:
        progress = replace(progress, best_step=progress.step, best_loss=loss, stale_validations=0)
    else:
        progress = replace(progress, stale_validations=progress.stale_validations + 1)
    log("validation", {"step": progress.step, "loss": loss, "best": is_best})
    return progress, is_best


def _patience_is_over(progress: Progress, settings: TrainingSection) -> bool:
    patience = settings.early_stopping_patience
    return patience is not None and progress.stale_validations >= patience


def _is_time_to_save(settings: TrainingSection, step: int, saved_at: float) -> bool:
    if settings.save_every_steps is not None:
        return step % settings.save_every_steps == 0
    return time.monotonic() - saved_at >= SAVE_EVERY_SECONDS
