"""Finding the passages of an index that answer a query, by words and by vectors, and saying what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from kivnun.errors import UserError
from kivnun.retrieval.analysis import analyse
from kivnun.retrieval.embedders import Embedder, name_embedder
from kivnun.retrieval.fusion import AUTO_WEIGHT, Ranked, fuse
from kivnun.retrieval.index_manifest import Manifest, reindex_command
from kivnun.retrieval.passages import Hit, MetadataValue
from kivnun.retrieval.reranker import NUM_RERANKED, Reranker, join_heading
from kivnun.retrieval.store import Filters, Store

if TYPE_CHECKING:
    from kivnun.recipe.retrieval import RetrievalSection

MIN_CANDIDATES = 200
CANDIDATES_PER_HIT = 4


@dataclass(frozen=True)
class SearchOptions:
    """How an index is searched.

    Attributes:
        dense_weight: Weight of the vectors, 0 to 1; `auto`: 0.5, and 0 for a query that the embedder cannot read.
        filters: Values that the metadata of a passage must have.
        reranker: The cross-encoder's name; None for none.
    """

    dense_weight: float | Literal["auto"] = "auto"
    filters: Mapping[str, MetadataValue] = field(default_factory=dict[str, MetadataValue])
    reranker: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        hits: Passages, best first.
        notes: What the user must know, such as vectors that were left out.
        evidence: How well the best passage fits, from 0 to 1 and comparable among queries: the reranker's probability;
            else the greater of its cosine and the share of the query's words that stand in it. 0 for no passage.
    """

    hits: tuple[Hit, ...]
    notes: tuple[str, ...] = ()
    evidence: float = 0.0


class Index:
    """An index that is open for searching.

    Args:
        folder: Where it is.
        manifest: What it was made of.
        store: Its chunks.
        embedder: What its vectors were made with; None where it has none, or they are not used.
        reranker: What puts the best passages into order.
        options: How it is searched.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        store: Store,
        embedder: Embedder | None,
        *,
        reranker: Reranker | None = None,
        options: SearchOptions | None = None,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.store = store
        self.embedder = embedder
        self._reranker = reranker
        self._options = options or SearchOptions()

    def search(self, query: str, k: int, *, filters: Filters | None = None) -> SearchResult:
        """The best passages for a query.

        Args:
            query: What is asked, in any language.
            k: Most passages.
            filters: Values that the metadata of a passage must have; the index's own filters if not given.

        Raises:
            UserError: `prompt-invalid` for a query without text; `index-empty`; `index-differs` where the embedder
                now makes vectors of another length; `endpoint-failed`, `store-failed`.
        """
        if not query.strip():
            raise UserError("prompt-invalid", "the query is empty", hint="ask something, in quotes")
        if k < 1:
            raise ValueError(f"{k} passages cannot be asked for")
        kept = self._options.filters if filters is None else filters
        weight, notes = self._weigh(query)
        if not self.manifest.is_complete:
            notes.append(f"the indexing of {self.folder} is not finished: what it did not reach is not found")
        wanted = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * k)
        terms = analyse(query)
        lexical = self.store.search_terms(terms, wanted, kept or None) if terms and weight < 1 else []
        dense = self._search_vector(query, wanted, kept) if weight > 0 else []
        hits = fuse(dense, lexical, dense_weight=weight)
        if not hits:
            notes += self._explain_nothing(terms, kept, weight)
        if self._reranker is not None:
            hits = self._reranker.rerank(query, hits[: max(NUM_RERANKED, k)])
        best = tuple(hits[:k])
        return SearchResult(best, tuple(notes), self._weigh_evidence(terms, best))

    def close(self) -> None:
        """Give files and connections free."""
        self.store.close()

    def __enter__(self) -> Self:
        """The index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give files and connections free."""
        self.close()

    def _weigh(self, query: str) -> tuple[float, list[str]]:
        """The weight of the vectors for this query, and why where it is another than usual."""
        if self.embedder is None:
            return 0.0, []
        given = self._options.dense_weight
        if self.embedder.can_read(query):
            return (AUTO_WEIGHT if given == "auto" else given), []
        name = name_embedder(self.embedder.identity)
        if given == "auto":
            return 0.0, [f"the embedder {name} cannot read the query's language: it is searched by words alone"]
        return given, [
            f"the embedder {name} cannot read the query's language, and its weight is {given:g} all the same"
        ]

    def _search_vector(self, query: str, wanted: int, filters: Filters) -> Ranked:
        if self.embedder is None:
            return []
        vector = self.embedder.embed_query(query)
        if self.manifest.dim is not None and vector.size != self.manifest.dim:
            raise UserError(
                "index-differs",
                f"{self.folder}: its vectors have {self.manifest.dim} numbers, those of the embedder now {vector.size}",
                hint=f"make the index again: `{reindex_command(self.folder, self.manifest)}`",
            )
        return self.store.search_vector(vector, wanted, filters or None)

    def _explain_nothing(self, terms: list[str], filters: Filters, weight: float) -> list[str]:
        """Why there is no passage.

        Raises:
            UserError: `index-empty`.
        """
        if next(self.store.chunks(), None) is None:
            hint = f"`{reindex_command(self.folder, self.manifest)}`, with documents that have text"
            raise UserError("index-empty", f"the index {self.folder} holds no passage", hint=hint)
        if filters:
            named = ", ".join(f"{name}={value}" for name, value in filters.items())
            return [f"no passage that has {named} was found"]
        if not terms and weight == 0:
            return ["the query has no word that is searched for, such as one of only `the` and `of`"]
        return ["no passage has a word of the query"]

    def _weigh_evidence(self, terms: list[str], hits: tuple[Hit, ...]) -> float:
        if not hits:
            return 0.0
        best = hits[0]
        if self._reranker is not None:
            return best.score
        return max(best.dense or 0.0, covered_share(terms, join_heading(best.chunk.heading, best.chunk.text)))


def covered_share(terms: list[str], passage: str) -> float:
    """The share of a query's different words that stand in a passage; 0 for a query of none.

    Args:
        terms: Words as `analyse` gives them.
        passage: The passage.
    """
    wanted = set(terms)
    return len(wanted & set(analyse(passage))) / len(wanted) if wanted else 0.0


def options_of(section: "RetrievalSection") -> SearchOptions:
    """How a recipe's `retrieval` section says that its index is searched."""
    return SearchOptions(section.dense_weight, dict(section.filters), section.reranker)
