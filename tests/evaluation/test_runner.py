import json

import pytest

from kivnun.errors import UserError
from kivnun.evaluation.results import Estimate
from kivnun.evaluation.runner import EvalRow, answer_rows, score_classification, score_system
from kivnun.evaluation.scoring import Scoring
from kivnun.generation.engine import Generation

OPTIONS = {"seed": 0, "resamples": 100}
GENERATION = Scoring("generation", resamples=100)


class LookupEngine:
    """An engine that knows its answers by heart."""

    name = "lookup"

    def __init__(self, answers):
        self.answers = answers

    def generate(self, prompts, *, max_new_tokens, stop_ids):
        cut = [self.answers[tuple(prompt)][:max_new_tokens] for prompt in prompts]
        return [Generation(tuple(token for token in ids if token not in stop_ids), "stop") for ids in cut]

    def stream(self, prompt_ids, *, max_new_tokens, stop_ids, sampling):
        yield from self.answers[tuple(prompt_ids)][:max_new_tokens]


class Letters:
    """A tokenizer whose ids are code points, with 0 as its special token."""

    def decode(self, token_ids, skip_special_tokens=False):
        return "".join(chr(token) for token in token_ids if token or not skip_special_tokens)


def make_row(number, reference="joy"):
    return EvalRow(f"id{number}", f"test.jsonl:{number}", "p", (number,), reference, {"phrase": "p"})


def spell(text):
    return [ord(letter) for letter in text]


def test_answers_come_in_the_order_of_the_rows():
    engine = LookupEngine({(1,): spell("joy"), (2,): spell("שמחה"), (3,): [0, *spell("fear")]})
    options = {"tokenizer": Letters(), "max_new_tokens": 8, "stop_ids": frozenset({10})}
    assert answer_rows(engine, [make_row(2), make_row(3), make_row(1)], **options) == ["שמחה", "fear", "joy"]


def test_the_limit_and_the_stop_tokens_reach_the_engine():
    engine = LookupEngine({(1,): spell("jo\ny and on")})
    options = {"tokenizer": Letters(), "max_new_tokens": 4, "stop_ids": frozenset({10})}
    assert answer_rows(engine, [make_row(1)], **options) == ["joy"]


def test_an_engine_that_loses_an_answer_is_found_out():
    class Forgetful(LookupEngine):
        def generate(self, prompts, *, max_new_tokens, stop_ids):
            return super().generate(prompts[1:], max_new_tokens=max_new_tokens, stop_ids=stop_ids)

    engine = Forgetful({(1,): spell("joy"), (2,): spell("joy")})
    with pytest.raises(RuntimeError, match="1 answers to 2"):
        answer_rows(engine, [make_row(1), make_row(2)], tokenizer=Letters(), max_new_tokens=4, stop_ids=frozenset())


def test_classification_scores_say_every_metric_with_its_interval():
    scores = score_classification(
        "tuned", ["joy\nmore", "fear", "glee", "joy"], ["joy", "fear", "joy", "joy"], ["fear", "joy"], **OPTIONS
    )
    assert scores.num_rows == 4
    assert list(scores.metrics) == ["accuracy", "macro_f1", "exact_match"]
    assert scores.metrics["accuracy"].value == 0.75
    assert scores.metrics["exact_match"].value == 0.5
    assert scores.metrics["macro_f1"].value == pytest.approx((1 + 0.8) / 2)
    assert scores.confusion.counts == ((1, 0, 0), (0, 2, 1))
    assert all(each.low <= each.value <= each.high for each in scores.metrics.values())


def test_generation_scores_hold_exact_match_and_take_the_perplexity():
    scores, _ = score_system("base", ["a b", "c"], [make_row(1, "a b").scored, make_row(2, "d").scored], GENERATION)
    assert scores.metrics["exact_match"].value == 0.5
    more = scores.with_metric("perplexity", Estimate(3.0, 2.0, 4.0, "bootstrap"))
    assert list(more.metrics) == ["exact_match", "perplexity"]
    assert list(scores.metrics) == ["exact_match"]


def test_scores_dump_to_json():
    scores = score_classification("base", ["joy", "שמחה"], ["שמחה", "שמחה"], ["joy", "שמחה"], **OPTIONS)
    dumped = json.loads(json.dumps(scores.to_json()))
    assert dumped["metrics"]["accuracy"]["value"] == 0.5
    assert dumped["metrics"]["accuracy"]["method"] == "wilson"
    assert dumped["confusion"]["columns"] == ["joy", "שמחה", "(other)"]


def test_no_test_rows_are_refused():
    with pytest.raises(UserError) as caught:
        score_system("base", [], [], GENERATION)
    assert caught.value.code == "split-too-small"


def test_a_label_of_several_lines_is_refused_because_no_first_line_could_equal_it():
    with pytest.raises(UserError, match="several lines"):
        score_classification("base", ["a"], ["a\nb"], ["a\nb"], **OPTIONS)
