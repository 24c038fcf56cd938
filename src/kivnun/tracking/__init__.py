"""Where a training's numbers go beside `events.jsonl`: TensorBoard, CSV, MLflow and Weights & Biases."""

from kivnun.tracking.points import Point, Subject, Training
from kivnun.tracking.trackers import TRACKERS, Tracker, Trackers, open_trackers

__all__ = ["TRACKERS", "Point", "Subject", "Tracker", "Trackers", "Training", "open_trackers"]
