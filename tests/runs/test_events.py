"""Events: every line that was appended is read, and a torn one harms no other."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.errors import UserError
from kivnun.runs import EventLog, read_events


def test_events_are_read_as_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    with EventLog(path, clock=lambda: "2026-01-02T03:04:05+00:00") as log:
        log.append("start")
        log.append("step", {"loss": 0.5, "text": "שורה\nשנייה"})
        assert len(read_events(path)) == 2, "a reader sees a line as soon as append returns"
    with EventLog(path) as log:
        log.append("end")
    events = read_events(path)
    assert [event["event"] for event in events] == ["start", "step", "end"]
    assert events[1] == {"time": "2026-01-02T03:04:05+00:00", "event": "step", "loss": 0.5, "text": "שורה\nשנייה"}
    assert path.read_text().count("\n") == 3


def test_no_file_means_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "absent") == []


@given(st.integers(0, 60), st.booleans())
def test_a_log_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(cut: int, in_hebrew: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        with EventLog(path, clock=lambda: "t") as log:
            for number in range(3):
                log.append("צעד" if in_hebrew else "step", {"n": number})
        data = path.read_bytes()
        kept = data[: max(0, len(data) - cut)]
        path.write_bytes(kept)
        # A line that lacks only its line end is whole.
        whole = sum(1 for end in _line_ends(data) if end <= len(kept) or end - 1 == len(kept))
        assert [event["n"] for event in read_events(path)] == list(range(whole))
        with EventLog(path, clock=lambda: "t") as log:
            log.append("step", {"n": "after"})
        assert [event["n"] for event in read_events(path)] == [*range(whole), "after"]


def _line_ends(data: bytes) -> list[int]:
    return [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]


def test_a_line_that_is_broken_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "a"}\n{"event"\n{"event": "b"}\n')
    with pytest.raises(UserError, match=r"events\.jsonl:2 is not an event") as caught:
        read_events(path)
    assert caught.value.code == "artifact-damaged"


def test_numbers_that_are_not_finite_stay_visible_and_the_line_stays_json(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append("step", {"loss": float("nan"), "inner": {"list": [float("-inf"), 1.5]}, "path": Path("a")})
    event = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (event["loss"], event["inner"], event["path"]) == ("nan", {"list": ["-inf", 1.5]}, "a")


def test_a_kill_loses_no_event_that_was_appended(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from kivnun.runs import EventLog\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "for n in range(50): log.append('step', {'n': n})\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "events.jsonl"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert [event["n"] for event in read_events(path)] == list(range(50))
