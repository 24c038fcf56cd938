"""What a comparison of strategies ends in: plain, frozen values, read and written as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from kivnun.evaluation.results import Estimate

Selectable = Literal["prompt", "few_shot", "few_shot_nearest", "rag", "tuned", "rag_tuned"]
State = Literal["measured", "pruned", "not run"]


@dataclass(frozen=True)
class Cost:
    """What an arm costs.

    Attributes:
        prompt_tokens: Median tokens that a request reads.
        prompt_tokens_p95: Their 95th percentile.
        completion_tokens: Median tokens that an answer has.
        cached_share: Share of the read tokens that the service had kept ready.
        dollars_per_1000: Dollars for 1,000 requests without training; None where no price is known.
        seconds_per_1000: Seconds of this machine for 1,000 requests, one at a time; None for an endpoint.
        training_minutes: Training on this machine; 0 for none.
        training_dollars: The same in dollars; None where no price is known.
        break_even_requests: Requests from which on the arm is cheaper than the cheapest measured one of at least its
            quality without training; None where it never is, or prices are unknown.
        break_even_note: The same in words.
    """

    prompt_tokens: float
    prompt_tokens_p95: float
    completion_tokens: float
    cached_share: float = 0.0
    dollars_per_1000: float | None = None
    seconds_per_1000: float | None = None
    training_minutes: float = 0.0
    training_dollars: float | None = 0.0
    break_even_requests: int | None = None
    break_even_note: str = ""


@dataclass(frozen=True)
class Latency:
    """How long one request takes, asked alone.

    Attributes:
        p50_ms: Median.
        p95_ms: 95th percentile.
        first_token_p50_ms: Median time to the first token; None where it was not measured.
        num_requests: Requests that were timed.
        load: Load of this machine while it was measured.
    """

    p50_ms: float
    p95_ms: float
    first_token_p50_ms: float | None
    num_requests: int
    load: float


@dataclass(frozen=True)
class Freshness:
    """What happens when documents change.

    Attributes:
        num_documents: Documents that were changed.
        right_after: Share of questions about them that are answered by the new text.
        stale_after: Share that are still answered by the old text.
        seconds: From the change to the answers: indexing, or training again.
        note: How it was measured, or why not.
    """

    num_documents: int
    right_after: float | None
    stale_after: float | None
    seconds: float | None
    note: str


@dataclass(frozen=True)
class Arm:
    """One way to customise the model, as it was measured.

    Attributes:
        name: Such as `rag`, or `rag:claude` with another model.
        strategy: The way; `closed_book` and `oracle` are diagnostics and cannot be chosen.
        model: The model that answered.
        state: Whether it was measured on the test rows.
        reason: Why it was not.
        settings: What was chosen on the validation rows, such as the number of examples.
        metrics: Metrics on the test rows; the task's main one among them.
        scores: Main metric of each test row, in their order.
        answers: Answer to each test row, in their order.
        sources: Cited passages of each test row (document, start, end); empty for arms without retrieval.
        pilot: Main metric on the validation rows.
        difference: Main metric minus the baseline's on the same rows.
        p_value: Of that difference, corrected for the number of arms (Holm).
        cost: Tokens and money.
        latency: Times.
        freshness: What a change of documents does; None where there are none.
        retrieval: recall@k, MRR, nDCG and answerable@k of the passages shown, by name.
        citations: Share of answers whose words stand in the passages shown (lexical support); None without passages.
        truncated: Requests from which passages or examples were left out to fit the context.
        seed_scores: Main metric of each training seed.
    """

    name: str
    strategy: str
    model: str
    state: State
    reason: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    metrics: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    scores: tuple[float, ...] = ()
    answers: tuple[str, ...] = ()
    sources: tuple[tuple[tuple[str, int, int], ...], ...] = ()
    pilot: Estimate | None = None
    difference: Estimate | None = None
    p_value: float | None = None
    cost: Cost | None = None
    latency: Latency | None = None
    freshness: Freshness | None = None
    retrieval: Mapping[str, float] = field(default_factory=dict[str, float])
    citations: float | None = None
    truncated: int = 0
    seed_scores: tuple[float, ...] = ()

    @property
    def is_selectable(self) -> bool:
        """Whether a verdict may choose it."""
        return self.state == "measured" and self.strategy not in ("closed_book", "oracle")


@dataclass(frozen=True)
class Gaps:
    """What is missing, by the diagnostics; None where one could not be run.

    Attributes:
        knowledge: Oracle context minus closed book: what the model does not know.
        behaviour: 1 minus oracle context: what it does not do even when it is shown the passage.
        retrieval: Oracle context minus retrieval: what is not found.
    """

    knowledge: float | None
    behaviour: float | None
    retrieval: float | None


@dataclass(frozen=True)
class CurvePoint:
    """A point of the learning curve.

    Attributes:
        share: Share of the training rows.
        num_rows: Their number.
        score: Main metric on the validation rows, or on the test rows for the whole.
        split: Which rows it was measured on.
    """

    share: float
    num_rows: int
    score: Estimate
    split: str


@dataclass(frozen=True)
class Forgetting:
    """Bits per byte of texts of other kinds, before and after tuning.

    Attributes:
        arm: The arm.
        before: Of the base model.
        after: Of the tuned one.
        num_texts: Texts.
        note: What the texts are.
    """

    arm: str
    before: float
    after: float
    num_texts: int
    note: str


@dataclass(frozen=True)
class Decision:
    """What is recommended.

    Attributes:
        chosen: Name of the arm to take; the cheapest defensible one even where undecided.
        is_decided: Whether more rows could not reasonably change it.
        sentence: The verdict in one sentence.
        rows_needed: Test rows that would settle it; None where decided.
        reasons: For every other arm, one sentence with its number.
        order: The arms by cost, the cheapest first, and by what they were ordered.
        order_note: By what they were ordered.
    """

    chosen: str
    is_decided: bool
    sentence: str
    rows_needed: int | None
    reasons: Mapping[str, str]
    order: tuple[str, ...]
    order_note: str


@dataclass(frozen=True)
class Flip:
    """A test row that the chosen arm and another one answer differently.

    Attributes:
        where: `file:line` of the row.
        prompt: What was asked.
        reference: The right answer.
        answers: Answer by arm.
        scores: Score by arm.
        sources: Passages that were shown, as `document:start-end`.
    """

    where: str
    prompt: str
    reference: str
    answers: Mapping[str, str]
    scores: Mapping[str, float]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strategies:
    """The whole comparison.

    Attributes:
        title: Name of the recipe.
        created: When.
        metric: The task's main metric.
        num_rows: Test rows.
        frozen: Hash of the test rows.
        looks: How many comparisons have seen these test rows.
        arms: Every arm and diagnostic, those that were not run among them.
        gaps: What is missing.
        curve: The learning curve.
        forgetting: What tuning made the model forget.
        decision: The verdict.
        flips: The rows on which arms differ most.
        power: What the number of test rows can show, in words.
        notes: What a reader must know: what was not measured, load, prices and their date.
    """

    title: str
    created: str
    metric: str
    num_rows: int
    frozen: str
    looks: int
    arms: tuple[Arm, ...]
    gaps: Gaps
    curve: tuple[CurvePoint, ...]
    forgetting: tuple[Forgetting, ...]
    decision: Decision
    flips: tuple[Flip, ...]
    power: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self)
