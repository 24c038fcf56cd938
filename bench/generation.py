"""Generation from an int4 ONNX folder by Kivnun's engine and by a bare loop of onnxruntime-genai, in one process.

    python bench/generation.py --json            the 135M shape, interleaved rounds, medians
    python bench/generation.py --quick           a small shape, few rounds

Both answer the same prompts greedily with the same number of tokens from the same loaded folder. What Kivnun adds is
chosen logits, checks for NaN and margins; the bare loop lets the runtime choose. Also measured: switching between the
adapters of one base, from the request to the first token of the other adapter.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime_genai as og
import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.optimization.forms import Form
from kivnun.optimization.onnx import export_onnx

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "bench" / ".generation"
SHAPES = {
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9},
    "small": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4},
}
KEY_VALUE_HEADS = {"135M": 3, "small": 2}
VOCAB_SIZE = 49_152
NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 4, 64, 64


def main() -> int:
    parser = argparse.ArgumentParser(description="int4 generation beside a bare loop of onnxruntime-genai.")
    parser.add_argument("--quick", action="store_true", help="a small shape, two rounds")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default: 7)")
    parser.add_argument("--json", action="store_true", help="the last line of the output is a JSON object")
    options = parser.parse_args()
    shape = "small" if options.quick else "135M"
    folder = prepare(shape)
    draws = np.random.default_rng(0)
    prompts = draws.integers(5, VOCAB_SIZE, (NUM_PROMPTS, PROMPT_TOKENS)).tolist()
    engine, bare = OnnxEngine(folder), og.Model(str(folder))
    rates: dict[str, list[float]] = {"kivnun": [], "bare": []}
    for number in range(1 + (2 if options.quick else options.rounds)):
        # The order turns, so that neither side always finds the warmer machine; the first round warms up.
        sides = ["kivnun", "bare"] if number % 2 else ["bare", "kivnun"]
        for side in sides:
            rate = rate_of_engine(engine, prompts) if side == "kivnun" else rate_of_bare_loop(bare, prompts)
            if number:
                rates[side].append(rate)
    pairs = [ours / theirs for ours, theirs in zip(rates["kivnun"], rates["bare"], strict=True)]
    summary = {
        "benchmark": f"int4 generation, {shape} shape, vocabulary {VOCAB_SIZE}",
        "tokens_per_second": {side: round(median(values), 1) for side, values in rates.items()},
        "kivnun_over_bare": round(median(pairs), 3),
        "pairs": [round(pair, 3) for pair in pairs],
    }
    for side, rate in summary["tokens_per_second"].items():
        print(f"{side:8} {rate:8.1f} tokens/s")
    print(f"ratio    {summary['kivnun_over_bare']:8.3f} (median of {len(pairs)} pairs)")
    if options.json:
        print(json.dumps(summary))
    return 0


def prepare(shape: str, block_size: int = 32) -> Path:
    """An int4 folder of a Llama with random weights, made once."""
    folder = KEPT / shape / ("int4" if block_size == 32 else f"int4-{block_size}")
    if not folder.with_name("model").is_dir():
        set_seed(0)
        config = LlamaConfig(
            vocab_size=VOCAB_SIZE,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            num_key_value_heads=KEY_VALUE_HEADS[shape],
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
            **SHAPES[shape],
        )
        LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder.with_name("model"))
        load_tokenizer(resolve_model("bundled").folder).save_pretrained(folder.with_name("model"))
    if not folder.is_dir():
        export_onnx(folder.with_name("model"), folder, Form("int4", "k_quant", block_size))
    return folder


def rate_of_engine(engine: OnnxEngine, prompts: list[list[int]]) -> float:
    """Generated tokens per second of Kivnun's engine, reading the prompts included."""
    started = time.perf_counter()
    answers = engine.generate(prompts, max_new_tokens=NEW_TOKENS, stop_ids=frozenset())
    return sum(len(answer.token_ids) for answer in answers) / (time.perf_counter() - started)


def rate_of_bare_loop(model: og.Model, prompts: list[list[int]]) -> float:
    """Generated tokens per second of the runtime's own greedy search."""
    started = time.perf_counter()
    for prompt in prompts:
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(
            max_length=PROMPT_TOKENS + NEW_TOKENS, min_length=PROMPT_TOKENS + NEW_TOKENS, do_sample=False
        )
        steps = og.Generator(model, parameters)
        steps.append_tokens(np.array(prompt, dtype=np.int32))
        for _ in range(NEW_TOKENS):
            steps.generate_next_token()
    return len(prompts) * NEW_TOKENS / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
