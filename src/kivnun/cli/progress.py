"""Live progress on standard error: a bar with loss, speed and time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from kivnun.data.check_counts import say_checks
from kivnun.data.visible import make_visible

PLAIN_LINE_SECONDS = 10.0
MAX_FILES_SAID = 5

STAGE_WORDS = {
    "base": "making a new model and its tokenizer",
    "dataset": "reading, splitting, checking and tokenising the data",
    "model": "training",
    "evaluation": "evaluating base and tuned model on the test rows",
    "optimized": "merging, exporting and proving parity",
}


class Progress:
    """Shows a run's events as they come.

    Args:
        stream: Where to; a bar only on a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._said_at = 0.0
        self._seconds_per_step = 0.0

    def __enter__(self) -> Self:
        """The display itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._end_bar()

    def show(self, event: str, fields: Mapping[str, object]) -> None:
        """Show one event."""
        if event == "step":
            self._show_step(fields)
        elif event == "training_started":
            self._say(say_training(fields))
            for note in cast("Sequence[str]", fields.get("notes") or ()):
                self._say(f"  note: {note}")
            self._start_bar(int(cast("int", fields["num_steps"])))
        elif event == "training_finished":
            self._end_bar()
        else:
            line = say_event(event, fields)
            if line:
                self._say(line)

    def _show_step(self, fields: Mapping[str, object]) -> None:
        step, num_steps = int(cast("int", fields["step"])), int(cast("int", fields["num_steps"]))
        seconds = float(cast("float", fields["seconds"]))
        speed = int(cast("int", fields["num_tokens"])) / seconds
        words = f"loss {fields['loss']:.4f}  {speed:,.0f} tokens/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, words=words)
            return
        # An exponential mean: the first steps are slower than the rest.
        self._seconds_per_step = seconds if not self._seconds_per_step else 0.9 * self._seconds_per_step + 0.1 * seconds
        now = time.monotonic()
        if now - self._said_at >= PLAIN_LINE_SECONDS or step == num_steps:
            left = say_seconds((num_steps - step) * self._seconds_per_step)
            self._say(f"step {step}/{num_steps}  {words}  {left} left")
            self._said_at = now

    def _say(self, line: str) -> None:
        console = self._bar.console if self._bar is not None else self._console
        console.print(line, markup=False)

    def _start_bar(self, num_steps: int) -> None:
        if not self._console.is_terminal:
            return
        columns = (TextColumn("  training"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
        times = (TextColumn("{task.fields[words]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Bar(*columns, *times, console=self._console)
        self._bar.start()
        self._task = self._bar.add_task("training", total=num_steps, words="")

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


WORDS = {
    "stage_skipped": "[{stage}] unchanged, not repeated",
    "context_limit": "  rows may have {context} tokens, the model's context, not max_seq_len = {max_seq_len}",
    "data_checked": "  checked {num_rows:,} rows in {seconds:.1f} s",
    "resumed": "  going on after step {step}",
    "checkpoint_damaged": "  warning: checkpoint {folder} is damaged and not used: {problem}",
    "early_stop": "  stopped early after step {step}: best was step {best_step}",
    "micro_batch": "  memory ran out: from step {step} on {micro_batch_tokens} tokens are computed at once",
    "not_learnt": "  warning: no validation loss (lowest {best:.4f}) is below that of the first step ({first:.4f}): "
    "nothing was learnt; try a lower training.learning_rate, or a higher one if the loss hardly moved",
    "model_replaced": "  the model that is there was made from other settings ({changed}); it is kept in {kept}",
    "alone": "  training.parallel: {parallel} has no effect on one process; `torchrun -m kivnun run` starts several",
    "other_checkpoints": "  checkpoints of another recipe (steps {steps}) do not fit this one; they are kept in "
    "checkpoints/earlier: the old recipe would go on from them",
    "computed_otherwise": "  {settings} changed: the run goes on, but not bit for bit as it would have",
    "overfitting": "  warning: {words}",
    "tracker_failed": "  warning: {tracker} failed and is off, the training goes on: {problem}",
    "interrupted": "  stopped; step {step} is saved",
    "untrained_head": "  the base model has no head for these labels: it answers with an untrained one",
    "answering": "  {model} model answers {num_rows} test rows",
    "golden_made": "  the {num_prompts} golden prompts are made from the data set now: the recipe, or Kivnun, changed "
    "since the training ended",
    "export_note": "  note: {note}",
    "timing": "  {name}: timing it",
    "candidate_failed": "  {name} could not be built and is left out: {problem}",
    "calibration_rows": "  calibrating on {used} of {given} rows, {tokens:,} tokens",
    "calibration_thin": "  note: {tokens:,} tokens are few to calibrate on: {needed:,} or more would be better",
    "not_run_here": "  {name} is built but does not run on this machine: `kivnun verify` checks it where it does",
    "gguf_note": "  GGUF: {note}",
    "parity": "  {name}: {identical}/{num_prompts} answers identical, {ties} ties, {different} different",
}


def say_event(event: str, fields: Mapping[str, object]) -> str | None:
    """One event in words, or None for those that need none."""
    if event in SAYERS:
        return SAYERS[event](fields)
    return WORDS[event].format_map(fields) if event in WORDS else None


def _say_stage(fields: Mapping[str, object]) -> str:
    return f"[{fields['stage']}] {STAGE_WORDS.get(str(fields['stage']), '')} ..."


def _say_memory(fields: Mapping[str, object]) -> str:
    room = fields["micro_batch_tokens"]
    words = "a whole batch fits" if room is None else f"{room:,} tokens are computed at once"
    return f"  memory: {int(cast('int', fields['free_bytes'])) / 2**30:.1f} GiB free; {words}"


def _say_asking(fields: Mapping[str, object]) -> str:
    left = say_seconds(float(cast("float", fields["seconds_left"])))
    return f"  {fields['name']}: {fields['done']}/{fields['total']} questions, {left} left"


def _say_exporting(fields: Mapping[str, object]) -> str | None:
    """The beginning, and every quarter of what is counted: a large model takes minutes."""
    done, total = int(cast("int", fields["done"])), int(cast("int", fields["total"]))
    if done == 0:
        return f"  building {fields['name']} ..." if total == 0 else None
    quarter = max(total // 4, 1)
    return f"  {fields['name']}: {done}/{total} parts" if total > 8 and done % quarter == 0 else None


def _say_calibrating(fields: Mapping[str, object]) -> str | None:
    layer, total = int(cast("int", fields["layer"])), int(cast("int", fields["num_layers"]))
    return f"  {fields['algorithm']}: layer {layer}/{total}" if layer in (1, total) or layer % 8 == 0 else None


def _say_choice(fields: Mapping[str, object]) -> str | None:
    """Of one form alone there was no choice."""
    return None if fields["of"] == 1 else f"  {fields['name']} is shipped: {fields['reason']}"


def _say_gguf(fields: Mapping[str, object]) -> str:
    return f"  GGUF: {int(cast('int', fields['done_bytes'])) / int(cast('int', fields['total_bytes'])):.0%} written"


def _say_parity(fields: Mapping[str, object]) -> str:
    words = WORDS["parity"].format_map(fields)
    if fields["divergence"] is not None:
        words += f"; same tokens {fields['token_agreement']:.2%}, divergence {fields['divergence']:.2g} nats"
    bounds = "optimization.min_agreement and max_divergence set bounds"
    return f"{words}; {bounds}" if fields["different"] and fields["precision"] not in ("fp32", "f32") else words


def _say_validation(fields: Mapping[str, object]) -> str:
    others = [f"{name} {value:.4f}" for name, value in fields.items() if name not in {"step", "loss", "best"}]
    words = ", ".join([f"validation loss {fields['loss']:.4f}", *others])
    return f"  step {fields['step']}: {words}{' (best)' if fields['best'] else ''}"


def say_training(fields: Mapping[str, object]) -> str:
    """Where and how much is trained."""
    trained, total = int(cast("int", fields["trained_parameters"])), int(cast("int", fields["all_parameters"]))
    dtype = str(fields["dtype"]).removeprefix("torch.")
    compiled = ", compiled" if fields["compiled"] else ""
    share = f"{trained:,} of {total:,} weights ({trained / total:.1%})"
    return f"  {share} on {fields['device']} in {dtype}{compiled}, {fields['num_steps']} steps"


def say_seconds(seconds: float) -> str:
    """A duration in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def _say_dataset(fields: Mapping[str, object]) -> str:
    splits = cast("Mapping[str, Mapping[str, int]]", fields["splits"])
    parts = [f"{counts['rows']:,} {name}" for name, counts in splits.items()]
    train = splits["train"]
    # A head learns from whole texts, not token by token.
    learnt = f"{train['trained_tokens']:,} of " if train["trained_tokens"] else ""
    lines = [f"  rows: {', '.join(parts)}; {learnt}{train['tokens']:,} training tokens{' are learnt' * bool(learnt)}"]
    labels = cast("Sequence[str]", fields.get("labels") or ())
    lines += [f"  labels: {', '.join(labels)}"] if labels else []
    formats = cast("Mapping[str, str]", fields.get("formats") or {})
    lines += [f"  format: {file}: {why}" for file, why in list(formats.items())[:MAX_FILES_SAID]]
    if len(formats) > MAX_FILES_SAID:
        lines.append(f"  ... and {len(formats) - MAX_FILES_SAID} more file(s)")
    lines += [f"  data: {note}" for note in cast("Sequence[str]", fields.get("notes") or ())]
    for kind, counts in fields.items():
        if kind in {"dropped", "repeated"} and counts:
            words = cast("Mapping[str, int]", counts)
            lines += [f"  warning: {kind}: {count:,} row(s) {reason}" for reason, count in words.items()]
    said = say_checks(cast("Mapping[str, object]", fields.get("checks") or {}))
    lines += [f"  checks: {line}" for line in said]
    lines += [f"  checks: see {fields['check']}"] if said and "check" in fields else []
    return "\n".join(map(make_visible, lines))


SAYERS: Mapping[str, Callable[[Mapping[str, object]], str | None]] = {
    "stage_started": _say_stage,
    "dataset": _say_dataset,
    "memory_measured": _say_memory,
    "validation": _say_validation,
    "parity": _say_parity,
    "asking": _say_asking,
    "exporting": _say_exporting,
    "calibrating": _say_calibrating,
    "form_chosen": _say_choice,
    "gguf_progress": _say_gguf,
}
"""Events that take more than one line of words."""
