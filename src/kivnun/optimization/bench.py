"""One form of a model on the bench: asked the golden prompts, compared with the tuned model, timed, and judged."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kivnun.errors import UserError
from kivnun.generation.agreement import ParityRow, require_parity
from kivnun.generation.engine import Engine, Generation
from kivnun.optimization.engines import open_form
from kivnun.optimization.golden import Golden, Tick
from kivnun.optimization.measure import (
    SPEED_PROMPTS,
    decode_tokens_per_second,
    first_token_ms,
    folder_size_bytes,
    measure_onnx,
    with_speed,
)
from kivnun.optimization.reference import Check, Reference, check_form
from kivnun.recipe.optimization import OptimizationSection

SAID_EVERY_SECONDS = 5.0

Log = Callable[[str, Mapping[str, object]], None]
Score = Callable[[Sequence[Generation]], float | None]
"""The main metric of some answers to the golden prompts, or None where there is nothing to score."""


@dataclass(frozen=True)
class BuiltForm:
    """A form of the model that lies in its folder.

    Attributes:
        name: As in the parity table.
        precision: Of its weights.
        folder: Where it is.
        target: What it runs on.
    """

    name: str
    precision: str
    folder: Path
    target: str = "cpu"

    @property
    def is_exact(self) -> bool:
        """Whether nothing is rounded, so that it must answer as the tuned model does."""
        return self.precision in ("fp32", "f32")


@dataclass(frozen=True)
class Bench:
    """What every form is measured with.

    Attributes:
        golden: What is asked.
        reference: The tuned model's answers.
        settings: The recipe's `optimization` section.
        score: The main metric.
        log: Takes events.
    """

    golden: Golden
    reference: Reference
    settings: OptimizationSection
    score: Score
    log: Log

    def measure(self, form: BuiltForm) -> tuple[ParityRow, Check]:
        """A form read back from its folder, asked, compared and timed.

        Raises:
            UserError: `parity-failed` where it is exact and answers otherwise; `model-invalid` where it does not load.
        """
        check, row = self._ask(form)
        if (form.folder / "model.onnx").is_file():
            self.log("timing", {"name": form.name})
            row = with_speed(row, measure_onnx(form.folder, self.speed_prompts)[0])
        differences = [str(each) for each in check.agreement.first_differences]
        self.log("parity", {**asdict(row), "first_differences": differences})
        if form.is_exact:
            require_parity(form.name, check.agreement)
        return row, check

    @property
    def speed_prompts(self) -> list[Sequence[int]]:
        """The prompts that forms are timed on."""
        return self.golden.token_ids[:SPEED_PROMPTS]

    def _ask(self, form: BuiltForm) -> tuple[Check, ParityRow]:
        """What a form answers, and its row; a GGUF file is not timed: another program will run it.

        The model leaves memory with this function: an ONNX form is timed in a process of its own, and two of them need
        not fit at once.
        """
        engine = open_form(form.folder, name=form.name)
        tick = tick_to_log(form.name, self.log)
        tolerance = self.settings.tie_tolerance
        check = check_form(engine, self.golden, self.reference, tie_tolerance=tolerance, tick=tick)
        row = make_row(form, check, self.score(check.answers))
        is_timed_here = not any(any(form.folder.glob(name)) for name in ("model.onnx", "*.gguf"))
        return check, time_engine(row, engine, self.speed_prompts) if is_timed_here else row

    def require_bounds(self, form: BuiltForm, row: ParityRow, check: Check) -> None:
        """Refuse a form that drifted further than the recipe allows.

        Raises:
            UserError: `parity-failed`, with the figure, the bound and where the first answers part.
        """
        if form.is_exact:
            return
        problems = broken_bounds(row, self.settings.min_agreement, self.settings.max_divergence)
        if problems:
            raise UserError(
                "parity-failed",
                f"{row.name}: {'; '.join(problems)}",
                details=[str(each) for each in check.agreement.first_differences],
                hint="lower optimization.block_size, choose another algorithm or precision, or loosen the bound",
            )


def make_row(form: BuiltForm, check: Check, score: float | None) -> ParityRow:
    """A line of the parity table, without the times.

    Args:
        form: The form.
        check: How it answered.
        score: The main metric of its answers.
    """
    agreement = check.agreement
    return ParityRow(
        name=form.name,
        precision=form.precision,
        size_bytes=folder_size_bytes(form.folder),
        tokens_per_second=None,
        num_prompts=agreement.num_prompts,
        identical=agreement.identical,
        ties=agreement.ties,
        different=agreement.different,
        score=score,
        token_agreement=check.token_agreement,
        divergence=check.divergence,
        target=form.target,
        folder=form.folder.name,
    )


def unmeasured_row(form: BuiltForm) -> ParityRow:
    """The line of a form that this machine cannot run; `kivnun verify` measures it where it can."""
    size = folder_size_bytes(form.folder)
    return ParityRow(
        form.name,
        form.precision,
        size,
        *(None, 0, 0, 0, 0, None),
        target=form.target,
        folder=form.folder.name,
        verdict="not run here",
        note=f"for {form.target}: kivnun verify checks it there",
    )


def time_engine(row: ParityRow, engine: Engine, prompts: Sequence[Sequence[int]]) -> ParityRow:
    """The row with an engine's speed in this process."""
    speed = decode_tokens_per_second(engine, prompts)
    return replace(row, tokens_per_second=speed, first_token_ms=first_token_ms(engine, prompts))


def broken_bounds(row: ParityRow, min_agreement: float | None, max_divergence: float | None) -> list[str]:
    """Which bounds a row breaks, in words.

    Args:
        row: What was measured.
        min_agreement: Least share of identical answers; None for no bound.
        max_divergence: Largest divergence; None for no bound.
    """
    problems: list[str] = []
    share = row.identical / row.num_prompts
    if min_agreement is not None and share < min_agreement:
        problems.append(f"answers {share:.1%} identically, optimization.min_agreement is {min_agreement}")
    if max_divergence is not None and row.divergence is not None and row.divergence > max_divergence:
        problems.append(f"divergence {row.divergence:.4g} nats, optimization.max_divergence is {max_divergence}")
    return problems


def tick_to_log(name: str, log: Log) -> Tick:
    """Progress as an event now and then, with the time left.

    Args:
        name: Of the form that is asked.
        log: Takes the events.
    """
    started = said = time.monotonic()

    def tick(done: int, total: int) -> None:
        nonlocal said
        moment = time.monotonic()
        if done < total and moment - said >= SAID_EVERY_SECONDS:
            left = (moment - started) / done * (total - done)
            log("asking", {"name": name, "done": done, "total": total, "seconds_left": round(left, 1)})
            said = moment

    return tick
