"""What `kivnun evaluate` was asked for: which rows, what is measured, and a plan of both."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from kivnun.assessment.evaluate import Plan, find_quietly, limit_rows, plan_evaluation
from kivnun.assessment.leaks import settle_leaks
from kivnun.assessment.questions import (
    THE_ANSWER,
    Questions,
    file_section,
    read_file,
    read_part,
    read_recipe_rows,
    read_run_rows,
    with_trained_labels,
)
from kivnun.data.reading import find_files
from kivnun.errors import UserError
from kivnun.recipe.load import load_recipe
from kivnun.recipe.schema import EvaluationSection
from kivnun.runs import hash_file, read_lock


@dataclass(frozen=True)
class Wanted:
    """Rows and measures as a user named them.

    Attributes:
        data: A file of rows.
        recipe: A recipe with test rows.
        templates: Fields of the data section that say how the file's rows are written.
        measured: Fields of the evaluation section.
        instruction: What the model is told before each row.
        limit: Most rows.
        out: Where to.
        leave_out_leaked: Whether rows that a run was trained on are left out.
        written_as: Run whose template the rows of a file have, where several models are compared; None for the own one.
    """

    data: str | None = None
    recipe: Path | None = None
    templates: Mapping[str, object] = field(default_factory=dict[str, object])
    measured: Mapping[str, object] = field(default_factory=dict[str, object])
    instruction: str | None = None
    limit: int | None = None
    out: Path | None = None
    leave_out_leaked: bool = False
    written_as: Path | None = None


def plan_wanted(spec: str, wanted: Wanted) -> Plan:
    """The rows are found and read, and everything that can be refused before a model is asked is.

    Args:
        spec: The model.
        wanted: What was asked for.

    Raises:
        UserError: `evaluation-invalid` where rows or task are not named; `test-leaked` for rows that a run was trained
            on; whatever is wrong with files and fields.
    """
    run_dir = find_quietly(spec)
    questions, base = find_questions(spec, wanted, run_dir)
    section = merge_section(base, wanted.measured)
    if run_dir is not None:
        questions = settle_leaks(questions, run_dir, leave_out=wanted.leave_out_leaked)
    elif wanted.leave_out_leaked:
        raise UserError(
            "evaluation-invalid",
            f"--leave-out-leaked has no effect on {spec.partition('?')[0]}, whose training rows nobody here knows",
            hint="leave it out; it is for runs",
        )
    questions = limit_rows(questions, wanted.limit, seed=section.seed)
    return plan_evaluation(spec, questions, section, instruction=wanted.instruction, folder=wanted.out)


def find_questions(spec: str, wanted: Wanted, run_dir: Path | None) -> tuple[Questions, EvaluationSection | None]:
    """The rows that were named, and how their recipe measures them.

    Args:
        spec: The model.
        wanted: What was asked for.
        run_dir: The run that the model is; None for another one.

    Raises:
        UserError: As for `plan_wanted`.
    """
    if wanted.data is not None:
        written_as = wanted.written_as or run_dir
        section = file_section(wanted.data, written_as, wanted.templates)
        questions = read_file(section, wanted.data)
        paths = [path for part in find_files(section).files.values() for file in part for path in [file.path]]
        questions = replace(questions, hashes={str(path): hash_file(path) for path in paths})
        measured = None if written_as is None else _run_section(written_as)
        if written_as is not None and measured is not None and measured.task == "classification":
            questions = with_trained_labels(questions, written_as)
        return questions, measured
    if wanted.templates:
        raise UserError(
            "evaluation-invalid",
            f"{', '.join(wanted.templates)} would have no effect: the rows of a recipe or run have their own template",
            hint="name a file with --data, or leave the template out",
        )
    if wanted.recipe is not None:
        loaded = load_recipe(wanted.recipe)
        return read_recipe_rows(loaded), loaded.recipe.evaluation
    if run_dir is None:
        raise UserError(
            "evaluation-invalid",
            f"no rows are named, and {spec.partition('?')[0]} is no run that has test rows of its own",
            hint="name rows with --data FILE or --recipe RECIPE",
        )
    return read_run_rows(run_dir), _run_section(run_dir)


def merge_section(base: EvaluationSection | None, given: Mapping[str, object]) -> EvaluationSection:
    """What is measured: as a recipe says, and as was said instead.

    Args:
        base: The recipe's section; None without one.
        given: Fields that were named.

    Raises:
        UserError: `evaluation-invalid` where no task is named, or a field does not fit it.
    """
    fields: dict[str, object] = {} if base is None else base.model_dump(exclude_unset=True)
    if "task" in given and fields.get("task") != given["task"]:
        # Labels, schemas and tests of another task would be refused, or mean something else.
        fields = {}
    fields |= given
    if "task" not in fields:
        if "label" not in fields:
            raise UserError(
                "evaluation-invalid",
                "it is not said what is measured",
                hint="add --task generation, classification, question_answering, summarisation, extraction or code",
            )
        fields["task"] = "classification"
    if fields["task"] == "classification":
        fields.setdefault("label", THE_ANSWER)
    try:
        return EvaluationSection.model_validate(fields)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in error.errors()]
        raise UserError(
            "evaluation-invalid",
            f"{len(lines)} problem(s) in what should be measured",
            details=lines,
            hint="`kivnun recipe explain evaluation` lists what each task needs",
        ) from error


def _run_section(run_dir: Path) -> EvaluationSection | None:
    value = read_lock(run_dir).recipe.get("evaluation")
    return None if value is None else read_part(EvaluationSection, value, run_dir)
