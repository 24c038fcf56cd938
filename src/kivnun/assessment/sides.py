"""What `kivnun compare` takes: folders of evaluations, and runs with what they said to their own test rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kivnun.assessment.folder import AnsweredRow, Evaluated, is_evaluation, read_evaluation
from kivnun.assessment.questions import read_part
from kivnun.data.folder import read_dataset
from kivnun.errors import UserError
from kivnun.evaluation.metrics import collect_labels
from kivnun.evaluation.scoring import ScoredRow, describe_scoring, score_rows, scoring_of, summarise
from kivnun.recipe.schema import EvaluationSection
from kivnun.runs import find_run, read_lock, read_manifest
from kivnun.runs.store import RUNS_FOLDER, is_run

SAMPLES = Path("evaluation") / "samples.jsonl"
BASE_WISH = "base"


@dataclass(frozen=True)
class Side:
    """One of the models that are compared.

    Attributes:
        name: What it is called.
        evaluated: Its answers and scores.
        folder: Of its evaluation; None for a run's own one.
    """

    name: str
    evaluated: Evaluated
    folder: Path | None


def read_sides(names: Sequence[str]) -> list[Side]:
    """What was named, in that order; a run alone is compared with its base model.

    Args:
        names: Folders of evaluations, or runs; `RUN#base` is the base model of a run.

    Raises:
        UserError: `evaluation-invalid` where one is neither, or was not evaluated.
    """
    wanted = [f"{names[0]}#{BASE_WISH}", names[0]] if len(names) == 1 and is_run_name(names[0]) else list(names)
    if len(wanted) < 2:
        raise UserError(
            "evaluation-invalid", "one evaluation alone is compared with nothing", hint="name two or more, or a run"
        )
    sides = [read_side(name) for name in wanted]
    return name_apart(sides)


def read_side(name: str) -> Side:
    """One evaluation.

    Args:
        name: Its folder, or a run.

    Raises:
        UserError: `evaluation-invalid`.
    """
    folder = Path(name)
    if is_evaluation(folder):
        evaluated = read_evaluation(folder)
        return Side(evaluated.name, evaluated, folder)
    if is_run_name(name):
        run_name, _, wish = name.partition("#")
        run_dir = find_run(run_name)
        is_base = wish == BASE_WISH
        label = f"{run_dir.name} ({'base' if is_base else 'tuned'})"
        return Side(label, read_run_answers(run_dir, label, is_base=is_base), None)
    raise UserError(
        "evaluation-invalid",
        f"{name} is neither the folder of an evaluation nor a run",
        hint="evaluate the model first with `kivnun evaluate`, or name its rows here too with --data or --recipe",
    )


def is_run_name(name: str) -> bool:
    """Whether a name means a run, or the base model of one.

    Args:
        name: As a user gives it.
    """
    run_name, _, wish = name.partition("#")
    return wish in ("", BASE_WISH) and any(is_run(folder) for folder in (Path(run_name), RUNS_FOLDER / run_name))


def read_run_answers(run_dir: Path, label: str, *, is_base: bool) -> Evaluated:
    """What a run's tuned or base model said to the run's test rows.

    Args:
        run_dir: The run.
        label: What the model is called.
        is_base: Whether it is the base model.

    Raises:
        UserError: `evaluation-invalid` where the run evaluated nothing.
    """
    value = read_lock(run_dir).recipe.get("evaluation")
    if value is None or not (run_dir / SAMPLES).is_file():
        raise UserError(
            "evaluation-invalid",
            f"{run_dir} has no evaluation of its own",
            hint=f"evaluate it: `kivnun evaluate {run_dir}`, with --data or --recipe",
        )
    section = read_part(EvaluationSection, value, run_dir)
    dataset = read_dataset(run_dir / "dataset")
    fields = {(row.id, row.where): row.fields for row in dataset.rows("test")}
    samples: list[dict[str, Any]] = [orjson.loads(line) for line in (run_dir / SAMPLES).read_bytes().splitlines()]
    order = {place: number for number, place in enumerate(fields)}
    samples.sort(key=lambda each: order.get((each["row_id"], each["where"]), len(order)))
    rows = _scored_rows(samples, fields)
    answers = [str(each["base_answer" if is_base else "tuned_answer"]) for each in samples]
    references = [row.references[0] for row in rows]
    labels = collect_labels([row.answer for row in dataset.rows("train")], references)
    scoring = scoring_of(section, labels if section.task == "classification" else ())
    scores = score_rows(answers, rows, scoring)
    answered = [
        AnsweredRow(row, answer, "stop", {name: scores.metrics[name][number] for name in scores.metrics})
        for number, (row, answer) in enumerate(zip(rows, answers, strict=True))
    ]
    about = {
        "model": label,
        "source": str(run_dir),
        "settings": {**section.model_dump(mode="json"), **describe_scoring(scoring)},
        "created": read_manifest(run_dir / "evaluation").created_at,
    }
    return Evaluated(about, scores.main, summarise(answers, rows, scores, scoring), (), answered)


def name_apart(sides: Sequence[Side]) -> list[Side]:
    """Models of one name get that of their folder beside it.

    Args:
        sides: The models.

    Raises:
        UserError: `evaluation-invalid` where one is named twice.
    """
    counts = Counter(side.name for side in sides)
    named = [
        Side(f"{side.name} [{side.folder}]", side.evaluated, side.folder) if counts[side.name] > 1 else side
        for side in sides
    ]
    twice = [name for name, count in Counter(side.name for side in named).items() if count > 1]
    if twice:
        raise UserError(
            "evaluation-invalid",
            f"{twice[0]} is named twice",
            hint="name each evaluation once; RUN#base is a run's base",
        )
    return named


def _scored_rows(
    samples: Sequence[Mapping[str, Any]], fields: Mapping[tuple[str, str], Mapping[str, str]]
) -> list[ScoredRow]:
    seen: Counter[str] = Counter()
    rows: list[ScoredRow] = []
    for each in samples:
        seen[each["row_id"]] += 1
        times = seen[each["row_id"]]
        row_id = each["row_id"] if times == 1 else f"{each['row_id']}-{times}"
        # Runs that were evaluated before a row could have several right answers kept the one.
        references = tuple(each["references"]) if each.get("references") else (str(each["reference"]),)
        own = fields.get((each["row_id"], each["where"]), {})
        rows.append(ScoredRow(row_id, each["where"], each["prompt"], references, own))
    return rows
