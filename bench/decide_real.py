"""`kivnun decide` on real rows: questions about paragraphs (XQuAD, English), topics of messages to a bank (Banking77).

    python bench/decide_real.py --data ../shared/data --out runs/decide-real [--only xquad|banking77]

Writes rows, documents and a recipe for each, and runs `kivnun decide` on it; the same words go on after a kill. The
paragraphs of the test questions are never those of the training questions, so that no arm can have learnt them; all
240 paragraphs are documents. Both use `bundled-reader`, the only model that comes with a reading ability: its 6 million
parameters make this a demonstration of the method and no statement on larger models.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

BASE = "bundled-reader"
XQUAD_TEST_PARAGRAPHS, XQUAD_VALIDATION_PARAGRAPHS = 60, 20
BANKING_ROWS = 3_000


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def write_recipe(folder: Path, **sections: Any) -> Path:
    path = folder / "recipe.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML().dump({"base_model": BASE, "method": {"kind": "full"}, **sections}, file)
    return path


def prepare_xquad(data: Path, folder: Path) -> Path:
    rows = [json.loads(line) for line in (data / "xquad_en" / "xquad_en.jsonl").read_text("utf-8").splitlines()]
    paragraphs = list(dict.fromkeys(row["context"] for row in rows))
    random.Random(0).shuffle(paragraphs)  # noqa: S311 - an order, no secret
    test = set(paragraphs[:XQUAD_TEST_PARAGRAPHS])
    validation = set(paragraphs[XQUAD_TEST_PARAGRAPHS : XQUAD_TEST_PARAGRAPHS + XQUAD_VALIDATION_PARAGRAPHS])
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        split = "test" if row["context"] in test else "validation" if row["context"] in validation else "train"
        right = {"answer": row["answers"][0], "others": json.dumps(list(dict.fromkeys(row["answers"])))}
        parts[split].append({"question": row["question"], **right, "passage": row["context"]})
    for split, part in parts.items():
        write_rows(folder / f"{split}.jsonl", part)
    documents = [{"id": str(number), "text": text} for number, text in enumerate(paragraphs)]
    write_rows(folder / "documents" / "paragraphs.jsonl", documents)
    return write_recipe(
        folder,
        data={
            **{split: str(folder / f"{split}.jsonl") for split in parts},
            "prompt_template": "Question: {question}\nAnswer:",
            "answer_template": " {answer}",
            "max_seq_len": 900,
        },
        training={"epochs": 3, "learning_rate": 5e-4, "batch_tokens": 4096},
        evaluation={"task": "question_answering", "references": "others", "max_new_tokens": 40},
        retrieval={
            "documents": str(folder / "documents"),
            "k": 2,
            "chunk_tokens": 120,
            "query": "question",
            "gold": "passage",
        },
        decide={"distractors": 1, "shots": [2]},
    )


def prepare_banking77(data: Path, folder: Path) -> Path:
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    random.Random(0).shuffle(read)  # noqa: S311 - an order, no secret
    rows = [{"message": row["text"], "topic": row["category"].replace("_", " ")} for row in read[:BANKING_ROWS]]
    write_rows(folder / "messages.jsonl", rows)
    data_section = {
        "train": str(folder / "messages.jsonl"),
        "prompt_template": "Message: {message}\nTopic:",
        "answer_template": " {topic}",
        "max_seq_len": 256,
        # Kivnun cuts: the data set's own test file repeats messages of its training file nearly word for word.
        "split": {"validation": 200, "test": 400},
    }
    return write_recipe(
        folder,
        data=data_section,
        training={"epochs": 6, "learning_rate": 1e-3, "batch_tokens": 2048},
        evaluation={"task": "classification", "label": "topic", "max_new_tokens": 24},
        decide={"shots": [2, 4, 8]},
    )


PREPARE = {"xquad": prepare_xquad, "banking77": prepare_banking77}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/decide-real"))
    parser.add_argument("--only", choices=tuple(PREPARE))
    arguments = parser.parse_args()
    for name, prepare in PREPARE.items():
        if arguments.only not in (None, name):
            continue
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        recipe = prepare(arguments.data, folder)
        command = [sys.executable, "-m", "kivnun", "decide", str(recipe), "--out", str(folder / "decide")]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{name}: the comparison did not end; what it says stands above")


if __name__ == "__main__":
    main()
