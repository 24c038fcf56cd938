"""Golden prompts: what every form of a model is asked, fixed when training ends and kept with each of them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from kivnun.errors import UserError
from kivnun.generation.engine import Engine, Generation
from kivnun.runs import write_atomic

GOLDEN_NAME = "golden.json"
FORMAT = 1
# Asked at once: as many as a torch model answers in one batch, and few enough that the time left can be told.
CHUNK = 32

Tick = Callable[[int, int], None]
"""Progress: questions answered, all questions."""


@dataclass(frozen=True)
class GoldenPrompt:
    """One prompt.

    Attributes:
        token_ids: What the model is asked; tokens, so that no template or tokenizer stands between.
        answer: The right answer; None for running text, which has none.
    """

    token_ids: tuple[int, ...]
    answer: str | None


@dataclass(frozen=True)
class Golden:
    """What every form of a model must answer like the tuned model.

    Attributes:
        prompts: The prompts.
        max_new_tokens: Longest answer.
        stop_ids: Tokens that end an answer.
        task: How answers are scored, as in the recipe's `evaluation`; None where they are not.
    """

    prompts: tuple[GoldenPrompt, ...]
    max_new_tokens: int
    stop_ids: frozenset[int]
    task: str | None

    @property
    def token_ids(self) -> list[Sequence[int]]:
        """The prompts alone."""
        return [prompt.token_ids for prompt in self.prompts]

    def ask(self, engine: Engine, tick: Tick = lambda _done, _total: None) -> list[Generation]:
        """An engine's greedy answers, in the order of the prompts.

        Args:
            engine: A form of the model.
            tick: Takes the progress.
        """
        # The longest come first: neighbours in length share a batch, and what does not fit in memory fails at once.
        order = sorted(range(len(self.prompts)), key=lambda number: -len(self.prompts[number].token_ids))
        answers: dict[int, Generation] = {}
        for start in range(0, len(order), CHUNK):
            numbers = order[start : start + CHUNK]
            chunk = [self.prompts[number].token_ids for number in numbers]
            said = engine.generate(chunk, max_new_tokens=self.max_new_tokens, stop_ids=self.stop_ids)
            answers.update(zip(numbers, said, strict=True))
            tick(len(answers), len(order))
        return [answers[number] for number in range(len(order))]


def was_fixed(kept: Golden | None, asked: Golden) -> bool:
    """Whether what is asked was fixed before: the same prompts, or the first of them, in the same way."""
    return kept is not None and replace(kept, prompts=kept.prompts[: len(asked.prompts)]) == asked


def write_golden(folder: Path, golden: Golden) -> None:
    """Write `golden.json`; equal prompts give equal bytes."""
    fields = {"format": FORMAT, **asdict(golden), "stop_ids": sorted(golden.stop_ids)}
    write_atomic(folder / GOLDEN_NAME, orjson.dumps(fields) + b"\n")


def read_golden(folder: Path) -> Golden | None:
    """The golden prompts of a folder; None where it holds none, as in runs made before they were kept.

    Raises:
        UserError: `artifact-damaged` where they cannot be read.
    """
    path = folder / GOLDEN_NAME
    if not path.is_file():
        return None
    try:
        return _parse(orjson.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "artifact-damaged",
            f"{path} cannot be read ({error})",
            hint="copy the folder again from where it was made, or run the recipe again",
        ) from error


def _parse(fields: Any) -> Golden:
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']}, known is {FORMAT}")
    prompts = tuple(GoldenPrompt(tuple(each["token_ids"]), each["answer"]) for each in fields["prompts"])
    return Golden(prompts, fields["max_new_tokens"], frozenset(fields["stop_ids"]), fields["task"])
