"""`load_dataset_config`: where the rows of a data configuration are, and which of them are taken."""

import re
from dataclasses import dataclass
from typing import Final, cast

from kivnun.olive.facts import Facts, take_client
from kivnun.olive.groups import NO_CODE, Group, Rule, never, noted, only, open_group, opened
from kivnun.olive.meanings import is_number, refused, same
from kivnun.olive.text_keys import OLIVE_MAX_SEQ_LEN
from kivnun.olive.translation import Meaning

LOADERS: Final = ("json", "csv", "parquet", "arrow", "text")
"""Names of builders of `datasets`, which read the files that are named beside."""
_SPLIT = re.compile(r"([\w.-]+)(?:\[(\d+%?)?:(\d+%?)?\])?")


@dataclass(frozen=True)
class Source:
    """Where the rows of a data configuration are.

    Attributes:
        files: What the recipe calls the files, folder or data set.
        split: Name of the split.
        rows: The rows that are taken, such as `0:4096`; empty for all.
    """

    files: object
    split: str
    rows: str


@dataclass(frozen=True)
class DataConfig:
    """One entry of `data_configs`."""

    name: str
    group: Group
    load: Group
    text: Group

    @property
    def source(self) -> Source:
        """Where its rows are."""
        match = _SPLIT.fullmatch(str(self.load.get("split") or "train"))
        rows = f"{match[2] or ''}:{match[3] or ''}" if match and (match[2] or match[3]) else ""
        return Source(_files(self.load), match[1] if match else "", rows)

    @property
    def block_tokens(self) -> int | None:
        """Tokens of the blocks that Olive joins rows into; None where a row stays a row."""
        strategy = self.text.get("corpus_strategy") or self.text.get("strategy") or "join"
        if not str(strategy).startswith("join"):
            return None
        length = self.text.get("source_max_len") or self.text.get("max_seq_len") or OLIVE_MAX_SEQ_LEN
        return cast("int", length) if is_number(length, whole=True) else OLIVE_MAX_SEQ_LEN


def _files(load: Group) -> object:
    """What the recipe calls the rows."""
    files = load.get("data_files")
    if isinstance(files, dict):
        given = cast("dict[str, object]", files)
        if "type" in given:
            config = given.get("config")
            return cast("dict[str, object]", config).get("relative_path") if isinstance(config, dict) else None
        split = str(load.get("split") or "train").partition("[")[0]
        return given.get(split)
    if files is not None:
        return files
    name, subset = load.get("data_name"), load.get("subset")
    return f"{name}:{subset}" if isinstance(subset, str) and isinstance(name, str) else name


@dataclass(frozen=True)
class LoadKeys:
    """The keys of `load_dataset_config`.

    Attributes:
        config: The data configuration.
        facts: What is known of the file beside it.
        path: The field of the recipe that its files are; empty where they are another field's already.
        why_same: Why nothing more is said of them then.
    """

    config: DataConfig
    facts: Facts
    path: str
    why_same: str = ""

    def rules(self) -> dict[str, Rule]:
        """What each key becomes."""
        subset = self.config.load.get("subset")
        return {
            "data_name": self._data_name,
            "data_files": self._data_files,
            "split": self._split,
            "subset": only(
                () if self._has_files else (subset,),
                "part of the data set's name",
                "has no effect beside data_files; remove it",
            ),
            "type": only(
                ("huggingface_dataset", None), "data sets of Hugging Face", "write huggingface_dataset, or remove it"
            ),
            "data_dir": never("name the folder in data_name"),
            "trust_remote_code": only((True, False), "code from hubs is never run", "should be true or false"),
            "revision": never("write it behind the data set's name: org/name@revision"),
            "streaming": never("files are read whole; remove it"),
            "cache_dir": never("HF_HOME says where downloads are kept; remove it"),
            "token": never("a token belongs in HF_TOKEN and in no file"),
            "user_script": never(NO_CODE),
            "script_dir": never(NO_CODE),
        }

    @property
    def _has_files(self) -> bool:
        return "data_files" in self.config.load.entries

    def _put(self, value: object, note: str = "") -> Meaning:
        return Meaning("renamed", {self.path: value}, note) if self.path else same(self.why_same)

    def _data_name(self, value: object) -> Meaning:
        if self._has_files:
            if value in LOADERS:
                return same("the format is found in the files themselves")
            return refused("stands beside data_files; keep data_files, or name the whole data set without it")
        if value in LOADERS:
            return refused(f"{value!r} says how, not where; write data_files")
        return self._put(self.config.source.files)

    def _data_files(self, value: object) -> Meaning:
        source = self.config.source
        if isinstance(value, dict) and "type" in value:
            return self._data_store(cast("dict[str, object]", value))
        named = cast("list[object]", source.files) if isinstance(source.files, list) else [source.files]
        if source.files is None:
            return refused(f"has no files of the split {source.split!r}")
        splits = list(cast("dict[str, object]", value)) if isinstance(value, dict) else [source.split]
        if splits != [source.split]:
            unread = next(split for split in splits if split != source.split)
            return refused(f"{unread!r} has no effect beside split: {source.split}; give it a data configuration")
        if not named or not all(isinstance(each, str) and each for each in named):
            return refused("should be a path, a list of paths, or paths by split")
        if any("*" in str(each) for each in named):
            return refused("patterns are not expanded; name the folder, or the files one by one")
        return self._put(source.files)

    def _split(self, value: object) -> Meaning:
        source = self.config.source
        if not _SPLIT.fullmatch(str(value)):
            return refused(f"{value!r} is not read; write a split such as train, train[:4096] or train[10%:20%]")
        if self.path == "data.train" and source.split != "train" and not self._has_files:
            return refused(f"rows of {source.split!r} are not trained on; name the file in data_files")
        if source.rows and not self.path and source.split == "validation":
            return refused("the data set's own validation rows are taken whole; write validation")
        if source.rows:
            rows_path = "data.train_rows" if self.path == "data.train" else "data.validation_rows"
            return Meaning("renamed", {rows_path: source.rows})
        return same(self.why_same or "all rows of the files")

    def _data_store(self, value: dict[str, object]) -> Meaning:
        """A file in a data store of Azure, which the job is given as an input."""
        load = self.config.load
        key = load.entries["data_files"].key
        if value.get("type") != "azureml_datastore":
            return refused(f"type {value.get('type')!r} is not read; write the path itself")
        if not self.facts.is_azure:
            text = "is read by a job on Azure: name an AzureML system in engine.host, or write the path of a file"
            return refused(f"a data store {text}")
        group = open_group(load.draft, key, value)
        if group is None:
            return refused("should be a group of keys")
        group.take(STORE_RULES, "azureml_datastore")
        if "azureml_client" in group.entries:
            take_client(load.draft, group.entries["azureml_client"].key, group.get("azureml_client"), self.facts)
        store, path = group.get("datastore_name"), group.get("relative_path")
        if not isinstance(store, str) or not isinstance(path, str):
            return refused("lacks datastore_name or relative_path")
        address = f"azureml://datastores/{store}/paths/{path.lstrip('/')}"
        self.facts.add_input(key, path, address)
        return self._put(path, f"where.inputs: {path}: {address}")


STORE_RULES: Final[dict[str, Rule]] = {
    "type": noted("an input of the job"),
    "datastore_name": noted("in where.inputs"),
    "relative_path": noted("in where.inputs, and the name of the file in the recipe"),
    "azureml_client": opened,
    "datastore_url": never("write datastore_name and relative_path"),
}
