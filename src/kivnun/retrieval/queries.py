"""Queries with what should be found for them, and how well an index finds it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kivnun.data.sources import Row, first_problems, read_rows
from kivnun.errors import UserError
from kivnun.retrieval.measures import answerable_at_k, mrr, ndcg, rank_documents, recall_at_k
from kivnun.retrieval.search import Index

NDCG_DEPTH = 10
# Several passages of one document may stand before the next document's first one.
PASSAGES_PER_DOCUMENT = 5
QUERY_FIELDS, ID_FIELDS = ("query", "question", "text"), ("id", "_id")
DOCUMENT_FIELDS, ANSWER_FIELDS = ("documents", "document"), ("answers", "answer")
HINT = 'each line needs a query, and documents or answers: {"query": "...", "documents": ["guide.md"]}'


@dataclass(frozen=True)
class Query:
    """A query and what is right for it.

    Attributes:
        text: What is asked.
        documents: Grade of each right document, by its id or the end of it.
        answers: Texts of which one should stand in a passage.
    """

    text: str
    documents: Mapping[str, float]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Queries:
    """The queries of a file.

    Attributes:
        queries: Those that can be measured.
        left_out: How many have neither a right document nor an answer.
    """

    queries: tuple[Query, ...]
    left_out: int


@dataclass(frozen=True)
class Measured:
    """How well an index finds what is right.

    Attributes:
        scores: For each measure, one value for each query that has what it needs.
        counts: How many queries these are.
        notes: What the user must know.
    """

    scores: Mapping[str, tuple[float, ...]]
    counts: Mapping[str, int]
    notes: tuple[str, ...]


def read_queries(path: Path, qrels: Path | None = None) -> Queries:
    """Read a file of queries.

    Args:
        path: JSONL with `query`, and `documents` or `answers`; with `id` where the right documents stand in `qrels`.
        qrels: A table of query, document and grade as BEIR has it, or the four columns of TREC.

    Raises:
        UserError: `evaluation-invalid` where there is nothing to measure or a line cannot be understood; `data-missing`
            and the like for the files.
    """
    judged = _read_qrels(qrels) if qrels is not None else {}
    queries = [_read_query(row, judged, has_qrels=qrels is not None) for row in read_rows(str(path))]
    kept = tuple(query for query in queries if query.documents or query.answers)
    if not kept:
        raise UserError("evaluation-invalid", f"{path}: no query has a right document or an answer", hint=HINT)
    return Queries(kept, len(queries) - len(kept))


def measure_queries(index: Index, read: Queries, *, k: int, show: Callable[[int], None]) -> Measured:
    """Search every query and measure what is found.

    Args:
        index: The index.
        read: The queries.
        k: How far recall, MRR and answers look.
        show: Takes how many queries are done.

    Raises:
        UserError: `evaluation-invalid` where none of the right documents is in the index.
    """
    names = _Names(index)
    scores: dict[str, list[float]] = {name: [] for name in (f"recall@{k}", f"MRR@{k}", "nDCG@10", f"answerable@{k}")}
    notes: dict[str, int] = {}
    depth = max(k, NDCG_DEPTH) * PASSAGES_PER_DOCUMENT
    for done, query in enumerate(read.queries, start=1):
        found = index.search(query.text, depth)
        for note in found.notes:
            notes[note] = notes.get(note, 0) + 1
        if query.documents:
            right = {names.find(name): grade for name, grade in query.documents.items()}
            ranking = rank_documents(found.hits)
            scores[f"recall@{k}"].append(recall_at_k(ranking, right, k))
            scores[f"MRR@{k}"].append(mrr(ranking[:k], right))
            scores["nDCG@10"].append(ndcg(ranking, right, NDCG_DEPTH))
        if query.answers:
            passages = [hit.chunk.text for hit in found.hits[:k]]
            scores[f"answerable@{k}"].append(answerable_at_k(passages, query.answers, k))
        show(done)
    said = [f"{note} ({count} queries)" for note, count in notes.items()] + names.say_missing()
    if read.left_out:
        said.append(f"{read.left_out} queries have no right document and no answer, and are left out")
    return Measured(
        {name: tuple(values) for name, values in scores.items()},
        {name: len(values) for name, values in scores.items()},
        tuple(said),
    )


class _Names:
    """Documents by the names that people give them: the whole id, or what stands behind its last `#` or `/`."""

    def __init__(self, index: Index) -> None:
        self._ids = set(index.store.documents())
        self._short: dict[str, set[str]] = {}
        for name in self._ids:
            for sign in "#/":
                _, found, rest = name.rpartition(sign)
                if found and rest not in self._ids:
                    self._short.setdefault(rest, set()).add(name)
        self._missing: set[str] = set()
        self._num_found = 0

    def find(self, name: str) -> str:
        """The id of a document; the name itself where the index has none, so that it counts as not found.

        Raises:
            UserError: `evaluation-invalid` where a name means several documents.
        """
        ids = {name} if name in self._ids else self._short.get(name, set())
        if len(ids) > 1:
            raise UserError(
                "evaluation-invalid",
                f"the document {name!r} may be {' or '.join(sorted(ids)[:3])}",
                hint="write the whole id of the document, as `kivnun search` shows it",
            )
        if not ids:
            self._missing.add(name)
            return name
        self._num_found += 1
        return next(iter(ids))

    def say_missing(self) -> list[str]:
        """Names that no document has.

        Raises:
            UserError: `evaluation-invalid` where that are all.
        """
        if not self._missing:
            return []
        first = ", ".join(sorted(self._missing)[:3])
        if not self._num_found:
            raise UserError(
                "evaluation-invalid",
                f"none of the right documents is in the index, such as {first}",
                details=[f"the index has {name}" for name in sorted(self._ids)[:3]],
                hint="write the ids of documents as `kivnun search` shows them",
            )
        return [f"{len(self._missing)} right documents are not in the index and count as not found, such as {first}"]


def _read_query(row: Row, judged: Mapping[str, Mapping[str, float]], *, has_qrels: bool) -> Query:
    text = _first(row, QUERY_FIELDS)
    if not isinstance(text, str) or not text.strip():
        raise UserError("evaluation-invalid", f"{row.where}: there is no query", hint=HINT)
    if has_qrels:
        name = _first(row, ID_FIELDS)
        if name is None:
            hint = "give each query the id that stands in the table"
            raise UserError("evaluation-invalid", f"{row.where}: the query has no id", hint=hint)
        documents = judged.get(str(name), {})
    else:
        documents = dict.fromkeys(_texts(row, DOCUMENT_FIELDS), 1.0)
    right = {name: grade for name, grade in documents.items() if grade > 0}
    return Query(text, right, _texts(row, ANSWER_FIELDS))


def _first(row: Row, names: Sequence[str]) -> object:
    return next((row.fields[name] for name in names if row.fields.get(name) is not None), None)


def _texts(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    value = _first(row, names)
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    texts = tuple(str(each) for each in cast("list[object]", values) if isinstance(each, str | int))
    if len(texts) < len(values):
        raise UserError("evaluation-invalid", f"{row.where}: {names[0]} is not text or a list of texts", hint=HINT)
    return tuple(text for text in texts if text.strip())


def _read_qrels(path: Path) -> dict[str, dict[str, float]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        hint = "name a file with a line for each query and document: QUERY, DOCUMENT and GRADE, with tabs between"
        raise UserError("evaluation-invalid", f"{path} cannot be read: {error}", hint=hint) from error
    judged: dict[str, dict[str, float]] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        parts = line.split("\t") if "\t" in line else line.split()
        try:
            query, document, grade = parts[0], parts[-2], float(parts[-1])
            if len(parts) not in (3, 4):
                raise ValueError(f"{len(parts)} columns")  # noqa: TRY301
        except (IndexError, ValueError):
            # The first line of a BEIR table names the columns.
            problems += [f"{path}:{number}: {line[:80]!r}"] if number > 1 and line.strip() else []
            continue
        judged.setdefault(query.strip(), {})[document.strip()] = grade
    if problems or not judged:
        raise UserError(
            "evaluation-invalid",
            f"{path}: {len(problems)} of {len(lines)} lines are not QUERY, DOCUMENT and GRADE",
            details=first_problems(problems),
            hint="separate the three by tabs, as in `q1<TAB>guide.md<TAB>1`",
        )
    return judged
