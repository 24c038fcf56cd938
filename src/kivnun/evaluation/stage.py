"""The evaluation of a run: base and tuned model and two yardsticks on the same test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kivnun.data.folder import Dataset
from kivnun.data.sources import first_problems
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.evaluation.compare import Outcome, OutcomeGroups, compare_by, compare_rows, group_outcomes
from kivnun.evaluation.corpus_metrics import per_field
from kivnun.evaluation.intervals import bits_per_byte, perplexity, perplexity_ratio, share
from kivnun.evaluation.metrics import collect_labels, normalize_text
from kivnun.evaluation.results import (
    BASE,
    LINEAR,
    MAJORITY,
    PREFERENCE,
    REWARD,
    TUNED,
    Confusion,
    Estimate,
    PairedComparison,
    Scores,
)
from kivnun.evaluation.runner import EvalRow, score_system
from kivnun.evaluation.scoring import (
    RowScores,
    ScoredRow,
    Scoring,
    describe_scoring,
    read_references,
    require_scorable,
    scoring_of,
)
from kivnun.evaluation.slices import BY_ITSELF, FIELD, SliceScore, slice_scores, slice_values
from kivnun.evaluation.yardsticks import answer_linear, answer_majority
from kivnun.recipe.schema import EvaluationSection

TASKS_WITHOUT_BITS = ("classification", "generation", "retrieval")
"""Tasks whose results have the perplexity alone, as those of earlier versions, with which they are compared."""


@dataclass(frozen=True)
class Answers:
    """What one model said to the test rows.

    Attributes:
        texts: Its answers.
        nll_sums: Summed negative log likelihood of each row's trained tokens, in nats; None where there is none.
        token_counts: Trained tokens of each row, or 1 where the answer is a class.
        rejected_nll_sums: The same sums of the rejected answers, where the rows have them.
    """

    texts: Sequence[str]
    nll_sums: Sequence[float] | None = None
    token_counts: Sequence[int] = ()
    rejected_nll_sums: Sequence[float] | None = None

    @property
    def in_order(self) -> list[bool] | None:
        """Whether the preferred answer of each row is likelier than the rejected one."""
        if self.nll_sums is None or self.rejected_nll_sums is None:
            return None
        return [chosen < rejected for chosen, rejected in zip(self.nll_sums, self.rejected_nll_sums, strict=True)]


@dataclass(frozen=True)
class Evaluation:
    """Everything that the evaluation found.

    Attributes:
        scores: Base, tuned, and for a classification the yardsticks.
        comparison: Tuned against base on the same rows.
        yardstick_comparison: Tuned against the linear yardstick.
        perplexity_ratio: Tuned over base; None where answers have no likelihood.
        outcomes: Rows by what changed.
        preference_comparison: Tuned against base in how often the preferred answer is the likelier one; None where
            the rows have no rejected answer.
        slices: By model, the main metric on parts of the rows.
    """

    scores: tuple[Scores, ...]
    comparison: PairedComparison
    yardstick_comparison: PairedComparison | None
    perplexity_ratio: Estimate | None
    outcomes: OutcomeGroups
    preference_comparison: PairedComparison | None = None
    slices: Mapping[str, Sequence[SliceScore]] = field(default_factory=dict[str, Sequence[SliceScore]])

    def to_json(self) -> dict[str, object]:
        """The numbers as JSON values; the rows stand in `samples.jsonl`."""
        yardstick, ratio = self.yardstick_comparison, self.perplexity_ratio
        preference = self.preference_comparison
        return {
            "scores": [scores.to_json() for scores in self.scores],
            "comparison": self.comparison.to_json(),
            "yardstick_comparison": None if yardstick is None else yardstick.to_json(),
            "perplexity_ratio": None if ratio is None else ratio.to_json(),
            "preference_comparison": None if preference is None else preference.to_json(),
            "slices": {name: [part.to_json() for part in parts] for name, parts in self.slices.items()},
        }


def eval_rows(dataset: Dataset, split: str, settings: EvaluationSection) -> list[EvalRow]:
    """The rows of a split as the evaluation sees them; those of the test split with all their right answers.

    Of a text template only the fields are shown and given to the yardsticks: its fixed words are the same in every row.

    Raises:
        UserError: `evaluation-label` where the answer that is trained is not the label that is evaluated;
            `evaluation-invalid` where the column of further right answers is missing or holds anything else.
    """
    column = settings.references if split == "test" else None
    names = dataset.template.prompt_fields if dataset.template.kind == "text" else ()
    rows: list[EvalRow] = []
    for row in dataset.rows(split):
        prompt = "\n".join(row.fields[name] for name in names) if names else row.prompt
        reference = row.answer
        if settings.label is not None:
            reference = row.fields.get(settings.label, "")
            if normalize_text(reference) != normalize_text(row.answer):
                raise UserError(
                    "evaluation-label",
                    f"{row.where}: evaluation.label {settings.label!r} is {reference!r}, the answer is {row.answer!r}",
                    hint="let the answer be the label alone, or set evaluation.task: generation",
                )
        others = read_references(reference, row.fields, column, row.where)[1:]
        rows.append(EvalRow(row.id, row.where, prompt, row.prompt_ids, reference, row.fields, others))
    return rows


def require_evaluable(dataset: Dataset, settings: EvaluationSection) -> None:
    """Refuse what cannot be evaluated, before hours of training: rows, metrics, schema, tests and slices.

    Args:
        dataset: The rows.
        settings: The recipe's `evaluation` section.

    Raises:
        UserError: `answer-too-long`, `evaluation-label`, `evaluation-invalid`, `metric-invalid`.
    """
    rows = eval_rows(dataset, "test", settings)
    require_answers_fit(rows, dataset.table("test"), settings)
    eval_rows(dataset, "train", settings)
    scored = [row.scored for row in rows]
    require_scorable(scored, scoring_of(settings))
    for by in settings.slices:
        slice_values(scored, by)


def describe_evaluation(settings: EvaluationSection) -> dict[str, object]:
    """What the results depend on, so that another schema or a changed metric of your own is measured anew.

    Args:
        settings: The recipe's `evaluation` section.

    Raises:
        UserError: As for `scoring_of`.
    """
    return {**settings.model_dump(mode="json"), **describe_scoring(scoring_of(settings))}


def require_answers_fit(rows: Sequence[EvalRow], table: TokenTable, settings: EvaluationSection) -> None:
    """Refuse an evaluation in which right answers could not be given whole.

    Args:
        rows: Test rows.
        table: Their tokens.
        settings: The recipe's `evaluation` section.

    Raises:
        UserError: `answer-too-long`, naming the rows.
    """
    # The last trained token is the one that ends the answer.
    firsts = [table.documents(number)[0] for number in range(len(rows))]
    lengths = [
        int(table.trained(document)[len(row.prompt_ids) :].sum()) - 1
        for document, row in zip(firsts, rows, strict=True)
    ]
    longer = [f"{row.where}: {n} tokens" for row, n in zip(rows, lengths, strict=True) if n > settings.max_new_tokens]
    if longer:
        raise UserError(
            "answer-too-long",
            f"{len(longer)} of {len(rows)} test answers are longer than evaluation.max_new_tokens = "
            f"{settings.max_new_tokens}, so that no model could be right",
            details=first_problems(longer),
            hint=f"set evaluation.max_new_tokens to {max(lengths)}",
        )


def score_answers(
    settings: EvaluationSection,
    rows: Sequence[EvalRow],
    train_rows: Sequence[EvalRow],
    base: Answers,
    tuned: Answers,
) -> Evaluation:
    """Score both models and the yardsticks, and compare them row by row.

    Args:
        settings: The recipe's `evaluation` section.
        rows: Test rows.
        train_rows: Training rows, for the yardsticks and the set of labels.
        base: The base model's answers.
        tuned: The tuned model's answers.
    """
    seeds = {"seed": settings.seed, "resamples": settings.resamples}
    by_name: dict[str, Sequence[str]] = {BASE: base.texts, TUNED: tuned.texts}
    labels: tuple[str, ...] = ()
    if settings.task == "classification":
        by_name |= _ask_yardsticks(rows, train_rows, seed=settings.seed)
        labels = collect_labels([row.reference for row in train_rows], [row.reference for row in rows])
    scoring = scoring_of(settings, labels)
    scored = [row.scored for row in rows]
    found = {name: score_system(name, answers, scored, scoring) for name, answers in by_name.items()}
    scores = {name: each for name, (each, _) in found.items()}
    right = {name: row_scores.main_scores for name, (_, row_scores) in found.items()}
    for name, answers in ((BASE, base), (TUNED, tuned)):
        scores[name] = _with_likelihoods(scores[name], answers, rows, scoring)
    moved = _moved_right(base, tuned)
    if moved:
        scores[TUNED] = scores[TUNED].with_metric(REWARD, share(sum(moved), len(moved)))
    pairs = zip(
        rows, zip(base.texts, tuned.texts, strict=True), zip(right[BASE], right[TUNED], strict=True), strict=True
    )
    outcomes = [
        Outcome(row.row_id, row.where, row.prompt, row.reference, *texts, *found_scores)
        for row, texts, found_scores in pairs
    ]
    return Evaluation(
        scores=tuple(scores.values()),
        comparison=compare_by(scoring.main, (BASE, TUNED), right[BASE], right[TUNED], **seeds),
        yardstick_comparison=compare_by(scoring.main, (LINEAR, TUNED), right[LINEAR], right[TUNED], **seeds)
        if LINEAR in right
        else None,
        perplexity_ratio=None
        if base.nll_sums is None or tuned.nll_sums is None
        else perplexity_ratio(base.nll_sums, tuned.nll_sums, base.token_counts, **seeds),
        outcomes=group_outcomes(outcomes, task=settings.task),
        preference_comparison=None
        if base.in_order is None or tuned.in_order is None
        else compare_rows((BASE, TUNED), base.in_order, tuned.in_order, **seeds),
        slices={
            name: slice_answers(by_name[name], scored, found[name][1], scoring, settings.slices)
            for name in (BASE, TUNED)
        },
    )


def slice_answers(
    answers: Sequence[str], rows: Sequence[ScoredRow], row_scores: RowScores, scoring: Scoring, asked: Sequence[str]
) -> list[SliceScore]:
    """The main metric by columns that are asked for, by language and length where rows differ in them, and by field.

    Args:
        answers: What was answered.
        rows: The rows.
        row_scores: Metrics of each row.
        scoring: How answers are scored.
        asked: Columns.

    Raises:
        UserError: `evaluation-invalid` where no row has a column that is asked for.
    """
    seeds = {"seed": scoring.seed, "resamples": scoring.resamples}
    found: list[SliceScore] = []
    for by in dict.fromkeys((*asked, *BY_ITSELF)):
        parts = slice_scores(rows, row_scores.main_scores, by, **seeds)
        if by in asked or len(parts) > 1:
            found += parts
    if scoring.task == "extraction":
        fields = per_field(answers, [row.references for row in rows])
        found += [
            SliceScore(FIELD, name, num_rows, share(right, num_rows)) for name, (right, num_rows) in fields.items()
        ]
    return found


def _ask_yardsticks(rows: Sequence[EvalRow], train_rows: Sequence[EvalRow], *, seed: int) -> dict[str, Sequence[str]]:
    labels = [row.reference for row in train_rows]
    train_texts, texts = ([row.prompt for row in each] for each in (train_rows, rows))
    return {
        MAJORITY: answer_majority(labels, len(rows)),
        LINEAR: answer_linear(train_texts, labels, texts, seed=seed),
    }


def _with_likelihoods(scores: Scores, answers: Answers, rows: Sequence[EvalRow], scoring: Scoring) -> Scores:
    """The same scores with what can be said of how likely the right answers are."""
    if answers.nll_sums is None:
        return scores
    seeds = {"seed": scoring.seed, "resamples": scoring.resamples}
    scores = scores.with_metric("perplexity", perplexity(answers.nll_sums, answers.token_counts, **seeds))
    if scoring.task not in TASKS_WITHOUT_BITS:
        sizes = [len(row.reference.encode()) for row in rows]
        scores = scores.with_metric("bits_per_byte", bits_per_byte(answers.nll_sums, sizes, **seeds))
    if answers.in_order is not None:
        scores = scores.with_metric(PREFERENCE, share(sum(answers.in_order), len(answers.in_order)))
    return scores


def _moved_right(base: Answers, tuned: Answers) -> list[bool]:
    """Whether tuning made each preferred answer likelier against the rejected one; nothing without rejected answers.

    Unlike the likelihoods themselves this does not depend on which of the two answers is the longer one.
    """
    parts = [base.nll_sums, base.rejected_nll_sums, tuned.nll_sums, tuned.rejected_nll_sums]
    given = [part for part in parts if part is not None]
    if len(given) < len(parts):
        return []
    rows = zip(*given, strict=True)
    return [tuned_bad - tuned_good > base_bad - base_good for base_good, base_bad, tuned_good, tuned_bad in rows]


def evaluation_from_json(values: Mapping[str, Any], outcomes: OutcomeGroups) -> Evaluation:
    """The evaluation whose `to_json` was written."""
    yardstick, ratio = values["yardstick_comparison"], values["perplexity_ratio"]
    preference = values.get("preference_comparison")
    return Evaluation(
        scores=tuple(_scores(each) for each in values["scores"]),
        comparison=_comparison(values["comparison"]),
        yardstick_comparison=None if yardstick is None else _comparison(yardstick),
        perplexity_ratio=None if ratio is None else Estimate(**ratio),
        outcomes=outcomes,
        preference_comparison=None if preference is None else _comparison(preference),
        slices={name: [_slice(part) for part in parts] for name, parts in values.get("slices", {}).items()},
    )


def _slice(values: Mapping[str, Any]) -> SliceScore:
    return SliceScore(values["by"], values["value"], values["num_rows"], Estimate(**values["score"]))


def _scores(values: Mapping[str, Any]) -> Scores:
    confusion = values["confusion"]
    metrics = {name: Estimate(**each) for name, each in values["metrics"].items()}
    table = None
    if confusion is not None:
        table = Confusion(tuple(confusion["labels"]), tuple(tuple(row) for row in confusion["counts"]))
    return Scores(values["name"], values["num_rows"], metrics, table)


def _comparison(values: Mapping[str, Any]) -> PairedComparison:
    known = ("baseline", "candidate", "both_right", "only_baseline", "only_candidate", "both_wrong", "p_value")
    means = values.get("means")
    return PairedComparison(
        difference=Estimate(**values["difference"]),
        metric=values.get("metric", ""),
        test=values.get("test", "mcnemar"),
        means=None if means is None else (means[0], means[1]),
        **{name: values[name] for name in known},
    )
