"""A reranker orders passages by a cross-encoder's own scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bert import write_tiny_bert
from transformers import AutoTokenizer, BertForSequenceClassification

from kivnun.errors import UserError
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.retrieval.index import build_index, open_index
from kivnun.retrieval.passages import Chunk, Hit
from kivnun.retrieval.reranker import NUM_RERANKED, open_reranker
from kivnun.retrieval.search import SearchOptions

QUERY = "what do cats eat"
PASSAGES = ("the capital is paris", "cats eat fish", "trains leave every hour and the ticket is cheap", "fish sleep")


def expected_scores(folder: Path, passages: tuple[str, ...]) -> list[float]:
    """Each pair alone through transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    for passage in passages:
        pair = tokenizer(QUERY, passage, return_tensors="pt", padding=False, truncation=False)
        with torch.no_grad():
            logits = model(**pair).logits[0]
        margin = logits[0] if len(logits) == 1 else logits[1] - logits[0]
        scores.append(float(torch.sigmoid(margin)))
    return scores


@pytest.mark.parametrize("classes", [1, 2])
def test_hits_are_ordered_by_the_cross_encoders_probability(tmp_path: Path, classes: int) -> None:
    folder = write_tiny_bert(tmp_path / "cross", classes=classes)
    hits = [Hit(Chunk("doc", number, 0, 1, text), 1.0, 0.5, 2.0) for number, text in enumerate(PASSAGES)]
    ranked = open_reranker(f"dir:{folder}").rerank(QUERY, hits)
    expected = dict(zip(PASSAGES, expected_scores(folder, PASSAGES), strict=True))
    assert [hit.chunk.text for hit in ranked] == sorted(PASSAGES, key=lambda text: -expected[text])
    np.testing.assert_allclose([hit.score for hit in ranked], sorted(expected.values(), reverse=True), atol=1e-5)
    assert {(hit.dense, hit.lexical) for hit in ranked} == {(0.5, 2.0)}


def test_the_best_passages_of_a_search_are_put_into_the_rerankers_order(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "cross", classes=1)
    corpus = tmp_path / "rows.jsonl"
    texts = [f"cats number {number} eat {'fish ' * (number % 7)}" for number in range(40)]
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    build_index(RetrievalSection(documents=str(corpus)), tmp_path / "index", log=lambda _event, _fields: None)
    with open_index(tmp_path / "index") as plain:
        first = [hit.chunk.text for hit in plain.search(QUERY, NUM_RERANKED).hits]
    expected = dict(zip(first, expected_scores(folder, tuple(first)), strict=True))
    with open_index(tmp_path / "index", SearchOptions(reranker=f"dir:{folder}")) as index:
        found = index.search(QUERY, 5)
    # Numbers are unknown words to this model, so that passages tie: their scores are compared, not their names.
    scores = [hit.score for hit in found.hits]
    np.testing.assert_allclose(scores, [expected[hit.chunk.text] for hit in found.hits], atol=1e-5)
    np.testing.assert_allclose(scores, sorted(expected.values(), reverse=True)[:5], atol=1e-5)
    assert scores == sorted(scores, reverse=True)
    assert found.evidence == found.hits[0].score


def test_a_classifier_of_other_things_is_no_reranker(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one or two classes, this model has 3"):
        open_reranker(f"dir:{write_tiny_bert(tmp_path / 'three', classes=3)}")
    with pytest.raises(UserError, match="would be random"):
        open_reranker(f"dir:{write_tiny_bert(tmp_path / 'none')}")
    with pytest.raises(UserError, match="names no reranker"):
        open_reranker("builtin")
