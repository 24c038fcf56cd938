"""Files and commands of AutoTrain and TRL: they are not run, and each key says what a recipe has in its place."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from kivnun.errors import UserError
from kivnun.olive.training_arguments import RULES, translate_argument
from kivnun.recipe.document import Document
from kivnun.recipe.dump import dump_value

_AUTOTRAIN_NAMES: Final = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "gradient_accumulation": "gradient_accumulation_steps",
    "scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "log": "report_to",
    "disable_gradient_checkpointing": "gradient_checkpointing",
}
"""AutoTrain's names of training arguments of Hugging Face."""
_COLUMNS: Final = "columns are found by their names; `data.prompt_template` and `data.answer_template` name others"
_HUB: Final = "`kivnun push RUN` sends the model to a hub, with HF_TOKEN or `hf auth login`"
_HERE: Final = "the device is found by itself"
_QUANTISED: Final = "method: {kind: qlora}, in place of lora"
_KEYS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("base_model", "model", "model_name_or_path"), "base_model"),
    **dict.fromkeys(("data.path", "data_path", "dataset_name"), "data.train"),
    **dict.fromkeys(("project_name", "run_name"), "name"),
    **dict.fromkeys(("block_size", "model_max_length", "max_length", "max_seq_length"), "data.max_seq_len"),
    **dict.fromkeys(("lora_r", "r"), "method.rank"),
    **dict.fromkeys(("train_split", "dataset_train_split"), "data.train (a file or folder; `data.train_rows` cuts it)"),
    **dict.fromkeys(("valid_split", "dataset_test_split"), "data.validation, or a share in data.split.validation"),
    **dict.fromkeys(("peft", "use_peft"), "method: {kind: lora}"),
    **dict.fromkeys(("quantization", "load_in_4bit", "use_int4"), _QUANTISED),
    **dict.fromkeys(("load_in_8bit", "use_int8"), f"{_QUANTISED}, which holds the base in 4 bits"),
    **dict.fromkeys(("mixed_precision", "torch_dtype", "dtype"), "training.precision"),
    **dict.fromkeys(("column_mapping", "text_column", "rejected_text_column", "prompt_text_column"), _COLUMNS),
    **dict.fromkeys(("push_to_hub", "username", "token", "hub_model_id"), _HUB),
    **dict.fromkeys(("backend", "device_map"), _HERE),
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "target_modules": "method.target_modules",
    "lora_target_modules": "method.target_modules",
    "merge_adapter": "optimization (a recipe with this section merges, exports and compares)",
    "chat_template": "the model's own chat template is used",
    "packing": "rows are packed anyway, and none sees another",
    "padding": "rows are packed, and none is padded",
    "completion_only_loss": "the answers alone are learnt anyway",
    "assistant_only_loss": "the answers alone are learnt anyway",
    "attn_implementation": "attention is Kivnun's own",
    "add_eos_token": "answers end with the end-of-text token anyway",
    "datasets": "data.train (a list of files)",
    "output_dir": "`--run-dir` of `kivnun run`",
    "beta": "training.objective.beta, with kind dpo or kto",
    "dpo_beta": "training.objective.beta, with kind dpo",
    "train": "`kivnun run RECIPE` trains",
}
"""What a recipe has for a key: a field, or words that say why none is needed."""
_OBJECTIVES: Final = {
    "sft": "supervised",
    "default": "text",
    "generic": "text",
    **{kind: kind for kind in ("dpo", "orpo", "kto")},
}
_MAX_SHOWN = 200


@dataclass(frozen=True)
class Tool:
    """A program whose files and commands are known here.

    Attributes:
        name: What it is called.
        names: What its arguments are called by Hugging Face, where they have names of their own.
    """

    name: str
    names: Mapping[str, str]

    def explain(self, key: str, value: object) -> str:
        """What a recipe has for a key with a value."""
        name = key.rpartition(".")[2]
        if name in ("task", "trainer"):
            return _say_objective(str(value))
        if name in ("peft", "use_peft") and value is False:
            return "method: {kind: full}"
        words = _KEYS.get(key) or _KEYS.get(name)
        if words is not None and value in (None, False):
            return "nothing: a recipe does not say it"
        if words is not None:
            is_field = re.fullmatch(r"[a-z_.]+", words) is not None and isinstance(value, str | int | float | list)
            return f"{words}: {dump_value(value)}" if is_field else words
        argument = self.names.get(name, name)
        if argument not in RULES:
            return "a recipe has no such field; `kivnun recipe explain` lists what it has"
        if name == "disable_gradient_checkpointing" and isinstance(value, bool):
            value = not value
        meaning = translate_argument(argument, value)
        fields = ", ".join(f"{path}: {dump_value(given)}" for path, given in meaning.fields.items())
        return "; ".join(filter(None, [fields, meaning.note])) or "nothing: it is so anyway"


AUTOTRAIN: Final = Tool("AutoTrain", _AUTOTRAIN_NAMES)
TRL: Final = Tool("TRL", {})
VERBS: Final[Mapping[str, Tool]] = {"autotrain": AUTOTRAIN, **dict.fromkeys(("trl", "sft", "dpo", "kto"), TRL)}
"""Commands of other programs."""
HINT: Final = "write these into a recipe, which `kivnun recipe init` makes to start from, and `kivnun run` it"


def refuse_file(path: str, document: Document) -> None:
    """Refuse a file of another program; any other is none of this module's business.

    Args:
        path: Its name.
        document: What it says.

    Raises:
        UserError: `other-tool`, with what a recipe has for each key.
    """
    value = document.value
    if not isinstance(value, dict):
        return
    tool = _find_tool(cast("dict[str, object]", value))
    if tool is None:
        return
    details = [
        f"{path}:{document.lines.get(tuple(key.split('.')), 1)}: {key} -> {tool.explain(key, each)}"
        for key, each in _flatten(cast("dict[str, object]", value))
    ]
    raise UserError("other-tool", f"{path} is a file of {tool.name}, and no recipe", details=details, hint=HINT)


def command_error(verb: str, words: Sequence[str]) -> UserError:
    """The error for a command of another program.

    Args:
        verb: The command.
        words: What stands behind it.
    """
    tool = VERBS[verb]
    trainers = [word for word in (verb, *words[:1]) if word in ("sft", "dpo", "orpo", "kto", "grpo", "reward", "rloo")]
    details = [f"{trainer} -> {_say_objective(trainer)}" for trainer in trainers]
    details += [f"--{key} -> {tool.explain(key.replace('-', '_'), value)}" for key, value in _read_flags(words)]
    problem = f"`{verb}` is a command of {tool.name}: here a recipe says what is trained"
    return UserError("other-tool", problem, details=details, hint=HINT)


def _find_tool(value: Mapping[str, object]) -> Tool | None:
    if "base_model" in value and re.match(r"llm\b", str(value.get("task"))):
        return AUTOTRAIN
    is_trl = "model_name_or_path" in value and ("dataset_name" in value or "datasets" in value)
    return TRL if is_trl else None


def _flatten(value: Mapping[str, object], above: str = "") -> list[tuple[str, object]]:
    """The keys of AutoTrain's groups, by dotted name; `column_mapping` is one key."""
    found: list[tuple[str, object]] = []
    for name, each in value.items():
        key = f"{above}{name}"
        if isinstance(each, dict) and not above:
            found += _flatten(cast("dict[str, object]", each), f"{key}.")
        else:
            found.append((key, each))
    return found[:_MAX_SHOWN]


def _read_flags(words: Sequence[str]) -> list[tuple[str, object]]:
    """Flags with their values; one without a value is true."""
    found: list[tuple[str, object]] = []
    for place, word in enumerate(words):
        name, equals, text = word.partition("=")
        if not name.startswith("--") or name in ("--", "--help"):
            continue
        following = words[place + 1] if place + 1 < len(words) else "--"
        value = text if equals else True if following.startswith("--") else following
        found.append((name[2:], _read_number(value) if isinstance(value, str) else value))
    return found


def _read_number(text: str) -> object:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)


def _say_objective(task: str) -> str:
    kind = task.rpartition("-")[2].removeprefix("llm") or "sft"
    if kind in _OBJECTIVES:
        return f"training.objective: {_OBJECTIVES[kind]}"
    return f"there is no {kind!r}; `training.objective` is one of {', '.join(dict.fromkeys(_OBJECTIVES.values()))}"
