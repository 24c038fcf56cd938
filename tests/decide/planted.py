"""Planted tasks: invented facts and formats of which it is known beforehand which way to customise a model must win."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
SIZES = {"train": 240, "validation": 40, "test": 80}


def invented_names(count: int, seed: int) -> list[str]:
    """Different names of three syllables."""
    draw = random.Random(seed)  # noqa: S311 - invented names, no secrets
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(draw.choice(SYLLABLES) for _ in range(3)).capitalize()] = None
    return list(names)


def invented_facts(seed: int) -> dict[str, dict[str, str]]:
    """A code for every name, by split."""
    draw = random.Random(seed)  # noqa: S311 - invented names, no secrets
    names = iter(invented_names(sum(SIZES.values()), seed))
    return {split: {next(names): str(draw.randrange(100, 1000)) for _ in range(size)} for split, size in SIZES.items()}


def write_rows(folder: Path, split: str, rows: Sequence[Mapping[str, str]]) -> None:
    """The rows of a split as JSONL."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def write_documents(folder: Path, texts: Mapping[str, str]) -> None:
    """One short document for each name."""
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / "documents" / f"{name}.md").write_text(text + "\n", "utf-8")


def write_recipe(folder: Path, base: str, **sections: Any) -> Path:
    """The recipe of a planted task; `sections` are merged into the usual ones."""
    recipe: dict[str, Any] = {
        "base_model": base,
        "data": {
            **{split: f"{split}.jsonl" for split in SIZES},
            "prompt_template": "{asked}",
            "answer_template": " {said}",
            "max_seq_len": 256,
        },
        "method": {"kind": "full"},
        "training": {"epochs": 4, "learning_rate": 5e-4, "batch_tokens": 1024},
        "evaluation": {"task": "generation", "max_new_tokens": 12},
        "retrieval": {"documents": "documents", "k": 1},
        "decide": {"learning_curve": [1.0], "timed_requests": 5, "shots": [2], "freshness_documents": 3},
    }
    for name, values in sections.items():
        recipe[name] = {**recipe.get(name, {}), **values}
    path = folder / "recipe.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(recipe, file)
    return path


def plant_knowledge(folder: Path, base: str) -> Path:
    """Facts that stand in documents only: whoever reads them is right, whoever learnt others is not."""
    facts = invented_facts(1)
    for split, codes in facts.items():
        rows = [{"asked": f"The code of {name} is", "said": code} for name, code in codes.items()]
        write_rows(folder, split, rows)
    write_documents(folder, {n: f"The code of {n} is {c}." for codes in facts.values() for n, c in codes.items()})
    return write_recipe(folder, base)


def plant_format(folder: Path, base: str) -> Path:
    """A private way to write what stands in the prompt: no document tells it, and two examples hardly do."""
    facts = invented_facts(2)
    for split, codes in facts.items():
        rows = [
            {"asked": f"Ticket {code} from {name}:", "said": f"{code} paid by {name}"} for name, code in codes.items()
        ]
        write_rows(folder, split, rows)
    write_documents(folder, {name: f"{name} came to the fair." for name in invented_names(20, 22)})
    return write_recipe(folder, base)


def plant_both(folder: Path, base: str) -> Path:
    """Facts of documents that must be written in a private way."""
    facts = invented_facts(3)
    for split, codes in facts.items():
        rows = [
            {"asked": f"The code of {name} is", "said": f"item {code} end", "document": f"{name}.md"}
            for name, code in codes.items()
        ]
        write_rows(folder, split, rows)
    write_documents(folder, {n: f"The code of {n} is {c}." for codes in facts.values() for n, c in codes.items()})
    return write_recipe(folder, base, retrieval={"gold": "document"})


def plant_nothing(folder: Path, base: str) -> Path:
    """What is asked stands in the prompt itself: nothing that costs more can be better."""
    facts = invented_facts(4)
    for split, codes in facts.items():
        rows = [
            {"asked": f"The code of {name} is {code}.\n\nThe code of {name} is", "said": code}
            for name, code in codes.items()
        ]
        write_rows(folder, split, rows)
    write_documents(folder, {name: f"{name} came to the fair." for name in invented_names(20, 44)})
    return write_recipe(folder, base)


def plant_leak(folder: Path, base: str) -> Path:
    """A test file some of whose rows are training rows."""
    path = plant_nothing(folder, base)
    train = (folder / "train.jsonl").read_text("utf-8").splitlines()
    test = (folder / "test.jsonl").read_text("utf-8").splitlines()
    (folder / "test.jsonl").write_text("\n".join([*test[5:], *train[:5]]) + "\n", "utf-8")
    return path
