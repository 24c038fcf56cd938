"""The `dataset/` folder of a run: the splits as rows that a person can read and as token tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson

from kivnun.data.prepare import PreparedData, PreparedRow
from kivnun.data.split import SPLITS
from kivnun.data.template import PromptTemplate, load_template
from kivnun.data.text_pairs import write_prompt
from kivnun.data.tokens import TokenTable, load_table, save_table

SUMMARY_NAME = "summary.json"


@dataclass(frozen=True)
class StoredRow:
    """One row of a split as it stands in `dataset/<split>.jsonl`.

    Attributes:
        id: Content hash.
        where: `file:line` of the row.
        fields: The row's fields.
        prompt: Text that the model is asked.
        answer: Text that it should answer.
        prompt_ids: Token ids of the prompt.
        rejected: Text that it should not answer, of a row whose two answers are learnt.
        desirable: Whether the answer is a good one, of a row that is judged.
    """

    id: str
    where: str
    fields: Mapping[str, str]
    prompt: str
    answer: str
    prompt_ids: tuple[int, ...]
    rejected: str = ""
    desirable: bool | None = None


@dataclass(frozen=True)
class Dataset:
    """A finished `dataset/` folder."""

    folder: Path
    template: PromptTemplate
    stop_ids: frozenset[int]
    dropped: Mapping[str, int]
    repeated: Mapping[str, int]
    labels: tuple[str, ...] = ()

    def summary(self) -> dict[str, object]:
        """Counts of rows and tokens per split, and what was left out."""
        return read_summary(self.folder)

    def table(self, split: str) -> TokenTable:
        """Token table of a split."""
        return load_table(self.folder / f"{split}.safetensors")

    def rows(self, split: str) -> list[StoredRow]:
        """Rows of a split."""
        lines = (self.folder / f"{split}.jsonl").read_bytes().splitlines()
        return [StoredRow(**{**row, "prompt_ids": tuple(row["prompt_ids"])}) for row in map(orjson.loads, lines)]

    def describe_row(self, number: int, split: str = "train") -> dict[str, object]:
        """What a person wants to see of one row: where it stands, and its texts."""
        row = self.rows(split)[number]
        return {"where": row.where, "prompt": row.prompt, "answer": row.answer}

    def prompt_rows(self, limit: int) -> list[StoredRow]:
        """Up to `limit` rows to ask a model about: the test rows, or others where the recipe keeps none.

        Of running text the first half of each window, up to 64 tokens, is the prompt.
        """
        found = ((name, self.rows(name)[:limit]) for name in ("test", "validation", "train"))
        split, rows = next((name, rows) for name, rows in found if rows)
        if self.template.kind != "document":
            return rows
        table = self.table(split)
        cuts = [min(64, max(1, table.length(number) // 2)) for number in range(len(rows))]
        prompts = [tuple(table.input_ids(number)[:cut].tolist()) for number, cut in enumerate(cuts)]
        return [replace(row, prompt_ids=prompt) for row, prompt in zip(rows, prompts, strict=True)]


def sample_rows(rows: Sequence[StoredRow], limit: int, *, seed: int) -> list[StoredRow]:
    """At most `limit` rows, drawn by a seed and in their own order: files are often sorted by label."""
    if len(rows) <= limit:
        return list(rows)
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))[:limit]
    return [rows[number] for number in sorted(chosen.tolist())]


def sample_documents(table: TokenTable, limit: int, *, seed: int) -> list[list[int]]:
    """Token ids of at most `limit` documents, drawn by a seed and in their own order."""
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(table.num_documents)[:limit]
    return [table.input_ids(number).tolist() for number in sorted(chosen.tolist())]


def write_dataset(prepared: PreparedData, folder: Path, about: Mapping[str, object] | None = None) -> None:
    """Write the splits into an existing, empty folder.

    Args:
        prepared: The splits.
        folder: Where to.
        about: Further entries of the summary, as JSON values: how rows were read, cut and checked.
    """
    counts = {}
    for split in SPLITS:
        rows, table = prepared.splits[split], prepared.table(split)
        save_table(table, folder / f"{split}.safetensors")
        is_text = prepared.template.kind == "document"
        lines = [_document_line(row) if is_text else _row_line(row) for row in rows]
        (folder / f"{split}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        counts[split] = {"rows": len(rows), "tokens": table.num_tokens, "trained_tokens": prepared.num_trained(split)}
    prepared.template.save(folder)
    summary = {
        "splits": counts,
        "dropped": dict(prepared.dropped),
        "repeated": dict(prepared.repeated),
        "stop_ids": sorted(prepared.stop_ids),
        **({"labels": list(prepared.labels)} if prepared.labels else {}),
        **(about or {}),
    }
    (folder / SUMMARY_NAME).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_dataset(folder: Path) -> Dataset:
    """Open a finished `dataset/` folder."""
    summary = read_summary(folder)
    stop_ids = frozenset(summary["stop_ids"])
    dropped, repeated, labels = summary["dropped"], summary.get("repeated", {}), tuple(summary.get("labels", ()))
    return Dataset(folder, load_template(folder), stop_ids, dropped, repeated, labels)


def read_summary(folder: Path) -> dict:  # type: ignore[type-arg]
    """Counts of a dataset folder, as written."""
    return json.loads((folder / SUMMARY_NAME).read_text("utf-8"))


def _row_line(row: PreparedRow) -> bytes:
    conversation = row.conversation
    judged: dict[str, object] = {}
    if row.others and conversation.rejected is not None:
        judged["rejected"] = conversation.rejected.content
    if conversation.desirable is not None:
        judged["desirable"] = conversation.desirable
    return orjson.dumps(
        {
            "id": conversation.content_hash,
            "where": conversation.where,
            "fields": dict(conversation.fields),
            "prompt": write_prompt(conversation),
            "answer": conversation.answer,
            "prompt_ids": row.prompt_ids,
            **judged,
        }
    )


def _document_line(row: PreparedRow) -> bytes:
    """A window of running text: its place only, since the text stands in the table."""
    source = {"source": row.conversation.fields.get("source", "")}
    empty = {"prompt": "", "answer": "", "prompt_ids": []}
    return orjson.dumps({"id": "", "where": row.conversation.where, "fields": source, **empty})
