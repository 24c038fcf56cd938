"""`kivnun evaluate`: rows are asked of a model, answers kept and scored, and all of it written into a folder."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from kivnun.asking.kept import KeptAnswers, ask_all
from kivnun.asking.local import Kind, Likelihood, LocalModel
from kivnun.asking.open import find_named_run, open_model
from kivnun.asking.request import AskedModel, Log, Reply, Request
from kivnun.asking.rows import request_of
from kivnun.asking.spec import EndpointSpec, parse_spec, public_name
from kivnun.assessment.folder import (
    ANSWERS_NAME,
    FORMAT,
    AnsweredRow,
    Evaluated,
    Usage,
    begin,
    evaluation_key,
    write_results,
)
from kivnun.assessment.page import render_evaluation
from kivnun.assessment.questions import Questions, score_rows_of
from kivnun.assessment.spending import add_price
from kivnun.errors import UserError
from kivnun.evaluation.intervals import perplexity
from kivnun.evaluation.power import say_power
from kivnun.evaluation.results import Estimate
from kivnun.evaluation.scoring import (
    ScoredRow,
    Scoring,
    describe_scoring,
    require_scorable,
    score_rows,
    scoring_of,
    summarise,
)
from kivnun.evaluation.slices import BY_ITSELF, SliceScore, slice_scores
from kivnun.recipe.schema import EvaluationSection
from kivnun.runs import library_versions

EVALUATIONS = Path("evaluations")
FEW_ROWS = 400
"""Below so many rows it is said what they can show."""


@dataclass(frozen=True)
class Plan:
    """What is evaluated on what.

    Attributes:
        spec: The model, as it was named.
        questions: The rows.
        section: What is measured.
        scoring: The same, ready to score.
        rows: The rows as they are scored.
        requests: What the model is asked about each.
        instruction: What it is told before.
        folder: Where everything goes.
    """

    spec: str
    questions: Questions
    section: EvaluationSection
    scoring: Scoring
    rows: tuple[ScoredRow, ...]
    requests: tuple[Request, ...]
    instruction: str | None
    folder: Path

    @property
    def is_endpoint(self) -> bool:
        """Whether the model is a service's."""
        return not Path(self.spec).is_dir() and isinstance(parse_spec(self.spec), EndpointSpec)


def plan_evaluation(
    spec: str, questions: Questions, section: EvaluationSection, *, instruction: str | None, folder: Path | None
) -> Plan:
    """Everything that can be known, and refused, before a model is loaded or asked.

    Args:
        spec: The model, as `open_model` takes it.
        questions: The rows.
        section: What is measured.
        instruction: What the model is told before each row.
        folder: Where to; None for `evaluations/<model>-<data>`.

    Raises:
        UserError: `evaluation-invalid` or `evaluation-label` for rows that cannot be scored, `metric-invalid`,
            `stage-unsupported` for rows that cannot be asked, `split-too-small` without rows.
    """
    if section.task == "retrieval":
        raise UserError(
            "stage-unsupported",
            "the task retrieval compares vectors, and asks no model for text",
            hint="an embedding run is evaluated by `kivnun run`; passages by `kivnun search`",
        )
    rows = tuple(score_rows_of(questions, section))
    scoring = scoring_of(section, questions.labels if section.task == "classification" else ())
    require_scorable(rows, scoring)
    for by in section.slices:
        slice_scores(rows, [0.0] * len(rows), by)
    requests = tuple(request_of(row, questions.template, instruction=instruction) for row in questions.conversations)
    where = folder or default_folder(spec, questions.source)
    return Plan(spec, questions, section, scoring, rows, requests, instruction, where)


def evaluate(plan: Plan, *, force: bool, log: Log) -> Evaluated:
    """Ask, score and write; what was answered before an interruption is not asked again.

    Args:
        plan: What is evaluated on what.
        force: Whether another evaluation in the folder is replaced.
        log: Takes `asked`, `retrying` and `adapted`.

    Raises:
        UserError: Whatever keeps the model from being opened or asked; answers so far are kept.
    """
    model = open_model(plan.spec, kind=kind_for(plan), log=log)
    about = describe(plan, model)
    begin(plan.folder, about, force=force)
    with KeptAnswers(plan.folder / ANSWERS_NAME) as kept:
        replies = ask_all(model, plan.requests, max_new_tokens=plan.section.max_new_tokens, kept=kept, log=log)
    likelihoods = _likelihoods(model, plan, log)
    evaluated = score(plan, about, model, replies, likelihoods)
    write_results(plan.folder, evaluated, render_evaluation(evaluated))
    return evaluated


def kind_for(plan: Plan) -> Kind | None:
    """How a model of this machine is asked if it does not say it: as `kivnun run` asks a base model.

    Args:
        plan: What is evaluated on what.
    """
    return "text" if plan.questions.template.kind == "text" else "chat"


def describe(plan: Plan, model: AskedModel) -> dict[str, object]:
    """The content of `evaluation.json`, without any secret.

    Args:
        plan: What is evaluated on what.
        model: Who is asked.
    """
    about: dict[str, object] = {
        "format": FORMAT,
        "model": model.name,
        "spec": public_name(plan.spec),
        "place": model.place,
        "identity": model.identity,
        "kind": model.kind,
        "source": plan.questions.source,
        "rows_hash": plan.questions.rows_hash,
        "num_rows": len(plan.rows),
        "files": dict(plan.questions.hashes),
        "left_out": dict(plan.questions.left_out),
        "labels": list(plan.scoring.labels),
        "instruction": plan.instruction,
        "settings": {**plan.section.model_dump(mode="json"), **describe_scoring(plan.scoring)},
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": library_versions(),
    }
    return {**about, "key": evaluation_key(about)}


def score(
    plan: Plan,
    about: Mapping[str, object],
    model: AskedModel,
    replies: Sequence[Reply],
    likelihoods: Sequence[Likelihood | None],
) -> Evaluated:
    """Replies become scores.

    Args:
        plan: What was evaluated on what.
        about: The content of `evaluation.json`.
        model: Who was asked.
        replies: Its reply to each row.
        likelihoods: How likely it finds the right answers; empty where it does not tell.

    Raises:
        UserError: `metric-invalid` where a metric of your own gives no number from 0 to 1.
    """
    answers = [reply.text for reply in replies]
    scores = score_rows(answers, plan.rows, plan.scoring)
    metrics = {**summarise(answers, plan.rows, scores, plan.scoring), **measure_likelihood(likelihoods, plan.scoring)}
    rows = [
        AnsweredRow(row, reply.text, reply.finished, {name: scores.metrics[name][number] for name in scores.metrics})
        for number, (row, reply) in enumerate(zip(plan.rows, replies, strict=True))
    ]
    usage = add_price(_usage(replies), model)
    notes = [*plan.questions.notes, *_notes(plan, usage, likelihoods)]
    return Evaluated(about, scores.main, metrics, _slices(plan, scores.main_scores), rows, usage, notes)


def measure_likelihood(likelihoods: Sequence[Likelihood | None], scoring: Scoring) -> dict[str, Estimate]:
    """Perplexity by token and bits by byte of the right answers; bytes compare models whose tokens differ.

    Args:
        likelihoods: Of each row; None where it does not fit the context.
        scoring: Seed and number of resamples.
    """
    found = [each for each in likelihoods if each is not None and each.num_bytes]
    if not found:
        return {}
    options = {"seed": scoring.seed, "resamples": scoring.resamples}
    nll = [each.nll for each in found]
    by_byte = perplexity(nll, [each.num_bytes for each in found], **options)
    value, low, high = (math.log2(each) for each in (by_byte.value, by_byte.low, by_byte.high))
    return {
        "perplexity": perplexity(nll, [each.num_tokens for each in found], **options),
        "bits_per_byte": Estimate(value, low, high, by_byte.method),
    }


def limit_rows(questions: Questions, limit: int | None, *, seed: int) -> Questions:
    """At most so many rows, drawn by a seed and in their own order, since files are often sorted by label.

    Args:
        questions: The rows.
        limit: How many; None for all.
        seed: Of the draw.
    """
    total = len(questions.conversations)
    if limit is None or limit >= total:
        return questions
    order = np.random.Generator(np.random.PCG64(seed)).permutation(total)
    return questions.without(order[limit:].tolist(), f"not among the {limit:,} that the seed {seed} drew")


def default_folder(spec: str, source: str) -> Path:
    """`evaluations/<model>-<data>`.

    Args:
        spec: The model.
        source: What its rows are called.
    """
    run_dir = None if Path(spec).is_dir() else find_quietly(spec)
    name = run_dir.name if run_dir is not None else public_name(spec)
    wish = spec.partition("#")[2]
    parts = [Path(name.partition("#")[0]).name, wish, "" if source == str(run_dir) else Path(source).stem]
    return EVALUATIONS / re.sub(r"[^\w.-]+", "-", "-".join(filter(None, parts))).strip("-.")


def find_quietly(spec: str) -> Path | None:
    """The run that a name means; None for anything else, a misspelt name too.

    Args:
        spec: The model.
    """
    if not Path(spec).is_dir() and isinstance(parse_spec(spec), EndpointSpec):
        return None
    try:
        return find_named_run(spec.partition("#")[0])
    except UserError:
        return None


def _likelihoods(model: AskedModel, plan: Plan, log: Log) -> list[Likelihood | None]:
    """How likely a model that writes text, on this machine, finds the right answers."""
    if not isinstance(model, LocalModel):
        return []
    found: list[Likelihood | None] = []
    answers = [row.references[0] for row in plan.rows]
    for each in model.likelihoods(plan.requests, answers):
        found.append(each)
        log("weighed", {"model": model.name, "done": len(found), "num_requests": len(answers)})
    return found


def _slices(plan: Plan, scores: Sequence[float]) -> list[SliceScore]:
    """Slices that have more than one part, and all that were asked for."""
    options = {"seed": plan.scoring.seed, "resamples": plan.scoring.resamples}
    names = dict.fromkeys((*plan.section.slices, *BY_ITSELF))
    parts = {by: slice_scores(plan.rows, scores, by, **options) for by in names}
    return [part for by, found in parts.items() if len(found) > 1 or by in plan.section.slices for part in found]


def _usage(replies: Sequence[Reply]) -> Usage:
    return Usage(
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
        cached_tokens=sum(reply.cached_tokens for reply in replies),
        written_tokens=sum(reply.written_tokens for reply in replies),
        num_refused=sum(reply.finished == "refused" for reply in replies),
        num_cut=sum(reply.finished == "length" for reply in replies),
    )


def _notes(plan: Plan, usage: Usage, likelihoods: Sequence[Likelihood | None]) -> list[str]:
    notes = [f"{count:,} rows were left out: {reason}" for reason, count in plan.questions.left_out.items()]
    total = len(plan.rows)
    if usage.num_refused:
        notes.append(f"{usage.num_refused:,} of {total:,} requests were refused by the service; they count as wrong")
    if usage.num_cut:
        limit = plan.section.max_new_tokens
        notes.append(f"{usage.num_cut:,} of {total:,} answers were cut at the longest length, {limit:,} tokens")
    unweighed = sum(each is None for each in likelihoods)
    if unweighed:
        notes.append(f"{unweighed:,} rows are longer than the model's context and have no part in the perplexity")
    if plan.is_endpoint and not usage.prompt_tokens:
        notes.append("the endpoint does not tell how many tokens it reads and writes")
    return [*notes, *([say_power(total)] if total < FEW_ROWS else [])]
