"""What a change of documents does: some are changed in a copy, indexed again, and asked about.

The answer of a question is replaced by that of another one, in every place of its document. An arm that reads documents
should give the new answer; one that learnt the old one keeps giving it until it is trained again. The user's own
documents are read and never written to.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kivnun.asking.kept import ask_all
from kivnun.decide.arms import RETRIEVING, TRAINED, PlannedArm
from kivnun.decide.context import Context
from kivnun.decide.measure import Write, pay, write_plain, write_with_passages, writer_of
from kivnun.decide.passages import Passages, holds_text, open_passages
from kivnun.decide.results import Freshness
from kivnun.decide.rows import DecideRow, sample
from kivnun.decide.state import Measured, kept_values
from kivnun.evaluation.scoring import score_rows
from kivnun.recipe.retrieval import RetrievalSection

FOLDER, RESULT_NAME = "freshness", "freshness.json"
WRITABLE = (".txt", ".text", ".md", ".markdown", ".html", ".htm", ".xhtml")
RECORDS = (".jsonl", ".ndjson")
RIGHT = 0.5
"""Score from which on an answer counts as the new one, or as the old one."""


@dataclass(frozen=True)
class Change:
    """A document that is changed.

    Attributes:
        row: The question about it.
        document: Its id.
        old: What it says.
        new: What it says afterwards.
    """

    row: DecideRow
    document: str
    old: str
    new: str


def measure_freshness(context: Context, measured: Sequence[tuple[PlannedArm, Measured]]) -> dict[str, Freshness]:
    """What every measured arm says about changed documents, by its name; nothing where there are no documents.

    Args:
        context: The comparison.
        measured: The arms with their plans.
    """
    passages, settings = context.passages, context.settings
    if passages is None or not settings.freshness_documents:
        return {}
    asked = [(planned, each) for planned, each in measured if each.arm.is_selectable]
    # The answers stand for the model: another one under the same name would have given others.
    done = [(planned.name, planned.spec, each.arm.answers, dict(each.arm.settings)) for planned, each in asked]
    made = json.dumps([context.fixed, passages.digest, done], default=str)
    key = hashlib.sha256(made.encode()).hexdigest()
    values = kept_values(context.folder / RESULT_NAME, key, lambda: _measure(context, passages, asked))
    return {name: Freshness(**each) for name, each in values.items()}


def _measure(
    context: Context, passages: Passages, asked: Sequence[tuple[PlannedArm, Measured]]
) -> dict[str, dict[str, Any]]:
    changes = choose_changes(context, passages)
    if not changes:
        return {planned.name: asdict(_nothing()) for planned, _ in asked}
    folder = context.folder / FOLDER
    # What an interrupted command left is a copy that may have been changed already.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy = copy_documents(passages.settings, folder)
    open_passages(copy, folder / "index", log=context.log).index.close()
    change_documents(copy, changes)
    begun = time.monotonic()
    changed = open_passages(copy, folder / "index", log=context.log)
    seconds = time.monotonic() - begun
    found = {planned.name: asdict(_ask(context, planned, each, changes, changed, seconds)) for planned, each in asked}
    changed.index.close()
    return found


def choose_changes(context: Context, passages: Passages) -> list[Change]:
    """Questions whose answer stands in their document word for word, one for each document, with another answer."""
    files = document_files(passages.settings)
    by_document: dict[str, DecideRow] = {}
    for row in context.test:
        gold = passages.gold(row)
        if gold is None or gold.document in by_document:
            continue
        name, _, _ = gold.document.partition("#")
        is_writable = name in files and files[name].suffix.lower() in (*WRITABLE, *RECORDS)
        if is_writable and _can_change(files[name], gold.text, row):
            by_document[gold.document] = row
    rows = sample(list(by_document.values()), context.settings.freshness_documents, seed=context.settings.seed)
    documents = {row.id: document for document, row in by_document.items()}
    answers = list(dict.fromkeys(row.references[0].strip() for row in by_document.values()))
    changes: list[Change] = []
    for number, row in enumerate(rows):
        document = documents[row.id]
        whole = " ".join(chunk.text for chunk in passages.by_document[document])
        others = [*answers[number + 1 :], *answers[: number + 1]]
        new = next((answer for answer in others if not holds_text(whole, [answer])), None)
        changes += [] if new is None else [Change(row, document, row.references[0].strip(), new)]
    return changes


def _can_change(file: Path, passage: str, row: DecideRow) -> bool:
    """Whether a row's answer stands in the passage, and in the file as it is: markup and encodings may prevent that."""
    old = row.references[0].strip()
    if not holds_text(passage, [old]) or old not in passage:
        return False
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    # A record is changed as JSON, which may spell letters as escapes.
    return file.suffix.lower() in RECORDS or re.search(_whole_words(old), text) is not None


def document_files(settings: RetrievalSection) -> dict[str, Path]:
    """The files of the documents by the first part of their ids."""
    named = (settings.documents,) if isinstance(settings.documents, str) else settings.documents
    files: dict[str, Path] = {}
    for path in map(Path, named):
        for file in _walk(path):
            files.setdefault(file.name if path.is_file() else file.relative_to(path).as_posix(), file)
    return files


def copy_documents(settings: RetrievalSection, folder: Path) -> RetrievalSection:
    """Copy the documents, and give the section that indexes the copy, in a store of its own."""
    named = (settings.documents,) if isinstance(settings.documents, str) else settings.documents
    copies: list[str] = []
    for number, path in enumerate(map(Path, named)):
        place = folder / "documents" / str(number)
        place.mkdir(parents=True)
        target = place / path.name if path.is_file() else place
        for file in _walk(path):
            to = target if path.is_file() else target / file.relative_to(path)
            to.parent.mkdir(parents=True, exist_ok=True)
            # What cannot be read is no part of the index either, which says so.
            with suppress(OSError):
                shutil.copyfile(file, to)
        copies.append(str(target))
    is_server = settings.store.startswith("postgresql")
    return settings.model_copy(update={"documents": tuple(copies), "store": "sqlite" if is_server else settings.store})


def change_documents(settings: RetrievalSection, changes: Sequence[Change]) -> None:
    """Write the new answers into the copy."""
    files = document_files(settings)
    for change in changes:
        name, _, record = change.document.partition("#")
        path = files[name]
        text = path.read_text("utf-8")
        is_records = path.suffix.lower() in RECORDS
        path.write_text(_change_record(text, record, change) if is_records else _replace(text, change), "utf-8")


def _change_record(text: str, record: str, change: Change) -> str:
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        values = json.loads(line) if line.strip() else {}
        if str(values.get("id", number)) == record and isinstance(values.get("text"), str):
            values["text"] = _replace(values["text"], change)
            lines.append(json.dumps(values, ensure_ascii=False))
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _replace(text: str, change: Change) -> str:
    return re.sub(_whole_words(change.old), lambda _: change.new, text)


def _whole_words(text: str) -> str:
    return rf"(?<!\w){re.escape(text)}(?!\w)"


def _walk(path: Path) -> Iterator[Path]:
    yield from [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _nothing() -> Freshness:
    note = "not measured: no answer stands word for word in a text file that could be changed"
    return Freshness(0, None, None, None, note)


def _ask(
    context: Context,
    planned: PlannedArm,
    measured: Measured,
    changes: Sequence[Change],
    changed: Passages,
    index_seconds: float,
) -> Freshness:
    """Ask one arm about the changed documents."""
    spec = str(context.folder / measured.folders[0]) if measured.folders else planned.spec
    begun = time.monotonic()
    answers = _answer(context, planned, measured, spec, changes, changed)
    seconds = time.monotonic() - begun
    if measured.folders:
        context.forget(spec)
    rows = [change.row for change in changes]
    new = [replace(row.scored, references=(change.new,)) for row, change in zip(rows, changes, strict=True)]
    after = score_rows(answers, new, context.scoring).main_scores
    before = score_rows(answers, [row.scored for row in rows], context.scoring).main_scores
    right, stale = (sum(score >= RIGHT for score in scores) / len(scores) for scores in (after, before))
    if planned.strategy in RETRIEVING:
        note = f"{len(changes)} documents were changed in a copy and indexed again"
        return Freshness(len(changes), right, stale, index_seconds + seconds, note)
    if planned.strategy in TRAINED:
        note = "a changed document changes nothing before the next training; the seconds are those of a training"
        return Freshness(len(changes), right, stale, 60 * measured.training_minutes, note)
    return Freshness(len(changes), right, stale, None, "documents are no part of this arm: a change never reaches it")


def _answer(
    context: Context,
    planned: PlannedArm,
    measured: Measured,
    spec: str,
    changes: Sequence[Change],
    changed: Passages,
) -> list[str]:
    model = context.model(spec)
    prompter = context.prompter(model, is_tuned=bool(measured.folders))
    write: Write
    if planned.strategy in RETRIEVING:
        write = write_with_passages(prompter, changed)
    elif measured.folders:
        write = write_plain(prompter)
    else:
        write = writer_of(planned, context, model, _shots(measured.arm.settings))
    prompted = [write(change.row) for change in changes]
    requests = [each.request for each in prompted if each.request is not None]
    longest = context.evaluation.max_new_tokens
    with context.budget.timed():
        replies = ask_all(model, requests, max_new_tokens=longest, kept=context.kept, log=context.log)
    pay(context, model, replies, f"{planned.name} on changed documents")
    said = iter(replies)
    return ["" if each.request is None else next(said).text for each in prompted]


def _shots(settings: Mapping[str, object]) -> dict[str, int]:
    return {name: int(str(value)) for name, value in settings.items() if name == "num_shots"}
