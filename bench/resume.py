"""Kills trainings at random moments, hundreds of times: each must end exactly as if it had never been killed.

    python bench/resume.py                              # every variant, 20 kills each
    python bench/resume.py --kills 2 --only lora,full   # as the test suite calls it
    python bench/resume.py --json                       # the last line is a JSON object

A variant is a whole recipe (data, checks, tokens, training, checkpoints, export) on a tiny random model. It runs once
undisturbed and once with kill -9 at random moments, until the given number of kills is reached and a last attempt ends
by itself. Compared, bit by bit: every file of the exported model, the weights and the optimizer's state in the last
checkpoint, and loss, gradient norm and validation of every step. Processes are forked from this one, which has imported
everything and computed nothing, so that an attempt starts in milliseconds. Linux and macOS.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from kivnun.errors import UserError
from kivnun.models.new import make_model, train_tokenizer
from kivnun.models.save import save_model
from kivnun.pipeline import run_recipe
from kivnun.recipe import load_recipe
from kivnun.recipe.schema import NewModel
from kivnun.runs import open_run, read_events

NUM_STEPS = 24
TRAINING = {
    "max_steps": NUM_STEPS,
    "epochs": 99,
    "batch_tokens": 160,
    "learning_rate": 0.01,
    "save_every_steps": 3,
    "validate_every_steps": 5,
    "compile": False,
}
TEXT = {"prompt_template": "Text: {phrase}\nTone:", "answer_template": " {tone}"}
PAIRS = {"format": "preference"}
LORA = {"kind": "lora", "rank": 4, "alpha": 8, "dropout": 0.1}


@dataclass(frozen=True)
class Variant:
    """What is trained: sections of a recipe that differ from the common ones."""

    method: Mapping[str, object]
    training: Mapping[str, object]
    data: Mapping[str, object]
    file: str = "rows.jsonl"


def _rows(method: Mapping[str, object], **training: object) -> Variant:
    return Variant(method, training, TEXT)


def _pairs(method: Mapping[str, object], **training: object) -> Variant:
    return Variant(method, training, PAIRS, "pairs.jsonl")


VARIANTS = {
    "full": _rows({"kind": "full"}, precision="bf16"),
    "full-accumulation": _rows({"kind": "full"}, gradient_accumulation_steps=3, batch_tokens=60, precision="fp32"),
    "full-muon": _rows({"kind": "full"}, optimizer="muon"),
    "full-8bit": _rows({"kind": "full"}, optimizer="adamw_8bit"),
    "full-batch-size": _rows({"kind": "full"}, batch_size=5, schedule="wsd", warmup_ratio=0.2),
    "full-recomputed": _rows({"kind": "full"}, gradient_checkpointing=True, micro_batch_tokens=70),
    "partial": _rows({"kind": "partial", "last_layers": 1}),
    "lora": _rows(LORA),
    "lora-plus-saved": _rows({**LORA, "modules_to_save": ["embed_tokens"], "learning_rate_ratio": 16}),
    "rslora-metrics": _rows(
        {**LORA, "use_rslora": True},
        validation_metrics=["accuracy", "rouge_l"],
        best_metric="accuracy",
        early_stopping_patience=3,
    ),
    "dora": _rows({**LORA, "use_dora": True}),
    "qlora": _rows({**LORA, "kind": "qlora"}),
    "adapter": _rows({"kind": "adapter", "bottleneck_size": 8, "placement": "houlsby"}),
    "ia3": _rows({"kind": "ia3"}),
    "prefix": _rows({"kind": "prefix", "num_virtual_tokens": 4}),
    "prompt": _rows({"kind": "prompt", "num_virtual_tokens": 4}),
    "dpo": _pairs(LORA, objective="dpo"),
    "orpo": _pairs({"kind": "full"}, objective="orpo"),
    "kto": _pairs(LORA, objective="kto"),
    "classification": _rows(LORA, objective="classification"),
    "contrastive": _rows({"kind": "full"}, objective="contrastive", batch_size=8, micro_batch_tokens=60),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of each variant")
    parser.add_argument("--only", help="variants, with commas between them; all if not given")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments; 0 takes a new one and says it")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(VARIANTS)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {', '.join(unknown)}; known: {', '.join(VARIANTS)}")
    seed = options.seed or random.SystemRandom().randrange(1, 2**31)
    print(f"seed {seed}", flush=True)
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _in_child(lambda: write_workplace(work), work / "workplace.txt")
        for name in names:
            draw = random.Random(f"{seed}{name}")  # noqa: S311 - moments, not secrets
            results[name] = try_variant(name, work / name, work, kills=options.kills, draw=draw)
            print(f"{name:<20}" + "  ".join(f"{key} {value}" for key, value in results[name].items()), flush=True)
    if options.json:
        print(json.dumps({"seed": seed, "variants": results}))
    return 0 if all(result["different"] == [] for result in results.values()) else 1


def write_workplace(work: Path) -> None:
    """The base model and the data files."""
    texts = [f"the {thing} was {word}, {place}" for thing in THINGS for word, _ in TONES for place in PLACES]
    tokenizer = train_tokenizer(texts, 400)
    shape = NewModel(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    save_model(make_model(shape, tokenizer, seed=1), tokenizer, work / "base")
    rows = [
        {"phrase": f"the {thing} was {word}, {place}", "tone": tone}
        for thing in THINGS
        for word, tone in TONES
        for place in PLACES
    ]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    others = {"joy": "fear", "fear": "joy"}
    pairs = [
        {"prompt": f"Tone of: {row['phrase']}", "chosen": row["tone"], "rejected": others[row["tone"]]} for row in rows
    ]
    (work / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")


THINGS = ("garden", "lesson", "train", "letter", "storm", "song")
TONES = (("lovely", "joy"), ("dreadful", "fear"), ("delightful", "joy"))
PLACES = ("they said", "and we stayed", "so I wrote home")


def try_variant(name: str, folder: Path, work: Path, *, kills: int, draw: random.Random) -> dict[str, object]:
    """Run a variant undisturbed and killed, and compare."""
    variant = VARIANTS[name]
    folder.mkdir()
    training = {**TRAINING, **variant.training}
    if "batch_size" in training:
        del training["batch_tokens"]
    recipe = {
        "base_model": str(work / "base"),
        "data": {"train": str(work / variant.file), **variant.data, "split": {"validation": 8, "test": 0}},
        "method": dict(variant.method),
        "training": training,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), "utf-8")
    started = time.monotonic()
    status = _in_child(lambda: _run(path, folder / "straight"), folder / "straight.txt")
    if status != 0:
        return {"different": ["undisturbed run failed"], "why": (folder / "straight.txt").read_text("utf-8")[-500:]}
    duration = time.monotonic() - started
    killed = attempts = 0
    while True:
        attempts += 1
        # An attempt that outlives its moment has ended by itself: then all kills that are left come too late.
        delay = draw.uniform(0, duration) if killed < kills else None
        status = _in_child(lambda: _run(path, folder / "killed"), folder / "killed.txt", kill_after=delay)
        if status not in (0, -signal.SIGKILL):
            return {"different": ["a resumed run failed"], "why": (folder / "killed.txt").read_text("utf-8")[-500:]}
        killed += status != 0
        if status == 0 and killed < kills:
            # It finished too early: start anew, keeping what is compared only at the end.
            _require_equal_later(folder)
        elif status == 0:
            break
    different = compare(folder / "straight", folder / "killed")
    for number in range(len(list(folder.glob("finished-*")))):
        different += compare(folder / "straight", folder / f"finished-{number}")
    resumed = sum(
        event["event"] == "resumed"
        for run in (folder / "killed", *folder.glob("finished-*"))
        for event in read_events(run / "events.jsonl")
    )
    return {
        "kills": killed,
        "resumed": resumed,
        "seconds": round(time.monotonic() - started, 1),
        "different": different,
    }


def _require_equal_later(folder: Path) -> None:
    number = len(list(folder.glob("finished-*")))
    (folder / "killed").rename(folder / f"finished-{number}")


def _run(recipe: Path, run_dir: Path) -> None:
    torch.set_num_threads(1)
    with open_run(run_dir) as run:
        run_recipe(load_recipe(recipe), run)


def _in_child(work: Callable[[], None], said: Path, *, kill_after: float | None = None) -> int:
    """Run a function in a forked process; its exit status, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with said.open("w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            work()
            status = 0
        except UserError as error:
            said.write_text(str(error), "utf-8")
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent tells it
            said.write_text(f"{type(error).__name__}: {error}", "utf-8")
        finally:
            os._exit(status)
    if kill_after is not None:
        ends = time.monotonic() + kill_after
        while time.monotonic() < ends:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def compare(straight: Path, killed: Path) -> list[str]:
    """What differs between two run folders: files of the model and of the last checkpoint, and numbers of the log."""
    folders = [straight / "model", *sorted((straight / "checkpoints").glob("step-*"))]
    different: list[str] = []
    for folder in folders:
        other = killed / folder.relative_to(straight)
        for file in sorted(folder.rglob("*")):
            # The manifest says when it was made, progress and the model's card how long it took.
            if file.is_file() and file.name not in ("artifact.json", "progress.json", "README.md"):
                twin = other / file.relative_to(folder)
                if not twin.is_file() or _hash(twin) != _hash(file):
                    different.append(str(file.relative_to(straight)))
    numbers, others = _numbers(straight), _numbers(killed)
    different += [f"events: {key}" for key in numbers if numbers[key] != others.get(key)]
    return different


def _numbers(run: Path) -> dict[str, object]:
    """Loss, gradient norm and every metric by step; a step that was done twice must have given the same twice."""
    found: dict[str, object] = {}
    for event in read_events(run / "events.jsonl"):
        if event["event"] in ("step", "validation"):
            key = f"{event['event']} {event['step']}"
            numbers = {name: value for name, value in event.items() if name not in ("time", "seconds")}
            if found.get(key, numbers) != numbers:
                numbers = {"done twice": "with two results"}
            found[key] = numbers
    return found


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
