"""Prompts that are read into a model, in pieces, and which of those that are being read goes on.

Everything here runs on the compute thread.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kivnun.generation.row_model import RowModel
from kivnun.serving.answers import Token
from kivnun.serving.choosing import told_token
from kivnun.serving.one_answer import Answer
from kivnun.serving.prefixes import BLOCK_TOKENS, PrefixStore

MOST_TOKENS = 512
FEWEST_TOKENS = 64
# Logits of every token of the prompt take memory.
MOST_TOLD_TOKENS = 64
PAUSE_SECONDS = 0.1


@dataclass
class PromptReader:
    """What reads the prompts of one model.

    Attributes:
        number: Of the model, never used again.
        model: What computes.
        prefixes: What is kept of prompts, of all models.
    """

    number: int
    model: RowModel
    prefixes: PrefixStore
    _seconds_per_token: float = 0.002

    def budget(self, step_seconds: float | None) -> int:
        """How many tokens to read before the next step: about as long as one takes, for which running answers wait.

        Args:
            step_seconds: How long a step takes; None where no answer is running, of any model.
        """
        if step_seconds is None:
            return MOST_TOKENS
        pause = max(PAUSE_SECONDS, step_seconds)
        return int(min(MOST_TOKENS, max(FEWEST_TOKENS, pause / self._seconds_per_token)))

    def read(self, answer: Answer, budget: int) -> tuple[int, NDArray[np.float32] | None]:
        """Feed one piece of a prompt.

        Args:
            answer: Gets its row with the first piece, as late as can be: what others read meanwhile is kept for it.
            budget: At most so many tokens.

        Returns:
            What it cost, in tokens, and the logits after the prompt if that was the last piece, shape (V,).
        """
        prompt, tells = answer.asked.prompt_ids, answer.asked.tell_prompt
        if answer.row is None:
            logits_V = self._begin(answer)
            if logits_V is not None:
                return 1, logits_V
        assert answer.row is not None  # noqa: S101 - begun above
        count = min(budget, answer.unread_tokens, MOST_TOLD_TOKENS if tells else budget)
        piece = prompt[answer.fed : answer.fed + count]
        started = time.perf_counter()
        logits = self.model.feed(answer.row, piece, every=tells)
        self._learn_speed(count, time.perf_counter() - started)
        answer.fed += count
        if tells:
            _tell_prompt(answer, logits, count)
        last_V = None if answer.unread_tokens else logits[-1] if tells else logits
        held = prompt[: answer.fed]
        self.prefixes.keep(self.number, self.model, answer.row, held, last_V, salt=answer.asked.cache_salt)
        # However short a piece is, the model's weights are read for it.
        return max(count, FEWEST_TOKENS // 2), last_V

    def _begin(self, answer: Answer) -> NDArray[np.float32] | None:
        """Give an answer its row, with what is kept of its prompt; the logits if that is all of it."""
        if answer.asked.tell_prompt:
            # The logits of kept tokens are gone.
            answer.row = self.model.begin(adapter=answer.adapter)
            return None
        asked = answer.asked
        found = self.prefixes.find(self.number, answer.adapter, asked.prompt_ids, salt=asked.cache_salt)
        answer.row = self.model.begin(adapter=answer.adapter, kept=found.pieces)
        answer.fed = answer.cached = found.num_tokens
        return found.logits

    def _learn_speed(self, count: int, seconds: float) -> None:
        if count >= FEWEST_TOKENS:
            self._seconds_per_token += 0.3 * (seconds / count - self._seconds_per_token)


def can_go_on(reading: Sequence[Answer], *, keeps: bool) -> Sequence[Answer]:
    """Those that gain nothing by waiting, in their order; one at least.

    A prompt that has not begun waits for another one as long as that reads what is the same in both: it will find that
    kept, and nothing is computed twice.

    Args:
        reading: Answers whose prompts are read, one at least.
        keeps: Whether what is computed for a prompt is kept for others at all.
    """
    if not keeps:
        return reading
    begun = [answer for answer in reading if answer.row is not None]
    return [each for each in reading if each.row is not None or not any(_reads_for(other, each) for other in begun)]


def _reads_for(answer: Answer, other: Answer) -> bool:
    """Whether what an answer reads next will be kept for the beginning of another one's prompt."""
    if other.asked.tell_prompt or (answer.adapter, answer.project) != (other.adapter, other.project):
        return False
    stop = (answer.fed // BLOCK_TOKENS + 1) * BLOCK_TOKENS
    return answer.asked.prompt_ids[:stop] == other.asked.prompt_ids[:stop]


def _tell_prompt(answer: Answer, logits_TV: NDArray[np.float32], count: int) -> None:
    """Tell the prompt's tokens, each by the logits before it: the first piece tells its first token without."""
    prompt, first = answer.asked.prompt_ids, answer.fed - count
    wants = answer.asked.top_logprobs
    if first == 0:
        answer.receive(Token(prompt[0], of_prompt=True))
    for number, logits_V in enumerate(logits_TV, start=first + 1):
        if number < len(prompt):
            token = Token(prompt[number]) if wants is None else told_token(logits_V, prompt[number], wants)
            answer.receive(Token(token.token_id, token.logprob, token.top, of_prompt=True))
