"""Do two forms of one model (torch and ONNX, fp32 and int4) give the same answers, token by token?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kivnun.errors import UserError
from kivnun.generation.engine import Generation

NUM_FIRST_DIFFERENCES = 10

Verdict = Literal["passed", "not run here", "not kept"]


@dataclass(frozen=True)
class Difference:
    """Where two answers to one prompt part.

    Attributes:
        prompt: Number of the prompt, from 0.
        step: Number of the step, from 0.
        reference_token: Chosen by the reference; None for the end of the answer.
        other_token: Chosen by the other form; None likewise.
        margin: The larger of the two top-two logit margins at that step; None unless both engines know theirs.
        tie: Whether that margin is within the tolerance: neither form prefers its token.
    """

    prompt: int
    step: int
    reference_token: int | None
    other_token: int | None
    margin: float | None
    tie: bool

    def __str__(self) -> str:
        """One line for an error or a report."""
        tokens = ["end" if token is None else f"token {token}" for token in (self.reference_token, self.other_token)]
        margin = "margin unknown" if self.margin is None else f"margin {self.margin:.2g}"
        return f"prompt {self.prompt}, step {self.step}: {tokens[0]} became {tokens[1]} ({margin})"


@dataclass(frozen=True)
class Agreement:
    """How far two forms of a model agree.

    Attributes:
        num_prompts: Prompts compared.
        identical: Answers equal token by token.
        ties: Answers that part where two tokens are equally good, so that rounding decides.
        different: Answers that part elsewhere.
        first_differences: The first few of those, differences before ties.
    """

    num_prompts: int
    identical: int
    ties: int
    different: int
    first_differences: tuple[Difference, ...]

    @property
    def identical_share(self) -> float:
        """Identical answers as a share of all."""
        return self.identical / self.num_prompts


@dataclass(frozen=True)
class ParityRow:
    """One line of the parity table: a form of the model beside the reference.

    Attributes:
        name: Such as "merged" or "int4 k_quant/32 ONNX".
        precision: Of the weights.
        size_bytes: Of the folder.
        tokens_per_second: Decoding on this machine; None where the form does not run here.
        num_prompts: Prompts compared with the reference.
        identical: Answers equal token by token.
        ties: Answers that part at a tie.
        different: Answers that part elsewhere.
        score: Main metric on the test split; None where it was not measured.
        token_agreement: Share of the reference's tokens that this form would choose after the same tokens.
        divergence: Mean Kullback-Leibler divergence per token from the reference, in nats.
        first_token_ms: Median time to the first token of one request.
        memory_bytes: Most memory that answering took.
        num_threads: Cores that one token used when it was timed; None for what the runtime takes by itself.
        target: What the form runs on.
        folder: Where it is kept, beside the table; None for the tuned model and for forms that are not kept.
        verdict: "passed", "not run here" for a form whose target this machine lacks, or "not kept".
        note: Why it is not kept, or why it is the one that is.
    """

    name: str
    precision: str
    size_bytes: int
    tokens_per_second: float | None
    num_prompts: int
    identical: int
    ties: int
    different: int
    score: float | None
    token_agreement: float | None = None
    divergence: float | None = None
    first_token_ms: float | None = None
    memory_bytes: int | None = None
    target: str = "cpu"
    folder: str | None = None
    verdict: Verdict = "passed"
    note: str = ""
    num_threads: int | None = None


def compare_answers(reference: Sequence[Generation], other: Sequence[Generation], *, tie_tolerance: float) -> Agreement:
    """Compare the answers of two forms of a model to the same prompts.

    Args:
        reference: Answers of the form that was evaluated.
        other: Answers of the form that will be served.
        tie_tolerance: Two tokens whose logits differ by no more than this, in both forms, are equally good.
    """
    if len(reference) != len(other) or not reference:
        raise ValueError(f"cannot compare {len(reference)} answers with {len(other)}")
    pairs = enumerate(zip(reference, other, strict=True))
    found = [_first_difference(number, first, second, tie_tolerance) for number, (first, second) in pairs]
    parted = [difference for difference in found if difference is not None]
    ties = sum(difference.tie for difference in parted)
    return Agreement(
        num_prompts=len(reference),
        identical=len(reference) - len(parted),
        ties=ties,
        different=len(parted) - ties,
        first_differences=tuple(sorted(parted, key=lambda difference: difference.tie)[:NUM_FIRST_DIFFERENCES]),
    )


def require_parity(name: str, agreement: Agreement) -> None:
    """Refuse a form of the model whose answers differ from the reference beyond ties.

    Args:
        name: Of the form, such as "fp32 ONNX".
        agreement: From `compare_answers`.

    Raises:
        UserError: parity-failed.
    """
    if agreement.different:
        raise UserError(
            "parity-failed",
            f"{name} answers {agreement.different} of {agreement.num_prompts} prompts differently from the tuned model",
            hint="report this with the lines above; until then serve the merged model, whose answers were evaluated",
            details=[str(difference) for difference in agreement.first_differences if not difference.tie],
        )


def _choices(answer: Generation) -> tuple[int | None, ...]:
    """The token of every step; None where the model chose to stop."""
    return (*answer.token_ids, None) if answer.finished == "stop" else answer.token_ids


def _first_difference(number: int, reference: Generation, other: Generation, tie_tolerance: float) -> Difference | None:
    first, second = _choices(reference), _choices(other)
    if first == second:
        return None
    shared = min(len(first), len(second))
    step = next((step for step in range(shared) if first[step] != second[step]), None)
    if step is None:
        # One ran out of room earlier: the two were not asked the same question, and no margin can excuse that.
        longer = first if len(first) > shared else second
        tokens = (longer[shared], None) if longer is first else (None, longer[shared])
        return Difference(number, shared, *tokens, margin=None, tie=False)
    known = [answer.top_two_margins for answer in (reference, other) if answer.top_two_margins is not None]
    # The larger one: a broken form that likes every token equally must not excuse itself.
    margin = max(margins[step] for margins in known) if len(known) == 2 else None
    tie = margin is not None and margin <= tie_tolerance
    return Difference(number, step, first[step], second[step], margin, tie)
