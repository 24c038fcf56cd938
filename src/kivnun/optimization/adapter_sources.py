"""Where adapters come from: folders in PEFT's format or of runs, and what each brings besides its matrices."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kivnun.data.encode import Encoder
from kivnun.data.folder import read_summary
from kivnun.data.template import TEMPLATE_NAME
from kivnun.errors import UserError
from kivnun.generation.adapter_list import SUFFIX
from kivnun.methods.adapter import CONFIG_NAME
from kivnun.models.load import load_tokenizer
from kivnun.models.types import Tokenizer
from kivnun.optimization.golden import GOLDEN_NAME, read_golden
from kivnun.runs import verify_artifact
from kivnun.runs.manifest import MANIFEST_NAME

CHAT_TEMPLATE_NAME = "chat_template.jinja"
# What an adapter answers with besides its matrices: how prompts are written, and what it must answer.
OWN_FILES = (TEMPLATE_NAME, CHAT_TEMPLATE_NAME, GOLDEN_NAME)
PLACES = ("adapter", "model", "run")
"""Names that the parts of every run and of all that `kivnun finetune` makes have in common."""
_NAME = re.compile(r"\w[\w.-]{0,63}")
NUM_GOLDEN = 8
PROBE_TOKENS = 16
# Asked of an adapter that brings no golden prompts.
PROBES = ("The", "Once upon a time there was", "Question: what is the capital of France?\nAnswer:", "שלום, מה שלומך?")


@dataclass(frozen=True)
class AdapterSource:
    """An adapter to add.

    Attributes:
        name: What requests will call it.
        folder: Holds it in PEFT's format.
        run: The run that trained it, if it lies in one.
    """

    name: str
    folder: Path
    run: Path | None


@dataclass(frozen=True)
class Questions:
    """What an adapter is asked when it is added.

    Attributes:
        prompts: Token ids.
        max_new_tokens: Longest answer.
        stop_ids: Tokens that end its answers.
    """

    prompts: tuple[tuple[int, ...], ...]
    max_new_tokens: int
    stop_ids: frozenset[int]


def find_sources(items: Sequence[str]) -> tuple[AdapterSource, ...]:
    """The adapters that a command line names.

    Args:
        items: Each a folder, or `name=folder`; the folder of a run stands for its model, and what `kivnun finetune`
            made for its adapter. Without a name, the folder's own is taken; where two would be called `adapter`, the
            folders around them name them.

    Raises:
        UserError: `adapter-invalid` for what is no adapter folder or no name, `adapter-taken` for a name given twice.
    """
    found = [_find_source(item) for item in items]
    counts = Counter(source.name for source in found)
    sources = [
        source if "=" in item or counts[source.name] == 1 else replace(source, name=_name_around(source))
        for source, item in zip(found, items, strict=True)
    ]
    twice = [name for name, count in Counter(source.name for source in sources).items() if count > 1]
    if twice:
        folders = [f"{source.name}: {source.folder}" for source in sources if source.name in twice]
        hint = f"name them yourself, as in {twice[0]}-2={sources[-1].folder}"
        raise UserError("adapter-taken", f"two adapters would be called {twice[0]!r}", details=folders, hint=hint)
    for source in sources:
        _require_name(source.name)
    return tuple(sources)


def _name_around(source: AdapterSource) -> str:
    """What an adapter is called whose own name is one that every `finetune` gives; others keep theirs."""
    if source.name not in PLACES:
        return source.name
    return next((around.name for around in source.folder.resolve().parents if around.name not in PLACES), source.name)


def _find_source(item: str) -> AdapterSource:
    given, sign, text = item.rpartition("=")
    path = Path(text)
    places = (path, path / "model", path / "adapter")
    folder = next((place for place in places if (place / CONFIG_NAME).is_file()), path)
    if sign:
        _require_name(given)
    if not (folder / CONFIG_NAME).is_file():
        reason = "has no adapter_config.json" if folder.is_dir() else "is not a folder"
        hint = "name a folder that a LoRA training wrote, or a run whose method is lora or qlora"
        raise UserError("adapter-invalid", f"{text or item!r} is no adapter: {folder} {reason}", hint=hint)
    run = folder.resolve().parent if (folder / MANIFEST_NAME).is_file() and folder.resolve().name == "model" else None
    if (folder / MANIFEST_NAME).is_file():
        verify_artifact(folder)
    return AdapterSource(given or (run or path.resolve()).name, folder, run)


def _require_name(name: str) -> None:
    if _NAME.fullmatch(name) is None or name.endswith(SUFFIX):
        hint = "use letters, digits, _, - and dots, as in classifier=adapters/classifier"
        raise UserError("adapter-invalid", f"{name!r} cannot be the name of an adapter", hint=hint)


def copy_own_files(source: AdapterSource, folder: Path) -> None:
    """Copy an adapter's template and golden prompts."""
    folder.mkdir(parents=True)
    for name in OWN_FILES:
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)


def plan_questions(source: AdapterSource, base_folder: Path) -> Questions:
    """What to ask an adapter: its golden prompts, or a few texts that any model can continue.

    Raises:
        UserError: `adapter-invalid` where it was trained with another tokenizer than that of the base model.
    """
    tokenizer = load_tokenizer(base_folder)
    _require_tokenizer(source, tokenizer)
    encoder = Encoder(tokenizer)
    golden = read_golden(source.folder)
    if golden is not None:
        prompts = tuple(prompt.token_ids for prompt in golden.prompts[:NUM_GOLDEN])
        return Questions(prompts, min(golden.max_new_tokens, PROBE_TOKENS), golden.stop_ids)
    prompts = tuple(tuple(encoder.encode_prompt(text)) for text in PROBES)
    return Questions(prompts, PROBE_TOKENS, _stop_ids(source, base_folder, encoder.end_id))


def _stop_ids(source: AdapterSource, base_folder: Path, end_id: int) -> frozenset[int]:
    """Where answers end: what the run's data ended with, or what the base model says."""
    if source.run is not None and (source.run / "dataset").is_dir():
        return frozenset(read_summary(source.run / "dataset")["stop_ids"])
    return read_stop_ids(base_folder, end_id)


def has_chat_template(folder: Path) -> bool:
    """Whether a model folder says how a chat is written; `load_tokenizer` gives every model a template.

    Args:
        folder: Of the model.
    """
    if (folder / CHAT_TEMPLATE_NAME).is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_bytes()).get("chat_template"))


def read_stop_ids(folder: Path, end_id: int) -> frozenset[int]:
    """Tokens that end an answer of a model, as its folder says.

    Args:
        folder: A Hugging Face folder, or an ONNX folder.
        end_id: The tokenizer's end-of-text token, which always ends one.
    """
    ends = None
    for name, section in (("generation_config.json", None), ("genai_config.json", "model")):
        if (folder / name).is_file():
            fields = json.loads((folder / name).read_bytes())
            ends = (fields[section] if section else fields).get("eos_token_id")
    return frozenset({end_id, *([] if ends is None else ends if isinstance(ends, list) else [ends])})


def _require_tokenizer(source: AdapterSource, tokenizer: Tokenizer) -> None:
    if not (source.folder / "tokenizer.json").is_file():
        return
    own, base = load_tokenizer(source.folder).get_vocab(), tokenizer.get_vocab()
    if own != base:
        different = sorted(own.items() ^ base.items())
        raise UserError(
            "adapter-invalid",
            f"{source.folder}: the adapter has another tokenizer than the base model; adapters share the base's",
            hint="give it a model of its own: `kivnun run` with an optimization section merges it",
            details=[f"token {different[0][0]!r} has the number {different[0][1]} in one of them only"],
        )
