"""Training speed and memory of Kivnun's loop beside TRL's SFTTrainer, on the shape of a 135M Llama.

    python bench/training.py --rows dolly --method lora --json    every arm, interleaved rounds, medians
    python bench/training.py --quick                              one round of few steps, within 8 minutes
    python bench/training.py --only kivnun                        one arm

Every arm is a process of its own and starts from the same weights, rows, rank, learning rate and optimizer; TRL runs in
its own environment, `.venv-trl`, which the first use creates. A finished arm is kept in `bench/.training/`, so that the
same command goes on where it was stopped; `--fresh` starts anew. See `bench/README.md` for what is compared and why.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "bench" / ".training"
TRL_PYTHON = ROOT / ".venv-trl" / "bin" / "python"
# torch first and alone: any other order lets pip take torch with gigabytes of CUDA libraries.
TRL_INSTALLS = (
    ("torch==2.13.0",),
    ("trl>=1.16,<1.17", "peft>=0.21,<0.22", "transformers>=5.23,<5.24", "datasets>=4,<6"),
)

BATCH_TOKENS = 1024
RANK, ALPHA = 16, 32
LEARNING_RATES = {"lora": 1e-3, "full": 1e-4}
NUM_ROW_TOKENS = 60_000
HEAD_WEIGHTS = 576 * 49_152
# Products a weight takes part in, forward and backward, in FLOP: 2 each, one less where it is frozen.
FLOPS_PER_WEIGHT = {"lora": 4, "full": 6}
# Rows of a padded step by TRL's own default, and rows and tokens of a packed step of the same 1,024 tokens.
TRL_ROWS = 8
PACKED = {"synthetic": (2, 512), "gsm8k": (2, 512), "dolly": (1, 1024)}
MAX_LOSS_DIFFERENCE = 0.03


@dataclass(frozen=True)
class Arm:
    """One way to train; the TRL settings mean nothing for `kivnun`."""

    name: str
    is_trl: bool = True
    autocast: bool = False
    pure_bf16: bool = False
    packing: bool = False
    checkpointing: bool = False


KIVNUN = Arm("kivnun", is_trl=False)
TRL_DEFAULT = Arm("trl_default", autocast=True, checkpointing=True)
TRL_CANDIDATES = (
    Arm("trl_packing_autocast", autocast=True, packing=True),
    Arm("trl_packing_bf16", pure_bf16=True, packing=True),
    Arm("trl_padding_bf16", pure_bf16=True),
)
ARMS = (KIVNUN, TRL_DEFAULT, *TRL_CANDIDATES)


@dataclass(frozen=True)
class Lengths:
    """How long a measurement is: steps that are not counted, steps that are, and how often the main arms run."""

    warmup: int
    measured: int
    rounds: int


@dataclass(frozen=True)
class Task:
    """What is trained, and where its parts are kept."""

    rows: str
    method: str
    data: Path
    folder: Path
    compiled: str


def main() -> int:
    options = parse_options()
    lengths = Lengths(1, 3, 1) if options.quick else Lengths(3, options.steps, options.rounds)
    arms = list(TRL_CANDIDATES if options.only == "trl_best" else ARMS)
    if options.only not in (None, "trl_best"):
        arms = [arm for arm in ARMS if arm.name == options.only]
    if any(arm.is_trl for arm in arms):
        make_trl_environment()
    name = f"{options.rows}-{options.method}-{lengths.warmup}-{lengths.measured}-{options.compile}"
    task = Task(options.rows, options.method, options.data.resolve(), KEPT / name, options.compile)
    if options.fresh:
        shutil.rmtree(task.folder, ignore_errors=True)
    workload = prepare(task)
    runs = run_rounds(arms, lengths, task, workload)
    summary = summarise(runs, workload, lengths, task)
    print_table(summary)
    if options.json:
        print(json.dumps(summary))
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training speed of Kivnun beside TRL's SFTTrainer.")
    parser.add_argument("--rows", choices=list(PACKED), default="synthetic", help="what is trained on")
    parser.add_argument("--method", choices=list(LEARNING_RATES), default="lora", help="what is trained")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real rows")
    parser.add_argument("--quick", action="store_true", help="every arm for three measured steps, one round")
    parser.add_argument("--fresh", action="store_true", help="forget arms that have been measured")
    parser.add_argument("--json", action="store_true", help="the last line of the output is a JSON object")
    parser.add_argument("--only", choices=[arm.name for arm in ARMS] + ["trl_best"], help="run one arm")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a run (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument(
        "--compile", choices=["auto", "yes", "no"], default="auto", help="torch.compile in Kivnun's arm"
    )
    return parser.parse_args()


def prepare(task: Task) -> dict:
    """The model and rows in the task's folder, made once; returns their description."""
    described = task.folder / "workload.json"
    if not described.is_file():
        if task.rows != "synthetic" and not task.data.is_dir():
            raise SystemExit(f"error: there is no folder {task.data}; name it with --data, or use --rows synthetic")
        say("making the model and the rows")
        task.folder.mkdir(parents=True, exist_ok=True)
        job = json.dumps({"rows": task.rows, "data": str(task.data), "num_tokens": NUM_ROW_TOKENS})
        workload = run_child([sys.executable, str(side("kivnun")), "prepare", str(task.folder), job])
        write_json(described, workload)
    return json.loads(described.read_text("utf-8"))


def write_json(path: Path, value: dict) -> None:
    """Write whole or not at all: an interrupted arm is measured again."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(value), "utf-8")
    temporary.replace(path)


def make_trl_environment() -> None:
    """Create `.venv-trl` on first use; a half-made one is completed."""
    ready = TRL_PYTHON.parent.parent / "ready"
    if ready.is_file():
        return
    say("making .venv-trl for TRL (once)")
    if not TRL_PYTHON.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(ROOT / ".venv-trl")], check=True)
    for packages in TRL_INSTALLS:
        command = [str(TRL_PYTHON), "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(command, check=True, stdout=sys.stderr)
    ready.write_text("\n".join(" ".join(packages) for packages in TRL_INSTALLS) + "\n", "utf-8")


def run_rounds(arms: list[Arm], lengths: Lengths, task: Task, workload: dict) -> dict[str, list[dict]]:
    """Run every arm once, then the arms that are compared again in turn, so that drift meets all alike."""
    runs: dict[str, list[dict]] = {arm.name: [] for arm in arms}
    for number in range(lengths.rounds):
        best = best_candidate(runs) if number else None
        for arm in arms:
            if number and arm in TRL_CANDIDATES and arm.name != best:
                continue
            kept = task.folder / f"{arm.name}-{number + 1}.json"
            if not kept.is_file():
                say(f"round {number + 1} of {lengths.rounds}: {arm.name}")
                write_json(kept, run_arm(arm, lengths, task, workload))
            result = json.loads(kept.read_text("utf-8"))
            say(f"  {arm.name}: {result['tokens_per_second']:.0f} tokens/s, {result['peak_rss_mib']:.0f} MiB")
            runs[arm.name].append(result)
    return runs


def run_arm(arm: Arm, lengths: Lengths, task: Task, workload: dict) -> dict:
    """One process of one arm, with tokens a second of the steps after the warm-up added to what it reports."""
    job = {
        "method": task.method,
        "learning_rate": LEARNING_RATES[task.method],
        "batch_tokens": BATCH_TOKENS,
        "num_steps": lengths.warmup + lengths.measured,
        "rank": RANK,
        "alpha": ALPHA,
    }
    if arm.is_trl:
        same_tokens = max(1, round(BATCH_TOKENS / workload["mean_row_tokens"]))
        rows = {"padded_rows": TRL_ROWS if arm == TRL_DEFAULT else same_tokens, "packed": PACKED[task.rows]}
        command, job = [str(TRL_PYTHON), str(side("trl"))], {**job, **asdict(arm), **rows}
    else:
        command, job = [sys.executable, str(side("kivnun")), "train"], {**job, "compile": COMPILE[task.compiled]}
    load_before = os.getloadavg()[0]
    result = run_child([*command, str(task.folder), json.dumps(job)])
    counted = result["steps"][lengths.warmup :]
    result["tokens_per_second"] = sum(s["tokens"] for s in counted) / sum(s["seconds"] for s in counted)
    result["warmup_seconds"] = sum(s["seconds"] for s in result["steps"][: lengths.warmup])
    result["load_before"] = round(load_before, 2)
    return result


COMPILE = {"auto": "auto", "yes": True, "no": False}


def run_child(command: list[str]) -> dict:
    """Run one side; its progress goes to our standard error, its last line of output is the result."""
    # TRL gets the environment as the user has it. Kivnun sets OMP_WAIT_POLICY itself, as its command line does.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if command[0] == sys.executable:
        sources = [os.environ.get("PYTHONPATH"), str(ROOT / "src")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sources))
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"error: {' '.join(command[:3])} ended with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def best_candidate(runs: dict[str, list[dict]]) -> str | None:
    """The fastest TRL arm of those that ran, the default included: best is never below default."""
    names = [arm.name for arm in (TRL_DEFAULT, *TRL_CANDIDATES) if runs.get(arm.name)]
    return max(names, key=lambda name: speed(runs[name]), default=None)


def speed(runs: list[dict]) -> float:
    return median(run["tokens_per_second"] for run in runs)


def summarise(runs: dict[str, list[dict]], workload: dict, lengths: Lengths, task: Task) -> dict:
    """Everything that was measured, in the form that `--json` prints."""
    arms = {name: summarise_arm(results, lengths) for name, results in runs.items()}
    kivnun, best = arms.get("kivnun"), best_candidate(runs)
    summary: dict = {
        "benchmark": f"training, 135M Llama shape, {task.method}, {task.rows} rows",
        "method": task.method,
        "machine": describe_machine(),
        "workload": workload,
        "lengths": asdict(lengths),
        "trl_best": best,
        "arms": arms,
    }
    if kivnun:
        weights = workload["non_embedding_parameters"] + HEAD_WEIGHTS * kivnun["target_share"]
        flops = FLOPS_PER_WEIGHT[task.method] * weights
        rate = max(run["matrix_gflops"] for run in runs["kivnun"])
        summary["tokens_per_second"] = kivnun["tokens_per_second"]
        summary["peak_rss_mib"] = kivnun["peak_rss_mib"]
        summary["gflop_per_token"] = round(flops / 1e9, 4)
        summary["matrix_gflops"] = rate
        summary["matrix_peak_share"] = round(flops * kivnun["tokens_per_second"] / 1e9 / rate, 4)
    others = {"best": best, "default": "trl_default" if "trl_default" in arms else None}
    trl_arms = [name for name in arms if name != "kivnun"]
    others["least"] = min(trl_arms, key=lambda name: arms[name]["peak_rss_mib"], default=None)
    for label, name in others.items():
        for what, field in (("tokens_per_second", "tokens_per_second"), ("peak_memory", "peak_rss_mib")):
            both = kivnun is not None and name is not None
            summary[f"{what}_ratio_to_trl_{label}"] = round(kivnun[field] / arms[name][field], 3) if both else None
    summary["loss_differences"] = loss_differences(arms)
    return summary


def summarise_arm(results: list[dict], lengths: Lengths) -> dict:
    """Medians of an arm's rounds; losses are the same in every round and come from the first."""
    first = results[0]
    counted = [step for run in results for step in run["steps"][lengths.warmup :]]
    return {
        "tokens_per_second": round(speed(results), 1),
        "tokens_per_second_rounds": [round(run["tokens_per_second"], 1) for run in results],
        "peak_rss_mib": round(median(run["peak_rss_mib"] for run in results), 1),
        "warmup_seconds": round(median(run["warmup_seconds"] for run in results), 1),
        "num_tokens": sum(step["tokens"] for step in first["steps"]),
        "target_share": round(sum(s["targets"] for s in counted) / sum(s["tokens"] for s in counted), 4),
        "losses": [round(step["loss"], 4) for step in first["steps"]],
        "targets": [step["targets"] for step in first["steps"]],
        "load_before": [run["load_before"] for run in results],
        "mean_loss": round(mean_loss(first["steps"]), 4),
        "trained_parameters": first["trained_parameters"],
        "versions": first["versions"],
        **{key: first[key] for key in ("dtype", "compiled", "attention") if key in first},
    }


def mean_loss(steps: list[dict]) -> float:
    """Mean loss over the trained tokens of an arm's steps: batches differ between arms, this hardly does."""
    return sum(step["loss"] * step["targets"] for step in steps) / sum(step["targets"] for step in steps)


def loss_differences(arms: dict[str, dict]) -> dict[str, float]:
    """How far each TRL arm's loss curve is from Kivnun's over the trained tokens that both have seen.

    Steps hold different rows on the two sides, so curves are compared by trained tokens seen, not by step.
    """
    if "kivnun" not in arms:
        return {}
    ours = arms["kivnun"]
    differences = {name: curve_difference(ours, arm) for name, arm in arms.items() if name != "kivnun"}
    for name, difference in differences.items():
        if abs(difference) > MAX_LOSS_DIFFERENCE:
            say(f"warning: {name}'s loss curve is {difference:+.1%} from Kivnun's: is it the same training?")
    return differences


def curve_difference(ours: dict, theirs: dict) -> float:
    """Mean relative difference of two loss curves over the range of trained tokens that both cover."""
    curves = []
    for arm in (ours, theirs):
        # A step's loss is that of the weights before it: it stands at the middle of its tokens.
        ends = list(accumulate(arm["targets"]))
        middles = [end - num / 2 for end, num in zip(ends, arm["targets"], strict=True)]
        curves.append((middles, arm["losses"]))
    start = max(middles[0] for middles, _ in curves)
    stop = min(middles[-1] for middles, _ in curves)
    places = [start + (stop - start) * part / 20 for part in range(21)]
    pairs = [tuple(interpolate(place, *curve) for curve in curves) for place in places]
    return round(sum(their / our - 1 for our, their in pairs) / len(pairs), 4)


def interpolate(place: float, xs: list[float], ys: list[float]) -> float:
    """The value of a piecewise linear curve."""
    for (x, y), (next_x, next_y) in pairwise(zip(xs, ys, strict=True)):
        if place <= next_x:
            return y + (next_y - y) * max(place - x, 0) / (next_x - x)
    return ys[-1]


def describe_machine() -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "bf16": sorted(flags & {"amx_bf16", "avx512_bf16"}),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def print_table(summary: dict) -> None:
    machine, arms = summary["machine"], summary["arms"]
    bf16 = " ".join(machine["bf16"])
    print(f"{machine['cores']} cores, {machine['processor']} {bf16}, load {machine['load_average']}")
    print(f"{'arm':<22}{'tokens/s':>10}{'peak MiB':>10}{'warm-up s':>11}{'first loss':>12}{'mean loss':>11}")
    for name, arm in arms.items():
        print(
            f"{name:<22}{arm['tokens_per_second']:>10.1f}{arm['peak_rss_mib']:>10.0f}{arm['warmup_seconds']:>11.1f}"
            f"{arm['losses'][0]:>12.4f}{arm['mean_loss']:>11.4f}"
        )
    for name, arm in arms.items():
        print(f"losses of {name}: {' '.join(f'{loss:.3f}' for loss in arm['losses'])}")
    for name, difference in summary["loss_differences"].items():
        print(f"{name}'s loss curve is {difference:+.2%} from kivnun's")
    for label in ("best", "default"):
        ratio, memory = summary[f"tokens_per_second_ratio_to_trl_{label}"], summary[f"peak_memory_ratio_to_trl_{label}"]
        if ratio is not None:
            name = summary["trl_best"] if label == "best" else "as TRL starts"
            print(
                f"kivnun: {ratio:.2f} times the tokens/s, {memory:.2f} times the memory of TRL at its {label} ({name})"
            )
    if "matrix_peak_share" in summary:
        rate = f"{summary['matrix_gflops']:.0f} GFLOP/s"
        print(f"{summary['matrix_peak_share']:.1%} of the measured {rate} of matrix products")


def side(name: str) -> Path:
    return ROOT / "bench" / f"{name}_side.py"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
