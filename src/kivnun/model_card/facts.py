"""What a card tells, gathered from a run folder alone; what is not known there is said to be unknown."""

import platform
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import orjson
import psutil
import torch
from huggingface_hub import try_to_load_from_cache
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from kivnun.data.check_counts import say_checks
from kivnun.data.folder import read_summary
from kivnun.data.template import PromptTemplate, load_template
from kivnun.models.resolve import bundled_folder
from kivnun.recipe.schema import Recipe
from kivnun.results import RunResults, read_results, training_events
from kivnun.runs import Event, RunLock, read_events, read_lock

UNKNOWN_LICENSE = "other"
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
# Scripts that nearly always stand for one language; Latin, Arabic and Cyrillic letters tell of none.
_SCRIPT_LANGUAGES = {"HEBREW": "he", "GREEK": "el", "HANGUL": "ko", "THAI": "th", "GEORGIAN": "ka", "ARMENIAN": "hy"}
_SCRIPT_ROWS, _SCRIPT_SHARE = 1000, 0.05
_SECTIONS = ("method", "training", "evaluation", "optimization")


@dataclass(frozen=True)
class Base:
    """The model that was started from.

    Attributes:
        name: What it is called in the card: never a path of this machine.
        hub_id: Its id on the hub; None for a model that is not from there.
        revision: The hub's commit.
        license: Its licence as the hub writes it, `other` where it is not known.
        license_words: Where that was found.
    """

    name: str
    hub_id: str | None
    revision: str | None
    license: str
    license_words: str


@dataclass(frozen=True)
class Cost:
    """What the training took.

    Attributes:
        steps: Steps that were done.
        tokens: Tokens that they read.
        seconds: How long they took.
        energy_joules: What counters of the machine say; None where none could be read.
        energy_seconds: The part of the time that these counters cover.
    """

    steps: int
    tokens: int
    seconds: float
    energy_joules: float | None
    energy_seconds: float


@dataclass(frozen=True)
class CardFacts:
    """Everything that the cards of a run tell.

    Attributes:
        name: Of the run.
        recipe: What was asked for.
        lock: What it resolved to.
        base: The model that was started from.
        results: Scores, parity table and data checks.
        template: How prompts are written.
        splits: Counts of each split.
        dropped: Rows left out, by the reason.
        checks: What the data checks found, in words.
        settings: Settings that are not the defaults, one a line.
        cost: What the training took; None where its steps are not in the log.
        hardware: The machine.
        languages: Languages that the training rows' letters tell.
        datasets: Data sets of the hub among the data.
    """

    name: str
    recipe: Recipe
    lock: RunLock
    base: Base
    results: RunResults
    template: PromptTemplate
    splits: Mapping[str, Mapping[str, int]]
    dropped: Mapping[str, int]
    checks: Sequence[str]
    settings: Sequence[str]
    cost: Cost | None
    hardware: str
    languages: Sequence[str]
    datasets: Sequence[str]


def gather_facts(run_dir: Path, recipe: Recipe) -> CardFacts:
    """Read a finished run.

    Args:
        run_dir: The run folder.
        recipe: Its recipe.

    Raises:
        UserError: `run-missing` or `artifact-damaged`.
    """
    lock = read_lock(run_dir)
    results = read_results(run_dir, recipe)
    summary = read_summary(run_dir / "dataset")
    return CardFacts(
        name=recipe.name or run_dir.resolve().name,
        recipe=recipe,
        lock=lock,
        base=_describe_base(recipe, lock),
        results=results,
        template=load_template(run_dir / "dataset"),
        splits=summary["splits"],
        dropped=summary["dropped"],
        checks=say_checks(results.checks),
        settings=_list_settings(recipe),
        cost=_measure_cost(training_events(read_events(run_dir / "events.jsonl"))),
        hardware=_describe_machine(lock),
        languages=_find_languages(run_dir / "dataset" / "train.jsonl"),
        datasets=_find_datasets(recipe, lock),
    )


def read_license(folder: Path | None, readme: Path | None = None) -> tuple[str, str]:
    """The licence of a model folder as the hub writes it, and where that stands.

    Args:
        folder: The model; None where it is not on this machine.
        readme: Its card, where that does not lie in the folder.
    """
    card = readme or (folder / "README.md" if folder else None)
    if card is not None and card.is_file():
        found = _FRONT_MATTER.match(card.read_text("utf-8", errors="replace"))
        license_id = _read_yaml(found[1]).get("license") if found else None
        if isinstance(license_id, str):
            return license_id, "as the base model's card says"
    config = folder / "config.json" if folder else None
    if config is not None and config.is_file():
        license_id = orjson.loads(config.read_bytes()).get("license")
        if isinstance(license_id, str):
            return license_id, "as the base model's config.json says"
    return UNKNOWN_LICENSE, "the base model's folder does not say which: look it up before you pass this model on"


def _describe_base(recipe: Recipe, lock: RunLock) -> Base:
    name, revision = lock.base_model.name, lock.base_model.revision
    if not isinstance(recipe.base_model, str):
        words = "the model was trained from random weights: choose a licence that its data allows"
        return Base("none; trained from random weights", None, None, UNKNOWN_LICENSE, words)
    bundled = bundled_folder(name)
    if bundled is not None:
        license_id, words = read_license(bundled)
        if license_id == UNKNOWN_LICENSE:
            license_id, words = "apache-2.0", "Kivnun's own, with which the base model comes"
        return Base(f"Kivnun's {name} model", None, None, license_id, words)
    if revision is not None:
        cached = try_to_load_from_cache(name, "README.md", revision=revision)
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        folder = Path(config).parent if isinstance(config, str) else None
        found = read_license(folder, Path(cached) if isinstance(cached, str) else None)
        return Base(name, name, revision, *found)
    return Base(Path(name).name, None, None, *read_license(Path(name)))


def _read_yaml(text: str) -> Mapping[str, object]:
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return {}
    return cast("Mapping[str, object]", values) if isinstance(values, dict) else {}


def _list_settings(recipe: Recipe) -> list[str]:
    """Settings that are not the defaults; of paths only the last part, since the rest tells of this machine."""
    lines: list[str] = []
    for name in _SECTIONS:
        section = getattr(recipe, name)
        if section is None:
            continue
        values = section.model_dump(mode="json", exclude_defaults=True)
        kind = getattr(section, "kind", None)
        values = {"kind": kind, **values} if kind is not None else values
        lines += [f"{name}.{field}: {_show(_without_folders(value))}" for field, value in values.items()]
    return lines


def _without_folders(value: object) -> object:
    if isinstance(value, str):
        return Path(value).name if value.startswith(("/", "~", ".")) else value
    if isinstance(value, dict):
        return {name: _without_folders(each) for name, each in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_without_folders(each) for each in cast("list[object]", value)]
    return value


def _show(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _measure_cost(events: Sequence[Event]) -> Cost | None:
    steps = [event for event in events if event["event"] == "step"]
    if not steps:
        return None
    measured = [event for event in events if event["event"] == "usage" and "energy_joules" in event]
    return Cost(
        steps=max(int(str(event["step"])) for event in steps),
        tokens=sum(int(str(event["num_tokens"])) for event in steps),
        # Steps that were done again after an interruption took their time again.
        seconds=sum(float(str(event["seconds"])) for event in steps),
        energy_joules=sum(float(str(event["energy_joules"])) for event in measured) if measured else None,
        energy_seconds=sum(float(str(event["energy_seconds"])) for event in measured),
    )


def _describe_machine(lock: RunLock) -> str:
    cores, memory = psutil.cpu_count(logical=False) or psutil.cpu_count(), psutil.virtual_memory().total / 2**30
    words = f"{_processor_name()}, {cores} core{'s' if cores != 1 else ''}, {memory:.0f} GiB of memory"
    if lock.device.startswith("cuda") and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}; {words}"
    return words


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _find_languages(rows: Path) -> list[str]:
    """Languages told by the letters of the first training rows; those of scripts that many languages share are not."""
    letters: Counter[str] = Counter()
    with rows.open("rb") as file:
        for _, line in zip(range(_SCRIPT_ROWS), file, strict=False):
            row = orjson.loads(line)
            text = f"{row.get('prompt') or ''} {row.get('answer') or ''}"
            letters.update(unicodedata.name(letter, "").split(" ")[0] for letter in text if letter.isalpha())
    total = letters.total()
    return sorted(
        language for script, language in _SCRIPT_LANGUAGES.items() if letters[script] > _SCRIPT_SHARE * max(total, 1)
    )


def _find_datasets(recipe: Recipe, lock: RunLock) -> list[str]:
    """Data sets of the hub: what the recipe names so and is no file here, and what the cache of the hub holds of it."""
    given = recipe.data.train if isinstance(recipe.data.train, list) else [recipe.data.train]
    plain = [str(name).partition("@")[0].partition(":")[0] for name in given]
    return [name for name in plain if any(f"datasets--{name.replace('/', '--')}" in path for path in lock.data)]
