"""Kills a working server with kill -9 at random moments: nothing acknowledged may be lost, and weights may not differ.

    python bench/server.py kills                # 200 kills, about a quarter of an hour on two cores
    python bench/server.py kills --kills 10     # a trial
    python bench/server.py kills --json         # the last line is a JSON object

A real `kivnun serve` works for OpenAI's own library: clients upload files whole and in parts, make fine-tuning jobs,
pause and resume them, and chat with the base model and with what was tuned, all at once. Meanwhile the server, its
worker, or both are killed; a server that was killed is started again on the same folder. In the end everything that was
ever acknowledged is asked for again. Compared with undisturbed runs of the same recipes: every byte of the weights of
every finished model and of its checkpoints. Linux.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil
from openai import APIConnectionError, APIError, APIStatusError, OpenAI

KILLS, QUICK_KILLS = 200, 8
START_SECONDS, END_SECONDS = 90.0, 600.0
LONGEST_GAP_SECONDS, PATIENCE_SECONDS = 1.5, 12.0
EPOCHS, BATCH_SIZE, NUM_ROWS = 12, 4, 40
NUM_STEPS = EPOCHS * NUM_ROWS // BATCH_SIZE
MOST_UNFINISHED = 2
VICTIMS = ("server", "worker", "both")
FIRST, LAST = "Created fine-tuning job", "The job has successfully completed"
ONCE = (FIRST, "Validating training file", "Files validated", "Fine-tuning job started", "New fine-tuned model", LAST)
PART_BYTES = 100_000


@dataclass
class Acknowledged:
    """What the server promised, and what went wrong.

    Attributes:
        files: SHA-256 of the content by id.
        jobs: Seeds by id.
        answers: Greedy answers by model.
        problems: Whatever should not have happened.
        counts: How much of everything there was.
        busy: What clients do this moment.
    """

    files: dict[str, str] = field(default_factory=dict[str, str])
    jobs: dict[str, int] = field(default_factory=dict[str, int])
    answers: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[str] = field(default_factory=list[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    busy: Counter[str] = field(default_factory=Counter[str])


class Server:
    """A server that is started again on the same folder whenever it was killed."""

    def __init__(self, data_dir: Path, model: Path) -> None:
        self._command = [sys.executable, "-m", "kivnun", "serve", "--port", "0", "--json", "--no-auth"]
        self._command += ["--data-dir", str(data_dir), "--base-model", "tiny", "--model", f"tiny={model}"]
        self._log = data_dir.with_name("server.txt")
        self.process: subprocess.Popen[str] | None = None
        self.client: OpenAI | None = None
        self.start_seconds: list[float] = []

    def start(self) -> None:
        """Start it, and wait until it answers."""
        began = time.monotonic()
        with self._log.open("a") as said:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=said, text=True)
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit(f"the server did not start:\n{self._log.read_text()[-3000:]}")
        self.client = OpenAI(base_url=json.loads(line)["url"], api_key="local", max_retries=0, timeout=30)
        self.start_seconds.append(time.monotonic() - began)

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        with suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children() if self.process else []
            return [child for child in children if "kivnun.jobs" in child.cmdline()]
        return []

    def kill(self, victim: str) -> bool:
        """Kill -9; whether there was somebody to kill."""
        workers = self.workers() if victim != "server" else []
        pids = [worker.pid for worker in workers]
        if victim != "worker" and self.process is not None:
            pids.append(self.process.pid)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victim != "worker" and self.process is not None:
            self.client = None
            self.process.wait()
        return bool(pids)

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(90)
            self.process.kill()
            self.process.wait()


class Clients:
    """Threads that use the server all the time, and remember what it acknowledged."""

    def __init__(self, server: Server, kept: Acknowledged, seed: int) -> None:
        self._server = server
        self._kept = kept
        self._seed = seed
        self._end = threading.Event()
        self._accepts_jobs = True
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin."""
        for name in ("upload", "submit", "chat", "pause"):
            work: Callable[[OpenAI, random.Random], None] = getattr(self, f"_{name}")
            draw = random.Random(f"{self._seed}{name}")  # noqa: S311 - not for secrets
            thread = threading.Thread(target=self._repeat, args=(name, work, draw), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End."""
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self, name: str, work: Callable[[OpenAI, random.Random], None], draw: random.Random) -> None:
        while not self._end.is_set():
            client = self._server.client
            if client is None:
                time.sleep(0.05)
                continue
            self._kept.busy[name] += 1
            try:
                work(client, draw)
                self._kept.counts[name] += 1
            except APIStatusError as error:
                if error.status_code >= 500:
                    self._kept.problems.append(f"{name}: {error}"[:300])
                self._kept.counts[f"{name} refused"] += 1
            except APIConnectionError:
                self._kept.counts[f"{name} cut off"] += 1
            except APIError:
                # The stream ended in the middle.
                self._kept.counts[f"{name} cut off"] += 1
            except Exception as error:  # noqa: BLE001 - the bench tells it at its end
                self._kept.problems.append(f"{name}: {type(error).__name__}: {error}"[:300])
            finally:
                self._kept.busy[name] -= 1
            self._end.wait(draw.uniform(0.02, 0.3))

    def _upload(self, client: OpenAI, draw: random.Random) -> None:
        content = rows_of(draw.randrange(1000), draw.choice((NUM_ROWS, 500, 5000)))
        if draw.random() < 0.5:
            file = client.files.create(file=("rows.jsonl", content), purpose="fine-tune")
        else:
            upload = client.uploads.create(
                filename="rows.jsonl", purpose="fine-tune", bytes=len(content), mime_type="application/jsonl"
            )
            parts = [
                client.uploads.parts.create(upload.id, data=content[start : start + PART_BYTES]).id
                for start in range(0, len(content), PART_BYTES)
            ]
            file = client.uploads.complete(upload.id, part_ids=parts).file
        if file is not None:
            self._kept.files[file.id] = hashlib.sha256(content).hexdigest()
        if self._kept.files and draw.random() < 0.3:
            require_content(client, draw.choice(sorted(self._kept.files)), self._kept)

    def _submit(self, client: OpenAI, draw: random.Random) -> None:
        unfinished = [job for job in client.fine_tuning.jobs.list(limit=100).data if job.status not in ENDED]
        if len(unfinished) >= MOST_UNFINISHED or not self._accepts_jobs:
            time.sleep(0.5)
            return
        seed = draw.randrange(1000)
        content = rows_of(seed, NUM_ROWS)
        training = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
        self._kept.files[training.id] = hashlib.sha256(content).hexdigest()
        validation = client.files.create(file=("valid.jsonl", rows_of(seed + 1, 8)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=training.id,
            validation_file=validation.id,
            seed=seed,
            suffix="kills",
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": EPOCHS, "batch_size": BATCH_SIZE}},
            },
        )
        self._kept.jobs[job.id] = seed

    def _chat(self, client: OpenAI, draw: random.Random) -> None:
        tuned = [job.fine_tuned_model for job in client.fine_tuning.jobs.list(limit=3).data if job.fine_tuned_model]
        model = draw.choice(["tiny", *tuned])
        ask(client, model, self._kept, is_streamed=draw.random() < 0.5)

    def _pause(self, client: OpenAI, draw: random.Random) -> None:
        time.sleep(draw.uniform(1, 6))
        running = [job for job in client.fine_tuning.jobs.list(limit=10).data if job.status == "running"]
        if running:
            client.fine_tuning.jobs.pause(running[-1].id)
        time.sleep(draw.uniform(0, 1))
        for job in client.fine_tuning.jobs.list(limit=100).data:
            if job.status == "paused":
                client.fine_tuning.jobs.resume(job.id)


ENDED = ("succeeded", "failed", "cancelled")


def run(options: argparse.Namespace) -> dict[str, object]:
    """Kill, wait for the end, and ask for everything again.

    Args:
        options: `kills`, `quick`, `seed`, `keep`.
    """
    seed = options.seed or random.SystemRandom().randrange(1, 2**31)
    kills = QUICK_KILLS if options.quick else options.kills
    root = Path(tempfile.mkdtemp(prefix="kivnun-kills-"))
    began = time.monotonic()
    kept = Acknowledged()
    server = Server(root / "data", write_model(root / "tiny"))
    watcher = Watcher(kept)
    try:
        server.start()
        watcher.start()
        clients = Clients(server, kept, seed)
        clients.start()
        draw = random.Random(seed)  # noqa: S311 - moments, not secrets
        done = kill_again_and_again(server, kept, kills, draw)
        killing_seconds = time.monotonic() - began
        clients.stop()
        wait_for_jobs(server, kept)
        check_everything(server, kept, root)
    finally:
        server.stop()
        watcher.stop()
        if not options.keep:
            shutil.rmtree(root, ignore_errors=True)
    return {
        "seed": seed,
        "kills": sum(done["victims"].values()),
        "victims": dict(done["victims"]),
        "moments": dict(done["moments"]),
        "files": len(kept.files),
        "jobs": len(kept.jobs),
        "requests": dict(sorted(kept.counts.items())),
        "server_start_seconds": round(sorted(server.start_seconds)[len(server.start_seconds) // 2], 2),
        "killing_seconds": round(killing_seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
        "problems": kept.problems[:50],
        "num_problems": len(kept.problems),
        "folder": str(root) if options.keep else None,
        "passed": not kept.problems,
    }


def kill_again_and_again(
    server: Server, kept: Acknowledged, kills: int, draw: random.Random
) -> dict[str, "Counter[str]"]:
    """Kill at random moments, half of them while a job makes steps."""
    victims: Counter[str] = Counter()
    moments: Counter[str] = Counter()
    while sum(victims.values()) < kills:
        if draw.random() < 0.4:
            wait_for_steps(server)
        time.sleep(draw.uniform(0.05, LONGEST_GAP_SECONDS))
        victim = draw.choice(VICTIMS)
        statuses = job_statuses(server)
        busy = [name for name, count in kept.busy.items() if count]
        if not server.kill(victim):
            continue
        victims[victim] += 1
        moments.update([*busy, *statuses])
        if sum(victims.values()) % 20 == 0:
            print(f"{sum(victims.values())} kills, {len(kept.jobs)} jobs", file=sys.stderr, flush=True)
        if victim != "worker":
            server.start()
    return {"victims": victims, "moments": moments}


def wait_for_steps(server: Server) -> None:
    """Wait until a job makes a step, if one does soon."""
    end = time.monotonic() + PATIENCE_SECONDS
    seen: dict[str, int] = {}
    while time.monotonic() < end and server.client is not None:
        with suppress(APIError):
            for job in server.client.fine_tuning.jobs.list(limit=5).data:
                if job.status == "running":
                    events = server.client.fine_tuning.jobs.list_events(job.id, limit=1).data
                    newest = events[0].id if events and events[0].type == "metrics" else ""
                    if newest and seen.setdefault(job.id, hash(newest)) != hash(newest):
                        return
        time.sleep(0.1)


def job_statuses(server: Server) -> list[str]:
    """Statuses of the jobs that have not ended."""
    with suppress(APIError):
        if server.client is not None:
            jobs = server.client.fine_tuning.jobs.list(limit=10).data
            return sorted({f"job {job.status}" for job in jobs if job.status not in ENDED})
    return []


class Watcher:
    """Looks again and again whether two processes train for one job."""

    def __init__(self, kept: Acknowledged) -> None:
        self._kept = kept
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._end.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            running: Counter[str] = Counter()
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                    # Not the launcher, whose words hold those of what it starts.
                    if words[1:5] != [b"-P", b"-m", b"kivnun", b"run"]:
                        continue
                    variables = (folder / "environ").read_bytes().split(b"\0")
                    running.update(each.decode() for each in variables if each.startswith(b"KIVNUN_JOB="))
            self._kept.problems += [f"{job} runs {count} times" for job, count in running.items() if count > 1]


def wait_for_jobs(server: Server, kept: Acknowledged) -> None:
    """Let everything come to its end, now undisturbed."""
    end = time.monotonic() + END_SECONDS
    client = server.client
    if client is None:
        raise SystemExit("the server is gone")
    while time.monotonic() < end:
        jobs = list(client.fine_tuning.jobs.list(limit=100))
        for job in jobs:
            if job.status == "paused":
                client.fine_tuning.jobs.resume(job.id)
        if all(job.status in ENDED for job in jobs):
            return
        time.sleep(1)
    kept.problems.append("jobs did not end")


def check_everything(server: Server, kept: Acknowledged, root: Path) -> None:
    """Ask for everything that was acknowledged."""
    client = server.client
    if client is None:
        raise SystemExit("the server is gone")
    for file_id in kept.files:
        require_content(client, file_id, kept)
    listed = {job.id for job in client.fine_tuning.jobs.list(limit=100)}
    kept.problems += [f"lost job {job_id}" for job_id in set(kept.jobs) - listed]
    for job_id in sorted(listed):
        check_job(client, job_id, kept, root)


def check_job(client: OpenAI, job_id: str, kept: Acknowledged, root: Path) -> None:
    """A job has succeeded, each of its steps was told once, and its weights are those of an undisturbed run."""
    job = client.fine_tuning.jobs.retrieve(job_id)
    if job.status != "succeeded" or not job.fine_tuned_model:
        kept.problems.append(f"{job_id} {job.status}: {job.error}")
        return
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=100))[::-1]
    if len({event.id for event in events}) != len(events):
        kept.problems.append(f"{job_id}: an event is listed twice")
    steps = [event.data["step"] for event in events if event.type == "metrics"]  # type: ignore[index]
    if steps != list(range(1, NUM_STEPS + 1)):
        kept.problems.append(f"{job_id}: steps {steps}")
    for words in ONCE:
        count = sum(event.message.startswith(words) for event in events)
        if count != 1:
            kept.problems.append(f"{job_id}: {words!r} is told {count} times")
    table = client.files.content(job.result_files[0]).read().decode().splitlines()
    if [line.partition(",")[0] for line in table[1:]] != [str(step) for step in range(1, NUM_STEPS + 1)]:
        kept.problems.append(f"{job_id}: the numbers have {len(table) - 1} rows")
    for checkpoint in client.fine_tuning.jobs.checkpoints.list(job_id).data:
        ask(client, checkpoint.fine_tuned_model_checkpoint, kept, is_streamed=False)
    ask(client, job.fine_tuned_model, kept, is_streamed=False)
    different = compare_weights(root / "data" / "jobs" / job_id, root / "undisturbed" / job_id)
    kept.problems += [f"{job_id}: {name} differs" for name in different]


def compare_weights(folder: Path, undisturbed: Path) -> list[str]:
    """Names of files whose weights differ from those of a run of the same recipe that nobody disturbed."""
    undisturbed.mkdir(parents=True)
    command = [sys.executable, "-m", "kivnun", "run", "recipe.yaml", "--run-dir", str(undisturbed)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if ended.returncode != 0:
        return [f"the undisturbed run ended with {ended.returncode}; it"]
    names = [str(path.relative_to(undisturbed)) for path in undisturbed.glob("*/**/adapter_model.safetensors")]
    names = [name for name in names if name.startswith(("model/", "epochs/"))]
    hashes = [(name, hash_file(undisturbed / name), hash_file(folder / "run" / name)) for name in names]
    return [name for name, expected, found in hashes if expected != found] or ([] if len(names) > 1 else ["nothing"])


def require_content(client: OpenAI, file_id: str, kept: Acknowledged) -> None:
    """A file has the bytes that were acknowledged."""
    try:
        content = client.files.content(file_id).read()
    except APIStatusError as error:
        kept.problems.append(f"lost file {file_id}: {error}")
        return
    if hashlib.sha256(content).hexdigest() != kept.files[file_id]:
        kept.problems.append(f"{file_id} has other bytes")


def ask(client: OpenAI, model: str, kept: Acknowledged, *, is_streamed: bool) -> None:
    """A model gives the answer that it always gave."""
    asked = {"model": model, "max_tokens": 12, "temperature": 0}
    messages = [{"role": "user", "content": "I am number 7 today"}]
    if is_streamed:
        stream = client.chat.completions.create(messages=messages, stream=True, **asked)  # type: ignore[call-overload]
        answer = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    else:
        completion = client.chat.completions.create(messages=messages, **asked)  # type: ignore[call-overload]
        answer = completion.choices[0].message.content or ""
    if kept.answers.setdefault(model, answer) != answer:
        kept.problems.append(f"{model} answered {answer!r} and before {kept.answers[model]!r}")


def rows_of(seed: int, count: int) -> bytes:
    """Rows to learn, the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - data, not secrets
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"I am number {draw.randrange(10_000)} today"},
                {"role": "assistant", "content": draw.choice(("happy", "sad", "angry"))},
            ]
        }
        for _ in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_model(folder: Path) -> Path:
    """A tiny random model that chats; made in another process, so that this one stays small."""
    code = f"""
from pathlib import Path
from kivnun.models.new import make_model, train_tokenizer
from kivnun.models.resolve import BUNDLED_FOLDER
from kivnun.models.save import save_model
from kivnun.recipe.schema import NewModel
tokenizer = train_tokenizer(["I am number 0123456789 today: happy, sad, angry"] * 3, 300)
tokenizer.chat_template = (BUNDLED_FOLDER / "chat_template.jinja").read_text("utf-8")
shape = NewModel(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=512)
save_model(make_model(shape, tokenizer, seed=1), tokenizer, Path({str(folder)!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    return folder


def hash_file(path: Path) -> str:
    """SHA-256 of a file; "" where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how many (default: {KILLS}; {QUICK_KILLS} if quick)")
    parser.add_argument("--keep", action="store_true", help="keep the folder, to look into it")
