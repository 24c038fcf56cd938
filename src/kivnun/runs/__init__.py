"""Where it happened: run folders, stages, locks and events."""

from kivnun.runs.atomic import hash_file, write_atomic
from kivnun.runs.events import Event, EventLog, read_events
from kivnun.runs.lock import ModelLock, RunLock, read_lock, write_lock
from kivnun.runs.manifest import Manifest, library_versions, read_manifest, verify_artifact
from kivnun.runs.stage import content_hash, stage_done, stage_key, write_stage
from kivnun.runs.store import Run, default_run_dir, find_run, open_run

__all__ = [
    "Event",
    "EventLog",
    "Manifest",
    "ModelLock",
    "Run",
    "RunLock",
    "content_hash",
    "default_run_dir",
    "find_run",
    "hash_file",
    "library_versions",
    "open_run",
    "read_events",
    "read_lock",
    "read_manifest",
    "stage_done",
    "stage_key",
    "verify_artifact",
    "write_atomic",
    "write_lock",
    "write_stage",
]
