"""MLflow (extra `mlflow`): a file store in the run folder, or the server that `MLFLOW_TRACKING_URI` names.

Nothing goes over the network unless that variable says so: MLflow's own telemetry is off. A training is one MLflow run,
found again by its key after a resumption, and a number is never sent twice. Numbers are sent together every few
seconds, so that a slow server does not slow the training; what a kill left unsent is sent when the run goes on.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kivnun.tracking.points import Point, Subject, Training

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

FOLDER = "mlflow"
EXPERIMENT = "kivnun"
KEY_TAG = "kivnun.training"
FOLDER_TAG = "kivnun.folder"
SEND_EVERY_SECONDS = 5.0
MAX_VALUE_LENGTH = 500
MAX_BATCH = 900

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow calls its file store old and would rather have SQLAlchemy installed.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    # A server that is gone must not hold the training for the minutes that are MLflow's default.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class MlflowTracker:
    """Sends numbers to MLflow."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._waiting: list[Metric] = []
        self._sent: dict[str, int] = {}
        self._sent_at = 0.0

    def start(self, training: Training) -> None:
        """Make the run, or find it, and send what it lacks of what was kept."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # noqa: PLC0415 - an extra, and two seconds

        uri = os.environ.get("MLFLOW_TRACKING_URI") or (self._subject.folder.resolve() / FOLDER).as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        self._run_id = self._find_run(self._client, training.key)
        known = self._client.get_run(self._run_id).data.metrics
        histories = {name: self._client.get_metric_history(self._run_id, name) for name in known}
        self._sent = {name: max(metric.step for metric in history) for name, history in histories.items() if history}
        for point in training.kept:
            self._queue(point)
        self._send()

    def log(self, point: Point) -> None:
        """Take numbers; they are sent every few seconds."""
        self._queue(point)
        if time.monotonic() - self._sent_at >= SEND_EVERY_SECONDS:
            self._send()

    def finish(self) -> None:
        """Send what is waiting, and say that the run is over; it opens again if the training goes on."""
        if self._client is None:
            return
        self._send()
        self._client.set_terminated(self._run_id)
        self._client = None

    def _find_run(self, client: "MlflowClient", key: str) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        folder = _folder_name(self._subject.folder)
        where = f"tags.`{KEY_TAG}` = '{key}' and tags.`{FOLDER_TAG}` = '{folder}'"
        found = client.search_runs([experiment_id], filter_string=where, max_results=1)
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0].info.run_id
        tags = {KEY_TAG: key, FOLDER_TAG: folder}
        run = client.create_run(experiment_id, run_name=self._subject.name, tags=tags)
        for name, value in self._subject.settings.items():
            client.log_param(run.info.run_id, name, str(value)[:MAX_VALUE_LENGTH])
        return run.info.run_id

    def _queue(self, point: Point) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - an extra

        for name, value in point.values.items():
            if point.step > self._sent.get(name, -1):
                self._waiting.append(Metric(name, value, round(point.seconds * 1000), point.step))
                self._sent[name] = point.step

    def _send(self) -> None:
        client, self._client = self._client, None
        while self._waiting and client is not None:
            client.log_batch(self._run_id, metrics=self._waiting[:MAX_BATCH])
            del self._waiting[:MAX_BATCH]
        # Only now: a server that failed is not asked again, which would take as long.
        self._client = client
        self._sent_at = time.monotonic()


def _folder_name(folder: Path) -> str:
    """The run folder as a tag that a filter can hold."""
    return str(folder.resolve()).replace("'", "_")
