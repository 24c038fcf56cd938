"""`engine` and `systems`: where the run is computed, what the model will run on, and where results go."""

from pathlib import PurePath
from typing import Final, cast

from kivnun.olive.facts import CLIENT_FIELDS, Facts
from kivnun.olive.groups import Group, Rule, field, never, only, open_group, opened
from kivnun.olive.meanings import refused, same
from kivnun.olive.translation import OPENED, Draft, Meaning

PROVIDER_TARGETS: Final = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "cuda",
    "DmlExecutionProvider": "directml",
}
"""What each execution provider of onnxruntime runs on."""
_DEVICES: Final = ("cpu", "gpu")
_LOGGED: Final = "everything is in events.jsonl, whatever the level"
ENGINE_KEYS: Final = (
    *("search_strategy", "host", "target", "evaluator", "plot_pareto_frontier", "no_artifacts", "output_dir"),
    *("evaluate_input_model", "packaging_config", "cache_config", "cache_dir", "clean_cache", "log_to_file"),
    *("clean_evaluation_cache", "enable_shared_cache", "log_severity_level", "ort_log_severity_level"),
    *("ort_py_log_severity_level", "execution_providers"),
)
"""Keys of `engine`, which may also stand at the top of a file."""


def engine_group(draft: Draft, config: dict[str, object]) -> Group:
    """The keys of `engine`, those that stand at the top of the file among them."""
    group = open_group(draft, "engine", config.get("engine", {}))
    entries = dict(group.entries) if group is not None else {}
    top = open_group(draft, "", {name: config[name] for name in ENGINE_KEYS if name in config})
    for name, entry in (top.entries if top is not None else {}).items():
        key = entry.key.lstrip(".")
        if name in entries:
            draft.refuse(key, f"stands also in {entries[name].key}; keep one of them")
        entries[name] = type(entry)(key, entry.value)
    return Group(draft, "engine", entries)


def read_systems(draft: Draft, value: object) -> dict[str, Group]:
    """The systems by name."""
    if not isinstance(value, dict):
        draft.refuse("systems", f"should be a group of systems by name (got {value!r})")
        return {}
    named = cast("dict[str, object]", value).items()
    found = {str(name): open_group(draft, f"systems.{name}", item) for name, item in named}
    return {name: group for name, group in found.items() if group is not None}


def is_azure(group: Group | None) -> bool:
    """Whether a system is a compute cluster of Azure Machine Learning."""
    return group is not None and str(group.get("type")).lower() == "azureml"


def system_of(engine: Group, name: str, systems: dict[str, Group]) -> Group | None:
    """The system that `host` or `target` names; None for the machine here."""
    return systems.get(str(engine.get(name)))


def take_engine(engine: Group, systems: dict[str, Group], facts: Facts, *, has_space: bool) -> None:
    """Take every key of `engine`."""
    draft = engine.draft
    engine.take(engine_rules(engine, systems, facts, has_space=has_space), "engine")
    output = engine.get("output_dir")
    if isinstance(output, str) and output:
        draft.output_dir = output


def _system(engine: Group, systems: dict[str, Group], name: str) -> Rule:
    """`host` or `target`, which name a system."""

    def rule(value: object) -> Meaning:
        if value == "local_system" and value not in systems:
            return same("this machine")
        if value is None or str(value) not in systems:
            return refused(f"there is no system {value!r} in systems")
        found = is_azure(systems[str(value)])
        if found and name == "target" and value != engine.get("host"):
            return refused("the model is measured where the run is computed; write the same name in host")
        return Meaning("used", note="a job on Azure" if found else "this machine")

    return rule


def _output_dir(value: object) -> Meaning:
    if not isinstance(value, str) or not value:
        return refused(f"should be a folder (got {value!r})")
    return Meaning("renamed", note="the run folder, unless --run-dir is given")


def _strategy(*, has_space: bool) -> Rule:
    def rule(value: object) -> Meaning:
        if value in (False, None):
            return same("nothing is searched")
        if has_space:
            return OPENED
        return refused("asks for a search, of nothing; write false, or name ranges in search_space")

    return rule


def engine_rules(engine: Group, systems: dict[str, Group], facts: Facts, *, has_space: bool) -> dict[str, Rule]:
    """What the keys of `engine` become."""
    return {
        "host": _system(engine, systems, "host"),
        "target": _system(engine, systems, "target"),
        "output_dir": _output_dir,
        "cache_dir": _cache_dir(engine),
        "execution_providers": lambda value: take_providers(value, facts),
        "search_strategy": _strategy(has_space=has_space),
        "log_severity_level": only((0, 1, 2, 3, 4), _LOGGED, "should be a whole number from 0 to 4"),
        "ort_log_severity_level": never("has no effect; remove it"),
        "ort_py_log_severity_level": never("has no effect; remove it"),
        "log_to_file": only((True,), "events.jsonl is always written", "events.jsonl is always written; remove it"),
        "evaluator": only((None,), "nothing is asked", "write an `evaluation` section in the recipe"),
        "evaluate_input_model": only(
            (False,), "there is no `evaluation` section", "the recipe's `evaluation` always measures the base as well"
        ),
        "plot_pareto_frontier": only(
            (False,), "there is nothing to plot", "`optimization.precision: auto` shows it; remove it"
        ),
        "no_artifacts": only((False,), "the model is written", "the model is always written; remove it"),
        "packaging_config": only((None,), "a folder is written", "the model's folder is the package; remove it"),
        "clean_cache": only((False,), "finished stages are kept", "name another --run-dir to begin anew; remove it"),
        "clean_evaluation_cache": only((False,), "finished stages are kept", "name another --run-dir; remove it"),
        "enable_shared_cache": only((False,), "results are kept in the run folder", "nothing is shared; remove it"),
        "cache_config": never("finished stages are kept in the run folder; remove it"),
    }


def _cache_dir(engine: Group) -> Rule:
    def rule(value: object) -> Meaning:
        output = engine.get("output_dir")
        is_inside = (
            isinstance(value, str) and isinstance(output, str) and PurePath(value).is_relative_to(PurePath(output))
        )
        if is_inside:
            return same("finished stages are kept in the run folder and not repeated")
        return refused("finished stages are kept in the run folder, which output_dir names; remove it")

    return rule


def take_providers(value: object, facts: Facts) -> Meaning:
    """What `execution_providers` says of the machine that the model will run on."""
    named = cast("list[object]", value) if isinstance(value, list) else [value]
    unknown = [each for each in named if str(each) not in PROVIDER_TARGETS]
    if unknown or not named:
        shown = repr(unknown[0]) if unknown else "an empty list"
        return refused(f"{shown} is no target; write {', '.join(PROVIDER_TARGETS)}")
    if not facts.exports:
        return refused("has no effect: no pass exports the model; add ModelBuilder, or remove it")
    targets = [PROVIDER_TARGETS[str(each)] for each in named]
    note = "the others stand in where it is missing" if len(targets) > 1 else ""
    if len(targets) > 1 and targets[1:] != ["cpu"]:
        return refused("a model is built for one target; name one, and CPUExecutionProvider behind it if you like")
    return Meaning("renamed", {"optimization.target": targets[0]}, note)


def take_systems(systems: dict[str, Group], engine: Group, facts: Facts) -> None:
    """Take every system; one that nothing names has no effect."""
    used = {str(engine.get(name)) for name in ("host", "target")}
    for name, group in systems.items():
        if name not in used:
            group.draft.refuse(group.key, "has no effect: neither engine.host nor engine.target names it; remove it")
        elif is_azure(group):
            group.take(AZURE_RULES, "an AzureML system")
            take_accelerators(group, facts)
            _take_docker(group)
        else:
            group.take(LOCAL_RULES, "a system")
            take_accelerators(group, facts)


def require_workspace(draft: Draft, host: Group | None) -> None:
    """What a job needs to be sent must be known."""
    if host is None or not is_azure(host):
        return
    lacking = [name for name in CLIENT_FIELDS if f"where.{name}" not in draft.values]
    if lacking:
        draft.refuse(
            host.key, f"lacks {', '.join(lacking)}; write azureml_client: {{{': ..., '.join(CLIENT_FIELDS)}: ...}}"
        )
    if "aml_compute" not in host.entries:
        draft.refuse(host.key, "lacks aml_compute")


LOCAL_RULES: Final[dict[str, Rule]] = {
    "type": only(
        ("LocalSystem", "localsystem", "Local", "local"),
        "this machine",
        "a run is computed here or on Azure; write LocalSystem or AzureML",
    ),
    "accelerators": opened,
    "hf_token": only((True, False), "HF_TOKEN is read from the environment", "should be true or false"),
}


def take_accelerators(group: Group, facts: Facts) -> None:
    """Take the devices of a system, of which Olive allows one."""
    if "accelerators" not in group.entries:
        return
    draft, key = group.draft, group.entries["accelerators"].key
    value = group.get("accelerators")
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    if len(items) != 1:
        draft.refuse(key, "should name one device")
        return
    if isinstance(items[0], dict):
        device = open_group(draft, f"{key}.0", items[0])
        if device is not None:
            rules: dict[str, Rule] = {
                "device": _device,
                "execution_providers": lambda value: take_providers(value, facts),
                "memory": never("is measured; write optimization.max_memory for a limit"),
            }
            device.take(rules, "an accelerator")
    else:
        draft.add(f"{key}.0", items[0], _device(items[0]))


def _device(value: object) -> Meaning:
    if value in _DEVICES:
        return same("the device is found where the run is computed")
    return refused(f"{value!r} is no device that models are trained on; write cpu or gpu")


_NOT_SENT: Final = (
    "no token is put into a job; remove it: models and data of the workspace need none, and what is gated on the hub "
    "is fetched here, with `hf download ORG/NAME --local-dir FOLDER`, and goes along where model_path or data_files "
    "names FOLDER"
)
AZURE_RULES: Final[dict[str, Rule]] = {
    "type": lambda _: Meaning("renamed", {"where.kind": "azureml"}),
    "aml_compute": field("where.compute"),
    "accelerators": opened,
    "hf_token": only((False,), "no token goes into the job", _NOT_SENT),
    "aml_docker_config": opened,
    "instance_count": field("where.instance_count", name="instance_count"),
    "olive_managed_env": only((False,), "the environment is written out", "the environment is written out; remove it"),
    "aml_environment_config": never("write base_image and conda_file_path in aml_docker_config"),
    "aml_config_path": never(f"write azureml_client with {', '.join(CLIENT_FIELDS)}"),
    "azureml_client_config": never("write azureml_client at the top of the file"),
    "resources": never("the compute cluster decides; remove it"),
    "environment_variables": never("write them in the job that `kivnun run` writes out"),
    "requirements_file": never("write conda_file_path in aml_docker_config"),
    "tags": never("are written by hand in the job that `kivnun run` writes out; remove it"),
    "is_dev": never("has no effect; remove it"),
}


def _take_docker(group: Group) -> None:
    if "aml_docker_config" not in group.entries:
        return
    found = open_group(group.draft, group.entries["aml_docker_config"].key, group.get("aml_docker_config"))
    if found is None:
        return
    found.take(DOCKER_RULES, "aml_docker_config")


DOCKER_RULES: Final[dict[str, Rule]] = {
    "base_image": field("where.image"),
    "conda_file_path": field("where.conda_file"),
    "dockerfile": never("build the image beforehand, and write base_image"),
    "build_context_path": never("build the image beforehand, and write base_image"),
    "name": never("has no effect; remove it"),
    "version": never("has no effect; remove it"),
}
