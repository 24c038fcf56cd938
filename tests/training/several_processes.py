"""Trainings of the tiny model, alone or as one of several processes that this file starts, with what they leave."""

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from kivnun.data.tokens import TokenTable
from kivnun.methods import make_method
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.methods import FullMethod, LoraMethod, Method, PartialMethod
from kivnun.recipe.training import TrainingSection
from kivnun.training.memory import recompute_layers
from kivnun.training.objectives import make_objective
from kivnun.training.optimizer import make_master_weights
from kivnun.training.parallel import ALONE, Parallel
from kivnun.training.stage import Checkpoints, Job, train
from kivnun.training.validation import Validation

METHODS: Mapping[str, Method] = {
    "full": FullMethod(),
    "partial": PartialMethod(last_layers=1),
    "lora": LoraMethod(rank=4, alpha=8),
    "dropout": LoraMethod(rank=4, alpha=8, dropout=0.3),
}
NUM_STEPS = 4


class PowerCutError(Exception):
    """Stands for a power cut in all processes."""


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        method: Its method, by name.
        run_dir: Name of its run folder; one that another case had is gone on in.
        settings: Settings that differ from the usual ones.
        dtype: Number format, by name.
        stop: What happens when the second step is logged: "cut" in all processes, "signal" to the last one.
    """

    method: str
    run_dir: str
    settings: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    stop: str | None = None


@dataclass(frozen=True)
class Left:
    """What a training left.

    Attributes:
        losses: Of every step.
        norms: Of the gradients of every step.
        validations: Loss of every validation.
        events: Every event's name and step.
        tensors: The trained weights, whole.
        ended: Name of the exception that ended it, if any.
    """

    losses: list[float]
    norms: list[float]
    validations: list[float]
    events: list[tuple[str, int | None]]
    tensors: dict[str, torch.Tensor]
    ended: str | None


@dataclass(frozen=True)
class Given:
    """The model folder, the rows and the folder of the runs."""

    base: Path
    table: TokenTable
    validation: TokenTable
    runs: Path


def settings(**fields: Any) -> TrainingSection:
    defaults = {
        "epochs": 100,
        "max_steps": NUM_STEPS,
        "batch_tokens": 60,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.01,
        "save_every_steps": 1,
        "validate_every_steps": 2,
        "compile": False,
    }
    if "batch_size" in fields:
        del defaults["batch_tokens"]
    return TrainingSection(**{**defaults, **fields})


def table_for(table: TokenTable, kind: str) -> TokenTable:
    """The rows as an objective wants them: two documents each, good and bad ones by turns."""
    if kind not in {"dpo", "kto"}:
        return table
    num_rows = len(table) // 2
    end = table.offsets[2 * num_rows]
    return replace(
        table,
        ids=table.ids[:end],
        mask=table.mask[:end],
        offsets=table.offsets[: 2 * num_rows + 1],
        documents_per_row=2,
        labels=np.arange(num_rows, dtype=np.float32) % 2 if kind == "kto" else None,
    )


def train_case(case: Case, given: Given, parallel: Parallel = ALONE) -> Left:
    """Train as the pipeline does."""
    chosen, dtype = settings(**case.settings), getattr(torch, case.dtype)

    def make() -> Model:
        model = load_model(given.base, dtype=dtype)
        make_method(METHODS[case.method]).prepare(model, generator=torch.Generator().manual_seed(0))
        return model

    model = make()
    placed = parallel.place(model, torch.device("cpu"), dtype=dtype)
    placed.run(lambda: use_packed_attention(model))
    if chosen.gradient_checkpointing:
        recompute_layers(model)
    weights = make_master_weights(model, chosen)
    events: list[tuple[str, Mapping[str, Any]]] = []

    def log(event: str, fields: Mapping[str, Any]) -> None:
        events.append((event, fields))
        if event == "step" and fields["step"] == 2 and case.stop is not None:
            if case.stop == "cut":
                raise PowerCutError
            if parallel.rank == parallel.world_size - 1:
                # Not Ctrl-C, which a test that runs in the background ignores.
                os.kill(os.getpid(), signal.SIGTERM)

    job = Job(
        model,
        weights,
        table_for(given.table, chosen.objective.kind),
        Validation(table_for(given.validation, chosen.objective.kind)),
        chosen,
        make_objective(chosen.objective),
        parallel=placed,
    )
    ended = None
    try:
        train(job, checkpoints=Checkpoints(given.runs / case.run_dir, "key"), log=log)
    except (PowerCutError, KeyboardInterrupt) as error:
        ended = type(error).__name__
    whole = placed.whole_model(model, weights, make)
    tensors = {name: value.detach().clone() for name, value in whole.named_parameters() if value.requires_grad}
    return Left(
        losses=[fields["loss"] for event, fields in events if event == "step"],
        norms=[fields["grad_norm"] for event, fields in events if event == "step"],
        validations=[fields["loss"] for event, fields in events if event == "validation"],
        events=[(event, fields.get("step")) for event, fields in events],
        tensors=tensors if parallel.leads else {},
        ended=ended,
    )


def train_together(cases: Mapping[str, tuple[str, Case]], given: Given, *, world_size: int = 2) -> dict[str, Left]:
    """Each case as `world_size` processes do it, one after the other; what the first process has of each.

    Args:
        cases: (`ddp` or `fsdp`, case) by name.
        given: What they train on.
        world_size: Number of processes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Other modules of the tests are not importable there: the tables travel as they are.
    context = get_context("spawn")
    processes = [
        context.Process(target=_work, args=(rank, world_size, port, dict(cases), given)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * world_size, (given.runs / "error.txt").read_text("utf-8")
    return {name: _read(given.runs / f"{name}.left") for name in cases}


def _work(rank: int, world_size: int, port: int, cases: dict[str, tuple[str, Case]], given: Given) -> None:
    torch.set_num_threads(1)
    from torch import distributed

    from kivnun.training.ddp import DataParallel
    from kivnun.training.fsdp import ShardedParallel

    kinds: dict[str, Callable[[int, int], Parallel]] = {"ddp": DataParallel, "fsdp": ShardedParallel}
    distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    try:
        for name, (kind, case) in cases.items():
            left = train_case(case, given, kinds[kind](rank, world_size))
            if rank == 0:
                _write(given.runs / f"{name}.left", left)
    except BaseException:  # noqa: BLE001 - the parent raises what is written here
        (given.runs / "error.txt").write_text(f"{name} in process {rank}: {traceback.format_exc()}", "utf-8")
        sys.exit(1)
    distributed.destroy_process_group()


def _write(path: Path, left: Left) -> None:
    fields = {key: value for key, value in asdict(left).items() if key != "tensors"}
    save_file({name: value.contiguous() for name, value in left.tensors.items()}, path, {"left": json.dumps(fields)})


def _read(path: Path) -> Left:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        fields = json.loads(file.metadata()["left"])
    fields["events"] = [tuple(event) for event in fields["events"]]
    return Left(tensors=load_file(path), **fields)
