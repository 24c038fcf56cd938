"""The passages that rows are shown: what the index finds for each, and which passage is the right one."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kivnun.asking.request import Log
from kivnun.decide.rows import DecideRow
from kivnun.recipe.load import LoadedRecipe
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.retrieval.analysis import search_form
from kivnun.retrieval.index import Index, IndexReport, build_index, open_index
from kivnun.retrieval.measures import answerable_at_k, lexical_support, mrr, ndcg, recall_at_k
from kivnun.retrieval.passages import Chunk, Hit
from kivnun.retrieval.search import SearchResult, options_of

INDEX_FOLDER = "index"
DEPTH = 20
"""Hits among which the right passage and the wrong ones are looked for."""
MIN_ANSWER_LETTERS = 2
"""A shorter answer stands in passages that have nothing to do with it."""

MIN_PASSAGE_LETTERS = 24
"""A shorter text in the gold column is no passage, but a name."""


@dataclass(frozen=True)
class Found:
    """What was found for a row.

    Attributes:
        hits: The best passages, as many as are looked at.
        abstains: Whether the best one is below `retrieval.min_score`.
    """

    hits: tuple[Hit, ...]
    abstains: bool = False

    @property
    def chunks(self) -> list[Chunk]:
        """The passages, the best first."""
        return [hit.chunk for hit in self.hits]


@dataclass
class Passages:
    """An index with what was found in it.

    Attributes:
        index: The index.
        settings: The recipe's section.
        by_document: Every passage, by document.
        notes: What a reader must know: files that could not be read, how it was searched.
        digest: Hash of what is indexed.
        search_notes: What searching said, each note once.
    """

    index: Index
    settings: RetrievalSection
    by_document: Mapping[str, Sequence[Chunk]]
    notes: tuple[str, ...]
    digest: str
    search_notes: dict[str, None] = field(default_factory=dict[str, None])
    _found: dict[str, Found] = field(default_factory=dict[str, Found])
    _forms: dict[str, str] = field(default_factory=dict[str, str])
    _golds: dict[str, Chunk | None] = field(default_factory=dict[str, Chunk | None])

    def find(self, row: DecideRow) -> Found:
        """The best passages for a row."""
        if row.query not in self._found:
            result = (
                self.index.search(row.query, max(DEPTH, self.settings.k)) if row.query.strip() else SearchResult(())
            )
            least = self.settings.min_score
            self._found[row.query] = Found(result.hits, least is not None and result.evidence < least)
            self.search_notes.update(dict.fromkeys(result.notes))
        return self._found[row.query]

    def time_search(self, row: DecideRow) -> float:
        """Seconds that finding the passages of a row takes, searched afresh; its answer waits for that."""
        begun = time.monotonic()
        if row.query.strip():
            self.index.search(row.query, self.settings.k)
        return time.monotonic() - begun

    def find_all(self, rows: Sequence[DecideRow], log: Log) -> None:
        """Search for every row; what follows then finds it done.

        Args:
            rows: The rows.
            log: Takes `asked` after each.
        """
        for done, row in enumerate(rows, start=1):
            self.find(row)
            log("asked", {"model": "the index", "done": done, "num_requests": len(rows)})

    def shown(self, row: DecideRow) -> list[Chunk]:
        """The passages that a model is shown with a row."""
        return self.find(row).chunks[: self.settings.k]

    def gold(self, row: DecideRow) -> Chunk | None:
        """The right passage of a row, or None where none is known.

        Where the gold column names a document, it is the passage of that document that holds an answer, or else the
        one that is found best. Where the column holds a text, it is the passage inside it, or around it, by the same
        rule. Without a column it is the best passage found that holds an answer.
        """
        if row.id not in self._golds:
            self._golds[row.id] = self._find_gold(row)
        return self._golds[row.id]

    def _find_gold(self, row: DecideRow) -> Chunk | None:
        ranked = self.find(row).chunks
        if not row.gold:
            return next((chunk for chunk in ranked if holds_answer(chunk, row)), None)
        allowed = self._named_chunks(row.gold)
        order = {chunk.id: number for number, chunk in enumerate(ranked)}
        best = sorted(allowed, key=lambda chunk: order.get(chunk.id, len(order)))
        return next((chunk for chunk in best if holds_answer(chunk, row)), best[0] if best else None)

    def is_right(self, chunk: Chunk, row: DecideRow) -> bool:
        """Whether a passage is a right one: of the gold document, or holding an answer."""
        gold = self.gold(row)
        if row.gold and gold is not None:
            return chunk.id == gold.id or (chunk.document == gold.document and holds_answer(chunk, row))
        return holds_answer(chunk, row)

    def distractors(self, row: DecideRow, limit: int) -> list[Chunk]:
        """Wrong passages that look right: the best ones found that neither are the right one nor hold an answer.

        Where the index finds too few, others follow in an order that the row decides.
        """
        gold = self.gold(row)
        allowed = [chunk for chunk in self.find(row).chunks if self._is_wrong(chunk, row, gold)][:limit]
        if len(allowed) == limit:
            return allowed
        taken = {chunk.id for chunk in allowed}
        rest = [chunk for part in self.by_document.values() for chunk in part if chunk.id not in taken]
        rest.sort(key=lambda chunk: hashlib.sha256(f"{row.id} {chunk.id}".encode()).digest())
        for chunk in rest:
            if len(allowed) == limit:
                break
            if self._is_wrong(chunk, row, gold):
                allowed.append(chunk)
        return allowed

    def _is_wrong(self, chunk: Chunk, row: DecideRow, gold: Chunk | None) -> bool:
        is_beside = gold is not None and chunk.document == gold.document
        overlaps = is_beside and gold is not None and chunk.start < gold.end and gold.start < chunk.end
        return not overlaps and not holds_answer(chunk, row)

    def _named_chunks(self, gold: str) -> list[Chunk]:
        """The passages that a row's gold column means."""
        if gold in self.by_document:
            return list(self.by_document[gold])
        ending = [name for name in self.by_document if name.endswith((f"/{gold}", f"#{gold}"))]
        if len(ending) == 1:
            return list(self.by_document[ending[0]])
        whole = search_form(gold)
        if len(whole) < MIN_PASSAGE_LETTERS:
            # The name of a document that is not there: as a text it would stand in passages that have nothing to do
            # with the row.
            return []
        return [
            chunk
            for part in self.by_document.values()
            for chunk in part
            if (text := self._form(chunk)) in whole or whole in text
        ]

    def _form(self, chunk: Chunk) -> str:
        """A passage in the form that is compared; each is brought into it once."""
        if chunk.id not in self._forms:
            self._forms[chunk.id] = search_form(chunk.text)
        return self._forms[chunk.id]

    def measure(self, rows: Sequence[DecideRow]) -> dict[str, float]:
        """How well the passages that are shown answer the rows whose right passage is known."""
        known = [(row, gold) for row in rows if (gold := self.gold(row)) is not None]
        k = self.settings.k
        values: dict[str, list[float]] = {}
        for row, gold in known:
            ranked = [chunk.id for chunk in self.find(row).chunks]
            relevant = {gold.id: 1.0}
            texts = [chunk.text for chunk in self.shown(row)]
            for name, value in (
                (f"recall_at_{k}", recall_at_k(ranked, relevant, k)),
                ("mrr", mrr(ranked, relevant)),
                (f"ndcg_at_{k}", ndcg(ranked, relevant, k)),
                (f"answerable_at_{k}", answerable_at_k(texts, row.references, k)),
            ):
                values.setdefault(name, []).append(float(value))
        return {name: sum(each) / len(each) for name, each in values.items()}


def support(answers: Sequence[str], shown: Sequence[Sequence[Chunk]]) -> float | None:
    """Mean share of an answer's words that stand in the passages shown; None where no row was shown any."""
    values = [
        lexical_support(answer, [chunk.text for chunk in chunks])
        for answer, chunks in zip(answers, shown, strict=True)
        if chunks and answer.strip()
    ]
    return sum(values) / len(values) if values else None


def holds_answer(chunk: Chunk, row: DecideRow) -> bool:
    """Whether a passage holds one of a row's right answers as whole words."""
    return holds_text(chunk.text, row.references)


def holds_text(text: str, answers: Sequence[str]) -> bool:
    """Whether a text holds one of some answers as whole words, however they are written."""
    wanted = [answer for answer in answers if len(search_form(answer).strip()) >= MIN_ANSWER_LETTERS]
    return bool(wanted) and answerable_at_k([text], wanted, 1) == 1


def located_section(loaded: LoadedRecipe, section: RetrievalSection) -> RetrievalSection:
    """The section with the paths of its documents as they are found from here."""
    given = section.documents
    files = (given,) if isinstance(given, str) else given
    return section.model_copy(update={"documents": tuple(str(loaded.locate(file)) for file in files)})


def index_folder(folder: Path, settings: RetrievalSection) -> Path:
    """Where the index of a comparison is: on a server it is named after its folder, and no two may be named alike.

    Args:
        folder: The folder of the comparison.
        settings: The recipe's section.
    """
    if "://" not in settings.store:
        return folder / INDEX_FOLDER
    return folder / f"{INDEX_FOLDER}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}"


def open_passages(settings: RetrievalSection, folder: Path, *, log: Log) -> Passages:
    """Index the documents, those that changed alone where there is an index, and open it.

    Args:
        settings: The recipe's section, paths as they are found from here.
        folder: The folder of the index.
        log: Takes the events of the indexing.

    Raises:
        UserError: Whatever is wrong with documents, embedder or store.
    """
    report = build_index(settings, folder, log=log)
    index = open_index(folder, options_of(settings), store=settings.store)
    by_document: dict[str, list[Chunk]] = {}
    for chunk in index.store.chunks():
        by_document.setdefault(chunk.document, []).append(chunk)
    return Passages(index, settings, by_document, say_report(report), digest_of(index))


def digest_of(index: Index) -> str:
    """Hash of what an index was made of and how."""
    stored = sorted((document.id, document.content_hash) for document in index.store.documents().values())
    made = json.dumps([index.manifest.identity, stored], sort_keys=True, default=str)
    return hashlib.sha256(made.encode()).hexdigest()


def say_report(report: IndexReport) -> tuple[str, ...]:
    """What a reader of the comparison must know of the documents."""
    lines = [f"{report.documents} documents were indexed as {report.chunks} passages"]
    if report.unreadable:
        first = "; ".join(f"{each.path}: {each.problem}" for each in report.unreadable[:3])
        lines.append(f"{len(report.unreadable)} files or records could not be read and are no part of it: {first}")
    return (*lines, *report.notes)
