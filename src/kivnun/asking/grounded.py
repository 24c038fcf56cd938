"""Answers that rest on passages of documents: claims cite passages, and a question that they do not answer is refused.

What can be checked without a judge is checked: that citations name passages that were shown, and how many of the
answer's words stand in them. The latter is lexical support; it does not say that the passages mean what it says.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from kivnun.asking.request import AskedModel, Reply, Request
from kivnun.data.checks.scripts import main_script
from kivnun.errors import UserError
from kivnun.retrieval.measures import CITATION, lexical_support
from kivnun.retrieval.passages import Hit
from kivnun.retrieval.search import Index, SearchResult

if TYPE_CHECKING:
    from kivnun.retrieval.store import Filters

PASSAGE_TEMPLATE = "[{number}] {text}\n"
CONTEXT_TEMPLATE = "{passages}\n{prompt}"
REFUSALS = {"Hebrew": "המסמכים אינם עונים על השאלה.", "": "The documents do not answer the question."}
"""What a model is told to say where the passages do not answer, by the script of the question."""
INSTRUCTIONS = {
    "Hebrew": (
        "ענה על השאלה רק לפי הקטעים הממוספרים. אחרי כל טענה ציין את מספר הקטע שהיא נסמכת עליו, כך: [1]. "
        "אם הקטעים אינם עונים על השאלה, כתוב רק: {refusal}"
    ),
    "": (
        "Answer the question from the numbered passages alone, in the language of the question. After each claim name "
        "the passage that it rests on, like this: [1]. If they do not answer the question, write only: {refusal}"
    ),
}
_NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Citation:
    """A passage that an answer rests on.

    Attributes:
        number: Its number in the answer.
        document: Id of the document.
        start: First character in the document's text.
        end: One past its last character.
        heading: Headings above it.
        text: The passage.
    """

    number: int
    document: str
    start: int
    end: int
    heading: str
    text: str


@dataclass(frozen=True)
class GroundedAnswer:
    """An answer with what it rests on.

    Attributes:
        text: The answer; what is said in place of one where `abstained`.
        citations: The passages that it names, in the order of their numbers, each once.
        abstained: Whether the question was not answered.
        invalid_citations: How often it names passages that were not shown.
        lexical_support: Share of its search words that stand in the passages it cites, or in all where it cites none;
            None where it abstained.
        hits: The passages that were shown.
        notes: What the user must know of the search and the answer.
        reply: What the model answered, with its counts; None where it was not asked.
    """

    text: str
    citations: tuple[Citation, ...]
    abstained: bool
    invalid_citations: int = 0
    lexical_support: float | None = None
    hits: tuple[Hit, ...] = ()
    notes: tuple[str, ...] = ()
    reply: Reply | None = None

    def to_json(self) -> dict[str, object]:
        """The fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Grounding:
    """How a model is shown passages.

    Attributes:
        k: Most passages.
        min_score: Least `evidence` of a search at which the model is asked at all; None for any.
        passage_template: How each passage is shown.
        context_template: Where the passages stand beside the question.
        max_new_tokens: Longest answer.
    """

    k: int = 3
    min_score: float | None = None
    passage_template: str = PASSAGE_TEMPLATE
    context_template: str = CONTEXT_TEMPLATE
    max_new_tokens: int = 256


def answer_grounded(
    model: AskedModel,
    index: Index,
    question: str,
    grounding: Grounding | None = None,
    *,
    filters: "Filters | None" = None,
) -> GroundedAnswer:
    """Answer a question from the passages that an index has for it.

    Args:
        model: Who answers.
        index: What is searched.
        question: The question.
        grounding: How passages are shown.
        filters: Values that a passage's metadata must have.

    Raises:
        UserError: As for `Index.search` and `AskedModel.ask`.
    """
    how = grounding or Grounding()
    found = index.search(question, how.k, filters=filters)
    refusal = _by_script(REFUSALS, question)
    if not found.hits or (how.min_score is not None and found.evidence < how.min_score):
        return GroundedAnswer(refusal, (), abstained=True, hits=found.hits, notes=(*found.notes, _say_why(found, how)))
    replies: list[Reply] = []
    request = ground_request(question, found.hits, how)
    model.ask([request], max_new_tokens=how.max_new_tokens, keep=lambda _number, reply: replies.append(reply))
    if not replies:
        raise UserError("endpoint-failed", f"{model.name} gave no answer", hint="ask again, or another model")
    return _read_answer(replies[0], found)


def ground_request(question: str, hits: Sequence[Hit], how: Grounding) -> Request:
    """What a model is asked: the rules, the numbered passages and the question.

    Args:
        question: The question.
        hits: The passages.
        how: How they are shown.
    """
    instruction = _by_script(INSTRUCTIONS, question).format(refusal=_by_script(REFUSALS, question))
    prompt = how.context_template.format(passages=show_passages(hits, how.passage_template), prompt=question)
    return Request((("system", instruction), ("user", prompt)), f"{instruction}\n\n{prompt}\n")


def show_passages(hits: Sequence[Hit], template: str) -> str:
    """The passages as a model sees them, numbered from 1.

    Args:
        hits: The passages.
        template: With the fields `{number}`, `{text}`, `{document}` and `{heading}`.
    """
    return "".join(
        template.format(
            number=number, text=hit.chunk.text, document=hit.chunk.document, heading=hit.chunk.heading or "-"
        )
        for number, hit in enumerate(hits, start=1)
    )


def find_citations(text: str, hits: Sequence[Hit]) -> tuple[tuple[Citation, ...], int]:
    """The passages that an answer names as `[2]` or `[1, 3]`, and how often it names one that was not shown.

    Args:
        text: The answer.
        hits: The passages that were shown, in order.
    """
    named = [int(number) for marks in CITATION.findall(text) for number in re.split(r"\s*[,;]\s*", marks)]
    valid = sorted({number for number in named if 1 <= number <= len(hits)})
    citations = tuple(_cite(number, hits[number - 1]) for number in valid)
    return citations, sum(not 1 <= number <= len(hits) for number in named)


def is_refusal(text: str) -> bool:
    """Whether an answer is one of the sentences by which a model says that the passages do not answer."""
    words = _plain(text)
    return any(words.startswith(_plain(refusal)) for refusal in REFUSALS.values())


def _read_answer(reply: Reply, found: SearchResult) -> GroundedAnswer:
    text = reply.text.strip()
    if reply.finished == "refused" or not text:
        notes = (*found.notes, "the model gave no answer")
        return GroundedAnswer(text, (), abstained=True, hits=found.hits, notes=notes, reply=reply)
    citations, num_invalid = find_citations(text, found.hits)
    if is_refusal(text):
        return GroundedAnswer(text, citations, True, num_invalid, None, found.hits, found.notes, reply)  # noqa: FBT003
    notes = list(found.notes)
    if reply.finished == "length":
        notes.append("the answer was cut at its greatest length")
    if num_invalid:
        notes.append(f"the answer names {num_invalid} passage(s) that were not shown")
    if not citations:
        notes.append("the answer names no passage: its support is counted over all that were shown")
    shown = [each.text for each in citations] or [hit.chunk.text for hit in found.hits]
    return GroundedAnswer(
        text,
        citations,
        abstained=False,
        invalid_citations=num_invalid,
        lexical_support=lexical_support(text, shown),
        hits=found.hits,
        notes=tuple(notes),
        reply=reply,
    )


def _cite(number: int, hit: Hit) -> Citation:
    chunk = hit.chunk
    return Citation(number, chunk.document, chunk.start, chunk.end, chunk.heading, chunk.text)


def _say_why(found: SearchResult, how: Grounding) -> str:
    if not found.hits:
        return "no passage was found, so that the model was not asked"
    return (
        f"the best passage fits by {found.evidence:.3f}, below min_score ({how.min_score:g}): the model was not asked"
    )


def _by_script(texts: Mapping[str, str], question: str) -> str:
    return texts.get(main_script(question), texts[""])


def _plain(text: str) -> str:
    return _NO_WORD.sub(" ", text.casefold()).strip()
