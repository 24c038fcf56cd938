"""Training arguments of Hugging Face's `TrainingArguments`, as Olive's `training_args` and `finetune` take them.

One table says what each argument becomes. Every argument that is not in it is refused, so that none is ignored.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final, cast

from kivnun.olive import argument_rules as rules
from kivnun.olive.meanings import ArgumentRule, Surroundings, is_number, refused, same
from kivnun.olive.translation import Meaning

__all__ = ["RULES", "Surroundings", "is_number", "missing_arguments", "refused", "same", "translate_argument"]

_IN_RUN_FOLDER = "is in the run folder; say where that is with engine.output_dir or --run-dir, and remove it"
_ROWS_READY = "has no effect: rows are tokenised once before the training and no step waits for them; remove it"
OLIVE_WARMUP: Final = 0.03
"""Share of the steps that Olive warms up in where nothing is said, which its own schedule `constant` has no use for."""
_FSDP = "remove it; `training.parallel: fsdp` and torchrun share a model between devices"

RULES: Final[Mapping[str, ArgumentRule]] = {
    "learning_rate": rules.number("training.learning_rate"),
    "num_train_epochs": rules.number("training.epochs"),
    "max_steps": rules.max_steps,
    "per_device_train_batch_size": rules.batch_size,
    "per_device_eval_batch_size": rules.only_values(
        tuple(range(1, 1025)),
        "the validation loss is the same for any number at once; memory decides how many",
        "should be a whole number from 1 to 1024",
    ),
    "gradient_accumulation_steps": rules.whole("training.gradient_accumulation_steps"),
    "warmup_ratio": rules.warmup_ratio,
    "warmup_steps": rules.warmup_steps,
    "weight_decay": rules.number("training.weight_decay"),
    "lr_scheduler_type": rules.schedule,
    "lr_scheduler_kwargs": rules.never_given(
        "a schedule has no options here; training.final_learning_rate_ratio and decay_ratio are the recipe's"
    ),
    "adam_beta1": rules.betas,
    "adam_beta2": rules.betas,
    "adam_epsilon": rules.only_values((1e-8,), "AdamW's epsilon is 1e-8", "is 1e-8 and cannot be chosen; remove it"),
    "max_grad_norm": rules.number("training.max_grad_norm"),
    "seed": rules.seed,
    "data_seed": rules.data_seed,
    "bf16": rules.bf16,
    "fp16": rules.fp16,
    "tf32": rules.never_given("Kivnun computes in bf16 or fp32; write bf16: true, or remove it"),
    "gradient_checkpointing": rules.flag("training.gradient_checkpointing"),
    "gradient_checkpointing_kwargs": rules.never_given("has no options here; write gradient_checkpointing: true"),
    "eval_strategy": rules.strategy,
    "evaluation_strategy": rules.strategy,
    "eval_steps": rules.eval_steps,
    "eval_on_start": rules.only_values((False,), "validation is after steps", "validation is after steps; remove it"),
    "save_strategy": rules.save_strategy,
    "save_steps": rules.save_steps,
    "save_total_limit": rules.whole("training.keep_checkpoints"),
    "save_safetensors": rules.only_values(
        (True,), "safetensors only", "weights are kept as safetensors only; remove it"
    ),
    "save_only_model": rules.only_values(
        (False,), "checkpoints hold all of it", "a checkpoint must be able to go on; remove it"
    ),
    "logging_steps": rules.logging_steps,
    "logging_strategy": rules.only_values(("steps",), "every step is logged", "every step is logged; remove it"),
    "logging_first_step": rules.only_values((True,), "every step is logged", "every step is logged; remove it"),
    "logging_dir": rules.never_given(
        "TensorBoard's files are in the run folder (`tensorboard --logdir RUN/tensorboard`); write report_to: "
        "tensorboard and remove it"
    ),
    "report_to": rules.report_to,
    "run_name": rules.run_name,
    "optim": rules.optimizer,
    "optim_args": rules.never_given("an optimizer has no options here; remove it"),
    "group_by_length": rules.only_values(
        (True, False), "batches hold no padding, in any order of rows", "should be true or false"
    ),
    "length_column_name": rules.never_given("has no effect: batches hold no padding; remove it"),
    "load_best_model_at_end": rules.load_best,
    "metric_for_best_model": rules.metric,
    "greater_is_better": rules.greater_is_better,
    "dataloader_num_workers": rules.only_values((0,), "rows are tokenised once before the training", _ROWS_READY),
    "dataloader_pin_memory": rules.never_given(_ROWS_READY),
    "dataloader_prefetch_factor": rules.never_given(_ROWS_READY),
    "dataloader_persistent_workers": rules.never_given(_ROWS_READY),
    "dataloader_drop_last": rules.only_values((False,), "every row is trained", "every row is trained; remove it"),
    "output_dir": rules.never_given(f"what is trained {_IN_RUN_FOLDER}"),
    "overwrite_output_dir": rules.only_values(
        (False,), "nothing is overwritten", "nothing is overwritten; name another --run-dir"
    ),
    "resume_from_checkpoint": rules.only_values(
        (True, None),
        "the same command goes on from the latest checkpoint",
        "the same command goes on from the latest checkpoint of its run folder; remove it",
    ),
    "do_train": rules.only_values((True,), "a run trains", "a run trains; `kivnun check` looks at the data alone"),
    "do_eval": rules.do_eval,
    "do_predict": rules.only_values((False,), "nothing is answered", "write an `evaluation` section in the recipe"),
    "remove_unused_columns": rules.only_values(
        (True,), "only columns of the template are used", "remove it; templates name columns"
    ),
    "prediction_loss_only": rules.only_values(
        (True,), "the loss is measured", "write metric_for_best_model for other metrics"
    ),
    "label_smoothing_factor": rules.only_values(
        (0, 0.0), "labels are not smoothed", "labels cannot be smoothed; remove it"
    ),
    "neftune_noise_alpha": rules.only_values(
        (None,), "no noise is added", "no noise is added to embeddings; remove it"
    ),
    "torch_compile": rules.flag("training.compile"),
    "deepspeed": rules.only_values((None, False), "there is no DeepSpeed", f"there is no DeepSpeed; {_FSDP}"),
    "fsdp": rules.only_values(("", None, False), "parameters are not shared", _FSDP),
    "fsdp_config": rules.never_given(_FSDP),
    "ddp_find_unused_parameters": rules.only_values((False, None), "there are none", "has no effect; remove it"),
    "use_cpu": rules.never_given("the device is found by itself; hide GPUs with CUDA_VISIBLE_DEVICES= and remove it"),
    "no_cuda": rules.never_given("the device is found by itself; hide GPUs with CUDA_VISIBLE_DEVICES= and remove it"),
    "auto_find_batch_size": rules.only_values(
        (True,), "batches are cut to fit the memory", "batches are always cut to fit the memory; remove it"
    ),
    "disable_tqdm": rules.only_values((False,), "progress is shown", "write --json for machines; remove it"),
    "push_to_hub": rules.only_values((False,), "nothing is pushed", "`kivnun push` sends a model to a hub; remove it"),
    "hub_model_id": rules.never_given("`kivnun push` sends a model to a hub; remove it"),
    "hub_token": rules.never_given("a token belongs in HF_TOKEN and in no file; remove it"),
    "trust_remote_code": rules.never_given("belongs to the model; code from hubs is never run"),
}
"""What each argument becomes."""


def translate_argument(name: str, value: object, around: Surroundings | None = None) -> Meaning:
    """What a training argument becomes; one that has no effect is refused.

    Args:
        name: Its name.
        value: Its value, as YAML or JSON reads it.
        around: What its meaning depends on beside that.
    """
    rule = RULES.get(name)
    if rule is None:
        close = get_close_matches(name, list(RULES), n=1)
        return refused(f"is no training argument that Kivnun has{f'; did you mean `{close[0]}`?' if close else ''}")
    return rule(name, value, around or Surroundings(given={name: value}))


def missing_arguments(around: Surroundings) -> dict[str, tuple[str, Meaning]]:
    """What Olive and Hugging Face take where arguments are not given, as (Olive's value, meaning) by name.

    The defaults are those of Olive 0.13 (`olive/passes/pytorch/lora.py`, HFTrainingArguments) and of transformers.
    """
    given = set(around.given)
    found: dict[str, tuple[str, Meaning]] = {}

    def take(name: str, value: object, meaning: Meaning) -> None:
        found[name] = (str(value), Meaning("default", meaning.fields, meaning.note))

    if "learning_rate" not in given:
        take("learning_rate", 2e-4, Meaning("default", {"training.learning_rate": 2e-4}))
    steps = around.given.get("max_steps")
    if "num_train_epochs" not in given:
        if is_number(steps, whole=True) and cast("int", steps) > 0:
            note = "max_steps alone decides: a pass has at least one step"
            take("num_train_epochs", steps, Meaning("default", {"training.epochs": float(cast("int", steps))}, note))
        else:
            take("num_train_epochs", 3, Meaning("default", {"training.epochs": 3.0}))
    if "per_device_train_batch_size" not in given:
        take("per_device_train_batch_size", 8, rules.batch_size("per_device_train_batch_size", 8, around))
    if "lr_scheduler_type" not in given:
        warms_up = bool({"warmup_ratio", "warmup_steps"} & given)
        note = "the warm-up that is given comes before it" if warms_up else ""
        fields: dict[str, object] = {"training.schedule": "constant"}
        if not warms_up:
            fields["training.warmup_ratio"] = 0.0
        take("lr_scheduler_type", "constant", Meaning("default", fields, note))
    elif around.given["lr_scheduler_type"] != "constant" and not {"warmup_ratio", "warmup_steps"} & given:
        take("warmup_ratio", OLIVE_WARMUP, Meaning("default", {"training.warmup_ratio": OLIVE_WARMUP}))
    if "seed" not in given:
        take("seed", 42, Meaning("default", {"training.seed": 42}))
    return found
