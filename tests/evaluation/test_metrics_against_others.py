"""Every metric equals, to the last digit, the library or script that the field takes it from, on real sentences."""

import json
import re
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from evaluation.real_sentences import ANSWERS, ENGLISH, REFERENCES
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf, sentence_chrf
from sacrebleu.metrics import BLEU
from sklearn.metrics import f1_score

from kivnun.evaluation.corpus_metrics import corpus_metric
from kivnun.evaluation.rouge import ROUGE_TYPES
from kivnun.evaluation.row_metrics import row_metric
from kivnun.evaluation.short_answers import normalised_match, token_f1

OPTIONS = {"seed": 0, "resamples": 100}
XQUAD = Path(__file__).parents[3] / "shared" / "data" / "xquad_en"


def test_bleu_and_chrf_are_those_of_sacrebleu():
    one = [[reference] for reference in REFERENCES]
    assert corpus_metric("bleu", ANSWERS, one, (), **OPTIONS).value == corpus_bleu(ANSWERS, [REFERENCES]).score / 100
    assert corpus_metric("chrf", ANSWERS, one, (), **OPTIONS).value == corpus_chrf(ANSWERS, [REFERENCES]).score / 100


def test_bleu_and_chrf_of_several_references_are_those_of_sacrebleu():
    more = [[reference, answer.lower()] for reference, answer in zip(REFERENCES, ANSWERS, strict=True)]
    streams = [list(each) for each in zip(*more, strict=True)]
    assert corpus_metric("bleu", ANSWERS, more, (), **OPTIONS).value == corpus_bleu(ANSWERS, streams).score / 100
    assert corpus_metric("chrf", ANSWERS, more, (), **OPTIONS).value == corpus_chrf(ANSWERS, streams).score / 100


def test_rows_may_have_different_numbers_of_references():
    some = [[reference] if row % 2 else [reference, "light"] for row, reference in enumerate(REFERENCES)]
    streams = [REFERENCES, [None if row % 2 else "light" for row in range(len(REFERENCES))]]
    assert corpus_metric("bleu", ANSWERS, some, (), **OPTIONS).value == corpus_bleu(ANSWERS, streams).score / 100


def test_sentence_scores_are_those_of_sacrebleu():
    bleu = BLEU(effective_order=True)
    for answer, reference in zip(ANSWERS, REFERENCES, strict=True):
        assert row_metric("sentence_bleu", answer, [reference]) == bleu.sentence_score(answer, [reference]).score / 100
        assert row_metric("sentence_chrf", answer, [reference]) == sentence_chrf(answer, [reference]).score / 100


def test_the_interval_of_a_corpus_metric_encloses_it_and_is_that_of_drawing_rows():
    one = [[reference] for reference in REFERENCES]
    estimate = corpus_metric("bleu", ANSWERS, one, (), seed=0, resamples=2000)
    assert estimate.low < estimate.value < estimate.high
    generator = np.random.default_rng(1)
    naive = []
    for _ in range(300):
        rows = generator.integers(0, len(ANSWERS), size=len(ANSWERS))
        naive.append(corpus_bleu([ANSWERS[row] for row in rows], [[REFERENCES[row] for row in rows]]).score / 100)
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.05)


@pytest.mark.parametrize("name", sorted(ROUGE_TYPES))
def test_rouge_is_that_of_rouge_score_on_english(name):
    scorer = RougeScorer([ROUGE_TYPES[name]])
    for reference, answer in ENGLISH:
        expected = scorer.score(reference, answer)[ROUGE_TYPES[name]].fmeasure
        assert row_metric(name, answer, [reference]) == expected
    assert row_metric(name, ANSWERS[7], [REFERENCES[7]]) == 1  # the same verse without and with its points


def test_rouge_lsum_looks_at_lines_and_rouge_l_at_the_whole():
    answer, reference = "b one\na two", "a two\nb one"
    assert row_metric("rouge_lsum", answer, [reference]) == 1
    assert row_metric("rouge_l", answer, [reference]) == 0.5


def test_micro_and_macro_f1_of_labels_are_those_of_scikit_learn():
    draw = np.random.default_rng(3)
    labels = ("anger", "fear", "joy")
    references = [str(draw.choice(labels)) for _ in range(60)]
    answers = [str(draw.choice((reference, reference, *labels, "glee"))) for reference in references]
    one = [[reference] for reference in references]
    for average in ("micro", "macro"):
        expected = f1_score(references, answers, labels=list(labels), average=average, zero_division=np.nan)
        found = corpus_metric(f"{average}_f1", answers, one, labels, **OPTIONS)
        assert found.value == pytest.approx(expected, abs=1e-15)
        assert found.low < found.value < found.high


def test_micro_and_macro_f1_of_fields_are_those_of_scikit_learn():
    draw = np.random.default_rng(5)
    names = ("city", "day", "time")
    expected = [{name: str(draw.choice(list("abc"))) for name in names if draw.random() < 0.8} for _ in range(50)]
    given = [{name: str(draw.choice(list("abc"))) for name in names if draw.random() < 0.8} for _ in range(50)]
    # Each pair of a field and a value is a class of its own in scikit-learn's multi-label matrix; summed by field.
    table = {}
    for name in names:
        pairs = [(row.get(name), other.get(name)) for row, other in zip(expected, given, strict=True)]
        truth = [[left == value for value in "abc"] for left, _ in pairs]
        guess = [[right == value for value in "abc"] for _, right in pairs]
        table[name] = (np.ravel(truth), np.ravel(guess))
    references, answers = [[json.dumps(row)] for row in expected], [json.dumps(row) for row in given]
    micro = f1_score(*(np.concatenate([table[name][side] for name in names]) for side in (0, 1)))
    macro = np.mean([f1_score(*table[name]) for name in names])
    assert corpus_metric("field_f1_micro", answers, references, (), **OPTIONS).value == pytest.approx(micro, abs=1e-15)
    assert corpus_metric("field_f1_macro", answers, references, (), **OPTIONS).value == pytest.approx(macro, abs=1e-15)


def squad_normalise(text):
    """The evaluation script of SQuAD 1.1, written down from its description."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(answer, reference):
    given, expected = squad_normalise(answer).split(), squad_normalise(reference).split()
    same = sum((Counter(given) & Counter(expected)).values())
    if not same:
        return float(given == expected)
    precision, recall = same / len(given), same / len(expected)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.skipif(not XQUAD.is_dir(), reason="needs ../shared/data/xquad_en")
def test_short_answers_score_as_in_squad_on_every_question_of_xquad():
    path = XQUAD / "xquad.en.json"
    answers = [
        answer["text"]
        for article in json.loads(path.read_text("utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
        for answer in question["answers"]
    ]
    ascii_answers = [answer for answer in answers if answer.isascii() and re.search("[A-Za-z]", answer)]
    assert len(ascii_answers) > 700
    for answer, other in pairwise(ascii_answers):
        for given, expected in ((answer, other), (answer, f"the {answer}."), (f"{answer} {other}", answer)):
            assert token_f1(given, expected) == squad_f1(given, expected)
            assert normalised_match(given, expected) == (squad_normalise(given) == squad_normalise(expected))


@pytest.mark.parametrize("name", ["macro_f1", "micro_f1", "chrf", "field_f1_macro"])
def test_five_rows_that_are_all_wrong_are_no_certainty(name: str):
    estimate = corpus_metric(name, ["{}"] * 5, [['{"a": "b"}']] * 5, ['{"a": "b"}'], **OPTIONS)
    assert estimate.low <= estimate.value < estimate.high
    assert estimate.high > 0.4
