"""`kivnun watch`: follow a run that another process does, from its events alone."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from kivnun.cli.output import tell

if TYPE_CHECKING:
    from kivnun.runs.events import Event
    from kivnun.runs.follow import RunStory
    from kivnun.runs.overview import State

LOOK_SECONDS = 0.5
STATUSES = {"finished": 0, "failed": 2, "interrupted": 130, "killed": 137, "new": 1}
"""Exit status by how the run ended: that of `kivnun run` itself, or of a process that was killed."""


class Display(Protocol):
    """Something that shows a run."""

    def show(self, events: "list[Event]", story: "RunStory") -> None:
        """Show new events, and what all events say by now."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def watch(
    run: Annotated[str, typer.Argument(help="The run, such as `tone` or `runs/tone`.", show_default=False)],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the run if it does not exist yet.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the events as they are, one a line.")] = False,
) -> None:
    """Follow a run until it ends; Ctrl-C ends the watching, not the run."""
    from kivnun.runs.overview import name_run

    try:
        folder = _find(run, wait=wait)
        state, story = _follow(folder, _open_display(name_run(folder), as_json=as_json), wait=wait)
    except KeyboardInterrupt:
        tell("watching ended; the run goes on")
        raise
    # Not through `tell`, which would show the signs that keep a Hebrew name in its own direction.
    sys.stderr.write(_say_end(name_run(folder), state, story) + "\n")
    raise typer.Exit(STATUSES[state])


def _find(run: str, *, wait: bool) -> Path:
    """The run folder; with `wait` it is waited for."""
    from kivnun.errors import UserError
    from kivnun.runs import find_run

    is_told = False
    while True:
        try:
            return find_run(run)
        except UserError as error:
            if not wait:
                error.hint = f"{error.hint}; --wait waits for a run that begins later"
                raise
        if not is_told:
            tell(f"waiting for the run {run} to begin; Ctrl-C ends the waiting")
            is_told = True
        time.sleep(LOOK_SECONDS)


def _follow(folder: Path, display: Display, *, wait: bool) -> "tuple[State, RunStory]":
    """Show events until no process works in the folder; one that is new and not yet begun is waited for."""
    from kivnun.runs.ending import is_held
    from kivnun.runs.follow import EventTail, RunStory
    from kivnun.runs.overview import tell_state
    from kivnun.runs.store import EVENTS_NAME

    tail, story = EventTail(folder / EVENTS_NAME), RunStory()
    try:
        while True:
            # Looked at before the events: what a run wrote before it let go is read then.
            is_running = is_held(folder)
            events = tail.read()
            for event in events:
                story.take(event)
            display.show(events, story)
            state = tell_state(story, is_running=is_running)
            if not is_running and not (wait and state == "new"):
                return state, story
            time.sleep(LOOK_SECONDS)
    finally:
        display.close()


def _open_display(name: str, *, as_json: bool) -> Display:
    if as_json:
        return JsonLines()
    from kivnun.cli.watch_display import LiveDisplay, PlainDisplay

    return LiveDisplay(name) if sys.stdout.isatty() else PlainDisplay(name)


class JsonLines:
    """Passes the events on as lines of JSON."""

    def show(self, events: "list[Event]", story: "RunStory") -> None:
        """Print new events."""
        del story
        for event in events:
            sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing to leave."""


def _say_end(name: str, state: "State", story: "RunStory") -> str:
    """How the run ended, in one line."""
    from kivnun.data.visible import isolate, make_visible
    from kivnun.runs.overview import tell_where

    where = tell_where(story)
    place = f" in {where}" if where else ""
    ending = story.ending or {}
    problem = make_visible(f"{ending.get('problem')} ({ending.get('code')})")
    return {
        "finished": f"{isolate(name)} is finished",
        "failed": f"{isolate(name)} failed{place}: {problem}",
        "interrupted": f"{isolate(name)} was interrupted{place}; `kivnun run` goes on from there",
        "killed": f"{isolate(name)} was killed{place}: its process is gone and said nothing; "
        "`kivnun run` goes on from there",
        "new": f"{isolate(name)} has not begun; --wait waits for it",
    }[state]
