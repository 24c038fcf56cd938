"""What a training found out about the memory before its first step, kept for when it must begin anew.

From the first checkpoint on, a run that goes on reads there how its batches were cut. Killed before, it would measure
again, find other memory free, cut otherwise, and so round otherwise.
"""

import json
from pathlib import Path

from kivnun.runs.atomic import write_atomic

ROOM_NAME = "training-room.json"


def read_room(run_dir: Path, key: str) -> tuple[int | None] | None:
    """The most tokens that this training computes at once, in a tuple, since None is one of them; None if unknown.

    Args:
        run_dir: The run folder.
        key: The training.
    """
    try:
        known = json.loads((run_dir / ROOM_NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return (known["micro_batch_tokens"],) if known["key"] == key else None


def keep_room(run_dir: Path, key: str, micro_batch_tokens: int | None) -> None:
    """Keep what was measured.

    Args:
        run_dir: The run folder.
        key: The training.
        micro_batch_tokens: Most tokens to compute at once; None for whole batches.

    Raises:
        UserError: `disk-full`.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(run_dir / ROOM_NAME, json.dumps({"key": key, "micro_batch_tokens": micro_batch_tokens}))
