"""Joining the processes that `torchrun` starts, and leaving them: each failure is told once, and none waits in vain."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import cast

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from kivnun.errors import EXIT_STATUS, UserError
from kivnun.training.ddp import DataParallel, is_lost_process
from kivnun.training.fsdp import ShardedParallel
from kivnun.training.joined import Joined, Notices, Store

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others in the middle of a step before it takes them for lost."""
INTERRUPTED_STATUS = 130


@contextmanager
def join_processes(kind: str) -> Iterator[Joined]:
    """Join the processes of a run, as `torchrun` describes them to each.

    Args:
        kind: The recipe's `training.parallel`.

    Raises:
        UserError: `stage-unsupported` where a node has fewer GPUs than processes; `process-lost`.
        SystemExit: Where another process tells what went wrong.
    """
    store = _join()
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    make = ShardedParallel if kind == "fsdp" else DataParallel
    try:
        with _terminated_as_interrupted():
            yield Joined(make(rank, world_size), Notices(store))
    except KeyboardInterrupt:
        if rank == 0:
            raise
        raise SystemExit(INTERRUPTED_STATUS) from None
    except SystemExit:
        raise
    except BaseException as error:
        # The first to fail tells; what the others see is only that it is gone.
        if store.add("failures", 1) > 1:
            raise SystemExit(EXIT_STATUS) from None
        if not isinstance(error, UserError) and is_lost_process(error):
            problem = "another process of this training ended or cannot be reached"
            hint = "see what it said last; the same command goes on from the latest checkpoint"
            raise UserError("process-lost", problem, hint=hint) from error
        raise
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _join() -> Store:
    local_rank, num_local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    backend = "gloo"
    if torch.cuda.is_available():
        if torch.cuda.device_count() < num_local:
            if local_rank:
                raise SystemExit(EXIT_STATUS)  # the first of the machine says it
            raise UserError(
                "stage-unsupported",
                f"{socket.gethostname()} has {torch.cuda.device_count()} GPUs for {num_local} processes",
                hint="give torchrun --nproc-per-node the number of GPUs",
            )
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    store, rank, world_size = next(rendezvous("env://", timeout=PATIENCE))
    distributed.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=rank,
        world_size=world_size,
        timeout=PATIENCE,
    )
    return cast("Store", PrefixStore("kivnun", store))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end a process as Ctrl-C does, so that nothing half-written stays."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    previous: Callable[..., object] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
