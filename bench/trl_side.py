"""TRL's side of `bench/training.py`; runs in TRL's own environment (`.venv-trl`) and knows nothing of Kivnun.

    .venv-trl/bin/python bench/trl_side.py FOLDER JOB

JOB is a JSON object: method, autocast, pure_bf16, packing, checkpointing, learning_rate, num_steps, rank, alpha,
padded_rows (rows of a padded step), packed (rows and tokens of each in a packed step).
The result is the last line of the standard output, a JSON object.
"""

import json
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer



class Recorder(TrainerCallback):
    """Times each step from the end of the one before, so that waiting for data counts."""

    def __init__(self):
        self.seconds, self.losses, self.last = [], [], 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            print(
                f"    step {len(self.losses)}: loss {self.losses[-1]:.4f}, {self.seconds[-1]:.2f} s",
                file=sys.stderr,
                flush=True,
            )


def settings(job, folder):
    """`SFTConfig` of an arm: only what differs from TRL's defaults."""
    chosen = {
        "output_dir": folder,
        "max_steps": job["num_steps"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "completion_only_loss": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": job["autocast"],
        "model_init_kwargs": {"dtype": "bfloat16" if job["pure_bf16"] else "float32"},
        "per_device_train_batch_size": job["padded_rows"],
    }
    if job["packing"]:
        rows, tokens = job["packed"]
        chosen.update(packing=True, max_length=tokens, per_device_train_batch_size=rows)
    if not job["checkpointing"]:
        chosen["gradient_checkpointing"] = False
    if job.get("loss_type"):
        chosen["loss_type"] = job["loss_type"]
    return SFTConfig(**chosen)


def adapter(job):
    if job["method"] == "full":
        return None
    return LoraConfig(
        r=job["rank"], lora_alpha=job["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def run(folder, job):
    rows = json.loads((folder / "rows.json").read_text("utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    recorder, batches = Recorder(), []
    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model=str(folder / "model"),
            args=settings(job, output),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=adapter(job),
            callbacks=[recorder],
        )
        if job["pure_bf16"]:  # PEFT keeps adapters in float32; pure bf16 is faster
            for parameter in trainer.model.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        collate = trainer.data_collator

        def counted(examples):
            batch = collate(examples)
            mask = batch.get("attention_mask")
            tokens = int(mask.sum()) if mask is not None else batch["input_ids"].numel()
            batches.append({"tokens": tokens, "targets": int((batch["labels"] != -100).sum())})
            return batch

        trainer.data_collator = counted
        trainer.train()
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    steps = [
        {**batch, "loss": loss, "seconds": seconds}
        for batch, loss, seconds in zip(batches, recorder.losses, recorder.seconds)
    ]
    status = Path("/proc/self/status").read_text("utf-8").splitlines()
    peak = next(line for line in status if line.startswith("VmHWM"))
    return {
        "steps": steps,
        "trained_parameters": trained,
        "attention": trainer.model.config._attn_implementation,
        "peak_rss_mib": round(int(peak.split()[1]) / 1024, 1),
        "versions": {name: version(name) for name in ("trl", "peft", "transformers", "torch")},
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    disable_progress_bars()
    print(json.dumps(run(Path(sys.argv[1]), json.loads(sys.argv[2]))))
