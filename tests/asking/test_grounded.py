"""Grounded answers: citations lead to places in documents, and a question that has no answer there is not answered."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kivnun.asking.grounded import (
    REFUSALS,
    Grounding,
    answer_grounded,
    find_citations,
    ground_request,
    is_refusal,
    show_passages,
)
from kivnun.asking.request import Reply, Request
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.retrieval.index import Index, build_index, open_index
from kivnun.retrieval.passages import Chunk, Hit

TEXTS = {
    "cats.txt": "Cats sleep all day. Cats eat fish.",
    "dogs.txt": "Dogs eat bones in the garden.",
    "paris.txt": "Paris is the capital of France.",
}


class Scribe:
    """A model of the seam that says what a test lays down, and keeps what it was asked."""

    name, place, identity, kind = "scribe", "this machine", "scribe", "chat"
    context_tokens, price = None, None

    def __init__(self, answer: str, finished: str = "stop") -> None:
        self._answer = answer
        self._finished = finished
        self.asked: list[Request] = []

    def count_tokens(self, request: Request) -> int | None:
        return len(str(request).split())

    def ask(self, requests: Sequence[Request], *, max_new_tokens: int, keep: Callable[[int, Reply], None]) -> None:
        self.asked += requests
        for number in range(len(requests)):
            keep(number, Reply(self._answer, self._finished, 10, min(3, max_new_tokens)))

    def time(self, request: Request, *, max_new_tokens: int) -> Reply:
        raise NotImplementedError


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in TEXTS.items():
        (docs / name).write_text(text, "utf-8")
    section = RetrievalSection(documents=str(docs))
    build_index(section, tmp_path / "index", log=lambda _event, _fields: None)
    with open_index(tmp_path / "index") as opened:
        yield opened


def test_citations_lead_to_the_places_in_the_documents(index: Index) -> None:
    model = Scribe("Cats eat fish [1], and dogs eat bones [2, 7]. Fish [1].")
    given = answer_grounded(model, index, "What do cats and dogs eat?")
    assert not given.abstained
    assert [(each.number, each.document) for each in given.citations] == [(1, "cats.txt"), (2, "dogs.txt")]
    for each in given.citations:
        assert TEXTS[each.document][each.start : each.end] == each.text
    assert given.invalid_citations == 1
    assert "names 1 passage(s) that were not shown" in given.notes[0]
    assert given.lexical_support == 1.0
    assert given.reply is not None


def test_support_is_counted_over_the_cited_passages_and_over_all_where_none_is_cited(index: Index) -> None:
    cited = answer_grounded(Scribe("Dogs eat bones [1]"), index, "What do cats and dogs eat?")
    assert cited.citations[0].document == "cats.txt"
    assert cited.lexical_support == pytest.approx(1 / 3)
    uncited = answer_grounded(Scribe("Dogs eat bones"), index, "What do cats and dogs eat?")
    assert (uncited.lexical_support, uncited.citations) == (1.0, ())
    assert "names no passage" in uncited.notes[0]


def test_the_model_sees_rules_numbered_passages_and_the_question(index: Index) -> None:
    model = Scribe("Fish [1].")
    answer_grounded(
        model, index, "What do cats eat?", Grounding(k=2, passage_template="<{number} {document}> {text}\n")
    )
    (request,) = model.asked
    system, user = request.messages
    assert system[0] == "system"
    assert REFUSALS[""] in system[1]
    shown = f"<1 cats.txt> {TEXTS['cats.txt']}\n<2 dogs.txt> {TEXTS['dogs.txt']}\n"
    assert user == ("user", f"{shown}\nWhat do cats eat?")
    assert request.text == f"{system[1]}\n\n{user[1]}\n"


def test_a_question_in_hebrew_has_its_rules_in_hebrew() -> None:
    request = ground_request("מה אוכלים חתולים?", [], Grounding())
    assert REFUSALS["Hebrew"] in request.messages[0][1]


@pytest.mark.parametrize("answer", [*REFUSALS.values(), "The documents do not answer the question!", ""])
def test_a_model_that_says_that_the_documents_do_not_tell_abstains(index: Index, answer: str) -> None:
    given = answer_grounded(Scribe(answer), index, "What do cats drink?")
    assert given.abstained
    assert given.lexical_support is None


def test_an_answer_is_no_refusal() -> None:
    assert not is_refusal("The documents do not say it in one word, but cats eat fish [1].")
    assert not is_refusal("Fish. The documents do not answer the question of dogs.")


def test_below_the_least_score_no_model_is_asked(index: Index) -> None:
    model = Scribe("Water [1].")
    given = answer_grounded(model, index, "What do cats drink?", Grounding(min_score=0.75))
    assert (given.abstained, model.asked, given.reply) == (True, [], None)
    assert "below min_score (0.75)" in given.notes[-1]
    assert given.text == REFUSALS[""]
    assert not answer_grounded(model, index, "What do cats drink?", Grounding(min_score=0.5)).abstained


def test_without_a_passage_no_model_is_asked(index: Index) -> None:
    model = Scribe("42")
    given = answer_grounded(model, index, "zebra crossings")
    assert (given.abstained, model.asked) == (True, [])
    assert answer_grounded(model, index, "cats", filters={"kind": "pdf"}).abstained


def test_an_answer_that_was_refused_or_cut_is_told(index: Index) -> None:
    refused = answer_grounded(Scribe("no", "refused"), index, "What do cats eat?")
    assert (refused.abstained, refused.notes) == (True, ("the model gave no answer",))
    cut = answer_grounded(Scribe("Cats [1] eat", "length"), index, "What do cats eat?")
    assert cut.notes == ("the answer was cut at its greatest length",)


@pytest.mark.parametrize(
    ("text", "valid", "invalid"),
    [("[1]", [1], 0), ("[2][1] [2]", [1, 2], 0), ("[1, 2; 9]", [1, 2], 1), ("[0] [3]", [], 2), ("a[b] (1)", [], 0)],
)
def test_citations_are_numbers_in_brackets(text: str, valid: list[int], invalid: int) -> None:
    hits = [Hit(Chunk("d", number, 0, 1, "x"), 1.0) for number in range(2)]
    citations, num_invalid = find_citations(text, hits)
    assert ([each.number for each in citations], num_invalid) == (valid, invalid)


def test_braces_in_a_passage_stay_as_they_are() -> None:
    hits = [Hit(Chunk("d", 0, 0, 8, "{text} {"), 1.0)]
    assert show_passages(hits, "[{number}] {text}\n") == "[1] {text} {\n"
