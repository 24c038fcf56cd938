"""A small comparison in a folder: invented facts in documents, rows that ask for them, and a recipe of few steps."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo")
COUNTS = {"train": 24, "validation": 12, "test": 20}


def facts(seed: int = 5) -> dict[str, dict[str, str]]:
    """A code for every name, by split; names of no two rows are alike."""
    draw = random.Random(seed)  # noqa: S311 - planted rows
    names: dict[str, None] = {}
    while len(names) < sum(COUNTS.values()):
        names["".join(draw.sample(SYLLABLES, 4)).capitalize()] = None
    there = iter(names)
    return {split: {next(there): str(draw.randrange(100, 1000)) for _ in range(n)} for split, n in COUNTS.items()}


def write_lines(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def write_workshop(folder: Path, base: Path, *, documents: bool = True, **sections: Any) -> Path:
    """Rows, documents and recipe; `sections` are merged into those of the recipe, None takes one away."""
    known = facts()
    for split, codes in known.items():
        write_lines(
            folder / f"{split}.jsonl",
            [{"asked": f"{name} has the code", "said": code, "document": f"{name}.md"} for name, code in codes.items()],
        )
    if documents:
        (folder / "documents").mkdir(exist_ok=True)
        for codes in known.values():
            for name, code in codes.items():
                (folder / "documents" / f"{name}.md").write_text(f"{name} has the code {code}.\n", "utf-8")
    recipe: dict[str, Any] = {
        "base_model": str(base),
        "data": {
            **{split: f"{split}.jsonl" for split in known},
            "prompt_template": "{asked}",
            "answer_template": " {said}",
        },
        "method": {"kind": "full"},
        "training": {"max_steps": 2, "precision": "fp32", "compile": False},
        "evaluation": {"task": "generation", "max_new_tokens": 4, "resamples": 100},
        "retrieval": {"documents": "documents", "k": 2, "gold": "document"},
        "decide": {
            "shots": [1, 2],
            "pilot_rows": 6,
            "timed_requests": 2,
            "learning_curve": [0.5, 1.0],
            "freshness_documents": 2,
            "distractors": 1,
        },
    }
    for name, values in sections.items():
        recipe[name] = values if values is None else {**(recipe.get(name) or {}), **values}
    path = folder / "recipe.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML().dump({name: value for name, value in recipe.items() if value is not None}, file)
    return path
