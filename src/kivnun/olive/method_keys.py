"""The pass that trains: LoRA, QLoRA or DoRA, with its training arguments."""

from typing import Final, cast

from kivnun.olive.groups import Entry, Group, Rule, field, never, noted, only, open_group, opened
from kivnun.olive.meanings import Surroundings, refused, same
from kivnun.olive.training_arguments import missing_arguments, translate_argument
from kivnun.olive.translation import Draft, Meaning

METHODS: Final = {"lora": "lora", "qlora": "qlora", "dora": "lora"}
"""Passes that train, with the recipe's method."""
REFUSED_METHODS: Final = {
    "loha": "LoHa is not trained here; write LoRA, or DoRA",
    "lokr": "LoKr is not trained here; write LoRA, or DoRA",
    "loftq": "LoftQ is not trained here; write QLoRA",
}
"""Passes that train and have no counterpart, with the nearest one."""

OLIVE_RANK: Final = 64
OLIVE_ALPHA: Final = 16
OLIVE_DROPOUT: Final = 0.05
OLIVE_DOUBLE_QUANT: Final = False
_PRECISIONS: Final = {"bfloat16": "bf16", "float32": "fp32", "float16": "bf16"}
_DEFAULTS: Final[tuple[tuple[str, tuple[str, ...], str, object, str], ...]] = (
    ("r", ("r", "lora_r"), "method.rank", OLIVE_RANK, ""),
    ("alpha", ("alpha", "lora_alpha"), "method.alpha", OLIVE_ALPHA, ""),
    ("lora_dropout", ("lora_dropout",), "method.dropout", OLIVE_DROPOUT, ""),
    (
        *("target_modules", ("target_modules",), "method.target_modules", "all-linear"),
        "every linear layer; Olive takes those that PEFT names for the architecture, often q_proj and v_proj",
    ),
)
"""What Olive takes where a key is not given: its name, its spellings, the field, the value and why."""


def take_method(group: Group, validation: tuple[bool, bool], block_tokens: int | None, more: dict[str, Entry]) -> None:
    """Take the pass that trains.

    Args:
        group: The pass.
        validation: Whether there are validation rows, and whether they are split off.
        block_tokens: Tokens of the blocks that Olive joins rows into.
        more: Training arguments that stand outside of the pass.
    """
    kind = str(group.get("type")).lower()
    group.take(method_rules(kind), f"a {group.get('type')} pass")
    for name, spellings, path, value, note in _DEFAULTS:
        if not any(group.get(each) is not None for each in spellings):
            # Only what differs from Olive has a note.
            group.draft.add(f"{group.key}.{name}", value, Meaning("own" if note else "default", {path: value}, note))
    if kind == "qlora" and "double_quant" not in group.entries:
        meaning = Meaning("default", {"method.double_quant": OLIVE_DOUBLE_QUANT})
        group.draft.add(f"{group.key}.double_quant", OLIVE_DOUBLE_QUANT, meaning)
    _take_arguments(group, validation, block_tokens, more)


def method_rules(kind: str) -> dict[str, Rule]:
    """What the keys of a pass that trains become, by its kind."""
    quantised = {
        "double_quant": field("method.double_quant", name="double_quant"),
        "quant_type": field("method.quant_type", name="quant_type"),
        "compute_dtype": _precision,
    }
    unquantised: dict[str, Rule] = {
        name: never("has no effect: only QLoRA quantises the base; write type: QLoRA, or remove it")
        for name in quantised
    }
    return {
        "type": _method,
        "r": field("method.rank"),
        "lora_r": field("method.rank"),
        "alpha": field("method.alpha"),
        "lora_alpha": field("method.alpha"),
        "lora_dropout": field("method.dropout"),
        "target_modules": _target_modules,
        "modules_to_save": _modules_to_save,
        "weight_decay": field("training.weight_decay", name="weight_decay"),
        "torch_dtype": _precision,
        **(quantised if kind == "qlora" else unquantised),
        "train_data_config": noted("names the training rows"),
        "eval_data_config": noted("names the validation rows"),
        "eval_dataset_size": field("data.split.validation", "split off the training rows"),
        "training_args": opened,
        "bias": only(("none",), "biases are frozen", "biases are frozen; name modules in modules_to_save"),
        "device_map": only(("auto", None), "the device is found by itself", "the device is found by itself; remove it"),
        "allow_tf32": only(
            (False,), "fp32 is computed in full", "fp32 is computed in full; write torch_dtype: bfloat16"
        ),
        "ephemeral_gpu_offload": only((False,), "nothing is moved", "nothing is moved; remove it"),
        "save_quant_config": only(
            (True,), "the run folder says how the base is loaded", "it is always saved; remove it"
        ),
        "use_ort_trainer": only((False,), "torch trains", "torch trains; remove it"),
        "ortmodule_onnx_opset_version": never("has no effect: torch trains; remove it"),
        "disable_search": only((True,), "nothing is searched", "write search_space for a search; remove it"),
        "host": never("a run is computed in one place; write engine.host"),
        "evaluator": never("write an `evaluation` section in the recipe"),
        "user_script": never("no code of a configuration is run; remove it"),
        "script_dir": never("no code of a configuration is run; remove it"),
    }


def _method(value: object) -> Meaning:
    kind = str(value).lower()
    fields: dict[str, object] = {"method.kind": METHODS[kind]}
    if kind == "dora":
        fields["method.use_dora"] = True
    return Meaning("renamed", fields)


def _target_modules(value: object) -> Meaning:
    if value is None:
        return Meaning("renamed", {"method.target_modules": "all-linear"}, "every linear layer")
    return Meaning("used", {"method.target_modules": value})


def _modules_to_save(value: object) -> Meaning:
    if value in (None, []):
        return same("no module is trained whole unless it is named")
    return Meaning("used", {"method.modules_to_save": value})


def _precision(value: object) -> Meaning:
    precision = _PRECISIONS.get(str(value))
    if precision is None:
        return refused(f"{value!r} is no format of training; write bfloat16 or float32")
    note = "Kivnun's 16-bit format is bf16: as fast, and without loss scaling" if value == "float16" else ""
    return Meaning("renamed", {"training.precision": precision}, note)


def _take_arguments(
    group: Group, validation: tuple[bool, bool], block_tokens: int | None, more: dict[str, Entry]
) -> None:
    """Take `training_args`, those that stand outside of the pass among them."""
    draft = group.draft
    arguments = _arguments(draft, group)
    for name, entry in more.items():
        if name in arguments:
            draft.refuse(entry.key, f"stands also in {arguments[name].key}; keep one of them")
        arguments.setdefault(name, entry)
    given = {name: entry.value for name, entry in arguments.items()}
    has_validation, splits_validation = validation
    around = Surroundings(block_tokens, has_validation, splits_validation, given)
    for name, entry in arguments.items():
        draft.add(entry.key, entry.value, translate_argument(name, entry.value, around))
    for name, (value, meaning) in missing_arguments(around).items():
        draft.add(f"{group.key}.training_args.{name}", value, meaning)


def _arguments(draft: Draft, group: Group) -> dict[str, Entry]:
    entry = group.entries.get("training_args")
    if entry is None or entry.value is None:
        return {}
    found = open_group(draft, entry.key, entry.value, nested="extra_args")
    return dict(found.entries) if found is not None else {}


def list_types(passes: dict[str, Group]) -> dict[str, str]:
    """The type of each pass, in small letters."""
    return {name: str(cast("object", group.get("type"))).lower() for name, group in passes.items()}
