"""`data_configs`: the rows that are trained and validated on."""

from typing import Final, cast

from kivnun.olive.facts import Facts
from kivnun.olive.groups import NO_CODE, Rule, never, noted, only, open_group, opened
from kivnun.olive.meanings import same
from kivnun.olive.source_keys import DataConfig, LoadKeys
from kivnun.olive.text_keys import take_text_defaults, text_rules
from kivnun.olive.translation import Draft

OWN_VALIDATION: Final = "the data set's own validation rows; where it has none, 10 % are split off"
_PARTS: Final = ("load_dataset_config", "pre_process_data_config")


def read_configs(draft: Draft, value: object) -> dict[str, DataConfig]:
    """The entries of `data_configs`, a list or, in older files, a mapping by name."""
    items: list[tuple[str, object]]
    if isinstance(value, dict):
        items = [(str(name), item) for name, item in cast("dict[str, object]", value).items()]
    elif isinstance(value, list):
        items = [(str(number), item) for number, item in enumerate(cast("list[object]", value))]
    else:
        draft.refuse("data_configs", f"should be a list of data configurations (got {value!r})")
        return {}
    configs: dict[str, DataConfig] = {}
    for place, item in items:
        key = f"data_configs.{place}"
        name = cast("dict[str, object]", item).get("name") if isinstance(item, dict) else None
        config = _read_config(draft, key, item, str(name or place))
        if config is None:
            continue
        if config.name in configs:
            draft.refuse(f"{key}.name", f"{config.name!r} stands twice; give each its own name")
        configs[config.name] = config
    return configs


def _read_config(draft: Draft, key: str, value: object, name: str) -> DataConfig | None:
    group = open_group(draft, key, value, nested="params_config")
    if group is None:
        return None
    parts = [
        open_group(draft, f"{key}.{part}", group.get(part) if part in group.entries else {}, nested="params")
        for part in _PARTS
    ]
    load, text = parts
    return None if load is None or text is None else DataConfig(name, group, load, text)


def take_training(config: DataConfig, facts: Facts) -> None:
    """Take the data configuration that is trained on."""
    _take_outer(config)
    source = config.source
    config.load.take(LoadKeys(config, facts, "data.train").rules(), "load_dataset_config")
    if source.files is None:
        config.load.draft.refuse(config.load.key, "names no rows; write data_files or data_name")
    config.text.take(text_rules(config.text), "pre_process_data_config")
    take_text_defaults(config.text)


def is_own_validation(config: DataConfig, training: DataConfig) -> bool:
    """Whether the validation rows are those that the training's folder or data set keeps itself."""
    source, trained = config.source, training.source
    has_files = "data_files" in training.load.entries
    return source.files == trained.files and source.split == "validation" != trained.split and not has_files


def take_validation(config: DataConfig, training: DataConfig, facts: Facts) -> None:
    """Take the data configuration that is validated on, beside the one that is trained on."""
    _take_outer(config)
    draft, source, trained = config.load.draft, config.source, training.source
    is_same = source.files == trained.files
    if is_same and source.split == trained.split and not (source.rows and trained.rows):
        draft.refuse(
            f"{config.load.key}.split",
            "takes rows that are trained too; write slices that share no row, such as train[:80%] and train[80%:], or "
            "eval_dataset_size in the pass",
        )
        return
    is_own_split = is_own_validation(config, training)
    own_files = is_own_split or (is_same and source.split == trained.split)
    why = OWN_VALIDATION if is_own_split else "the rows of the training files"
    keys = LoadKeys(config, facts, "" if own_files else "data.validation", why)
    config.load.take(keys.rules(), "load_dataset_config")
    if is_same and not own_files:
        draft.refuse(f"{config.load.key}.split", f"{source.split!r} of the same data set; name its file in data_files")
    for name, entry in config.text.entries.items():
        if entry.value == training.text.get(name):
            draft.add(entry.key, entry.value, same("as for the training rows"))
        else:
            draft.refuse(entry.key, "differs from the training rows; a recipe writes all rows the same way")


def _take_outer(config: DataConfig) -> None:
    config.group.take(CONFIG_RULES, "a data configuration")


CONFIG_RULES: Final[dict[str, Rule]] = {
    "name": noted(),
    "type": only(
        ("HuggingfaceContainer", "huggingfacecontainer", "DataContainer", "datacontainer", None),
        "files and data sets of Hugging Face are read",
        "rows are read from files and data sets of Hugging Face; write HuggingfaceContainer",
    ),
    **dict.fromkeys(_PARTS, opened),
    "load_dataset": never("write load_dataset_config"),
    "params": never("write load_dataset_config and pre_process_data_config"),
    "components": never("write load_dataset_config and pre_process_data_config"),
    "user_script": never(NO_CODE),
    "script_dir": never(NO_CODE),
    "post_process_data_config": only(({}, None), "nothing is done", "answers are scored by `evaluation`; remove it"),
    "dataloader_config": only(
        ({}, None), "nothing is asked", "has no effect: batches are made by training.batch_tokens; remove it"
    ),
}
