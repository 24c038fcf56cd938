"""The evaluation of a run: base and tuned model and two yardsticks on the same test rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from kivnun.evaluation.compare import Outcome, OutcomeGroups, compare_rows, group_outcomes
from kivnun.evaluation.intervals import perplexity, perplexity_ratio
from kivnun.evaluation.metrics import collect_labels, rows_right
from kivnun.evaluation.results import BASE, LINEAR, MAJORITY, TUNED, Estimate, PairedComparison, Scores
from kivnun.evaluation.runner import EvalRow, score_classification, score_generation
from kivnun.evaluation.yardsticks import answer_linear, answer_majority
from kivnun.recipe.schema import EvaluationSection


@dataclass(frozen=True)
class Answers:
    """What one model said to the test rows.

    Attributes:
        texts: Its answers.
        nll_sums: Summed negative log likelihood of each row's trained tokens, in nats.
        token_counts: Trained tokens of each row.
    """

    texts: Sequence[str]
    nll_sums: Sequence[float]
    token_counts: Sequence[int]


@dataclass(frozen=True)
class Evaluation:
    """Everything that the evaluation found.

    Attributes:
        scores: Base, tuned, and for a classification the yardsticks.
        comparison: Tuned against base on the same rows.
        yardstick_comparison: Tuned against the linear yardstick.
        perplexity_ratio: Tuned over base.
        outcomes: Rows by what changed.
    """

    scores: tuple[Scores, ...]
    comparison: PairedComparison
    yardstick_comparison: PairedComparison | None
    perplexity_ratio: Estimate
    outcomes: OutcomeGroups

    def to_json(self) -> dict[str, object]:
        """The numbers as JSON values; the rows stand in `samples.jsonl`."""
        yardstick = self.yardstick_comparison
        return {
            "scores": [scores.to_json() for scores in self.scores],
            "comparison": self.comparison.to_json(),
            "yardstick_comparison": None if yardstick is None else yardstick.to_json(),
            "perplexity_ratio": self.perplexity_ratio.to_json(),
        }


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
    references = [row.reference for row in rows]
    seeds = {"seed": settings.seed, "resamples": settings.resamples}
    by_name = {BASE: base.texts, TUNED: tuned.texts}
    if settings.task == "classification":
        train_labels = [row.reference for row in train_rows]
        train_texts = [row.prompt for row in train_rows]
        by_name[MAJORITY] = answer_majority(train_labels, len(rows))
        texts = [row.prompt for row in rows]
        by_name[LINEAR] = answer_linear(train_texts, train_labels, texts, seed=settings.seed)
        labels = collect_labels(train_labels, references)
        scores = {
            name: score_classification(name, answers, references, labels, **seeds) for name, answers in by_name.items()
        }
    else:
        scores = {name: score_generation(name, answers, references) for name, answers in by_name.items()}
    for name, answers in ((BASE, base), (TUNED, tuned)):
        estimate = perplexity(answers.nll_sums, answers.token_counts, **seeds)
        scores[name] = scores[name].with_metric("perplexity", estimate)
    right = {name: rows_right(answers, references, task=settings.task) for name, answers in by_name.items()}
    outcomes = [
        Outcome(row.row_id, row.where, row.prompt, row.reference, first, second)
        for row, first, second in zip(rows, base.texts, tuned.texts, strict=True)
    ]
    return Evaluation(
        scores=tuple(scores.values()),
        comparison=compare_rows((BASE, TUNED), right[BASE], right[TUNED], **seeds),
        yardstick_comparison=compare_rows((LINEAR, TUNED), right[LINEAR], right[TUNED], **seeds)
        if LINEAR in right
        else None,
        perplexity_ratio=perplexity_ratio(base.nll_sums, tuned.nll_sums, base.token_counts, **seeds),
        outcomes=group_outcomes(outcomes, task=settings.task),
    )
