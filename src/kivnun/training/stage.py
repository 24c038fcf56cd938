"""One training from start or checkpoint to end: the loop's caller, with validation, checkpoints and early stopping."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.recipe.training import ROUNDING_SETTINGS, TrainingSection
from kivnun.training.bad_batch import DescribeRow, NotFiniteError, write_bad_batch
from kivnun.training.checkpoint import (
    FOLDER,
    Progress,
    find_checkpoints,
    find_unreadable,
    load_checkpoint,
    name_of,
    prune_checkpoints,
    save_checkpoint,
    set_aside,
)
from kivnun.training.epochs import EpochModels, Snapshot, describe_epoch
from kivnun.training.interrupt import deferred_interrupt
from kivnun.training.loop import Plan, StepReport, fit, make_plan
from kivnun.training.memory import coming_bytes, memory_errors_said, plan_memory
from kivnun.training.objectives.base import Objective
from kivnun.training.objectives.supervised import Supervised
from kivnun.training.optimizer import MasterWeights
from kivnun.training.overfitting import LossPair, describe_overfitting
from kivnun.training.parallel import ALONE, Parallel
from kivnun.training.process_memory import free_memory_bytes
from kivnun.training.room import keep_room, read_room
from kivnun.training.saving_pace import SavingPace
from kivnun.training.usage import UsageMeter
from kivnun.training.validation import Validation, judge, mean_loss, patience_is_over

# Tokens at once of what an objective keeps of the base model: without gradients, so that this fits where training does.
START_TOKENS = 2048

Log = Callable[[str, Mapping[str, object]], None]
"""Where events go: `log(event, fields)`."""


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and how it is measured.

    Attributes:
        model: A causal language model with packed attention switched on.
        weights: Its trainable weights and their optimizers.
        rows: Tokenised training rows.
        validation: How it is measured.
        objective: What is learnt.
        settings: The recipe's `training` section.
        micro_batch_tokens: Most tokens that are computed at once; whole batches if None.
        describe_row: What to show of a training row whose loss is not finite.
        parallel: The processes that train; the first one alone writes checkpoints.
        meter: Says what the training uses of the machine; None for nothing.
    """

    model: nn.Module
    weights: MasterWeights
    rows: TokenTable
    validation: Validation
    settings: TrainingSection
    objective: Objective = field(default_factory=Supervised)
    micro_batch_tokens: int | None = None
    describe_row: DescribeRow | None = None
    parallel: Parallel = ALONE
    meter: UsageMeter | None = None


@dataclass(frozen=True)
class Checkpoints:
    """Where checkpoints go, and the key that says to which training they belong."""

    run_dir: Path
    key: str


def train(job: Job, *, checkpoints: Checkpoints, log: Log, snapshot: Snapshot | None = None) -> Progress:
    """Train to the end and leave the best weights in the model.

    Starts from the latest checkpoint of the same training if there is one. Where there are validation rows, the weights
    of the step with the best validation are restored at the end, else the last ones stay.

    Args:
        job: What is trained.
        checkpoints: Where checkpoints go.
        log: Where events go.
        snapshot: Takes the model, for `training.keep_epochs`.

    Raises:
        UserError: `loss-not-finite`, `memory-full`, `disk-full` or `artifact-damaged`.
        KeyboardInterrupt: After Ctrl-C or SIGTERM to any process, when the step is finished and saved.
    """
    wanted = job.settings.micro_batch_tokens
    epochs = _open_epochs(job, checkpoints, snapshot)
    job = replace(job, objective=job.parallel.wrap(job.objective))
    job = job if wanted == "auto" else replace(job, micro_batch_tokens=wanted)
    try:
        with memory_errors_said():
            job = start(job)
            progress = _resume(job, checkpoints, log)
            plan = make_plan(job.rows.lengths(), job.settings)
            if wanted == "auto":
                # A run that goes on cuts its batches as it did before, for the same bits.
                bound = progress.micro_batch_tokens if progress.step else _find_room(job, plan, checkpoints, log)
                job = replace(job, micro_batch_tokens=bound)
            log("fit_started", {"key": checkpoints.key, "from_step": progress.step})
            progress = _take_steps(job, plan, progress, checkpoints, epochs, log)
    except NotFiniteError as error:
        parts = {"model": job.model, "objective": job.objective, "table": job.rows, "describe_row": job.describe_row}
        raise write_bad_batch(checkpoints.run_dir, error, **parts) from error
    if progress.best_step is not None and progress.best_step != progress.step:
        best = checkpoints.run_dir / FOLDER / name_of(progress.best_step)
        load_checkpoint(best, job.weights, parallel=job.parallel)
    return progress


def _open_epochs(job: Job, checkpoints: Checkpoints, snapshot: Snapshot | None) -> EpochModels | None:
    """Where models of epochs go; None where none is kept, and none of an earlier training stays."""
    keep = job.settings.keep_epochs
    if snapshot is None:
        if keep:
            raise ValueError("training.keep_epochs needs a snapshot of the model")
        return None
    epochs = EpochModels(checkpoints.run_dir, checkpoints.key, keep, snapshot, job.parallel)
    epochs.tidy()
    return epochs if keep else None


def _take_steps(
    job: Job, plan: Plan, progress: Progress, checkpoints: Checkpoints, epochs: EpochModels | None, log: Log
) -> Progress:
    """The steps that are left, with what is due after each."""
    settings = job.settings
    validate_every = settings.validate_every_steps or plan.epoch_steps
    pace = SavingPace(settings)
    stopped = patience_is_over(progress, settings)
    reports = iter(()) if stopped else _steps(job, plan, progress)
    with deferred_interrupt() as interrupted:
        for report in reports:
            log("step", report.to_event())
            for used in job.meter.sample(report) if job.meter is not None else ():
                log("usage", used)
            if progress.step and report.micro_batch_tokens != progress.micro_batch_tokens:
                log("micro_batch", {"step": report.step, "micro_batch_tokens": report.micro_batch_tokens})
            progress = _advance(progress, report)
            is_last = report.step == plan.num_steps
            is_best, measured = False, dict[str, float]()
            if len(job.validation.table) and (report.step % validate_every == 0 or is_last):
                progress, is_best, measured = _validate(job, progress, log)
                stopped = patience_is_over(progress, settings)
            is_end = is_last or stopped
            # Before the checkpoint: what goes on from there never comes to this step again.
            if epochs is not None and (is_end or report.epoch.is_integer()) and epochs.write(report.step):
                log("epoch_kept", describe_epoch(report, measured))
            flags = job.parallel.gather([interrupted(), pace.is_due(report.step)])
            halted, is_time_to_save = any(came for came, _ in flags), flags[0][1]
            if is_best or is_end or halted or is_time_to_save:
                with pace.measured():
                    _save(job, progress, checkpoints)
                log("checkpoint", {"step": progress.step, "best": is_best})
            if halted:
                log("interrupted", {"step": progress.step})
                raise KeyboardInterrupt
            if stopped:
                log("early_stop", {"step": progress.step, "best_step": progress.best_step})
                break
    losses = [loss for _, _, loss in progress.history]
    if losses and progress.first_loss is not None and min(losses) >= progress.first_loss:
        log("not_learnt", {"first": progress.first_loss, "best": min(losses)})
    return progress


def start(job: Job) -> Job:
    """The job with what its objective keeps of the base model; the weights must not have been trained yet."""
    # Not by what is free: a resumed run must cut these batches alike, for the same bits.
    tokens = job.micro_batch_tokens or min(job.settings.batch_tokens, START_TOKENS)
    rows = job.objective.start(job.model, job.rows, batch_tokens=tokens)
    table = job.objective.start(job.model, job.validation.table, batch_tokens=tokens)
    return replace(job, rows=rows, validation=replace(job.validation, table=table))


def _find_room(job: Job, plan: Plan, checkpoints: Checkpoints, log: Log) -> int | None:
    """Most tokens to compute at once; as when this training first began, if it did."""
    known = job.parallel.gather(read_room(checkpoints.run_dir, checkpoints.key))[0]
    if known is not None:
        return known[0]
    bound = _measure_room(job, plan, log)
    keep = partial(keep_room, checkpoints.run_dir, checkpoints.key, bound)
    job.parallel.together(keep if job.parallel.leads else lambda: None)
    return bound


def _measure_room(job: Job, plan: Plan, log: Log) -> int | None:
    """Most tokens to compute at once in what is free; None where a whole step fits."""
    device = next(job.model.parameters()).device
    memory = plan_memory(
        job.model,
        job.objective,
        job.rows,
        largest_step_tokens=-(-plan.largest_step_tokens // job.parallel.world_size),
        # The least of all, so that every process comes to the same decisions.
        free_bytes=min(job.parallel.gather(free_memory_bytes(device) - coming_bytes(job.weights, job.settings))),
    )
    if memory.bytes_per_token is not None:
        log("memory_measured", asdict(memory))
    bounds = [bound for bound in job.parallel.gather(memory.micro_batch_tokens) if bound is not None]
    return min(bounds, default=None)


def _steps(job: Job, plan: Plan, progress: Progress) -> Iterator[StepReport]:
    return fit(
        job.model,
        job.weights,
        job.rows,
        job.settings,
        plan=plan,
        objective=job.objective,
        start_step=progress.step,
        micro_batch_tokens=job.micro_batch_tokens,
        parallel=job.parallel,
    )


def _validate(job: Job, progress: Progress, log: Log) -> tuple[Progress, bool, dict[str, float]]:
    """Where the run stands after a validation, whether this was its best step, and what was measured."""
    validation = job.validation
    # What a step found out about the memory holds here too.
    batch_tokens = progress.micro_batch_tokens or job.micro_batch_tokens or job.settings.batch_tokens
    metrics = mean_loss(job.model, validation.table, batch_tokens=batch_tokens, objective=job.objective)
    metrics |= job.parallel.run(validation.measure) if validation.measure is not None else {}
    # Every process measures alike; the first one's numbers hold, should a GPU round differently.
    metrics = job.parallel.gather(metrics)[0]
    progress, is_best = judge(progress, metrics, job.settings)
    log("validation", {"step": progress.step, "best": is_best, **metrics})
    train_loss = progress.loss_sum / max(progress.loss_steps, 1)
    history = (*progress.history, (progress.step, train_loss, metrics["loss"]))
    pairs = [LossPair(*entry) for entry in history]
    words = describe_overfitting(pairs)
    if words is not None and describe_overfitting(pairs[:-1]) is None:
        log("overfitting", {"step": progress.step, "words": words})
    return replace(progress, history=history, loss_sum=0.0, loss_steps=0), is_best, metrics


def _resume(job: Job, checkpoints: Checkpoints, log: Log) -> Progress:
    moved: list[int] = []
    if job.parallel.leads:
        moved = set_aside(checkpoints.run_dir, checkpoints.key)
    if moved:
        log("other_checkpoints", {"steps": moved})
    for folder in find_unreadable(checkpoints.run_dir):
        problem = "its artifact.json is missing or cannot be read"
        log("checkpoint_damaged", {"folder": folder.name, "problem": problem})
    names = [str(folder) for folder in find_checkpoints(checkpoints.run_dir, checkpoints.key)]
    found = [Path(name) for name in job.parallel.gather(names)[0]]
    computed_with = {name: getattr(job.settings, name) for name in sorted(ROUNDING_SETTINGS)}
    while found:
        try:
            progress = load_checkpoint(found[-1], job.weights, parallel=job.parallel)
        except UserError as error:
            # What is damaged, itself or its best one, is said aloud; an older whole one, or the start, still leads to
            # the same weights.
            log("checkpoint_damaged", {"folder": found.pop().name, "problem": error.problem})
            continue
        log("resumed", {"step": progress.step, "key": checkpoints.key})
        changed = [name for name, value in computed_with.items() if progress.computed_with.get(name, value) != value]
        if changed:
            log("computed_otherwise", {"settings": changed})
        return replace(progress, computed_with=computed_with)
    return Progress(computed_with=computed_with)


def _advance(progress: Progress, report: StepReport) -> Progress:
    return replace(
        progress,
        step=report.step,
        num_tokens=progress.num_tokens + report.num_tokens,
        loss_sum=progress.loss_sum + report.loss,
        loss_steps=progress.loss_steps + 1,
        first_loss=report.loss if progress.first_loss is None else progress.first_loss,
        seconds=progress.seconds + report.seconds,
        micro_batch_tokens=report.micro_batch_tokens,
    )


def _save(job: Job, progress: Progress, checkpoints: Checkpoints) -> None:
    run_dir, key = checkpoints.run_dir, checkpoints.key
    save_checkpoint(run_dir, job.weights, progress, key=key, parallel=job.parallel)
    if job.parallel.leads:
        prune_checkpoints(run_dir, progress, key=key, keep=job.settings.keep_checkpoints)
