"""A model behind an endpoint beside the tuned model: its texts, and its tokens and probabilities where it tells them.

The definitions are those for engines on this machine. Where the server takes no token ids, its own tokenizer stands in
between and it cannot be led along an answer: then only whole answers are compared.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kivnun.data.encode import Encoder
from kivnun.generation.agreement import compare_answers
from kivnun.generation.endpoint import Completion, CompletionServer
from kivnun.generation.engine import Generation
from kivnun.optimization.divergence import Forced, Step, divergence, merge_outcomes, num_steps
from kivnun.optimization.golden import Golden, Tick
from kivnun.optimization.measure import SPEED_PROMPTS
from kivnun.optimization.reference import Check, Reference, summarize_forced

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
# Servers round, so that the probabilities they tell may add up to 1 and more.
SMALLEST_REST = 1e-9


@dataclass(frozen=True)
class Served:
    """A served model with the tokenizer of the form that it is held to.

    Attributes:
        server: Who is asked.
        encoder: The tokenizer.
    """

    server: CompletionServer
    encoder: Encoder

    def complete(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Completion:
        """The completion of a prompt of token ids."""
        prompt = prompt_ids if self.server.takes_tokens else whole_text(self.encoder, prompt_ids)
        return self.server.complete(prompt, max_new_tokens)

    def piece(self, before: int, token: int) -> str:
        """What a token adds to a text; some tokenizers show a token's space only behind another token."""
        return whole_text(self.encoder, [before, token])[len(whole_text(self.encoder, [before])) :]

    def describe(self) -> str:
        """Who was asked, and how."""
        server = self.server
        how = "token ids" if server.takes_tokens else "texts, for it takes no token ids: its own tokenizer reads them"
        told = "no probabilities" if server.num_logprobs is None else f"the {server.num_logprobs} likeliest tokens"
        return f"{server.model} at {server.endpoint.place}, asked with {how}; it tells {told}"


@dataclass(frozen=True)
class ServedCheck:
    """A served model beside the reference.

    Attributes:
        check: How its tokens compare.
        texts: Its answers.
        tokens_per_second: Generated tokens, one request at a time, the network included.
        first_token_ms: Median time of a request for one token.
    """

    check: Check
    texts: tuple[str, ...]
    tokens_per_second: float
    first_token_ms: float


def whole_text(encoder: Encoder, token_ids: Sequence[int]) -> str:
    """Text of some tokens, special ones included."""
    tokenizer = encoder.tokenizer
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def check_served(
    served: Served, golden: Golden, reference: Reference, *, tie_tolerance: float, tick: Tick
) -> ServedCheck:
    """Ask a served model the golden prompts, and lead it along the reference's answers where it can be led.

    Args:
        served: The model.
        golden: The prompts.
        reference: The tuned model's answers to them.
        tie_tolerance: See `compare_answers`.
        tick: Takes the progress.

    Raises:
        UserError: `endpoint-failed`.
    """
    first_ms = _time_first(served, golden.token_ids[:SPEED_PROMPTS])
    said: list[Completion] = []
    answers: list[Generation] = []
    forced: list[Forced] = []
    seconds = 0.0
    for number, (prompt, expected) in enumerate(zip(golden.token_ids, reference.answers, strict=True)):
        started = time.perf_counter()
        said.append(served.complete(prompt, golden.max_new_tokens))
        seconds += time.perf_counter() - started
        answers.append(read_answer(served, prompt[-1], expected, said[-1]))
        predicted = reference.predicted[number] if number < len(reference.predicted) else ()
        forced += _lead(served, prompt, expected, answers[-1], predicted)
        tick(number + 1, len(golden.prompts))
    agreement = compare_answers(reference.answers, answers, tie_tolerance=tie_tolerance)
    check = Check(tuple(answers), agreement, *summarize_forced(forced))
    speed = sum(map(num_steps, answers)) / seconds
    return ServedCheck(check, tuple(each.text for each in said), speed, first_ms)


def _time_first(served: Served, prompts: Sequence[Sequence[int]]) -> float:
    times = []
    for prompt in (prompts[0], *prompts):
        started = time.perf_counter()
        served.complete(prompt, 1)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def read_answer(served: Served, before: int, expected: Generation, said: Completion) -> Generation:
    """A completion as token ids: the reference's where the texts are equal, else what its tokens' texts say.

    Args:
        served: The model.
        before: The prompt's last token.
        expected: The reference's answer.
        said: The completion.
    """
    tokens, margins = _told(served, expected, said)
    if said.text == served.encoder.decode(expected.token_ids) and said.finished == expected.finished:
        return Generation(expected.token_ids, expected.finished, _fit(margins, num_steps(expected)))
    if not tokens:
        return Generation(tuple(served.encoder.encode_texts([said.text])[0]), said.finished)
    ids: list[int] = []
    for place, text in enumerate(tokens):
        previous = ids[-1] if ids else before
        likely = expected.token_ids[place] if place < len(expected.token_ids) else None
        is_likely = likely is not None and previous >= 0 and served.piece(previous, likely) == text
        # What the reference did not say at this place need not be named: it differs.
        ids.append(likely if is_likely and likely is not None else -1)
    steps = len(ids) + (said.finished == "stop")
    return Generation(tuple(ids), said.finished, _fit(margins, steps))


def _told(served: Served, expected: Generation, said: Completion) -> tuple[tuple[str, ...], list[float]]:
    """The answer's tokens, without one that ends it, and the distance of the two best at each step."""
    margins = [_margin(list(best.values())) for best in said.best]
    joined = "".join(said.tokens)
    ends_told = said.finished == "stop" and joined != said.text and joined.startswith(said.text)
    return (said.tokens[:-1] if ends_told else said.tokens), margins


def _margin(log_p: Sequence[float]) -> float:
    """Best minus second-best log-probability, which is the distance of the logits; infinite where only one is told."""
    if len(log_p) < 2:
        return math.inf
    second, best = np.partition(np.asarray(log_p), -2)[-2:]
    return float(best - second)


def _fit(margins: list[float], steps: int) -> tuple[float, ...] | None:
    """Margins for every step; a step that the server did not tell about, such as the one that ends, is never a tie."""
    return tuple([*margins, *[math.inf] * steps][:steps]) if margins else None


def _lead(
    served: Served, prompt_ids: Sequence[int], expected: Generation, said: Generation, predicted: Sequence[Step]
) -> list[Forced]:
    """What the model would choose at each step of the reference's answer, one short request for each."""
    total = measured = num_steps(expected)
    is_same = (said.token_ids, said.finished) == (expected.token_ids, expected.finished)
    if not served.server.takes_tokens:
        # To count the equal answers alone would make every server agree wholly.
        return []
    if is_same and not (predicted and served.server.num_logprobs):
        return [Forced(total, total)]
    agreed = 0
    divergences: list[float] = []
    for place in range(total):
        context = [*prompt_ids, *expected.token_ids[:place]]
        next_one = served.complete(context, 1)
        if place == len(expected.token_ids):
            agreed += next_one.finished == "stop"
        else:
            piece = served.piece(context[-1], expected.token_ids[place])
            # A part of a letter has no text of its own by which it could be told from another one.
            measured -= UNREADABLE in piece
            agreed += UNREADABLE not in piece and next_one.text == piece
        if predicted and next_one.best:
            divergences.append(_diverge(served, context[-1], predicted[place], next_one))
    return [Forced(agreed, measured, tuple(divergences))]


def _diverge(served: Served, before: int, step: Step, said: Completion) -> float:
    """The divergence over the tokens that both sides tell of; all others share the last outcome."""
    pieces = [served.piece(before, token) for token in step.ids]
    kept = [
        place
        for place, piece in enumerate(pieces)
        if piece in said.best[0] and UNREADABLE not in piece and pieces.count(piece) == 1
    ]
    log_q = [said.best[0][pieces[place]] for place in kept]
    rest = 1.0 - sum(math.exp(value) for value in log_q)
    return divergence(merge_outcomes(step.log_p, kept), [*log_q, math.log(max(rest, SMALLEST_REST))])
