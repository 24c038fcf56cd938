"""`input_model`: the model that is tuned, in Olive's older spelling (PyTorchModel with hf_config) and its newer one."""

from typing import Final

from kivnun.olive.facts import Facts, take_client
from kivnun.olive.groups import Group, Rule, field, never, noted, only, open_group, opened
from kivnun.olive.meanings import refused, same
from kivnun.olive.translation import Draft, Meaning

MODEL_TYPES = ("hfmodel", "pytorchmodel")
_NO_CODE = "code from hubs is never run; the architectures of transformers need none"

LOADING_RULES: dict[str, Rule] = {
    "trust_remote_code": only((True, False), _NO_CODE, "should be true or false"),
    "torch_dtype": only(("auto", None), "training.precision decides", "write torch_dtype in the pass, or remove it"),
    "dtype": only(("auto", None), "training.precision decides", "write torch_dtype in the pass, or remove it"),
    "device_map": only(("auto", None), "the device is found by itself", "the device is found by itself; remove it"),
    "attn_implementation": only(
        ("sdpa", "eager", None), "attention is exact, as this one", "attention is Kivnun's own; remove it"
    ),
    "use_cache": never("has no effect on training; remove it"),
    "low_cpu_mem_usage": never("has no effect; remove it"),
    "quantization_method": never("write a pass of type QLoRA, which quantises the base to 4 bits"),
    "quantization_config": never("write a pass of type QLoRA, which quantises the base to 4 bits"),
    "load_in_4bit": never("write a pass of type QLoRA, which quantises the base to 4 bits"),
    "load_in_8bit": never("write a pass of type QLoRA, which quantises the base to 4 bits"),
    "revision": never("fetch that commit into a folder, and name the folder"),
    "token": never("a token belongs in HF_TOKEN and in no file"),
    "use_auth_token": never("a token belongs in HF_TOKEN and in no file"),
}

_HEADS = "only models that generate text are read; for labels write `training.objective: classification` in the recipe"


def translate_model(draft: Draft, key: str, value: object, facts: Facts) -> None:
    """Take the group `input_model`, or `model` as older files call it."""
    group = open_group(draft, key, value)
    if group is None:
        return
    inner = open_group(draft, _nested_key(group, "hf_config"), group.get("hf_config")) if _has_hf(group) else None
    rules = model_rules(facts, group, inner)
    group.take(rules, "input_model")
    if inner is not None:
        inner.take(hf_rules(facts, group, inner), "hf_config")
        _take_loading(inner)
    _take_loading(group)
    if "type" not in group.entries:
        draft.refuse(key, "lacks type; write HfModel")
    if "base_model" not in draft.values and not draft.problems:
        draft.refuse(key, "names no model; write model_path")


def _has_hf(group: Group) -> bool:
    return "hf_config" in group.entries


def _nested_key(group: Group, name: str) -> str:
    return group.entries[name].key


LOADING_GROUPS = ("model_loading_args", "from_pretrained_args", "load_kwargs")


def _take_loading(group: Group) -> None:
    for name in LOADING_GROUPS:
        if name in group.entries:
            found = open_group(group.draft, _nested_key(group, name), group.get(name), nested="extra_args")
            if found is not None:
                found.take(LOADING_RULES, name)


def _common(facts: Facts, group: Group) -> dict[str, Rule]:
    return {
        "model_path": lambda value: _model_path(value, group, facts),
        "task": _task,
        **dict.fromkeys(LOADING_GROUPS, opened),
        "adapter_path": never("a run begins with a whole model; merge that adapter first, and name the merged folder"),
        "model_attributes": only((None,), "they are read from the model", "is read from the model; remove it"),
        "io_config": only((None,), "inputs and outputs are known", "inputs and outputs are known; remove it"),
        "dummy_inputs_func": never("no code of a configuration is run; remove it"),
        "model_script": never("no code of a configuration is run; remove it"),
        "script_dir": never("no code of a configuration is run; remove it"),
        "model_loader": never("no code of a configuration is run; name a folder in model_path"),
        "generative": only((True,), "it generates text", "only models that generate text are tuned; remove it"),
    }


def model_rules(facts: Facts, group: Group, inner: Group | None) -> dict[str, Rule]:
    """What the keys of `input_model` become."""
    names = () if inner is None else ("model_name", "model_path")
    is_named_inside = any(name in inner.entries for name in names) if inner is not None else False

    def model_path(value: object) -> Meaning:
        if is_named_inside and isinstance(value, dict):
            return _azure_model(value, group.entries["model_path"].key, facts, group.draft, inner)
        return _model_path(value, group, facts)

    return {
        **_common(facts, group),
        "type": _type,
        "hf_config": opened,
        "model_path": model_path,
        "model_name": field("base_model"),
        "model_file_format": only(
            ("PyTorch.MLflow", "PyTorch.HuggingFaceModel"),
            "the folder with config.json and safetensors inside is found, and its tokenizer",
            "only folders with config.json and safetensors are read; write HfModel and model_path",
        ),
    }


def hf_rules(facts: Facts, group: Group, inner: Group) -> dict[str, Rule]:
    """What the keys of `hf_config` become."""
    azure = group.get("model_path") if isinstance(group.get("model_path"), dict) else None

    def name(value: object) -> Meaning:
        if "model_path" in inner.entries:
            return refused("stands beside model_path; keep one of them")
        return Meaning("renamed", {"base_model": value}, "fetched by the job" if azure is not None else "")

    return {
        **_common(facts, inner),
        "model_name": name,
        "model_class": only((None, "AutoModelForCausalLM"), "it generates text", _HEADS),
        "feature": only((None,), "none is needed", "has no effect; remove it"),
        "components": never("a model of several parts is not read"),
        "dataset": never("write it in data_configs"),
    }


def _type(value: object) -> Meaning:
    if str(value).lower() not in MODEL_TYPES:
        return refused(f"{value!r} is not tuned here; write HfModel and a folder or id of Hugging Face in model_path")
    return same("models of Hugging Face")


def _task(value: object) -> Meaning:
    if value in ("text-generation", "text-generation-with-past"):
        return same("models that generate text")
    return refused(f"{value!r}: {_HEADS}")


def _model_path(value: object, group: Group, facts: Facts) -> Meaning:
    if isinstance(value, dict):
        return _azure_model(value, group.entries["model_path"].key, facts, group.draft, None)
    return Meaning("renamed", {"base_model": value})


_NAMED: Final = {
    "type": noted("an input of the job"),
    "name": noted("in where.inputs"),
    "version": noted("in where.inputs"),
}
AZURE_MODELS: Final[dict[str, dict[str, Rule]]] = {
    "azureml_registry_model": {**_NAMED, "registry_name": noted("in where.inputs")},
    "azureml_model": {**_NAMED, "azureml_client": opened},
}
"""Models of a registry and of a workspace of Azure, with their keys."""


def _azure_model(value: object, key: str, facts: Facts, draft: Draft, inner: Group | None) -> Meaning:
    """A model of a registry or workspace of Azure, which the job is given as an input."""
    group = open_group(draft, key, value)
    kind = "" if group is None else str(group.get("type"))
    if group is None or kind not in AZURE_MODELS:
        return refused(f"type {kind!r} is not read; write the path itself")
    if not facts.is_azure:
        text = "is fetched by a job on Azure: name an AzureML system in engine.host, or write the path of a folder here"
        return refused(f"a model of {'a registry' if 'registry' in kind else 'a workspace'} {text}")
    group.take(AZURE_MODELS[kind], kind)
    if "azureml_client" in group.entries:
        take_client(draft, group.entries["azureml_client"].key, group.get("azureml_client"), facts)
    needed = [name for name in AZURE_MODELS[kind] if name not in ("type", "azureml_client")]
    lacking = [name for name in needed if not isinstance(group.get(name), str | int)]
    if lacking:
        return refused(f"lacks {', '.join(lacking)}")
    name, version = str(group.get("name")), group.get("version")
    address = f"azureml:{name}:{version}"
    if kind == "azureml_registry_model":
        address = f"azureml://registries/{group.get('registry_name')}/models/{name}/versions/{version}"
    path = name if inner is None else str(inner.get("model_path") or inner.get("model_name"))
    facts.add_input(key, path, address)
    fields = {"base_model": name} if inner is None else {}
    return Meaning("renamed", fields, f"where.inputs: {path}: {address}")
