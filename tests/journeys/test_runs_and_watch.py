"""Runs from outside: listed, compared, plotted and followed while another process does them."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from journey import EVALUATION, KIVNUN, Ended, clean_environment, kivnun, read_events, write_workplace
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

HEBREW = "טון-עברי"
CHOSEN = ("--set", "training.max_steps=6", "--set", "training.validate_every_steps=3")
FSI, PDI = "\u2068", "\u2069"

# A run as another process does it: it holds the folder and writes the events that it is told line by line.
ACTOR = """
import json, sys
from pathlib import Path
from kivnun.runs import open_run
with open_run(Path(sys.argv[1])) as run:
    print("held", flush=True)
    for line in sys.stdin:
        event = json.loads(line)
        run.log(event.pop("event"), event)
        print("told", flush=True)
"""


class Actor:
    """A process that works in a run folder as it is told."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ACTOR, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=clean_environment(),
        )
        self._hear()

    def tell(self, event: str, **fields: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"event": event, **fields}) + "\n")
        self.process.stdin.flush()
        self._hear()

    def begin_training(self, num_steps: int = 40) -> None:
        self.tell("stage_started", stage="model")
        weights = {"trained_parameters": 10, "all_parameters": 100}
        self.tell(
            "training_started", device="cpu", dtype="torch.float32", compiled=False, num_steps=num_steps, **weights
        )
        self.tell("fit_started", key="k", from_step=0)

    def step(self, number: int, num_steps: int = 40) -> None:
        numbers = {"loss": 4 / number, "grad_norm": 1.0, "learning_rate": 0.1, "num_tokens": 1000, "num_targets": 10}
        self.tell("step", step=number, num_steps=num_steps, epoch=0.1, seconds=0.5, **numbers)

    def end(self, *, kill: bool = False) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if kill:
            self.process.kill()
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "the actor died"


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Actor]]:
    """Starts actors in `runs/` of a fresh workplace, which is the current folder; each ends with the test."""
    monkeypatch.chdir(tmp_path)
    actors: list[Actor] = []

    def start(name: str) -> Actor:
        actors.append(Actor(tmp_path / "runs" / name))
        return actors[-1]

    yield start
    for actor in actors:
        if actor.process.poll() is None:
            actor.end(kill=True)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts watchers in the workplace of the actors; each ends with the test."""
    with ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[str]:
            return stack.enter_context(watching_process(*arguments, work=tmp_path))

        yield start


@contextmanager
def watching_process(*arguments: str, work: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        ["env", "--default-signal=INT", KIVNUN, "watch", *arguments],
        cwd=work,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def on_terminal(*arguments: str, work: Path, columns: int, **environment: str) -> tuple[int, str]:
    """The installed command on a terminal of so many columns: its status and all that was drawn."""
    code = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    main, other = pty.openpty()
    sized = {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm-256color", **environment}
    process = subprocess.Popen(
        [sys.executable, "-c", code, KIVNUN, *arguments],
        cwd=work,
        env=clean_environment(**sized),
        stdin=other,
        stdout=other,
        stderr=subprocess.DEVNULL,
    )
    os.close(other)
    drawn = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed: the command is done
            break
        if not part:
            break
        drawn += part
    os.close(main)
    return process.wait(timeout=60), drawn.decode("utf-8", "replace")


def plain(drawn: str) -> str:
    """What was drawn, without the signs that steer the terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


@dataclass(frozen=True)
class WatchedRun:
    """A real run that kept its numbers as TensorBoard and CSV, and what somebody saw who watched it."""

    work: Path
    watched: Ended


@pytest.fixture(scope="module")
def watched_run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> WatchedRun:
    work = tmp_path_factory.mktemp("runs-and-watch")
    write_workplace(work, tiny_base, sections=EVALUATION)
    with watching_process("recipe", "--wait", "--json", work=work) as watching:
        ran = kivnun("run", "recipe.yaml", *CHOSEN, "--set", "training.report_to=[tensorboard, csv]", work=work)
        assert ran.status == 0, ran.err
        out, err = watching.communicate(timeout=60)
        return WatchedRun(work, Ended(watching.returncode, out, err))


@pytest.fixture
def two_runs(watched_run: WatchedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real run, and one with a higher rank that answered otherwise; the workplace is the current folder."""
    shutil.copytree(watched_run.work, tmp_path, dirs_exist_ok=True)
    copy_run(tmp_path / "runs", HEBREW)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copy_run(runs: Path, name: str) -> Path:
    """The real run under another name, as if it had another rank and every answer were right."""
    folder = runs / name
    shutil.copytree(runs / "recipe", folder)
    lock = json.loads((folder / "run.lock.json").read_text("utf-8"))
    lock["recipe"]["method"]["rank"] = 8
    (folder / "run.lock.json").write_text(json.dumps(lock), "utf-8")
    samples = folder / "evaluation" / "samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    right = [{**row, "tuned_answer": row["reference"], "tuned_score": 1.0} for row in rows]
    samples.write_text("".join(json.dumps(row) + "\n" for row in right), "utf-8")
    return folder


def test_a_real_run_keeps_its_numbers_as_its_recipe_says(two_runs: Path) -> None:
    folder = two_runs / "runs" / "recipe"
    logged = {event["step"]: event["loss"] for event in read_events(folder) if event["event"] == "step"}
    lines = (folder / "training.csv").read_text("utf-8").splitlines()
    column = lines[0].split(",").index("train/loss")
    assert {int(line.split(",")[0]): float(line.split(",")[column]) for line in lines[1:]} == logged
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    assert {each.step: each.value for each in found.Scalars("train/loss")} == pytest.approx(logged)
    assert [each.step for each in found.Scalars("validation/loss")] == [3, 6]


def test_trackers_that_are_named_later_do_not_train_anew(two_runs: Path, kivnun_here: Callable[..., Ended]) -> None:
    again = kivnun_here("run", "recipe.yaml", *CHOSEN, "--set", "training.report_to=[csv]")
    assert again.status == 0, again.err
    assert "[model] unchanged, not repeated" in again.err


def test_what_a_watcher_saw_are_the_events_of_the_run(watched_run: WatchedRun) -> None:
    events = read_events(watched_run.work / "runs" / "recipe")
    assert [json.loads(line) for line in watched_run.watched.out.splitlines()] == events
    assert watched_run.watched.status == 0
    assert watched_run.watched.err.endswith("recipe is finished\n")


def test_runs_are_listed_with_state_method_metric_and_interval(
    two_runs: Path, kivnun_here: Callable[..., Ended]
) -> None:
    listed = kivnun_here("runs")
    assert listed.status == 0, listed.err
    line = next(line for line in listed.out.splitlines() if "recipe" in line)
    assert re.search(r"finished\s+accuracy [\d.]+\s% \([\d.]+\s% to [\d.]+\s%\)\s+\d\.\d{4} at \d", line), line
    assert " lora " in line
    assert f"{FSI}{HEBREW}{PDI}" in listed.out
    runs = {run["name"]: run for run in json.loads(kivnun_here("runs", "--json").out)}
    assert {"recipe", HEBREW} == runs.keys()
    report = json.loads((two_runs / "runs/recipe/evaluation/report.json").read_bytes())
    tuned = next(scores for scores in report["scores"] if scores["name"] == "tuned")
    assert runs["recipe"]["metric"]["value"] == tuned["metrics"]["accuracy"]["value"]
    assert (runs["recipe"]["method"], runs["recipe"]["objective"]) == ("lora", "supervised")
    assert runs["recipe"]["step"] == 6


def test_a_comparison_says_what_differs_and_whether_the_difference_is_real(
    two_runs: Path, kivnun_here: Callable[..., Ended]
) -> None:
    compared = kivnun_here("runs", "compare", "recipe", HEBREW)
    assert compared.status == 0, compared.err
    assert re.search(r"method\.rank\s+4\s+8", compared.out), compared.out
    assert "training.learning_rate" not in compared.out, "what does not differ is not shown"
    assert "test rows: the same 12" in compared.out
    assert re.search(
        rf"{PDI} is better than recipe: 100\.0\s% right against .* of 12 test rows, .*McNemar", compared.out
    )
    values = json.loads(kivnun_here("runs", "compare", "recipe", HEBREW, "--json").out)
    assert values["settings"] == {"method.rank": [4, 8]}
    (pair,) = values["pairs"]
    assert (pair["baseline"], pair["candidate"], pair["num_rows"]) == ("recipe", HEBREW, 12)
    assert pair["both_right"] + pair["only_candidate"] == 12


def test_a_comparison_on_other_rows_says_so_aloud(two_runs: Path, kivnun_here: Callable[..., Ended]) -> None:
    folder = copy_run(two_runs / "runs", "other")
    for path in (folder / "dataset" / "test.jsonl", folder / "evaluation" / "samples.jsonl"):
        first, *rest = path.read_text("utf-8").splitlines()
        row = json.loads(first)
        row["id" if "id" in row else "row_id"] = "another"
        path.write_text("\n".join([json.dumps(row), *rest]) + "\n", "utf-8")
    compared = kivnun_here("runs", "compare", "recipe", "other")
    assert "test rows: NOT the same (12, 12; 11 in common): do not compare what was measured on them" in compared.out
    assert "validation rows: the same 8" in compared.out
    assert "recipe and other were evaluated on different test rows" in compared.out
    assert "McNemar" not in compared.out


def test_a_comparison_says_which_run_has_no_settings_or_rows(
    two_runs: Path, kivnun_here: Callable[..., Ended], act: Callable[[str], Actor]
) -> None:
    act("empty")
    compared = kivnun_here("runs", "compare", "recipe", "empty")
    assert compared.status == 0, compared.err
    assert "the settings of empty are not compared" in compared.out
    assert "no test rows to compare: empty has no finished dataset" in compared.out
    assert kivnun_here("runs", "compare", "recipe").status == 2
    assert "did you mean `recipe`?" in kivnun_here("runs", "compare", "recipe", "recipes").err


@pytest.mark.parametrize("name", ["curves.svg", "curves.html", "curves.png"])
def test_curves_are_drawn_as_the_ending_of_the_file_says(
    two_runs: Path, kivnun_here: Callable[..., Ended], name: str
) -> None:
    if name.endswith("png"):
        pytest.importorskip("matplotlib")
    path = two_runs / name
    drawn = kivnun_here("runs", "plot", "recipe", HEBREW, "--out", path)
    assert drawn.status == 0, drawn.err
    again = kivnun_here("runs", "plot", "recipe", "--out", path)
    assert (again.status, "error[file-exists]" in again.err) == (2, True)
    if name.endswith("png"):
        assert path.read_bytes().startswith(b"\x89PNG")
        return
    text = path.read_text("utf-8")
    assert HEBREW in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), "nothing is loaded from elsewhere"
    if name.endswith("svg"):
        lines = ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}polyline")  # noqa: S314
        # A line for each run in the legend, in the panel of the training and in that of the validation loss.
        assert sorted(line.attrib["class"] for line in lines) == ["run-0"] * 3 + ["run-1"] * 3


def test_a_plot_of_nothing_and_an_unknown_ending_are_refused(
    act: Callable[[str], Actor], kivnun_here: Callable[..., Ended]
) -> None:
    act("new")
    assert "error[run-missing]" in kivnun_here("runs", "plot", "new").err
    assert kivnun_here("runs", "plot", "new", "--out", "curves.gif").status == 2
    assert not Path("curves.html").exists()


def test_no_runs_and_unreadable_runs_are_said(
    act: Callable[[str], Actor], kivnun_here: Callable[..., Ended], tmp_path: Path
) -> None:
    assert "there are no runs" in kivnun_here("runs").err
    broken = tmp_path / "runs" / "broken"
    broken.mkdir(parents=True)
    (broken / "events.jsonl").write_text("no event\n{}\n", "utf-8")
    actor = act("live")
    actor.begin_training()
    actor.step(3)
    listed = kivnun_here("runs")
    assert re.search(r"broken\s+unreadable", listed.out)
    assert "broken: " in listed.err
    assert "is not an event" in listed.err
    assert re.search(r"live\s+running\s+training, step 3 of 40", listed.out)
    actor.end(kill=True)
    assert re.search(r"live\s+killed\s+training, step 3 of 40", kivnun_here("runs").out)


def test_a_narrow_terminal_shows_fewer_columns_and_none_is_torn(two_runs: Path) -> None:
    status, drawn = on_terminal("runs", work=two_runs, columns=60, NO_COLOR="1")
    assert status == 0
    lines = [line for line in plain(drawn).splitlines() if line.strip()]
    assert max(len(line.replace(FSI, "").replace(PDI, "").rstrip()) for line in lines) <= 60
    assert len(lines) == 4, "a heading, a rule and a line for each run"
    assert "finished" in drawn
    assert "objective" not in drawn
    assert "\x1b[3" not in drawn, "no colour where NO_COLOR is set"
    _, coloured = on_terminal("runs", work=two_runs, columns=60)
    assert "\x1b[32m" in coloured


def test_watching_tells_what_happens_and_ends_with_the_run(
    act: Callable[[str], Actor], watch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    actor = act(HEBREW)
    actor.begin_training()
    actor.step(1)
    watching = watch(HEBREW)
    assert watching.stdout is not None
    assert watching.stdout.readline() == f"{FSI}{HEBREW}{PDI}: training, step 1 of 40\n"
    assert "loss 4.0000" in watching.stdout.readline()
    actor.tell("validation", step=1, loss=0.5, best=True, rouge_l=0.25)
    assert "validation loss 0.5000, rouge_l 0.2500 (best)" in watching.stdout.readline()
    actor.tell("usage", step=1, cpu_percent=187.0, memory_bytes=2 * 10**9, peak_share=0.31)
    assert watching.stdout.readline() == "  CPU 187 %, memory 2.0\u00a0GB, 31.0\u00a0% of the measured peak\n"
    actor.tell("run_finished", report="report.html")
    actor.end()
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (0, f"{FSI}{HEBREW}{PDI} is finished\n")
    assert out == ""


@pytest.mark.parametrize(
    ("last", "status", "words"),
    [
        (None, 137, "was killed in training, step 2 of 40: its process is gone"),
        (("run_failed", {"code": "disk-full", "problem": "the disk is full"}), 2, "the disk is full (disk-full)"),
        (("run_interrupted", {}), 130, "was interrupted in training, step 2 of 40"),
    ],
    ids=["killed", "failed", "interrupted"],
)
def test_watching_ends_with_the_status_that_the_run_ended_with(
    act: Callable[[str], Actor],
    watch: Callable[..., subprocess.Popen[str]],
    last: tuple[str, dict[str, object]] | None,
    status: int,
    words: str,
) -> None:
    actor = act("run")
    actor.begin_training()
    actor.step(2)
    watching = watch("run")
    assert watching.stdout is not None
    watching.stdout.readline()
    if last is not None:
        actor.tell(last[0], **last[1])
    actor.end(kill=last is None)
    _, err = watching.communicate(timeout=60)
    assert (watching.returncode, words in err) == (status, True), err


def test_ctrl_c_ends_the_watching_and_not_the_run(
    act: Callable[[str], Actor], watch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    actor = act("run")
    actor.begin_training()
    watching = watch("run")
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=60)
    assert (watching.returncode, "watching ended; the run goes on" in err) == (130, True)
    actor.step(1)
    assert read_events(tmp_path / "runs/run")[-1]["event"] == "step"


def test_a_run_that_does_not_exist_yet_is_waited_for(
    act: Callable[[str], Actor], watch: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    watching = watch("later", "--wait", "--json")
    assert watching.stderr is not None
    assert watching.stdout is not None
    assert "waiting for the run later to begin" in watching.stderr.readline()
    actor = act("later")
    actor.tell("stage_started", stage="dataset")
    assert json.loads(watching.stdout.readline())["stage"] == "dataset"
    actor.tell("run_finished", report="-")
    actor.end()
    out, err = watching.communicate(timeout=60)
    assert json.loads(out)["event"] == "run_finished"
    assert (watching.returncode, err) == (0, "later is finished\n")


def test_without_wait_a_missing_run_is_an_error(kivnun_here: Callable[..., Ended], act: Callable[[str], Actor]) -> None:
    ended = kivnun_here("watch", "later")
    assert (ended.status, "error[run-missing]" in ended.err, "--wait" in ended.err) == (2, True, True)


@pytest.mark.parametrize("columns", [100, 36])
def test_a_terminal_shows_a_picture_that_fits(act: Callable[[str], Actor], tmp_path: Path, columns: int) -> None:
    actor = act(HEBREW)
    actor.begin_training()
    for number in range(1, 31):
        actor.step(number)
    actor.tell("validation", step=30, loss=0.5, best=True)
    actor.tell("usage", step=30, cpu_percent=187.0, memory_bytes=2 * 10**9)
    actor.tell("tracker_failed", tracker="mlflow", problem="no server")
    actor.end(kill=True)
    status, drawn = on_terminal("watch", HEBREW, work=tmp_path, columns=columns, NO_COLOR="1")
    lines = re.split(r"[\r\n]+", plain(drawn).replace(FSI, "").replace(PDI, ""))
    assert status == 137
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert "30/40" in drawn
    assert re.search("█[▁▂▃▄▅]+▁", drawn)
    assert "validation  loss 0.5000" in drawn
    assert "CPU 187 %" in drawn
    assert "mlflow failed" in drawn
    assert "\x1b[3" not in drawn


def test_a_run_that_is_refused_says_so_to_who_watches_it(two_runs: Path, kivnun_here: Callable[..., Ended]) -> None:
    (two_runs / "rows.jsonl").write_text("not json\n", "utf-8")
    assert kivnun_here("run", "recipe.yaml").status == 2
    ended = kivnun_here("watch", "recipe")
    assert (ended.status, "(data-malformed)" in ended.err) == (2, True), ended.err
    assert "recipe: " in kivnun_here("runs").err
