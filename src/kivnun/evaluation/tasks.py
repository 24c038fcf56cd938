"""What each task measures: the metric by which two systems are compared, and those that are shown beside it."""

from collections.abc import Mapping
from dataclasses import dataclass

from kivnun.evaluation.results import Task


@dataclass(frozen=True)
class TaskMetrics:
    """The metrics of a task.

    Attributes:
        name: The task.
        main: The metric of a row by which two systems are compared; one of `rows`.
        rows: Metrics that every row has.
        corpus: Metrics of all rows together, which are no mean over rows.
    """

    name: Task
    main: str
    rows: tuple[str, ...]
    corpus: tuple[str, ...] = ()


TASKS: Mapping[str, TaskMetrics] = {
    task.name: task
    for task in (
        TaskMetrics("classification", "accuracy", ("accuracy", "exact_match"), ("macro_f1",)),
        TaskMetrics("generation", "exact_match", ("exact_match",)),
        TaskMetrics(
            "extraction",
            "field_f1",
            ("field_f1", "fields_right", "field_overlap", "json_valid"),
            ("field_f1_micro", "field_f1_macro"),
        ),
        TaskMetrics("summarisation", "rouge_l", ("rouge_l", "rouge_1", "rouge_2", "rouge_lsum"), ("chrf",)),
        TaskMetrics("question_answering", "token_f1", ("token_f1", "normalised_match")),
        TaskMetrics("code", "pass_at_1", ("pass_at_1", "exact_match", "syntax_valid")),
        TaskMetrics("retrieval", "recall_at_1", ("recall_at_1",)),
    )
}
"""Every task of the recipe's `evaluation`; further metrics are asked for by name."""

WITHOUT_RUNNING = TaskMetrics("code", "exact_match", ("exact_match", "syntax_valid"))
"""The metrics of the task code where nothing may be run."""
