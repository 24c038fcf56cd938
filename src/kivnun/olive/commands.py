"""`finetune` of Olive as a recipe: its flags, each translated or refused, and the defaults that it takes in silence."""

import re
from pathlib import Path
from typing import Final, cast

from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.olive.command_flags import (
    DATA_FLAGS,
    MODEL_FLAGS,
    REFUSED_FLAGS,
    RUN_FLAGS,
    add_common,
    add_data,
    add_missing,
)
from kivnun.olive.data_keys import OWN_VALIDATION
from kivnun.olive.flags import Flag, Given
from kivnun.olive.method_keys import OLIVE_DOUBLE_QUANT
from kivnun.olive.training_arguments import RULES, Surroundings, missing_arguments, translate_argument
from kivnun.olive.translation import Draft, Meaning, Translation, write_recipe
from kivnun.recipe.complaints import describe_errors
from kivnun.recipe.document import Value
from kivnun.recipe.fields import walk_fields
from kivnun.recipe.load import LoadedRecipe
from kivnun.recipe.schema import Recipe

FINETUNE: Final = "finetune"
DEFAULT_OUTPUT: Final = "finetuned-adapter"
DEFAULT_ROW_TOKENS: Final = 1024

_OWN_FLAGS: Final = (
    Flag("method", "text", "lora or qlora; lora if not given."),
    Flag("lora_r", "whole", "Rank; 64 if not given."),
    Flag("lora_alpha", "number", "Strength; 16 if not given."),
    Flag("lora_dropout", "number", "Share of inputs that is dropped; 0.05 if not given."),
    Flag("target_modules", "texts", "Layers that get an adapter; all linear ones if not given."),
    Flag("torch_dtype", "text", "bfloat16 or float32; what this machine computes fast if not given."),
    Flag("train_subset", "text", "Part of a data set on the hub."),
    Flag("train_split", "text", "Training rows, such as train or train[:4096]."),
    Flag("eval_subset", "text", "Part of a data set on the hub; that of the training rows."),
    Flag("eval_split", "text", "Validation rows, such as train[4096:4224] or train[:10%]."),
    Flag("task_name", "text", "Name of the run in reports."),
    Flag("logging_dir", "text", "A link to TensorBoard's files, with --report_to tensorboard."),
)
_KNOWN: Final = (*MODEL_FLAGS, *_OWN_FLAGS, *DATA_FLAGS, *RUN_FLAGS, *REFUSED_FLAGS)
_NAMES: Final = frozenset(flag.name for flag in _KNOWN)
TRAINING_FLAGS: Final = tuple(
    Flag(name, "scalar", "Training argument of Hugging Face; see docs/reference/olive.md.")
    for name in RULES
    if name not in _NAMES
)
FINETUNE_FLAGS: Final = (*_KNOWN, *TRAINING_FLAGS)

_VALIDATING: Final = (
    *("eval_steps", "eval_strategy", "evaluation_strategy", "load_best_model_at_end", "metric_for_best_model"),
    *("greater_is_better", "do_eval"),
)
"""Training arguments that have no effect without validation rows."""
_DTYPES: Final = {"bfloat16": "bf16", "float32": "fp32"}
_SCORED: Final = (
    "; for scores of labels, write `evaluation: {task: classification, label: COLUMN}` and test rows (`data.split`) "
    "into the recipe"
)
_SPLIT: Final = re.compile(r"([\w.-]+)(?:\[(\d+%?)?:(\d+%?)?\])?")


def translate_finetune(given: Given) -> Translation:
    """The recipe that `kivnun finetune` runs.

    Args:
        given: Its flags.

    Raises:
        UserError: `olive-invalid`, with everything that is missing, unknown or without effect.
    """
    hint = f"`kivnun {FINETUNE} --help` lists every flag, docs/reference/olive.md what each becomes"
    draft = Draft(f"the flags of `kivnun {FINETUNE}`", lambda _key: f"kivnun {FINETUNE}", hint)
    add_missing(draft, given, _needed(given))
    if "model_name_or_path" in given.values:
        name = given.values["model_name_or_path"]
        draft.add("--model_name_or_path", name, Meaning("renamed", {"base_model": name}))
    add_common(draft, given)
    add_data(draft, given, subset="train_subset")
    _add_rows(draft, given)
    _add_method(draft, given)
    _add_training(draft, given)
    if "task_name" in given.values:
        task = given.values["task_name"]
        scored = _SCORED if "classif" in str(task).lower() else ""
        draft.add(
            "--task_name", task, Meaning("renamed", {"name": task}, f"names the run, and chooses no task{scored}")
        )
    draft.output_dir = given.text("output_path") or DEFAULT_OUTPUT
    if "output_path" in given.values:
        draft.add("--output_path", draft.output_dir, Meaning("used", note="adapter/, model/ and run/ stand in it"))
    if "text_field" not in given.values:
        note = "Olive trains every token of a row; here the answer alone is learnt, the template's last field."
        draft.notes.append(note)
    return draft.finish()


def load_translated(translation: Translation, source: str, path: Path) -> LoadedRecipe:
    """The recipe of a translated command, checked, with the flag behind every problem.

    Args:
        translation: What each flag became.
        source: The command.
        path: Where the recipe will be kept.

    Raises:
        UserError: `olive-invalid`.
    """
    values = translation.recipe
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        found = [
            (".".join(map(str, field)), message) for field, message in describe_errors(error, cast("Value", values))
        ]
        details = [f"{_flag_of(field, translation)}: {message}" for field, message in found]
        count = f"{len(details)} problem{'s' if len(details) > 1 else ''}"
        hint = f"`{source} --help` lists every flag"
        raise UserError("olive-invalid", f"{count} in the flags of `{source}`", hint=hint, details=details) from error
    provenance = dict.fromkeys((".".join(field) for field, _ in walk_fields(recipe)), "default")
    provenance |= dict.fromkeys(translation.provenance, "file")
    return LoadedRecipe(recipe, path, write_recipe(translation, source), provenance)


def _flag_of(field: str, translation: Translation) -> str:
    """The flag that gave a field, or the group around it; else the field itself."""
    near = field
    while near and near not in translation.provenance:
        near = near.rpartition(".")[0]
    return translation.provenance.get(near, field)


def _needed(given: Given) -> dict[str, str]:
    needed = {"model_name_or_path": "-m FOLDER, a Hugging Face id, or `-m bundled`"}
    if "data_files" not in given.values:
        needed["data_name"] = "-d FILE, a folder, or a Hugging Face id"
    return needed


def _add_rows(draft: Draft, given: Given) -> None:
    """Which rows train, and which validate."""
    train, validation = given.text("train_split") or "train", given.text("eval_split")
    if "eval_subset" in given.values:
        part = given.values["eval_subset"]
        outcome = "same" if part == given.values.get("train_subset") else "refused"
        reason = "validation rows come from the same data set as the training rows; write --train_subset the same"
        draft.add("--eval_subset", part, Meaning(outcome, note=reason))
    name, rows = _read_split(draft, "train_split", train)
    if "max_samples" in given.values:
        if rows:
            draft.refuse("--max_samples", f"stands beside --train_split {train}, which counts rows too; keep one")
        rows = f":{given.values['max_samples']}"
    if name is not None and name != "train":
        draft.refuse("--train_split", f"{name!r} is no split to train on; write train, or train[:N]")
    fields: dict[str, object] = {"data.train_rows": rows} if rows else {}
    source = "max_samples" if "max_samples" in given.values else "train_split"
    if source in given.values:
        note = "rows; Olive counts blocks of max_seq_len tokens" if source == "max_samples" else ""
        meaning = Meaning("renamed", fields, note) if fields else Meaning("same", note="every row trains")
        draft.add(f"--{source}", given.values[source], meaning)
    if not rows:
        draft.add(
            "--max_samples", "all", Meaning("own", note="every row; Olive takes 256 blocks of max_seq_len tokens")
        )
    if validation is None:
        asking = [f"--{name}" for name in _VALIDATING if _asks(given, name)]
        share = 0.1 if asking else 0
        note = f"{asking[0]} needs some" if asking else "every row trains; --eval_split train[:10%] keeps some apart"
        draft.add("(rows kept apart)", None, Meaning("used", {"data.split.validation": share}, note))
    else:
        _add_validation(draft, validation, is_file=_names_file(given))
    draft.add("(rows kept apart)", None, Meaning("used", {"data.split.test": 0}))


def _asks(given: Given, name: str) -> bool:
    """Whether a training argument asks for validation rows."""
    return given.values.get(name) not in (None, False, "no")


def _names_file(given: Given) -> bool:
    return "data_files" in given.values or Path(given.text("data_name") or "").is_file()


def _add_validation(draft: Draft, validation: str, *, is_file: bool) -> None:
    name, rows = _read_split(draft, "eval_split", validation)
    if name is None:
        return
    if name == "train" and rows:
        draft.add("--eval_split", validation, Meaning("renamed", {"data.validation_rows": rows}))
    elif name == "train":
        draft.refuse("--eval_split", "would validate on the rows that are trained; write train[:10%] or so")
    elif is_file:
        draft.refuse("--eval_split", f"{validation!r} is not in a file, whose rows are train; write train[:10%] or so")
    elif name in ("validation", "valid", "dev") and not rows:
        draft.add("--eval_split", validation, Meaning("same", note=OWN_VALIDATION))
    else:
        draft.refuse("--eval_split", f"{validation!r} cannot be chosen; write validation, or train[A:B]")


def _read_split(draft: Draft, flag: str, text: str) -> tuple[str | None, str]:
    match = _SPLIT.fullmatch(text)
    if match is None:
        draft.refuse(f"--{flag}", f"{text!r} is no split; write train, train[:4096] or train[4096:4224]")
        return None, ""
    rows = f"{match[2] or ''}:{match[3] or ''}"
    return match[1], "" if rows == ":" else rows


def _add_method(draft: Draft, given: Given) -> None:
    kind = given.text("method") or "lora"
    if kind not in ("lora", "qlora"):
        draft.refuse("--method", f"{kind!r} is not of finetune; write lora or qlora (a recipe's `method` knows more)")
        return
    outcome = "used" if "method" in given.values else "default"
    draft.add("--method", kind, Meaning(outcome, {"method.kind": kind}))
    for name, path, default in (
        ("lora_r", "method.rank", 64),
        ("lora_alpha", "method.alpha", 16),
        ("lora_dropout", "method.dropout", 0.05),
    ):
        value = given.values.get(name, default)
        outcome = "renamed" if name in given.values else "default"
        draft.add(f"--{name}", value, Meaning(outcome, {path: value}))
    modules = given.values.get("target_modules")
    if isinstance(modules, tuple):
        wanted = "all-linear" if modules == ("all-linear",) else list(modules)
        draft.add("--target_modules", ",".join(modules), Meaning("used", {"method.target_modules": wanted}))
    else:
        note = "every linear layer; Olive takes those that PEFT names for the architecture, often q_proj and v_proj"
        draft.add("--target_modules", "all-linear", Meaning("own", {"method.target_modules": "all-linear"}, note))
    if kind == "qlora":
        fields = {"method.double_quant": OLIVE_DOUBLE_QUANT}
        draft.add("--double_quant", OLIVE_DOUBLE_QUANT, Meaning("default", fields))
    _add_dtype(draft, given)


def _add_dtype(draft: Draft, given: Given) -> None:
    dtype = given.text("torch_dtype")
    if dtype is None:
        note = "what this machine computes fast; Olive takes bfloat16"
        draft.add("--torch_dtype", "auto", Meaning("own", {"training.precision": "auto"}, note))
        return
    if dtype not in _DTYPES:
        draft.refuse("--torch_dtype", f"{dtype!r} is not trained in; write bfloat16 or float32")
        return
    draft.add("--torch_dtype", dtype, Meaning("renamed", {"training.precision": _DTYPES[dtype]}))


def _add_training(draft: Draft, given: Given) -> None:
    """The training arguments that are given, and those that Olive takes where none is."""
    names = {flag.name for flag in TRAINING_FLAGS} | {"logging_dir"}
    arguments = {name: _listed(name, value) for name, value in given.values.items() if name in names}
    folder = arguments.pop("logging_dir", None)
    if "batch_size" in given.values:
        draft.refuse("--batch_size", "is not what trains; write --per_device_train_batch_size")
    tokens = given.values.get("max_seq_len", DEFAULT_ROW_TOKENS)
    splits = any(_asks(given, name) for name in _VALIDATING)
    around = Surroundings(
        block_tokens=tokens if isinstance(tokens, int) else DEFAULT_ROW_TOKENS,
        has_validation="eval_split" in given.values or splits,
        splits_validation="eval_split" not in given.values and splits,
        given=arguments,
    )
    for name, value in arguments.items():
        draft.add(f"--{name}", value, translate_argument(name, value, around))
    for name, (value, meaning) in missing_arguments(around).items():
        draft.add(f"--{name}", value, meaning)
    if folder is not None:
        draft.add("--logging_dir", folder, _logging_meaning(arguments.get("report_to")))


def _listed(name: str, value: object) -> object:
    """`--report_to tensorboard,csv` as the list that it is."""
    return [part.strip() for part in value.split(",")] if name == "report_to" and isinstance(value, str) else value


def _logging_meaning(report_to: object) -> Meaning:
    if isinstance(report_to, list) and "tensorboard" in report_to:
        return Meaning("used", note="a link to TensorBoard's files, which are in the run folder")
    return Meaning("refused", note="has no effect without TensorBoard; add --report_to tensorboard")
