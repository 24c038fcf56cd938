"""What a finished run folder says: its numbers for the command line, and `report.html` for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import orjson

from kivnun.data.check_counts import say_checks
from kivnun.data.folder import read_summary
from kivnun.data.preflight import PAGE_NAME
from kivnun.evaluation.compare import Outcome, group_outcomes
from kivnun.evaluation.report import ReportInput, render_report
from kivnun.evaluation.stage import Evaluation, evaluation_from_json
from kivnun.generation.agreement import ParityRow
from kivnun.optimization.certificate import read_parity
from kivnun.recipe.dump import dump_recipe
from kivnun.recipe.schema import Recipe
from kivnun.runs import Event, read_events, write_atomic

REPORT_NAME = "report.html"
SCORES_NAME, SAMPLES_NAME = "report.json", "samples.jsonl"


@dataclass(frozen=True)
class RunResults:
    """The results of a run.

    Attributes:
        folder: The run folder.
        evaluation: Scores and comparisons; None where the recipe evaluates nothing.
        parity: The parity table; empty where the recipe exports nothing.
        checks: What the data checks found: counts by severity and code.
    """

    folder: Path
    evaluation: Evaluation | None
    parity: Sequence[ParityRow]
    checks: Mapping[str, object] = field(default_factory=dict[str, object])

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.folder / REPORT_NAME

    def to_json(self) -> dict[str, object]:
        """Everything as JSON values."""
        return {
            "run": str(self.folder),
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
            "parity": [asdict(row) for row in self.parity],
            "checks": dict(self.checks),
            "report": str(self.report),
        }


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write scores and rows into an existing folder."""
    write_atomic(folder / SCORES_NAME, orjson.dumps(evaluation.to_json(), option=orjson.OPT_INDENT_2))
    groups = evaluation.outcomes
    rows = (*groups.regressions, *groups.fixes, *groups.both_wrong, *groups.both_right)
    write_atomic(folder / SAMPLES_NAME, b"".join(orjson.dumps(asdict(row)) + b"\n" for row in rows))


def read_results(folder: Path, recipe: Recipe) -> RunResults:
    """Read a run folder's results back."""
    evaluation = None
    if recipe.evaluation is not None:
        values = orjson.loads((folder / "evaluation" / SCORES_NAME).read_bytes())
        lines = (folder / "evaluation" / SAMPLES_NAME).read_bytes().splitlines()
        outcomes = group_outcomes((Outcome(**orjson.loads(line)) for line in lines), task=recipe.evaluation.task)
        evaluation = evaluation_from_json(values, outcomes)
    parity = read_parity(folder / "optimized") if recipe.optimization is not None else []
    checks = read_summary(folder / "dataset").get("checks", {})
    return RunResults(folder, evaluation, parity, checks)


def write_report(results: RunResults, recipe: Recipe) -> None:
    """Write `report.html` from the run folder alone."""
    events = read_events(results.folder / "events.jsonl")
    training = training_events(events)
    validations = _curve(training, "validation")
    best = _best_step(training)
    evaluation = results.evaluation
    page = ReportInput(
        title=recipe.name or results.folder.name,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        task=recipe.evaluation.task if recipe.evaluation else "generation",
        recipe_yaml=dump_recipe(recipe),
        lock=cast("Mapping[str, object]", json.loads((results.folder / "run.lock.json").read_text("utf-8"))),
        train_losses=_curve(training, "step"),
        validation_losses=validations,
        best_step=best,
        scores=evaluation.scores if evaluation else (),
        comparison=evaluation.comparison if evaluation else None,
        outcomes=evaluation.outcomes if evaluation else None,
        yardstick_comparison=evaluation.yardstick_comparison if evaluation else None,
        preference_comparison=evaluation.preference_comparison if evaluation else None,
        perplexity_ratio=evaluation.perplexity_ratio if evaluation else None,
        slices=evaluation.slices if evaluation else {},
        parity=results.parity,
        durations=stage_durations(events),
        tokens_per_second=_training_speed(training),
        warnings=[
            *_warnings(events, training),
            *_say_fresh_head(recipe),
            *(f"data checks: {line}" for line in say_checks(results.checks)),
        ],
        check_page=f"dataset/{PAGE_NAME}" if (results.folder / "dataset" / PAGE_NAME).is_file() else None,
    )
    write_atomic(results.report, render_report(page))


def _say_fresh_head(recipe: Recipe) -> list[str]:
    """A base model has no head that could know the labels."""
    is_fresh = recipe.evaluation is not None and recipe.training.objective.kind == "classification"
    return ["the base model answers with an untrained head, for it has none for these labels"] if is_fresh else []


def stage_durations(events: Sequence[Event]) -> dict[str, float]:
    """Seconds from the last start of each stage to its end."""
    started: dict[str, float] = {}
    durations: dict[str, float] = {}
    for event in events:
        moment = datetime.fromisoformat(str(event["time"])).timestamp()
        if event["event"] == "stage_started":
            started[str(event["stage"])] = moment
        elif event["event"] == "stage_finished" and str(event["stage"]) in started:
            durations[str(event["stage"])] = moment - started[str(event["stage"])]
    return durations


def training_events(events: Sequence[Event]) -> list[Event]:
    """The events of the latest training alone, all its attempts; those of other recipes in this folder are left out."""
    keys = [event["key"] for event in events if event["event"] == "fit_started"]
    kept: list[Event] = []
    current = None
    for event in events:
        if event["event"] == "fit_started":
            current = event["key"]
        if keys and current == keys[-1]:
            kept.append(event)
    return kept


def _best_step(events: Sequence[Event]) -> int | None:
    """The step whose weights were kept."""
    best = [event["step"] for event in events if event["event"] == "validation" and event["best"]]
    return int(cast("int", best[-1])) if best else None


def _curve(events: Sequence[Event], kind: str) -> list[tuple[int, float]]:
    """Step and loss; a step that was repeated after a resumption counts once."""
    points = {
        int(cast("int", event["step"])): float(cast("float", event["loss"]))
        for event in events
        if event["event"] == kind
    }
    return sorted(points.items())


def _training_speed(events: Sequence[Event]) -> dict[str, float]:
    steps = [event for event in events if event["event"] == "step"]
    seconds = sum(float(cast("float", event["seconds"])) for event in steps)
    tokens = sum(int(cast("int", event["num_tokens"])) for event in steps)
    return {"training": tokens / seconds} if seconds else {}


def _warnings(events: Sequence[Event], training: Sequence[Event]) -> list[str]:
    """What a reader must know: rows left out or repeated, a shorter context, damaged checkpoints, overfitting."""
    notes: list[str] = []
    dataset = next((event for event in reversed(events) if event["event"] == "dataset"), {})
    for kind, words in (("dropped", "left out"), ("repeated", "kept")):
        counts = cast("Mapping[str, int]", dataset.get(kind) or {})
        notes += [f"{count} row(s) {words}: {reason}" for reason, count in counts.items()]
    limit = next((event for event in reversed(events) if event["event"] == "context_limit"), None)
    if limit is not None:
        notes.append(f"rows may have {limit['context']} tokens, the model's context, not {limit['max_seq_len']}")
    notes += [
        f"checkpoint {event['folder']} was damaged and not used: {event['problem']}"
        for event in training
        if event["event"] == "checkpoint_damaged"
    ]
    notes += [str(event["words"]) for event in training if event["event"] == "overfitting"]
    return list(dict.fromkeys(notes))
