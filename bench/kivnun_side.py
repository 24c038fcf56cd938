"""Kivnun's side of `bench/training.py`: the workload, the matrix rate, and training with Kivnun's own loop.

    python bench/kivnun_side.py prepare FOLDER JOB    random weights and rows that both sides read
    python bench/kivnun_side.py train FOLDER JOB      the steps of one arm; JOB is a JSON object

The result is the last line of the standard output, a JSON object.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as kivnun's command line does, before torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import json
import sys
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.methods import make_method
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.types import Tokenizer
from kivnun.recipe.methods import FullMethod, LoraMethod
from kivnun.recipe.training import TrainingSection
from kivnun.training.device import compile_layers, pick_device, pick_dtype
from kivnun.training.loop import fit, make_plan
from kivnun.training.optimizer import make_master_weights

SEED = 20
VOCAB_SIZE = 49_152
SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
MATRIX_SIZES = (1024, 1536, 2048)
MAX_ROW_TOKENS = 1024
FIRST_ID = 2


def prepare(folder: Path, job: dict[str, object]) -> dict[str, object]:
    """Write `model/` (weights, a tokenizer that only knows its special tokens) and `rows.json` for both sides."""
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
            **SHAPE,
        )
    )
    model.save_pretrained(folder / "model")
    words = FastTokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))  # noqa: S106  # a token of text
    Tokenizer(tokenizer_object=words, bos_token="<eos>", eos_token="<eos>", pad_token="<pad>").save_pretrained(  # noqa: S106
        folder / "model"
    )
    num_tokens = int(str(job["num_tokens"]))
    if job["rows"] == "synthetic":
        rows, num_long = make_rows(num_tokens), 0
    else:
        rows, num_long = read_rows(str(job["rows"]), Path(str(job["data"])), num_tokens)
    (folder / "rows.json").write_text(json.dumps(rows), "utf-8")
    lengths = [len(row["input_ids"]) for row in rows]
    num_embedding = VOCAB_SIZE * SHAPE["hidden_size"]
    return {
        "rows": job["rows"],
        "num_rows": len(rows),
        "rows_over_1024_left_out": num_long,
        "mean_row_tokens": round(sum(lengths) / len(lengths), 1),
        "trained_share": round(sum(sum(row["completion_mask"]) for row in rows) / sum(lengths), 3),
        "non_embedding_parameters": sum(p.numel() for p in model.model.parameters()) - num_embedding,
    }


def read_rows(name: str, data: Path, num_tokens: int) -> tuple[list[dict[str, list[int]]], int]:
    """Rows of a real set in a shuffled order, and how many longer than `MAX_ROW_TOKENS` were left out.

    They are tokenised by GPT-2's tokenizer; its rarest thousand ids fold onto others, so that all fit the vocabulary.
    """
    tokenizer = FastTokenizer.from_file(str(data / "tokenizers" / "gpt2_tokenizer.json"))
    path, prompt_of, answer_of = {
        "dolly": (data / "dolly15k" / "dolly15k.jsonl", lambda r: f"{r['instruction']}\n{r['context']}", "response"),
        "gsm8k": (data / "gsm8k" / "train.jsonl", lambda r: r["question"], "answer"),
    }[name]
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    np.random.Generator(np.random.PCG64(SEED)).shuffle(records)
    rows: list[dict[str, list[int]]] = []
    left, num_long = num_tokens, 0
    for record in records:
        prompt = tokenizer.encode(prompt_of(record).strip() + "\n").ids
        ids = prompt + tokenizer.encode(record[answer_of].strip()).ids
        ids = [FIRST_ID + number % (VOCAB_SIZE - FIRST_ID) for number in ids] + [1]
        if len(ids) > MAX_ROW_TOKENS:
            num_long += 1
            continue
        rows.append({"input_ids": ids, "completion_mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt))})
        left -= len(ids)
        if left <= 0:
            break
    return rows, num_long


def make_rows(num_tokens: int) -> list[dict[str, list[int]]]:
    """Rows of 16-512 tokens, log-normal, about 115 on average, 20-60 % of each a prompt.

    Prompts and answers draw from two different skewed distributions, so that a side that trained on prompts or on
    padding would show another loss after a few steps.
    """
    draw = np.random.Generator(np.random.PCG64(SEED))
    alphabets = [draw.permutation(np.arange(2, VOCAB_SIZE)) for _ in range(2)]
    rows: list[dict[str, list[int]]] = []
    left = num_tokens
    while left > 0:
        length = int(np.clip(draw.lognormal(mean=np.log(90), sigma=0.75), 16, 512))
        num_prompt = max(1, round(length * draw.uniform(0.2, 0.6)))
        ranks = draw.zipf(1.3, size=length) % (VOCAB_SIZE - 2)
        ids = np.where(np.arange(length) < num_prompt, alphabets[0][ranks], alphabets[1][ranks])
        rows.append({"input_ids": ids.tolist(), "completion_mask": [0] * num_prompt + [1] * (length - num_prompt)})
        left -= length
    return rows


def read_table(folder: Path) -> TokenTable:
    rows = json.loads((folder / "rows.json").read_text("utf-8"))
    return make_table(TokenizedRow(row["input_ids"], [bool(bit) for bit in row["completion_mask"]]) for row in rows)


def train(folder: Path, job: dict[str, object]) -> dict[str, object]:
    """The same wiring as `kivnun.pipeline.train_model`, without checkpoints and validation."""
    settings = TrainingSection(
        learning_rate=float(str(job["learning_rate"])),
        batch_tokens=int(str(job["batch_tokens"])),
        max_steps=int(str(job["num_steps"])),
        schedule="constant",
        warmup_ratio=0.0,
        compile="auto" if job["compile"] == "auto" else bool(job["compile"]),
    )
    device = pick_device()
    dtype = pick_dtype(settings.precision, device)
    rate = matrix_rate(dtype)  # before the model, and again behind the steps: the better one counts
    model = load_model(folder / "model", dtype=dtype).to(device)
    lora = LoraMethod(rank=int(str(job["rank"])), alpha=float(str(job["alpha"])))
    method = make_method(lora if job["method"] == "lora" else FullMethod())
    method.prepare(model, generator=torch.Generator().manual_seed(settings.seed))
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    table = read_table(folder)
    plan = make_plan(table.lengths(), settings)
    # A benchmark of a few steps stands for a run long enough to be worth compiling.
    is_compiled = compile_layers(model, settings, num_tokens=10**9)
    steps = []
    for report in islice(fit(model, weights, table, settings, plan=plan), plan.num_steps):
        steps.append(
            {
                "tokens": report.num_tokens,
                "targets": report.num_targets,
                "loss": report.loss,
                "seconds": report.seconds,
            }
        )
        print(f"    step {report.step}: loss {report.loss:.4f}, {report.seconds:.2f} s", file=sys.stderr, flush=True)
    return {
        "steps": steps,
        "dtype": str(dtype).removeprefix("torch."),
        "compiled": is_compiled,
        "trained_parameters": count_trained(model),
        "peak_rss_mib": peak_rss_mib(),
        "matrix_gflops": round(max(rate, matrix_rate(dtype)), 1),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def count_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def matrix_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of the fastest square product, each size measured for about a second."""
    best = 0.0
    for size in MATRIX_SIZES:
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        a @ b
        until = time.perf_counter() + 0.8
        while time.perf_counter() < until:
            started = time.perf_counter()
            a @ b
            best = max(best, 2 * size**3 / (time.perf_counter() - started) / 1e9)
    return best


def peak_rss_mib() -> float:
    """High-water mark of this process's memory: unlike getrusage's it does not start from the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text("utf-8").splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


if __name__ == "__main__":
    action, where, argument = sys.argv[1:4]
    answer = (prepare if action == "prepare" else train)(Path(where), json.loads(argument))
    print(json.dumps(answer))
