"""A run on the terminal: a bar, time left, the curve of the loss, validation, use of the machine and the last words."""

import sys
from collections import deque
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kivnun.cli.progress import Progress, say_event, say_seconds, say_training
from kivnun.data.visible import isolate, make_visible
from kivnun.evaluation.wording import say_percent, say_size
from kivnun.runs.events import Event
from kivnun.runs.follow import RunStory, number, whole
from kivnun.runs.overview import peak_memory, tell_where

LAST_WORDS = 5
BLOCKS = "▁▂▃▄▅▆▇█"
LABEL_WIDTH = 12
REFRESH_PER_SECOND = 4
_NOT_SAID = {"step", "usage", "validation", "training_started", "fit_started"}


class PlainDisplay:
    """Lines for files and pipes: what `kivnun run` says there, after a word on where the run stands already.

    Args:
        name: The run's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress = Progress(sys.stdout)
        self._is_first = True

    def show(self, events: Sequence[Event], story: RunStory) -> None:
        """Say the new events; of those before the watching began only where they led to."""
        if self._is_first:
            self._is_first = False
            for line in say_standing(self._name, story):
                sys.stdout.write(line + "\n")
        else:
            for event in events:
                self._progress.show(*_split(event))
                if event.get("event") == "usage":
                    sys.stdout.write(f"  {say_usage(event)}\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing to leave."""


class LiveDisplay:
    """A picture that is drawn anew in place.

    Args:
        name: The run's name.
        console: The terminal.
    """

    def __init__(self, name: str, console: Console | None = None) -> None:
        self._name = name
        self._console = console or Console(highlight=False)
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._live = Live(console=self._console, refresh_per_second=REFRESH_PER_SECOND)
        self._live.start()

    def show(self, events: Sequence[Event], story: RunStory) -> None:
        """Draw what stands now."""
        for event in events:
            kind, fields = _split(event)
            said = None if kind in _NOT_SAID else say_event(kind, fields)
            self._words += [] if said is None else make_visible_lines(said)
        self._live.update(draw_run(self._name, story, list(self._words), width=self._console.width), refresh=True)

    def close(self) -> None:
        """Leave the last picture on the terminal."""
        self._live.stop()


def draw_run(name: str, story: RunStory, words: Sequence[str], *, width: int) -> RenderableType:
    """The picture of a run, no wider than the terminal."""
    parts: list[RenderableType] = [_line(f"{isolate(name)}  {tell_where(story) or story.stage or 'beginning'}", "bold")]
    if story.training:
        parts.append(_line(make_visible(say_training(story.training).strip())))
    if story.steps:
        parts.append(_bar(story))
        room = max(width - LABEL_WIDTH - 1, 8)
        curve = sparkline([numbers.loss for numbers in story.steps.values() if numbers.loss is not None], room)
        parts.append(_line(f"{'loss':<{LABEL_WIDTH}}{curve}", "cyan"))
        parts.append(_line(f"{'':<{LABEL_WIDTH}}{say_step(story)}"))
    if story.validations:
        parts.append(_line(f"{'validation':<{LABEL_WIDTH}}{say_validations(story)}"))
    if story.usage:
        parts.append(_line(f"{'machine':<{LABEL_WIDTH}}{say_usage(story.usage)}"))
    return Group(*parts, *(_line(line, "dim") for line in words))


def say_standing(name: str, story: RunStory) -> list[str]:
    """Where a run stands, in lines."""
    lines = [f"{isolate(name)}: {tell_where(story) or story.stage or 'beginning'}"]
    if story.steps:
        lines.append(f"  {say_step(story)}")
    if story.validations:
        lines.append(f"  validation: {say_validations(story)}")
    return lines


def say_step(story: RunStory) -> str:
    """The last step in words."""
    loss, speed, left = story.last_step.get("loss"), story.recent_speed, story.seconds_left
    shown = number(loss)
    parts = [f"loss {loss if shown is None else f'{shown:.4f}'}"]
    if speed is not None:
        parts.append(f"{speed:,.0f} tokens/s")
    if left:
        parts.append(f"{say_seconds(left)} left")
    return "  ".join(parts)


def say_validations(story: RunStory) -> str:
    """The last validation and the best one."""
    step = max(story.validations)
    measured = {name: number(value) for name, value in story.validations[step].items() if name not in {"step", "best"}}
    parts = [f"{make_visible(name)} {value:.4f}" for name, value in measured.items() if value is not None]
    best = f"; best step {story.best[0]:,} with loss {story.best[1]:.4f}" if story.best else ""
    return f"{', '.join(parts)} at step {step:,}{best}"


def say_usage(usage: Mapping[str, object]) -> str:
    """The use of the machine in words."""
    parts: list[str] = []
    cpu, gpu, share = (number(usage.get(name)) for name in ("cpu_percent", "gpu_percent", "peak_share"))
    if cpu is not None:
        parts.append(f"CPU {cpu:.0f} %")
    if whole(usage.get("memory_bytes")):
        parts.append(f"memory {say_size(whole(usage.get('memory_bytes')))}")
    if gpu is not None:
        parts.append(f"GPU {gpu:.0f} %")
    if whole(usage.get("gpu_memory_bytes")):
        parts.append(f"GPU memory {say_size(whole(usage.get('gpu_memory_bytes')))}")
    peak = peak_memory(usage)
    if peak:
        parts.append(f"at most {say_size(peak)}")
    if share is not None:
        parts.append(f"{say_percent(share)} of the measured peak")
    return ", ".join(parts)


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve of blocks, no wider than asked for; each block is the mean of its share of the values."""
    if not values:
        return ""
    size = -(-len(values) // max(width, 1))
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * scale)] for mean in means)


def make_visible_lines(text: str) -> list[str]:
    """The lines of an event's words, without what could steer the terminal."""
    return [make_visible(line) for line in text.split("\n")]


def _split(event: Event) -> tuple[str, dict[str, object]]:
    """The kind of an event and its own fields."""
    return str(event.get("event")), {name: value for name, value in event.items() if name not in {"time", "event"}}


def _bar(story: RunStory) -> Table:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=LABEL_WIDTH - 1)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    total = max(story.num_steps, 1)
    bar = ProgressBar(total=total, completed=story.step)
    grid.add_row("training", bar, f"{story.step:,}/{story.num_steps:,}")
    return grid


def _line(words: str, style: str = "") -> Text:
    """One line that a narrow terminal cuts and does not wrap, so that the picture keeps its height."""
    return Text(words, style=style, no_wrap=True, overflow="ellipsis")
