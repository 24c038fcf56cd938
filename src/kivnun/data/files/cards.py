"""The card of a Hugging Face data set (README.md): which files belong to which configuration and split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kivnun.data.files.dataset import Split
from kivnun.data.files.names import find_split
from kivnun.errors import UserError

CARD_NAME = "README.md"
_FENCE = "---"


@dataclass(frozen=True)
class Part:
    """Files of a configuration that are one split.

    Attributes:
        split: Its split; None where the files' own names tell.
        patterns: Which files, as fnmatch takes them.
        why: The configuration, and what it calls the split.
    """

    split: Split | None
    patterns: Sequence[str]
    why: str


def choose_parts(card: Path, repo_id: str, wanted: str) -> list[Part]:
    """The parts of the configuration that is wanted; none where the card says nothing about files.

    Args:
        card: The README.md, which need not be there.
        repo_id: The data set, for messages.
        wanted: The configuration, or "" for the only or default one.

    Raises:
        UserError: `data-format`, if there are several and none was named, or none of that name.
    """
    configs = _read_configs(card)
    names = list(configs)
    if wanted and wanted not in configs:
        known = f"configurations: {', '.join(names)}" if names else "its card names no configurations"
        raise UserError(
            "data-format", f"{repo_id} has no configuration {wanted!r}", details=[known], hint="name one that it has"
        )
    if not configs:
        return []
    chosen = wanted or next((name for name, config in configs.items() if config.get("default") is True), "")
    chosen = chosen or ("default" if "default" in configs else "")
    if not chosen and len(names) > 1:
        raise UserError(
            "data-format",
            f"{repo_id} has several configurations",
            details=[", ".join(names)],
            hint=f"name one: {repo_id}:{names[0]}",
        )
    return _read_parts(chosen or names[0], configs[chosen or names[0]])


def _read_configs(card: Path) -> dict[str, Mapping[str, object]]:
    """Configurations with files by name, in the card's order."""
    from ruamel.yaml import YAML, YAMLError  # noqa: PLC0415 - most data is local

    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    start, _, rest = text.lstrip("\ufeff").partition(f"{_FENCE}\n")
    try:
        front = YAML(typ="safe", pure=True).load(rest.partition(f"\n{_FENCE}")[0]) if not start.strip() else None
    except (YAMLError, ValueError, RecursionError):
        # A day that does not exist, a word where a number is said to be, brackets without end.
        return {}
    listed = front.get("configs") if isinstance(front, dict) else None
    configs = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {str(config.get("config_name", "default")): config for config in configs if config.get("data_files")}


def _read_parts(name: str, config: Mapping[str, object]) -> list[Part]:
    files = config["data_files"]
    folder = str(config.get("data_dir") or "").strip("/")
    if isinstance(files, Mapping):
        files = [{"split": split, "path": path} for split, path in files.items()]
    parts: list[Part] = []
    for entry in files if isinstance(files, list) else [files]:
        if isinstance(entry, dict):
            split = str(cast("dict[str, object]", entry).get("split", ""))
            parts.append(_make_part(folder, entry.get("path"), name, split))
        else:
            parts.append(_make_part(folder, entry, name, ""))
    return parts


def _make_part(folder: str, paths: object, name: str, split: str) -> Part:
    listed = paths if isinstance(paths, list) else [paths]
    patterns = [f"{folder}/{path}" if folder else str(path) for path in listed if isinstance(path, str)]
    why = f"configuration {name}" + (f", split {split}" if split else "")
    return Part(find_split(Path(split))[0] if split else None, [*patterns, *_open_folders(patterns)], why)


def _open_folders(patterns: Sequence[str]) -> list[str]:
    """What `**/` means where it stands for no folder at all, which fnmatch does not know."""
    return [pattern.replace("**/", "") for pattern in patterns if "**/" in pattern]
