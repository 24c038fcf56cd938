"""What an arm asks: instruction, examples and passages around a row, as many of them as fit the model's context."""

from collections.abc import Sequence
from dataclasses import dataclass

from kivnun.asking.request import AskedModel, Request
from kivnun.asking.rows import request_of
from kivnun.data.conversation import Conversation
from kivnun.data.template import PromptTemplate, fill
from kivnun.decide.rows import DecideRow
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.retrieval.passages import Chunk

Source = tuple[str, int, int]
"""A passage as document, first character and one past the last one."""


@dataclass(frozen=True)
class Prompted:
    """A row as it is asked.

    Attributes:
        request: What is asked; None where the arm abstains.
        chunks: Passages that are shown.
        left_out: Passages or examples that did not fit.
    """

    request: Request | None
    chunks: tuple[Chunk, ...] = ()
    left_out: int = 0

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the passages stand."""
        return tuple((chunk.document, chunk.start, chunk.end) for chunk in self.chunks)


@dataclass(frozen=True)
class Prompter:
    """How one model is asked.

    Attributes:
        model: The model.
        template: How rows are written.
        instruction: What it is told before; None for a model that was tuned on the rows.
        max_new_tokens: Longest answer, for which the context must leave room.
        retrieval: How passages are shown; None where there are none.
    """

    model: AskedModel
    template: PromptTemplate
    instruction: str | None
    max_new_tokens: int
    retrieval: RetrievalSection | None = None

    def write(self, row: DecideRow, *, shots: Sequence[Conversation] = (), chunks: Sequence[Chunk] = ()) -> Prompted:
        """A row with examples and passages, the last ones left out until it fits.

        Args:
            row: The row.
            shots: Examples; of those that do not fit the first ones go, which are the least near.
            chunks: Passages, the best first.
        """
        shots, chunks = list(shots), list(chunks)
        num_offered = len(shots) + len(chunks)
        while True:
            request = self._request(row, shots, chunks)
            if not (shots or chunks) or self._fits(request):
                return Prompted(request, tuple(chunks), num_offered - len(shots) - len(chunks))
            if chunks:
                chunks.pop()
            else:
                shots.pop(0)

    def _request(self, row: DecideRow, shots: Sequence[Conversation], chunks: Sequence[Chunk]) -> Request:
        context = None
        if chunks and self.retrieval is not None:
            context = (write_passages(chunks, self.retrieval), self.retrieval.context_template)
        return request_of(row.conversation, self.template, instruction=self.instruction, shots=shots, context=context)

    def _fits(self, request: Request) -> bool:
        limit = self.model.context_tokens
        if limit is None:
            return True
        count = self.model.count_tokens(request)
        return count is None or count + self.max_new_tokens <= limit


def write_passages(chunks: Sequence[Chunk], retrieval: RetrievalSection) -> str:
    """Passages as `retrieval.passage_template` shows them, one after the other."""
    return "".join(
        fill(
            retrieval.passage_template,
            {"number": str(number), "text": chunk.text, "document": chunk.document, "heading": chunk.heading},
        )
        for number, chunk in enumerate(chunks, start=1)
    )
