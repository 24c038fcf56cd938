"""`auto-opt`, `optimize` and `quantize` of Olive: what is shipped, in which form, and what it may cost."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.olive.command_flags import (
    ADAPTER_FLAG,
    DATA_FLAGS,
    MODEL_FLAGS,
    REFUSED_FLAGS,
    RUN_FLAGS,
    add_common,
    add_data,
    add_missing,
)
from kivnun.olive.engine_keys import PROVIDER_TARGETS
from kivnun.olive.flags import Flag, Given
from kivnun.olive.training_arguments import refused, same
from kivnun.olive.translation import Draft, Meaning, Translation
from kivnun.recipe.complaints import describe_errors
from kivnun.recipe.optimization import BLOCK_SIZES, OptimizationSection
from kivnun.recipe.schema import DataSection

AUTO_OPT, OPTIMIZE, QUANTIZE = "auto-opt", "optimize", "quantize"

DEFAULT_OUTPUT: Final = {
    AUTO_OPT: "auto-opt-output",
    OPTIMIZE: "optimized-model",
    QUANTIZE: "quantized-model",
}

FORM_FLAGS: Final = (
    Flag("target", "text", "What runs it: auto (this machine), cpu, cuda or directml."),
    Flag("device", "text", "cpu or gpu, Olive's word for the target."),
    Flag("provider", "text", "CPUExecutionProvider, CUDAExecutionProvider or DmlExecutionProvider."),
    Flag("precision", "text", "auto, fp32, fp16, int8 or int4."),
    Flag("algorithm", "text", "How int4 and int8 weights are chosen: rtn, kquant, gptq or awq."),
    Flag("block_size", "whole", "Weights that share one scale: 16, 32, 64, 128 or 256."),
    Flag("gguf", "text", "Also write a GGUF file: f32, f16, q8_0 or q4_0."),
    Flag("golden_prompts", "whole", "Prompts that every form must answer; 8 with -m, those of the recipe for a run."),
)
LIMIT_FLAGS: Final = (
    Flag("max_size", "text", "Largest folder, such as 2GiB."),
    Flag("min_accuracy", "text", "Lowest score on the test rows: 0.9, or 0.98x of the tuned model's own."),
    Flag("max_latency", "text", "Longest time to the first token, such as 50ms."),
    Flag("min_tokens_per_second", "number", "Lowest rate of generated tokens."),
    Flag("max_memory", "text", "Most memory while answering, such as 4GiB."),
    Flag("min_agreement", "number", "Share of answers that must stay the same."),
    Flag("max_divergence", "number", "Largest mean divergence of a token, in nats."),
    Flag("memory", "text", "Olive's word for --max_memory: MB for optimize, bytes for auto-opt."),
)
_OLIVE_FLAGS: Final = (
    Flag("use_ort_genai", "truth", "What is made always runs in onnxruntime-genai."),
    Flag("use_model_builder", "truth", "It is always built with onnxruntime-genai's model builder."),
    Flag("exporter", "text", "Only model_builder."),
    Flag("modality", "text", "Only text."),
    Flag("use_dynamo_exporter", "truth", "Refused: use model_builder."),
    Flag("use_qdq_encoding", "truth", "Refused."),
    Flag("use_qdq_format", "truth", "Refused."),
    Flag("act_precision", "text", "Refused: activations stay in floating point."),
    Flag("num_split", "whole", "Refused: a model is one file."),
    Flag("num_splits", "whole", "Refused: a model is one file."),
    Flag("cost_model", "text", "Refused: a model is one file."),
    Flag("dim_param", "text", "Refused: shapes stay dynamic."),
    Flag("dim_value", "text", "Refused: shapes stay dynamic."),
    Flag("dynamic_to_fixed_shape_dim_param", "text", "Refused: shapes stay dynamic."),
    Flag("dynamic_to_fixed_shape_dim_value", "text", "Refused: shapes stay dynamic."),
    Flag("mixed_precision_overrides_config", "text", "Refused."),
    Flag("surgeries", "text", "Refused."),
    Flag("enable_aot", "truth", "Refused: for NPUs."),
    Flag("qnn_env_path", "text", "Refused: for NPUs."),
    Flag("extra_mb_options", "text", "Refused: the builder's options follow from the form."),
    Flag("implementation", "text", "Refused but for olive and ort."),
)
_ROW_FLAGS: Final = (
    Flag("split", "text", "Only train: rows are taken from the file as it is."),
    Flag("subset", "text", "Part of a data set on the hub."),
)
SHIP_FLAGS: Final = (
    *MODEL_FLAGS,
    ADAPTER_FLAG,
    *FORM_FLAGS,
    *LIMIT_FLAGS,
    *DATA_FLAGS,
    *_ROW_FLAGS,
    *RUN_FLAGS,
    *_OLIVE_FLAGS,
    *REFUSED_FLAGS,
)
FEW_PROMPTS: Final = 8
"""Asked of a model that is only exported: enough to see that every form answers alike, in seconds."""
TARGETS: Final = ("auto", "cpu", "cuda", "directml")
PRECISIONS: Final = ("auto", "fp32", "fp16", "int8", "int4")
NEAR_PRECISIONS: Final = {
    "bf16": "fp16",
    "fp8": "int8",
    "fp4": "int4",
    "nf4": "int4",
    "uint4": "int4",
    "uint8": "int8",
    "int16": "fp16",
    "uint16": "fp16",
    "int32": "fp32",
    "uint32": "fp32",
}
ALGORITHMS: Final = {"rtn": "rtn", "kquant": "k_quant", "k_quant": "k_quant", "gptq": "gptq", "awq": "awq"}
NEAR_ALGORITHMS: Final = {
    "hqq": "kquant, which fits scales without calibration as well",
    "spinquant": "awq, which rescales before it rounds as well",
    "quarot": "awq, which rescales before it rounds as well",
    "lpbq": "kquant",
    "seqmse": "kquant, which minimises the squared error as well",
    "adaround": "gptq, which learns the rounding from rows as well",
}


@dataclass(frozen=True)
class Shipment:
    """What a command ships.

    Attributes:
        translation: What each flag became.
        model: The base model.
        adapter: Folder of its adapter; None where the model is whole.
        output: Folder for the result.
        settings: The form and its limits.
        data: Rows that the forms are asked, and that gptq and awq look at; None where none are named.
    """

    translation: Translation
    model: str
    adapter: str | None
    output: str
    settings: OptimizationSection
    data: DataSection | None


def translate_shipment(given: Given) -> Shipment:
    """What `auto-opt`, `optimize` and `quantize` of a model folder do.

    Args:
        given: The command's flags.

    Raises:
        UserError: `olive-invalid`, with everything that is missing, unknown or without effect.
    """
    draft = _draft(given)
    add_missing(draft, given, {"model_name_or_path": "-m FOLDER, a Hugging Face id, or `-m bundled`"})
    for name, note in (("model_name_or_path", "the base model"), ("adapter_path", "merged into it")):
        if name in given.values:
            draft.add(f"--{name}", given.values[name], Meaning("used", note=note))
    add_common(draft, given)
    has_data = "data_name" in given.values or "data_files" in given.values
    if has_data:
        add_data(draft, given, subset="subset")
        _add_sample(draft, given)
    else:
        _refuse_row_flags(draft, given)
    add_form(draft, given)
    if "precision" not in given.values:
        default = _default_precision(given)
        draft.add("--precision", default, Meaning("default", {"optimization.precision": default}))
    if "golden_prompts" not in given.values:
        fields: dict[str, object] = {"optimization.golden_prompts": FEW_PROMPTS}
        draft.add("(golden prompts)", None, Meaning("used", fields, "asked of every form; --golden_prompts N for more"))
    _tell_algorithm(draft, given)
    _require_rows(draft, given, has_data=has_data)
    draft.output_dir = given.text("output_path") or DEFAULT_OUTPUT[given.command]
    translation = draft.finish()
    values = translation.recipe
    return Shipment(
        translation,
        str(given.values["model_name_or_path"]),
        given.text("adapter_path"),
        draft.output_dir,
        read_settings(given.command, translation),
        DataSection.model_validate(values["data"]) if has_data else None,
    )


def translate_choice(given: Given) -> Translation:
    """What `kivnun optimize RUN` changes in the run's `optimization` section.

    Args:
        given: The command's flags.

    Raises:
        UserError: `olive-invalid`.
    """
    draft = _draft(given)
    known = {flag.name for flag in (*FORM_FLAGS, *LIMIT_FLAGS)} | {"dry_run", "log_level", "json", "disable_telemetry"}
    for name in given.values:
        if name not in known:
            draft.refuse(f"--{name}", "belongs to a model that is given with -m, not to a run; leave it out")
    add_common(draft, Given(given.command, {name: given.values[name] for name in given.values if name in known}))
    add_form(draft, given)
    if "precision" not in given.values:
        draft.add("(precision)", None, Meaning("used", {"optimization.precision": "auto"}, "several are measured"))
    return draft.finish()


def _draft(given: Given) -> Draft:
    hint = f"`kivnun {given.command} --help` lists every flag, docs/reference/olive.md what each becomes"
    return Draft(f"the flags of `kivnun {given.command}`", lambda _key: f"kivnun {given.command}", hint)


def read_settings(command: str, translation: Translation) -> OptimizationSection:
    """The `optimization` section that the flags give.

    Args:
        command: Name of the command, for the error.
        translation: What each flag became.

    Raises:
        UserError: `olive-invalid`, with the flag behind each problem.
    """
    values = translation.recipe.get("optimization", {})
    try:
        return OptimizationSection.model_validate(values)
    except ValidationError as error:
        found = [(".".join(map(str, path)), message) for path, message in describe_errors(error, {})]
        flags = translation.provenance
        details = [f"{flags.get(f'optimization.{name}', name)}: {message}" for name, message in found]
        count = f"{len(details)} problem{'s' if len(details) > 1 else ''}"
        hint = f"`kivnun {command} --help` lists every flag"
        raise UserError(
            "olive-invalid", f"{count} in the flags of `kivnun {command}`", hint=hint, details=details
        ) from error


def add_form(draft: Draft, given: Given) -> None:
    """Take the flags that say what is built, and what it may cost."""
    for name, rule in RULES.items():
        if name in given.values:
            draft.add(f"--{name}", given.values[name], rule(given.values[name], given))
    _add_target(draft, given)


def _add_target(draft: Draft, given: Given) -> None:
    """Target, device and provider are three words for one thing, and must not contradict each other."""
    said: dict[str, str] = {}
    for name, rule in (("target", _target), ("device", _device), ("provider", _provider)):
        if name not in given.values:
            continue
        target, problem = rule(str(given.values[name]))
        if problem:
            draft.refuse(f"--{name}", problem)
            return
        said[name] = target
    if "provider" in said and said.get("device") == "cuda":
        # `gpu` is a device of CUDA and of DirectML.
        said["device"] = said["provider"] if said["provider"] != "cpu" else "cuda"
    if len(set(said.values())) > 1:
        (one, first), *_, (other, second) = said.items()
        draft.refuse(f"--{other}", f"is for {second}, but --{one} is for {first}; keep one of them")
        return
    for place, (name, target) in enumerate(said.items()):
        fields: dict[str, object] = {} if place else {"optimization.target": target}
        draft.add(f"--{name}", given.values[name], Meaning("same" if place else "renamed", fields))


def _target(value: str) -> tuple[str, str]:
    return (value, "") if value in TARGETS else ("", f"{value!r} is no target; write {', '.join(TARGETS)}")


def _device(value: str) -> tuple[str, str]:
    if value == "npu":
        return "", "what runs on NPUs is not built here; write cpu, or gpu with --provider DmlExecutionProvider"
    devices = {"cpu": "cpu", "gpu": "cuda"}
    return (devices[value], "") if value in devices else ("", f"{value!r} is no device; write cpu or gpu")


def _provider(value: str) -> tuple[str, str]:
    if value in PROVIDER_TARGETS:
        return PROVIDER_TARGETS[value], ""
    return "", f"models are built for {', '.join(PROVIDER_TARGETS)}, not for {value!r}; write one of these"


def _precision(value: object, _: Given) -> Meaning:
    if value in PRECISIONS:
        return Meaning("used", {"optimization.precision": value})
    near = NEAR_PRECISIONS.get(str(value))
    meant = f"; the nearest is {near}" if near else ""
    return refused(f"{value!r} is not built; write {', '.join(PRECISIONS)}{meant}")


def _algorithm(value: object, _: Given) -> Meaning:
    name = str(value).lower()
    if name in ALGORITHMS:
        return Meaning("used", {"optimization.algorithm": ALGORITHMS[name]})
    near = NEAR_ALGORITHMS.get(name)
    meant = f"; the nearest is {near}" if near else ""
    return refused(f"{value!r} is not built; write rtn, kquant, gptq or awq{meant}")


def _block_size(value: object, _: Given) -> Meaning:
    if value in BLOCK_SIZES:
        return Meaning("used", {"optimization.block_size": value})
    sizes = ", ".join(map(str, BLOCK_SIZES))
    whole = "-1 asks for one scale a row, which is not built; " if value == -1 else ""
    return refused(f"{whole}write {sizes}, or leave it out")


def _memory(value: object, given: Given) -> Meaning:
    text = str(value)
    if re.fullmatch(r"\d+", text):
        # Olive counts in MB here and in bytes there; both are exact in KiB.
        kib = int(text) * 1024 if given.command == OPTIMIZE else max(1, int(text) // 1024)
        text = f"{kib}KiB"
    return Meaning("renamed", {"optimization.max_memory": text})


def _latency(value: object, _: Given) -> Meaning:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)?", str(value))
    if match is None:
        return refused(f"{value!r} is no time; write 50ms")
    return Meaning("renamed", {"optimization.max_latency_ms": float(match[1]) * (1000 if match[2] == "s" else 1)})


def _accuracy(value: object, _: Given) -> Meaning:
    text = str(value)
    number = re.fullmatch(r"\d+(?:\.\d+)?", text)
    return Meaning("renamed", {"optimization.min_score": float(text) if number else text})


def _field(name: str) -> "Callable[[object, Given], Meaning]":
    return lambda value, _: Meaning("used", {f"optimization.{name}": value})


def _never(reason: str) -> "Callable[[object, Given], Meaning]":
    return lambda value, _: same("") if value is False else refused(reason)


def _only(allowed: str, because: str, otherwise: str) -> "Callable[[object, Given], Meaning]":
    return lambda value, _: same(because) if str(value) in allowed.split() else refused(otherwise)


_ONE_FILE = "cuts a model into parts, for devices that cannot hold it; leave it out, or write --max_size with int4"
_DYNAMIC = "fixes shapes, for NPUs; onnxruntime-genai needs them dynamic; leave it out"

RULES: Final[Mapping[str, Callable[[object, Given], Meaning]]] = {
    "precision": _precision,
    "algorithm": _algorithm,
    "block_size": _block_size,
    "gguf": _field("gguf"),
    "golden_prompts": _field("golden_prompts"),
    "max_size": _field("max_size"),
    "max_memory": _field("max_memory"),
    "min_agreement": _field("min_agreement"),
    "max_divergence": _field("max_divergence"),
    "min_tokens_per_second": _field("min_tokens_per_second"),
    "memory": _memory,
    "max_latency": _latency,
    "min_accuracy": _accuracy,
    "use_ort_genai": _only("True False", "what is made runs in onnxruntime-genai", ""),
    "use_model_builder": _only("True False", "it is built with onnxruntime-genai's model builder", ""),
    "exporter": _only("model_builder", "models are built with it", "models are built with model_builder; write that"),
    "modality": _only("text", "models generate text", "models generate text; write text, or leave it out"),
    "implementation": _only(
        "olive ort", "Kivnun's own, and onnxruntime's", "weights are rounded by Kivnun; leave it out"
    ),
    "use_dynamo_exporter": _never("models are built with onnxruntime-genai's builder; write --use_model_builder"),
    "num_split": _never(_ONE_FILE),
    "num_splits": _never(_ONE_FILE),
    "cost_model": _never(_ONE_FILE),
    "dim_param": _never(_DYNAMIC),
    "dim_value": _never(_DYNAMIC),
    "dynamic_to_fixed_shape_dim_param": _never(_DYNAMIC),
    "dynamic_to_fixed_shape_dim_value": _never(_DYNAMIC),
    "mixed_precision_overrides_config": _never("chooses a format for each node; write --precision for all of them"),
    "surgeries": _never("rewrites the graph, whose form onnxruntime-genai's builder decides; leave it out"),
    "enable_aot": _never("compiles for NPUs, which models are not built for; leave it out"),
    "qnn_env_path": _never("belongs to NPUs, which models are not built for; leave it out"),
    "extra_mb_options": _never("the builder's options follow from --precision, --algorithm and --block_size"),
}
"""What the flags of a form become; target, device and provider are taken together."""


def _default_precision(given: Given) -> str:
    """Olive's own: fp32, on GPUs fp16; int8 for `quantize`."""
    if given.command == QUANTIZE:
        return "int8"
    is_gpu = given.text("device") == "gpu" or given.text("provider") in (
        "CUDAExecutionProvider",
        "DmlExecutionProvider",
    )
    return "fp16" if is_gpu or given.text("target") in ("cuda", "directml") else "fp32"


def _tell_algorithm(draft: Draft, given: Given) -> None:
    precision = given.text("precision") or _default_precision(given)
    if "algorithm" not in given.values and precision in ("int4", "int8"):
        note = "Olive rounds to the nearest, which loses more; write --algorithm rtn for that"
        draft.add("--algorithm", "k_quant", Meaning("own", {"optimization.algorithm": "k_quant"}, note))


def _add_sample(draft: Draft, given: Given) -> None:
    """How many of the rows are used, and that all of them may be asked: none of them is trained."""
    if "split" in given.values:
        whole = given.values["split"] == "train"
        reason = "the rows are taken from the file as it is" if whole else "name the file with the rows, or write train"
        draft.add("--split", given.values["split"], Meaning("same" if whole else "refused", note=reason))
    if "max_samples" in given.values:
        rows = f":{given.values['max_samples']}"
        draft.add("--max_samples", given.values["max_samples"], Meaning("renamed", {"data.train_rows": rows}))
    if "batch_size" in given.values:
        draft.add("--batch_size", given.values["batch_size"], same("answers do not depend on how many are asked"))
    fields: dict[str, object] = {"data.split.validation": 0, "data.split.test": 0}
    draft.add("(rows kept apart)", None, Meaning("used", fields, "nothing is trained on these rows"))


def _refuse_row_flags(draft: Draft, given: Given) -> None:
    names = [flag.name for flag in (*DATA_FLAGS, *_ROW_FLAGS) if flag.name in given.values]
    for name in names:
        draft.refuse(f"--{name}", "has no effect without rows; add -d FILE")


def _require_rows(draft: Draft, given: Given, *, has_data: bool) -> None:
    """Calibration looks at rows of the user's own: none are fetched in silence."""
    asking = [f"--algorithm {name}" for name in ("gptq", "awq") if given.text("algorithm") == name]
    asking += ["--precision auto"] if given.text("precision") == "auto" else []
    if asking and not has_data:
        reason = "looks at rows of yours, and fetches none by itself; add -d FILE with the rows that you trained on"
        draft.refuse(asking[0], reason)
