"""`kivnun rate` and `kivnun judge` as people give them: a terminal, a page, a kill, an endpoint as judge."""

import contextlib
import fcntl
import http.client
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from journey import KIVNUN, PATIENCE_SECONDS, Ended, clean_environment, start_kivnun, write_jsonl

Run = Callable[..., Ended]
NUM_ROWS = 12
TERMINAL_SECONDS = 60.0


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two evaluations in the current folder, whose answers differ in all rows but one."""
    for name, answer in (("base", "short {}"), ("tuned", "תשובה ארוכה {}")):
        (tmp_path / name).mkdir()
        rows = [
            {"row_id": str(row), "where": f"t.jsonl:{row}", "prompt": f"שאלה {row}", "references": [f"right {row}"],
             "answer": answer.format(row) if row else "alike"}
            for row in range(NUM_ROWS + 1)
        ]  # fmt: skip
        write_jsonl(tmp_path / name / "rows.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ratings(work: Path, rater: str) -> list[dict]:
    path = work / "comparisons" / "base-vs-tuned" / f"ratings-{rater}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, work: Path, *arguments: str) -> None:
        self._near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.process = subprocess.Popen(
            ["env", "--default-signal=INT", "setsid", "-c", KIVNUN, *arguments],
            cwd=work,
            env=clean_environment(TERM="xterm"),
            stdin=far,
            stdout=far,
            stderr=far,
        )
        self.attributes = termios.tcgetattr(far)
        self._far = far
        self.seen = ""

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + TERMINAL_SECONDS
        while self.seen.count(text) < times:
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise AssertionError(self.seen)
            if select.select([self._near], [], [], 0.1)[0]:
                self.seen += os.read(self._near, 1 << 16).decode("utf-8", "replace")

    def press(self, keys: str) -> None:
        os.write(self._near, keys.encode())

    def end(self) -> int:
        status = self.process.wait(timeout=PATIENCE_SECONDS)
        while select.select([self._near], [], [], 0.1)[0]:
            self.seen += os.read(self._near, 1 << 16).decode("utf-8", "replace")
        self.attributes_after = termios.tcgetattr(self._far)
        os.close(self._near)
        os.close(self._far)
        return status


def test_somebody_rates_in_a_terminal_with_single_keys(evaluated: Path) -> None:
    terminal = Terminal(evaluated, "rate", "base", "tuned", "--rater", "דנה")
    terminal.wait_for(f"row 1 of {NUM_ROWS}")
    terminal.press("1")
    terminal.wait_for(f"row 2 of {NUM_ROWS}")
    terminal.press("\x1b[B")
    terminal.wait_for("not a key")
    terminal.press("ר3u")
    terminal.wait_for(f"row 3 of {NUM_ROWS}", times=2)
    assert "\u2068תשובה ארוכה" in terminal.seen
    terminal.press("\x03")
    assert terminal.end() == 130
    assert "2 of 12 are kept" in terminal.seen
    assert terminal.attributes_after == terminal.attributes
    assert [each["choice"] for each in ratings(evaluated, "דנה")][2:] == ["both_good", "undo"]
    assert "base" not in terminal.seen.split("row 1 of")[1].replace("base-vs", "")


def test_a_killed_session_loses_no_rating_that_was_given(evaluated: Path) -> None:
    terminal = Terminal(evaluated, "rate", "base", "tuned", "--rater", "dana", "--rows", "6")
    terminal.wait_for("row 1 of 6")
    terminal.press("123")
    terminal.wait_for("row 4 of 6")
    terminal.process.kill()
    terminal.end()
    assert len(ratings(evaluated, "dana")) == 3
    again = Terminal(evaluated, "rate", "base", "tuned", "--rater", "dana", "--rows", "6")
    again.wait_for("row 4 of 6")
    again.press("45")
    again.wait_for("row 6 of 6")
    again.press("1q")
    assert again.end() == 0
    assert "row 3 of 6" not in again.seen
    assert len(ratings(evaluated, "dana")) == 6


def test_keys_from_a_pipe_rate_and_the_verdict_is_json(evaluated: Path, kivnun_here: Run) -> None:
    for rater in ("dana", "noa"):
        ended = kivnun_here("rate", "base", "tuned", "--rater", rater, "--json", stdin="1212\n3\n45\n")
        assert ended.status == 0, ended.err
    value = json.loads(ended.out)
    assert value["names"] == {"a": "base", "b": "tuned"}
    assert {each["who"]: each["num_rows"] for each in value["raters"]} == {"dana": 6, "noa": 6}
    assert value["agreement"]["num_rows"] == 6
    assert "1 rows have the same answer from both" in ended.err
    table = kivnun_here("rate", "base", "tuned", "--rater", "dana", stdin="")
    assert "people, by majority" in table.out
    assert "Krippendorff's alpha" in table.out


def test_the_page_serves_raters_until_ctrl_c_and_then_says_the_verdict(evaluated: Path) -> None:
    process = start_kivnun("rate", "base", "tuned", "--page", "--rows", "5", work=evaluated)
    assert process.stderr is not None
    line = next(line for line in process.stderr if line.startswith("open "))
    found = re.fullmatch(r"open http://127\.0\.0\.1:(\d+)/\?token=(\S+)\n", line)
    assert found is not None

    def ask(path: str, **fields: str) -> dict:
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        headers = {"Content-Type": "application/json", "X-Kivnun-Token": found[2]}
        connection.request("POST", path, json.dumps(fields), headers)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    for rater, number in (("dana", 5), ("noa", 3)):
        state = ask("/next", rater=rater)
        for _ in range(number):
            state = ask("/rate", rater=rater, row_id=state["row"]["row_id"], choice="right")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    assert (len(ratings(evaluated, "dana")), len(ratings(evaluated, "noa"))) == (5, 3)
    assert "rater dana" in out
    assert "dana: 5 of 5" in err


def test_ratings_of_other_answers_are_refused_until_another_folder_is_named(evaluated: Path, kivnun_here: Run) -> None:
    assert kivnun_here("rate", "base", "tuned", "--rater", "dana", stdin="12").status == 0
    rows = [json.loads(line) for line in (evaluated / "tuned" / "rows.jsonl").read_text("utf-8").splitlines()]
    write_jsonl(evaluated / "tuned" / "rows.jsonl", [{**row, "answer": row["answer"] + "!"} for row in rows])
    ended = kivnun_here("rate", "base", "tuned", "--rater", "dana", stdin="12")
    assert (ended.status, ended.out) == (2, "")
    assert "error[ratings-invalid]: 2 of 2 judgements" in ended.err
    assert kivnun_here("rate", "base", "tuned", "--rater", "dana", "--out", "new", stdin="12").status == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rate", "base", "base"), "error[evaluation-invalid]: base and base are the same folder"),
        (("rate", "base", "none"), "error[evaluation-invalid]: none holds no evaluation"),
        (("rate", "base", "tuned", "--rater", "a/b"), "error[ratings-invalid]: 'a/b' cannot be a rater's name"),
        (("rate", "base", "tuned", "--page", "--rater", "x"), "--rater has no effect with --page"),
        (("rate", "base", "tuned", "--port", "9"), "--port has no effect without --page"),
        (("judge", "base", "--model", "bundled"), "one with --score to grade"),
        (("judge", "base", "tuned", "--score", "--model", "bundled"), "one with --score to grade"),
        (("judge", "base", "tuned"), "--model says who judges"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_words_without_effect_or_sense_are_refused(
    evaluated: Path, kivnun_here: Run, words: tuple[str, ...], told: str
) -> None:
    ended = kivnun_here(*words)
    assert (ended.status, ended.out) == (2, "")
    assert told in " ".join(ended.err.replace("│", " ").split())


def test_a_port_that_is_taken_is_named(evaluated: Path, kivnun_here: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = kivnun_here("rate", "base", "tuned", "--page", "--port", str(port), "--rows", "99")
    assert (ended.status, ended.out) == (2, "")
    assert f"--port {port} cannot be used: address already in use" in " ".join(ended.err.replace("│", " ").split())
    assert f"99 rows are asked for, and there are {NUM_ROWS} to ask about" in ended.err


@contextlib.contextmanager
def judging_endpoint(decide: Callable[[str], str]) -> Iterator[tuple[str, list[str]]]:
    """A service that answers like OpenAI's, as a rule decides."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(request["messages"][-1]["content"])
            message = {"role": "assistant", "content": decide(asked[-1])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
            body = json.dumps(
                {"id": "1", "object": "chat.completion", "created": 1, "model": request["model"],
                 "choices": [choice], "usage": usage}
            ).encode()  # fmt: skip
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"openai:judge-model?base_url=http://127.0.0.1:{server.server_port}/v1&key_variable=JUDGE_KEY", asked
        server.shutdown()
        thread.join()


def longer_is_better(asked: str) -> str:
    first = asked.index("ארוכה") < asked.index("short")
    return json.dumps({"reason": "longer", "verdict": "1" if first else "2"})


def test_an_endpoint_judges_and_is_measured_against_people(
    evaluated: Path, kivnun_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    with judging_endpoint(longer_is_better) as (spec, asked):
        alone = kivnun_here("judge", "base", "tuned", "--model", spec, "--max-rows", "4")
        assert alone.status == 0, alone.err
        assert "agreement with people: not measured" in alone.out
        assert len(asked) == 8
        assert kivnun_here("rate", "base", "tuned", "--rater", "dana", stdin="1212121212").status == 0
        measured = kivnun_here("judge", "base", "tuned", "--model", spec, "--json")
        assert len(asked) == 2 * NUM_ROWS
    value = json.loads(measured.out)
    assert value["tally"]["b"] == NUM_ROWS
    assert value["tally"]["better"] == "b"
    assert value["with_people"]["num_rows"] == 10
    assert "8 answers were kept from earlier" in measured.err
    kept = b"".join(path.read_bytes() for path in (evaluated / "comparisons").rglob("*") if path.is_file())
    assert b"secret-key" not in kept
    shown = kivnun_here("rate", "base", "tuned", "--rater", "dana", stdin="")
    assert "judge openai:judge-model, agreement with people: " in shown.out


def test_an_endpoint_that_answers_nonsense_is_no_judge(
    evaluated: Path, kivnun_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    with judging_endpoint(lambda _asked: "I like both.") as (spec, asked):
        ended = kivnun_here("judge", "base", "tuned", "--model", spec)
    assert (ended.status, ended.out, len(asked)) == (2, "", 20)
    assert "error[judge-failed]: 20 of 20 answers of openai:judge-model hold no verdict that can be read" in ended.err
    assert "the first one begins: I like both." in ended.err


def test_answers_are_graded_by_an_endpoint(evaluated: Path, kivnun_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-key")
    write_jsonl(evaluated / "labels.jsonl", [{"row_id": "1", "score": "4"}, {"row_id": "2", "score": "2"}])
    with judging_endpoint(lambda _asked: "Nearly.\nSCORE: 4") as (spec, _):
        words = ("judge", "tuned", "--score", "--model", spec)
        ended = kivnun_here(*words, "--labels", "labels.jsonl")
        as_json = kivnun_here(*words, "--json")
    assert ended.status == 0, ended.err
    assert "mean grade 4.00" in ended.out
    assert "50.0\u00a0% of 2\u00a0rows with the same grade" in ended.out
    assert json.loads(as_json.out)["summary"]["counts"]["4"] == NUM_ROWS + 1


def test_a_dry_run_asks_nothing_and_shows_what_would_be_asked(evaluated: Path, kivnun_here: Run) -> None:
    ended = kivnun_here("judge", "base", "tuned", "--dry-run", "--criteria", "the shorter one")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(f"{2 * NUM_ROWS} requests of ")
    assert "the shorter one" in ended.out
    assert not (evaluated / "comparisons").exists()
    value = json.loads(kivnun_here("judge", "base", "--score", "--dry-run", "--json").out)
    assert value["requests"] == NUM_ROWS + 1
