"""The two trackers that are extras, with the real packages: a file store and offline files, no network."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from told_run import ToldRun


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "false" if name.startswith("WANDB") else "true")


def mlflow_history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every number of the only MLflow run, as it stands in the files of the store."""
    (metrics,) = (folder / "mlflow").glob("*/*/metrics")
    files = (path for path in metrics.rglob("*") if path.is_file())
    lines = {str(path.relative_to(metrics)): path.read_text("utf-8").splitlines() for path in files}
    cells = {name: [line.split() for line in found] for name, found in lines.items()}
    return {name: [(int(step), float(value)) for _, value, step, *_ in found] for name, found in cells.items()}


def test_mlflow_gets_every_step_once_whatever_was_killed(told_run: ToldRun) -> None:
    pytest.importorskip("mlflow")
    for start, stop in ((0, 5), (2, 6), (6, 7)):
        told_run.attempt(["mlflow"], start, stop, is_killed=stop == 5)
    assert [event for event, _ in told_run.events if event == "tracker_failed"] == []
    history = mlflow_history(told_run.folder)
    assert history["train/loss"] == [(step, 2.0**-step) for step in range(1, 8)]
    assert history["validation/loss"] == [(step, 3 * 2.0**-step) for step in (2, 4, 6)]
    (parameters,) = (told_run.folder / "mlflow").glob("*/*/params")
    assert (parameters / "data.train").read_text("utf-8") == "rows.jsonl"


def test_a_server_that_cannot_be_reached_turns_mlflow_off_and_nothing_else(
    told_run: ToldRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told_run.attempt(["mlflow", "csv"], 0, 3)
    assert [fields["tracker"] for event, fields in told_run.events if event == "tracker_failed"] == ["mlflow"]
    assert len((told_run.folder / "training.csv").read_text("utf-8").splitlines()) == 4


def wandb_records(path: Path) -> list[Any]:
    """Every record of an offline file, whose format is that of LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, records = path.read_bytes(), 7, []
    while place + 7 <= len(content):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        assert kind in (0, 1), "the test reads whole records only"
        place += 7 + length
        if place <= len(content):
            records.append(Record.FromString(content[place - length : place]))
    return records


def wandb_steps(folder: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Step and numbers of every record of all offline files, once wandb's own process has written their last."""
    deadline = time.monotonic() + 60
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        while not (records := wandb_records(path)) or records[-1].WhichOneof("record_type") != "exit":
            assert time.monotonic() < deadline, f"{path} has no end"
            time.sleep(0.02)
        for record in records:
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                yield record.history.step.num, items


def test_wandb_writes_every_step_once_into_offline_files(told_run: ToldRun) -> None:
    pytest.importorskip("wandb")
    told_run.attempt(["wandb"], 0, 5)
    told_run.attempt(["wandb"], 2, 7)
    assert [event for event, _ in told_run.events if event == "tracker_failed"] == []
    steps = [(step, items["train/loss"]) for step, items in wandb_steps(told_run.folder) if "train/loss" in items]
    assert [(step, float(loss)) for step, loss in steps] == [(step, 2.0**-step) for step in range(1, 8)]
    validations = [step for step, items in wandb_steps(told_run.folder) if "validation/loss" in items]
    assert validations == [2, 4, 6]
    ids = {path.name.rpartition("run-")[2] for path in told_run.folder.glob("wandb/offline-run-*/*.wandb")}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "k"}, "online"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "k"}, "offline"),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, "disabled"),
    ],
)
def test_wandb_uses_the_network_only_where_the_environment_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], mode: str
) -> None:
    pytest.importorskip("wandb")
    from kivnun.tracking.weights_and_biases import _mode

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _mode() == mode
