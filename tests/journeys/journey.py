"""What every journey needs: rows, recipes, the installed command in a process of its own, and its traces."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KIVNUN = Path(sys.executable).with_name("kivnun")
EXAMPLES = Path(__file__).parents[2] / "examples" / "tone" / "phrases.jsonl"
ADAPTER = Path("model") / "adapter_model.safetensors"
PATIENCE_SECONDS = 240.0

TRAINING_RECIPE = """\
base_model: {base}
data:
  train: rows.jsonl
  text_template: "Text: {{phrase}}\\nTone: {{tone}}"
  split: {{validation: 8, test: 12}}
  max_seq_len: 512
method: {{kind: lora, rank: 4, alpha: 8}}
training:
  max_steps: 12
  learning_rate: 5e-3
  batch_tokens: 512
  save_every_steps: 1
  precision: fp32
  compile: false
"""
EVALUATION = "evaluation: {task: classification, label: tone, max_new_tokens: 8, resamples: 100}\n"
OPTIMIZATION = "optimization: {precision: int4}\n"


@dataclass(frozen=True)
class Ended:
    """What a command left: its status and what it said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class FinishedRun:
    """A run that went through undisturbed; tests copy it and leave it as it is."""

    work: Path
    folder: Path
    ended: Ended


def example_rows(number: int = 72) -> list[dict[str, str]]:
    """The first rows of the example's data: English and Hebrew phrases with their tone."""
    lines = EXAMPLES.read_text("utf-8").splitlines()[:number]
    return [json.loads(line) for line in lines]


def write_jsonl(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def write_workplace(work: Path, base: Path, *, sections: str = "", recipe: str = TRAINING_RECIPE) -> None:
    """A folder as a user has it: `recipe.yaml` and `rows.jsonl`."""
    work.mkdir(exist_ok=True)
    write_jsonl(work / "rows.jsonl", example_rows())
    (work / "recipe.yaml").write_text(recipe.format(base=base) + sections, "utf-8")


def clean_environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", **more}


def kivnun(*arguments: str | Path, work: Path, stdin: str = "") -> Ended:
    """The installed command, from start to end."""
    done = subprocess.run(
        [KIVNUN, *arguments],
        cwd=work,
        env=clean_environment(),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def start_kivnun(*arguments: str | Path, work: Path) -> subprocess.Popen[str]:
    """The installed command, still running; Ctrl-C reaches it even where the tests run in a shell's background."""
    return subprocess.Popen(
        ["env", "--default-signal=INT", KIVNUN, *arguments],
        cwd=work,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def read_events(folder: Path) -> list[dict[str, object]]:
    """Whole lines of `events.jsonl`, read without the code that is tested."""
    path = folder / "events.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def stages(folder: Path, event: str) -> list[object]:
    """The stages that an event was logged for since the last command began to work in the folder."""
    return [each["stage"] for each in read_events(folder) if each["event"] == event]


def steps_done(folder: Path) -> int:
    return max((int(str(each["step"])) for each in read_events(folder) if each["event"] == "step"), default=0)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something that a process does; its end before that is a failure."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"ended too early with status {process.returncode}: {process.communicate()[1]}")
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.005)


def children_of(pid: int) -> list[int]:
    """Processes that this one started, still alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold spaces; behind it stand state and parent.
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(status.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file_times(folder: Path) -> dict[str, int]:
    """When each file of the stages was written."""
    files = (path for path in folder.glob("*/**/*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def finished_stages(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/artifact.json")}


def leftovers(folder: Path) -> list[Path]:
    """Half-written things, which a command that ended by itself must not leave."""
    return [path for path in folder.rglob(".*") if path.name != ".lock"]
