"""Events read while they are written, gathered into what stands now, and how runs end."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.runs import EventLog, open_run, read_events
from kivnun.runs import ending as ending_module
from kivnun.runs.ending import endings_logged, is_held
from kivnun.runs.follow import EventTail, RunStory, read_story
from kivnun.runs.overview import list_runs, read_overview, tell_state

HOLD = "import sys, time; from pathlib import Path; from kivnun.runs import open_run; "


def step(number: int, **more: object) -> dict[str, object]:
    numbers = {"loss": 1 / number, "num_tokens": 100, "seconds": 0.5}
    return {"event": "step", "step": number, "num_steps": 8, **numbers, **more}


def validation(number: int, loss: float, **more: object) -> dict[str, object]:
    return {"event": "validation", "step": number, "loss": loss, "best": True, **more}


def write_events(folder: Path, *events: Mapping[str, object]) -> None:
    with EventLog(folder / "events.jsonl") as log:
        for event in events:
            log.append(str(event["event"]), {name: value for name, value in event.items() if name != "event"})


def tell_all(*events: dict[str, object]) -> RunStory:
    return read_story({"time": f"2026-01-01T00:00:{number:02d}+00:00", **e} for number, e in enumerate(events))


def test_a_line_is_read_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.read() == []
    path.write_text('{"event": "a"}\n{"eve', "utf-8")
    assert [event["event"] for event in tail.read()] == ["a"]
    assert tail.read() == []
    with path.open("a", encoding="utf-8") as file:
        file.write('nt": "שלום"}\n{"event": "c"}\n')
    assert [event["event"] for event in tail.read()] == ["שלום", "c"]


def test_a_file_that_begins_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "a"}\n{"event": "b"}\n', "utf-8")
    tail = EventTail(path)
    tail.read()
    path.write_text('{"event": "new"}\n', "utf-8")
    assert [event["event"] for event in tail.read()] == ["new"]


def test_a_whole_line_that_is_no_event_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("[1, 2]\n", "utf-8")
    with pytest.raises(UserError, match="not an event") as caught:
        EventTail(path).read()
    assert caught.value.code == "artifact-damaged"


def test_steps_that_a_resumed_training_does_again_count_once() -> None:
    first = [{"event": "fit_started", "key": "k", "from_step": 0}, *(step(number) for number in range(1, 6))]
    again = [{"event": "fit_started", "key": "k", "from_step": 3}, step(4, seconds=1.5)]
    story = tell_all(*first, validation(2, 0.5), validation(5, 0.1), *again)
    assert sorted(story.steps) == [1, 2, 3, 4]
    assert (story.step, story.num_steps) == (4, 8)
    assert story.best == (2, 0.5), "the validation after step 5 has not happened in this attempt yet"
    assert story.tokens_per_second == pytest.approx(400 / 3.0)
    assert story.seconds_left == pytest.approx(4 * 3.0 / 4)


def test_another_training_in_the_same_folder_forgets_the_one_before() -> None:
    story = tell_all(
        {"event": "fit_started", "key": "old", "from_step": 0},
        step(1),
        validation(1, 0.01),
        {"event": "training_finished", "step": 1},
        {"event": "fit_started", "key": "new", "from_step": 0},
        step(1, loss="nan"),
    )
    assert (story.best, story.is_trained) == (None, False)
    assert story.curves() == {}, "a loss that is not finite is no point of a curve"


def test_curves_have_every_metric_of_the_validations() -> None:
    story = tell_all(step(1), step(2), validation(2, 0.5, rouge_l=0.25), validation(4, 0.25, rouge_l=0.5))
    assert story.curves() == {
        "train/loss": [(1, 1.0), (2, 0.5)],
        "validation/loss": [(2, 0.5), (4, 0.25)],
        "validation/rouge_l": [(2, 0.25), (4, 0.5)],
    }


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "new"),
        ([step(1)], "killed"),
        ([step(1), {"event": "run_finished"}], "finished"),
        ([step(1), {"event": "interrupted", "step": 1}], "interrupted"),
        ([step(1), {"event": "run_interrupted"}], "interrupted"),
        ([step(1), {"event": "run_failed", "code": "disk-full", "problem": "no room"}], "failed"),
        ([{"event": "run_finished"}, {"event": "stage_skipped", "stage": "dataset"}], "killed"),
    ],
)
def test_the_last_event_of_a_free_folder_says_how_the_run_ended(events: list[dict[str, object]], state: str) -> None:
    assert tell_state(tell_all(*events), is_running=False) == state
    assert tell_state(tell_all(*events), is_running=True) == "running"


def test_why_a_run_ends_early_stands_in_its_log(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        for error in (UserError("disk-full", "no room", hint="-"), KeyboardInterrupt(), ZeroDivisionError("by zero")):
            with pytest.raises(type(error)), endings_logged(log.append):
                raise error
        with endings_logged(log.append):
            pass
    told = [
        {name: value for name, value in event.items() if name != "time"}
        for event in read_events(tmp_path / "events.jsonl")
    ]
    assert told == [
        {"event": "run_failed", "code": "disk-full", "problem": "no room"},
        {"event": "run_interrupted"},
        {"event": "run_failed", "code": "unexpected", "problem": "ZeroDivisionError: by zero"},
    ]


def test_a_log_that_cannot_be_written_does_not_hide_what_happened() -> None:
    def log(*_: object) -> None:
        raise UserError("disk-full", "no room for the log either", hint="-")

    with pytest.raises(ZeroDivisionError), endings_logged(log):
        raise ZeroDivisionError


@pytest.mark.parametrize("has_list", [True, False], ids=["by the list of locks", "by the lock itself"])
def test_a_folder_is_held_as_long_as_a_process_works_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_list: bool
) -> None:
    if not has_list:
        monkeypatch.setattr(ending_module, "_LOCKS", tmp_path / "no-such-list")
    folder = tmp_path / "run"
    assert not is_held(folder)
    code = f"{HOLD} run = open_run(Path({str(folder)!r})); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_held(folder)
        process.kill()
        process.wait()
        assert not is_held(folder), "kill -9 gives the folder free"
    with open_run(folder):
        pass
    assert not is_held(folder)


def test_looking_whether_a_folder_is_held_leaves_it_free(tmp_path: Path) -> None:
    with open_run(tmp_path / "run"):
        pass
    for _ in range(3):
        assert not is_held(tmp_path / "run")
    with open_run(tmp_path / "run"):
        assert is_held(tmp_path / "run")


def test_every_run_is_listed_and_one_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    for name in ("טון", "broken", "no-lock"):
        (tmp_path / name).mkdir()
    write_events(tmp_path / "טון", {"event": "fit_started", "key": "k", "from_step": 0}, step(1), validation(1, 0.5))
    (tmp_path / "broken" / "events.jsonl").write_text('not an event\n{"event": "a"}\n', "utf-8")
    write_events(tmp_path / "no-lock", {"event": "run_finished", "report": "-"})
    (tmp_path / "a folder that is no run").mkdir()
    found = {run.name: run for run in list_runs(tmp_path)}
    assert {name: run.state for name, run in found.items()} == {
        "טון": "killed",
        "broken": "unreadable",
        "no-lock": "finished",
    }
    assert "not an event" in str(found["broken"].problem)
    assert (found["טון"].step, found["טון"].best_validation_loss) == (1, 0.5)
    json.dumps([run.to_json() for run in found.values()])


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"scores": "many"}'])
def test_a_damaged_lock_or_report_makes_a_run_unreadable_and_not_absent(tmp_path: Path, content: str) -> None:
    write_events(tmp_path, {"event": "run_finished"})
    (tmp_path / "run.lock.json").write_text(content, "utf-8")
    overview = read_overview(tmp_path)
    assert overview.state == "unreadable"
    assert overview.problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_run_of_somebody_else_is_listed_as_unreadable(tmp_path: Path) -> None:
    write_events(tmp_path, {"event": "run_finished"})
    (tmp_path / "events.jsonl").chmod(0)
    assert read_overview(tmp_path).state == "unreadable"
