"""The whole flow, from a base model and rows to an int4 ONNX folder, by Kivnun and by Microsoft Olive.

    python bench/olive.py --json             both sides, interleaved rounds, medians
    python bench/olive.py --quick            one round, a small model

Both sides are given the same words (`finetune`, then `auto-opt`), the same Llama with random weights, the same rows and
the same tokens a step. Olive runs in `.venv-olive`, made on first use with the versions that work together; each side's
commands are processes of their own, timed from start to end, imports included.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "bench" / ".olive"
OLIVE = ROOT / ".venv-olive" / "bin" / "olive"
KIVNUN = Path(sys.executable).with_name("kivnun")
# torch first and alone: any other order lets pip take torch with gigabytes of CUDA libraries. The others are bounded by
# hand, because olive-ai 0.13.0 is not: newer releases of these break it.
OLIVE_INSTALLS = (
    ("torch==2.13.0",),
    (
        "olive-ai==0.13.0",
        "onnxruntime==1.31.1",
        "onnxruntime-genai==0.14.1",
        "pydantic==2.11.7",
        "transformers==5.23.0",
        "peft==0.21.2",
        "datasets==5.2.0",
        "requests>=2,<3",
    ),
)
TEMPLATE = "### Text: {phrase}\\n### The tone is:\\n{tone}"
SHAPES = {
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9},
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4},
}
KEY_VALUE_HEADS = {"135M": 3, "small": 2}
BLOCK_TOKENS = 512


@dataclass(frozen=True)
class Side:
    """One of the two programs.

    Attributes:
        name: For tables.
        program: Its command.
    """

    name: str
    program: Path


@dataclass(frozen=True)
class Work:
    """What both sides are given.

    Attributes:
        model: The base model's folder.
        rows: The training rows, a JSON file.
        steps: Optimizer steps, each of `BLOCK_TOKENS` tokens.
    """

    model: Path
    rows: Path
    steps: int


def main() -> int:
    parser = argparse.ArgumentParser(description="The whole flow by Kivnun and by Olive.")
    parser.add_argument("--quick", action="store_true", help="one round with a small model")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps (default: 30)")
    parser.add_argument("--json", action="store_true", help="the last line of the output is a JSON object")
    options = parser.parse_args()
    shape = "small" if options.quick else "135M"
    make_olive_environment()
    work = prepare(shape, options.steps)
    sides = (Side("kivnun", KIVNUN), Side("olive", OLIVE))
    runs: dict[str, list[dict]] = {side.name: [] for side in sides}
    for number in range(1 if options.quick else options.rounds):
        for side in sides:
            runs[side.name].append(run_flow(side, work, KEPT / f"{side.name}-out"))
            say(f"round {number + 1}: {side.name}: {runs[side.name][-1]}")
    summary = summarise(shape, work, runs)
    print_table(summary)
    if options.json:
        print(json.dumps(summary))
    return 0


def make_olive_environment() -> None:
    """Create `.venv-olive` on first use; a half-made one is completed."""
    ready = ROOT / ".venv-olive" / "ready"
    if ready.is_file():
        return
    say("making .venv-olive (once)")
    python = OLIVE.with_name("python")
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(ROOT / ".venv-olive")], check=True)
    for packages in OLIVE_INSTALLS:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True, stdout=sys.stderr)
    ready.write_text("\n".join(" ".join(packages) for packages in OLIVE_INSTALLS) + "\n", "utf-8")


def prepare(shape: str, steps: int) -> Work:
    """A Llama with random weights and the bundled tokenizer, and more rows than the steps read."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from kivnun.models.load import load_tokenizer
    from kivnun.models.resolve import resolve_model

    folder = KEPT / shape
    model, rows = folder / "model", folder / "rows.json"
    if not rows.is_file():
        set_seed(0)
        tokenizer = load_tokenizer(resolve_model("bundled").folder)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            num_key_value_heads=KEY_VALUE_HEADS[shape],
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
            **SHAPES[shape],
        )
        LlamaForCausalLM(config).to(torch.float32).save_pretrained(model)
        tokenizer.save_pretrained(model)
        tones = [json.loads(line) for line in (ROOT / "examples/tone/phrases.jsonl").read_text("utf-8").splitlines()]
        # Numbered, so that no row is the same as another.
        many = [{"phrase": f"{number}. {row['phrase']}", "tone": row["tone"]} for number in range(2) for row in tones]
        rows.write_text(json.dumps(many), "utf-8")
    return Work(model, rows, steps)


def commands(work: Work, out: Path) -> dict[str, list[str]]:
    """The words of each step, the same for both programs."""
    return {
        "finetune": [
            *("finetune", "--model_name_or_path", str(work.model), "--method", "lora"),
            *("--data_name", "json", "--data_files", str(work.rows), "--text_template", TEMPLATE),
            *("--max_seq_len", str(BLOCK_TOKENS)),
            *("--per_device_train_batch_size", "1", "--max_steps", str(work.steps)),
            *("--target_modules", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"),
            *("--lora_r", "16", "--lora_alpha", "32", "--torch_dtype", "bfloat16", "--output_path", str(out / "ft")),
        ],
        "auto-opt": [
            *("auto-opt", "--model_name_or_path", str(out / "ft" / "model"), "--adapter_path", str(out / "ft/adapter")),
            *("--device", "cpu", "--provider", "CPUExecutionProvider", "--use_ort_genai", "--use_model_builder"),
            *("--precision", "int4", "--output_path", str(out / "onnx")),
        ],
    }


def run_flow(side: Side, work: Work, out: Path) -> dict:
    """One side's whole flow in an empty folder: wall and processor seconds and peak memory of each step."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    # Olive keeps a cache where it is started; an empty folder has none.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OLIVE_DISABLE_TELEMETRY": "1", "CI": "1"}
    steps: dict[str, dict] = {}
    for name, words in commands(work, out).items():
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        ended = subprocess.run([str(side.program), *words], cwd=out, env=environment, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = time.perf_counter() - started
        if ended.returncode != 0:
            raise SystemExit(
                f"error: {side.name} {name} ended with {ended.returncode}:\n{ended.stderr.decode()[-3000:]}"
            )
        busy = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
        steps[name] = {"seconds": round(seconds, 2), "cpu_seconds": round(busy, 2)}
    if not any(out.joinpath("onnx").rglob("model.onnx")):
        raise SystemExit(f"error: {side.name} left no model.onnx, though it ended with 0")
    steps["all"] = {key: round(sum(step[key] for step in steps.values()), 2) for key in ("seconds", "cpu_seconds")}
    return steps


def summarise(shape: str, work: Work, runs: dict[str, list[dict]]) -> dict:
    """Medians of each step, and how many times as long Olive takes."""
    medians = {
        side: {step: median(run[step]["seconds"] for run in rounds) for step in rounds[0]}
        for side, rounds in runs.items()
    }
    ratios = {step: round(medians["olive"][step] / medians["kivnun"][step], 2) for step in medians["kivnun"]}
    workload = {"shape": shape, "steps": work.steps, "tokens_per_step": BLOCK_TOKENS}
    return {"benchmark": "olive flow", **workload, "seconds": medians, "olive_over_kivnun": ratios, "runs": runs}


def print_table(summary: dict) -> None:
    """One line for each step."""
    print(f"{'step':10} {'kivnun s':>10} {'olive s':>10} {'ratio':>7}")
    for step, ratio in summary["olive_over_kivnun"].items():
        seconds = [summary["seconds"][side][step] for side in ("kivnun", "olive")]
        print(f"{step:10} {seconds[0]:10.1f} {seconds[1]:10.1f} {ratio:7.2f}")


def say(text: str) -> None:
    """Progress goes to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
