"""An Olive file as a recipe: every key is used, renamed, what Kivnun does anyway, or an error."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final, cast

from pydantic import ValidationError

from kivnun.errors import UserError
from kivnun.olive.data_keys import is_own_validation, read_configs, take_training, take_validation
from kivnun.olive.engine_keys import (
    ENGINE_KEYS,
    engine_group,
    is_azure,
    read_systems,
    require_workspace,
    system_of,
    take_engine,
    take_systems,
)
from kivnun.olive.export_keys import EXPORT_PASSES, EXPORTS, QUANTISERS, REFUSED_PASSES, take_exports
from kivnun.olive.facts import Facts, take_client
from kivnun.olive.files import HINT, OLIVE_GROUPS, OliveFile, is_pass, read_olive_file
from kivnun.olive.groups import Entry, Group, open_group
from kivnun.olive.method_keys import METHODS, REFUSED_METHODS, list_types, take_method
from kivnun.olive.model_keys import translate_model
from kivnun.olive.search_keys import take_search
from kivnun.olive.source_keys import DataConfig
from kivnun.olive.translation import Draft, Meaning, Translation
from kivnun.recipe.complaints import describe_errors
from kivnun.recipe.document import Value
from kivnun.recipe.schema import Recipe

PARTS: Final = {
    "input_model": "the model that is tuned",
    "data_configs": "the rows",
    "passes": "what is done, such as a pass of type LoRA",
}
"""What a file needs, and what each part is."""
ON_PURPOSE: Final = (
    "Only the answer of a row is learnt; Olive learns every token of it.",
    "The best step by the validation rows is kept, and they are asked once an epoch unless eval_strategy or eval_steps "
    "is given; Olive keeps the last step, and asks every 500 steps.",
    "A checkpoint is kept every five minutes unless save_steps is given, and number formats fit the machine unless "
    "torch_dtype is given.",
)
_TOP: Final = (
    *OLIVE_GROUPS,
    *ENGINE_KEYS,
    *("pass_groups", "auto_optimizer_config", "no_search", "user_script"),
)


def read_translation(path: Path) -> Translation | None:
    """The translation of an Olive file; None for any other file.

    Raises:
        UserError: `olive-invalid`, with every problem of the file.
    """
    file = read_olive_file(path)
    return None if file is None else translate_file(file)


def translate_file(file: OliveFile) -> Translation:
    """The translation of an Olive file.

    Raises:
        UserError: `olive-invalid`, with every problem of the file.
    """
    draft = Draft(str(file.path), file.locate, HINT)
    return translate_config(cast("dict[str, object]", file.value), draft)


def translate_config(config: dict[str, object], draft: Draft) -> Translation:
    """The translation of what an Olive file says.

    Args:
        config: The file's value.
        draft: A new draft, which knows where keys stand.

    Raises:
        UserError: `olive-invalid`, with every problem.
    """
    _require_parts(config, draft)
    _take_top(config, draft)
    engine = engine_group(draft, config)
    systems = read_systems(draft, config.get("systems", {}))
    passes = _read_passes(draft, config)
    types = list_types(passes)
    host = system_of(engine, "host", systems)
    facts = Facts(is_azure=is_azure(host), exports=any(kind in (*EXPORTS, *QUANTISERS) for kind in types.values()))
    name = "input_model" if "input_model" in config else "model"
    translate_model(draft, name, config[name], facts)
    _take_passes(draft, config, passes, types, facts)
    take_engine(engine, systems, facts, has_space="search_space" in config)
    take_systems(systems, engine, facts)
    if "azureml_client" in config:
        take_client(draft, "azureml_client", config["azureml_client"], facts)
    require_workspace(draft, host)
    if "search_space" in config:
        strategy = engine.entries.get("search_strategy", Entry("search_strategy", None))
        take_search(draft, config["search_space"], strategy.key, strategy.value)
    if facts.inputs:
        draft.add(facts.input_key, "", Meaning("used", {"where.inputs": facts.inputs}))
    return checked(draft)


def checked(draft: Draft) -> Translation:
    """The translation, if its values make a recipe.

    Raises:
        UserError: `olive-invalid`, with every problem; what the recipe refuses is said of the key that gave it.
    """
    draft.notes[:0] = _notes(draft)
    translation = draft.finish()
    try:
        Recipe.model_validate(translation.recipe)
    except ValidationError as error:
        for path, message in describe_errors(error, cast("Value", translation.recipe)):
            field = ".".join(map(str, path))
            key = _origin(translation.provenance, field)
            draft.refuse(key, f"({field}) {message}" if key else f"{field}: {message}")
        draft.finish()
        raise
    return translation


def _notes(draft: Draft) -> Sequence[str]:
    is_text = draft.values.get("training.objective.kind") == "text"
    validates = draft.values.get("data.split.validation") != 0
    return [note for note, holds in zip(ON_PURPOSE, (not is_text, validates, True), strict=True) if holds]


def _origin(provenance: Mapping[str, str], field: str) -> str:
    """The key that gave a field, or the first one of the group around it."""
    near = field
    while near:
        if near in provenance:
            return provenance[near]
        below = [key for path, key in provenance.items() if path.startswith(f"{near}.")]
        if below:
            return below[0]
        near = near.rpartition(".")[0]
    return ""


def _require_parts(config: dict[str, object], draft: Draft) -> None:
    """Refuse pieces of a file, which tutorials print, naming what they lack.

    Raises:
        UserError: `olive-invalid`.
    """
    held = set(config) | ({"input_model"} if "model" in config else set())
    lacking = [f"{name} ({what})" for name, what in PARTS.items() if name not in held]
    if not lacking:
        return
    pieces = [name for name, value in config.items() if is_pass(value)]
    hint = HINT
    if pieces:
        lacking = [each for each in lacking if not each.startswith("passes")]
        hint = f"put {', '.join(pieces)} under `passes:`, beside what is lacking"
    elif held <= {"search_space", "search_strategy"}:
        hint = f"`kivnun search RECIPE --space {draft.source}` takes it as it is"
    details = [f"{draft.locate('')}: lacks {each}" for each in lacking]
    problem = f"{draft.source} holds only {', '.join(config)}"
    raise UserError("olive-invalid", problem, hint=hint, details=details)


def _take_top(config: dict[str, object], draft: Draft) -> None:
    """Refuse what has no place at the top of a file, and take what stands there alone."""
    if "input_model" in config and "model" in config:
        draft.refuse("model", "stands beside input_model; keep one of them")
    refusals = {
        "evaluators": "write an `evaluation` section in the recipe: task, and label for a classification",
        "auto_optimizer_config": "write the passes, or `optimization.precision: auto` in the recipe",
        "pass_groups": "write passes",
        "no_search": "write search_strategy: false",
        "user_script": "no code of a configuration is run; remove it",
    }
    for name, value in config.items():
        if name in refusals and not (name == "evaluators" and not value):
            draft.refuse(name, refusals[name])
        elif name not in _TOP:
            close = get_close_matches(name, _TOP, n=1)
            meant = f"; did you mean `{close[0]}`?" if close else "; it would have no effect: remove it"
            draft.refuse(name, f"unknown key{meant}")
    if "evaluators" in config and not config["evaluators"]:
        draft.add("evaluators", config["evaluators"], Meaning("same", note="nothing is asked"))
    if "workflow_id" in config:
        draft.add("workflow_id", config["workflow_id"], Meaning("renamed", {"name": config["workflow_id"]}))


def _read_passes(draft: Draft, config: dict[str, object]) -> dict[str, Group]:
    """The passes by name; a list of alternatives holds one."""
    value = config["passes"]
    if not isinstance(value, dict) or not value:
        draft.refuse("passes", "should be a group of passes by name")
        return {}
    passes: dict[str, Group] = {}
    for name, item in cast("dict[str, object]", value).items():
        key = f"passes.{name}"
        if isinstance(item, list):
            items = cast("list[object]", item)
            if len(items) != 1:
                draft.refuse(key, "holds alternatives; write one, and `kivnun search` for a search")
                continue
            key, item = f"{key}.0", items[0]  # noqa: PLW2901 - the one alternative stands for the list
        group = open_group(draft, key, item)
        if group is not None:
            passes[name] = group
    if "pass_flows" in config:
        flows = config["pass_flows"]
        if flows == [list(value)]:
            draft.add("pass_flows", flows, Meaning("same", note="passes follow each other as they are written"))
        else:
            draft.refuse("pass_flows", "passes follow each other as they are written; remove it")
    return passes


def _take_passes(
    draft: Draft, config: dict[str, object], passes: dict[str, Group], types: dict[str, str], facts: Facts
) -> None:
    configs = read_configs(draft, config["data_configs"])
    trainers = [name for name, kind in types.items() if kind in METHODS]
    exports = {name: group for name, group in passes.items() if types[name] in EXPORT_PASSES}
    unknown = [name for name in passes if types[name] not in (*METHODS, *EXPORT_PASSES)]
    for name in unknown:
        draft.refuse(f"{passes[name].key}.type", _why_refused(str(passes[name].get("type")), types[name]))
    if len(trainers) != 1:
        text = "holds no pass that trains; for a finished model use `kivnun optimize` or `kivnun quantize`"
        text = f"holds {len(trainers)} passes that train; write one file for each" if trainers else text
        if not unknown:
            draft.refuse("passes", text)
        return
    _require_order(draft, list(passes), types, trainers[0])
    trained = _take_data(draft, passes[trainers[0]], configs, facts, config)
    take_exports(draft, exports, types, trained)


def _why_refused(shown: str, kind: str) -> str:
    reason = {**REFUSED_METHODS, **REFUSED_PASSES}.get(kind)
    if reason is not None:
        return f"{shown}: {reason}"
    names = (*METHODS, *EXPORT_PASSES)
    close = get_close_matches(kind, names, n=1)
    return f"{shown}: there is no such pass here{f'; did you mean `{close[0]}`?' if close else ''}"


def _require_order(draft: Draft, names: list[str], types: dict[str, str], trainer: str) -> None:
    """Refuse an export of a model that is only trained afterwards."""
    for name in names[: names.index(trainer)]:
        if types[name] in EXPORT_PASSES:
            draft.refuse(f"passes.{name}", f"stands before {trainer}, which trains; write it behind")


def _take_data(
    draft: Draft, method: Group, configs: dict[str, DataConfig], facts: Facts, config: dict[str, object]
) -> str:
    """Take the data of the pass that trains, and the pass; the name of the training data."""
    trained = _named(draft, method, "train_data_config", configs)
    validated = _named(draft, method, "eval_data_config", configs)
    size = method.get("eval_dataset_size")
    if validated is not None and size is not None:
        draft.refuse(method.entries["eval_dataset_size"].key, "stands beside eval_data_config; keep one of them")
    if trained is not None:
        take_training(trained, facts)
        if validated is not None:
            take_validation(validated, trained, facts)
    for name, each in configs.items():
        if trained is not None and each not in (trained, validated):
            draft.refuse(each.group.key, f"has no effect: no pass names {name!r}; remove it")
    has_own = trained is not None and validated is not None and is_own_validation(validated, trained)
    if size is None and not has_own:
        note = "no rows are split off" if validated is None else "the rows are named"
        draft.add(f"{method.key}.eval_dataset_size", 0, Meaning("default", {"data.split.validation": 0}, note))
    draft.add("test rows", 0, Meaning("default", {"data.split.test": 0}, "Olive keeps none; write an `evaluation`"))
    has_validation = validated is not None or bool(size)
    more = _outer_arguments(draft, config)
    take_method(method, (has_validation, bool(size)), trained.block_tokens if trained else None, more)
    return trained.name if trained is not None else ""


def _named(draft: Draft, method: Group, key: str, configs: dict[str, DataConfig]) -> DataConfig | None:
    """The data configuration that a key of the pass names; training takes the only one there is."""
    entry = method.entries.get(key)
    if entry is not None and isinstance(entry.value, dict):
        draft.refuse(entry.key, "should name an entry of data_configs; write it there")
        return None
    if entry is not None and entry.value is not None:
        found = configs.get(str(entry.value))
        if found is None:
            close = get_close_matches(str(entry.value), list(configs), n=1)
            draft.refuse(entry.key, f"there is no {entry.value!r}{f'; did you mean `{close[0]}`?' if close else ''}")
        return found
    if key == "eval_data_config":
        return None
    if len(configs) == 1:
        found = next(iter(configs.values()))
        draft.add(f"{method.key}.{key}", found.name, Meaning("default", note="the only data configuration"))
        return found
    draft.refuse(method.key, f"lacks train_data_config: {', '.join(configs) or 'there is no data configuration'}")
    return None


def _outer_arguments(draft: Draft, config: dict[str, object]) -> dict[str, Entry]:
    """The block `training_config`, whose keys are training arguments."""
    if "training_config" not in config:
        return {}
    group = open_group(draft, "training_config", config["training_config"])
    return dict(group.entries) if group is not None else {}
