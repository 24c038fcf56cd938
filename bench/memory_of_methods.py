"""Memory and speed of training methods beside each other: LoRA on the model's own weights and on 4 bits (QLoRA).

    python bench/memory_of_methods.py                        three interleaved rounds, medians
    python bench/memory_of_methods.py --rounds 1 --json      the last line is a JSON object
    python bench/memory_of_methods.py --methods lora qlora ia3 prefix prompt

Every measurement is a process of its own, on the 135M shape and the rows of `bench/training.py`, and trains in bf16
where the machine is fast at it. `peak` is the process's high-water mark in training, after the model was loaded and
prepared (its allocator's peak on a GPU); `whole` has the loading in it, which holds the dense weights for a moment.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

METHODS = ("lora", "qlora")
ROUNDS, WARMUP, STEPS = 3, 2, 6
BATCH_TOKENS = 1024
NUM_ROW_TOKENS = 20_000
CLEAR_PEAK = Path("/proc/self/clear_refs")
MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {method: [] for method in options.methods}
    with tempfile.TemporaryDirectory(prefix="kivnun-bench-") as folder:
        side = str(Path(__file__).parent / "kivnun_side.py")
        ask(side, "prepare", folder, json.dumps({"rows": "synthetic", "data": "", "num_tokens": NUM_ROW_TOKENS}))
        for _ in range(options.rounds):
            for method in options.methods:
                rounds[method].append(ask(__file__, "--measure", method, folder, str(options.batch_tokens)))
                print(f"{method}: {rounds[method][-1]}", file=sys.stderr, flush=True)
    result = {method: {key: median(each[key] for each in runs) for key in runs[0]} for method, runs in rounds.items()}
    print(f"{'method':<8}{'weights':>12}{'peak':>12}{'whole':>12}{'tokens/s':>12}{'last loss':>12}")
    for method, row in result.items():
        sizes = "".join(f"{row[key]:>8.0f} MiB" for key in ("weights_mib", "peak_mib", "whole_mib"))
        print(f"{method:<8}{sizes}{row['tokens_per_second']:>12.0f}{row['loss']:>12.4f}")
    if options.json:
        print(json.dumps(result))
    return 0


def ask(script: str, *arguments: str) -> dict[str, float]:
    """The JSON object on the last line of a child's output."""
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(kind: str, folder: Path, batch_tokens: int) -> dict[str, float]:
    """The wiring of `kivnun.pipeline.train_model`, without checkpoints and validation, for a few steps."""
    import torch
    from kivnun_side import peak_rss_mib, read_table
    from pydantic import TypeAdapter

    from kivnun.methods import make_method
    from kivnun.methods.fused import fuse_model
    from kivnun.models.attention import use_packed_attention
    from kivnun.models.load import load_model, move_model
    from kivnun.models.quantize import count_bytes
    from kivnun.recipe.methods import Method
    from kivnun.recipe.training import TrainingSection
    from kivnun.training.device import pick_device, pick_dtype
    from kivnun.training.loop import fit, make_plan
    from kivnun.training.optimizer import make_master_weights

    settings = TrainingSection(batch_tokens=batch_tokens, max_steps=WARMUP + STEPS, schedule="constant", warmup_ratio=0)
    device = pick_device()
    model = load_model(folder / "model", dtype=pick_dtype("auto", device))
    method = make_method(TypeAdapter(Method).validate_python({"kind": kind}))
    method.prepare(model, generator=torch.Generator().manual_seed(settings.seed))
    move_model(model, device)
    use_packed_attention(model)
    fuse_model(model)
    weights = make_master_weights(model, settings)
    table = read_table(folder)
    loaded = peak_rss_mib()
    if CLEAR_PEAK.exists():
        CLEAR_PEAK.write_text("5", "utf-8")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    reports = list(fit(model, weights, table, settings, plan=make_plan(table.lengths(), settings)))[WARMUP:]
    peak = torch.cuda.max_memory_allocated() / MIB if device.type == "cuda" else peak_rss_mib()
    return {
        "weights_mib": count_bytes(model) / MIB,
        "peak_mib": peak,
        "whole_mib": max(loaded, peak),
        "tokens_per_second": sum(each.num_tokens for each in reports) / sum(each.seconds for each in reports),
        "loss": reports[-1].loss,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        raise SystemExit(main())
