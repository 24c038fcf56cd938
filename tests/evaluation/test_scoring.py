"""From answers to scores: what each task measures, what is refused, and metrics of one's own."""

import json

import pytest

from kivnun.errors import UserError
from kivnun.evaluation.own_metrics import describe_own
from kivnun.evaluation.scoring import (
    ScoredRow,
    Scoring,
    describe_scoring,
    mean_score,
    read_references,
    require_scorable,
    score_rows,
    scoring_of,
    summarise,
)
from kivnun.evaluation.tasks import TASKS
from kivnun.recipe.schema import EvaluationSection

OWN = """
import math

def length(answer, references, fields):
    return 1.0 if len(answer) <= int(fields["most"]) else 0.25

def broken(answer, references, fields):
    return math.nan

def failing(answer, references, fields):
    raise KeyError("no")

def two(answer, references):
    return 1.0
"""
ENTRY_POINTS = """[kivnun.metrics]
short = own_metrics_of_a_test:length
broken = own_metrics_of_a_test:broken
failing = own_metrics_of_a_test:failing
two = own_metrics_of_a_test:two
absent = own_metrics_of_a_test:nothing
"""


def make_row(number, *references, **fields):
    return ScoredRow(f"id{number}", f"test.jsonl:{number}", "שאלה", references, fields)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with metrics of its own, as pip would install it."""
    (tmp_path / "own_metrics_of_a_test.py").write_text(OWN, "utf-8")
    info = tmp_path / "own_metrics_of_a_test-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-metrics-of-a-test\nVersion: 1.2\n", "utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def section(**fields):
    return EvaluationSection.model_validate({"task": "generation", **fields})


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_main_metric_of_every_task_comes_first_and_is_1_for_right_answers(task):
    answer = {"extraction": '{"a": 1}', "code": "x = 1"}.get(task, "a b")
    rows = [make_row(1, answer), make_row(2, answer)]
    scoring = Scoring(task, labels=("a b",), resamples=100)
    found = score_rows([answer, answer], rows, scoring)
    estimates = summarise([answer, answer], rows, found, scoring)
    assert next(iter(estimates)) == found.main == scoring.main
    assert found.main_scores == (1, 1)
    assert {estimate.value for estimate in estimates.values()} == {1}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_an_empty_answer_scores_nothing_and_breaks_nothing(task):
    answer = {"extraction": '{"a": 1}', "code": "x = 1"}.get(task, "a b")
    rows, scoring = [make_row(1, answer)], Scoring(task, labels=("a b",), resamples=100)
    estimates = summarise([""], rows, score_rows([""], rows, scoring), scoring)
    assert {estimate.value for estimate in estimates.values()} == {0}


def test_classification_and_generation_measure_what_they_always_did():
    rows, scoring = [make_row(1, "joy"), make_row(2, "fear")], Scoring("classification", labels=("fear", "joy"))
    answers = ["joy\nindeed", "joy"]
    estimates = summarise(answers, rows, score_rows(answers, rows, scoring), scoring)
    assert {name: each.value for name, each in estimates.items()} == {
        "accuracy": 0.5,
        "macro_f1": pytest.approx(1 / 3),
        "exact_match": 0,
    }


def test_further_metrics_are_measured_beside_those_of_the_task():
    rows = [make_row(1, "joy"), make_row(2, "fear")]
    scoring = scoring_of(
        section(task="classification", label="x", metrics=["in_label_set", "micro_f1", "sentence_chrf"]),
        ("fear", "joy"),
    )
    answers = ["joy", "glee"]
    estimates = summarise(answers, rows, score_rows(answers, rows, scoring), scoring)
    assert list(estimates) == ["accuracy", "macro_f1", "micro_f1", "exact_match", "in_label_set", "sentence_chrf"]
    assert estimates["in_label_set"].value == 0.5
    assert estimates["micro_f1"].value == pytest.approx(2 / 3)


def test_of_several_references_the_best_one_counts():
    rows = [make_row(1, "1969", "in 1969")]
    assert score_rows(["in 1969"], rows, Scoring("question_answering")).main_scores == (1,)
    assert score_rows(["in 1969"], rows, Scoring("generation")).main_scores == (1,)


def test_references_are_read_from_a_json_list_and_the_row_s_own_comes_first():
    fields = {"more": '["x", "y"]', "none": "", "bad": "x, y", "numbers": "[1]"}
    assert read_references("x", fields, "more", "a:1") == ("x", "y")
    assert read_references("x", fields, "none", "a:1") == read_references("x", fields, None, "a:1") == ("x",)
    for column in ("bad", "numbers", "missing"):
        with pytest.raises(UserError, match="a:1") as caught:
            read_references("x", fields, column, "a:1")
        assert caught.value.code == "evaluation-invalid"


def test_rows_without_a_right_answer_are_refused_by_file_and_line():
    with pytest.raises(UserError, match="1 of 2") as caught:
        require_scorable([make_row(1, "a"), make_row(2, " ")], Scoring("generation"))
    assert caught.value.code == "evaluation-invalid"
    assert caught.value.details == ("test.jsonl:2",)


def test_an_extraction_whose_right_answer_is_no_json_is_refused():
    with pytest.raises(UserError, match="no JSON object") as caught:
        require_scorable([make_row(1, "Haifa")], Scoring("extraction"))
    assert caught.value.details == ("test.jsonl:1",)


def test_programs_are_run_only_where_they_may_and_right_answers_must_pass_their_own_tests():
    rows = [make_row(1, "def f(): return 1", tests="assert f() == 1")]
    answer = "def f():\n    return 1"
    assert score_rows([answer], rows, Scoring("code")).metrics == {"exact_match": (0,), "syntax_valid": (1,)}
    allowed = Scoring("code", tests="tests", run_code=True)
    require_scorable(rows, allowed)
    assert score_rows([answer], rows, allowed).main_scores == (1,)
    for bad, words in (
        (make_row(3, "f = 1", tests="assert f() == 1"), "own tests"),
        (make_row(3, "f = 1"), "no tests"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            require_scorable([*rows, bad], allowed)
        assert caught.value.details == ("test.jsonl:3",)


def test_a_schema_is_measured_of_every_answer(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text('{"type": "object"}', "utf-8")
    scoring = scoring_of(section(task="extraction", json_schema=str(path)))
    rows = [make_row(1, "{}"), make_row(2, "{}")]
    assert score_rows(["{}", "[]"], rows, scoring).metrics["schema_valid"] == (1, 0)
    assert describe_scoring(scoring) == {"json_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"metrics": ["tokenf1"]}, "did you mean `token_f1`"),
        ({"metrics": ["perplexity"]}, "is measured by itself"),
        ({"metrics": ["macro_f1"]}, "needs labels"),
        ({"metrics": ["schema_valid"]}, "needs a JSON Schema"),
        ({"metrics": ["pass_at_1"]}, "runs answers"),
    ],
)
def test_a_metric_that_is_unknown_or_does_not_fit_is_refused(fields, words):
    with pytest.raises(UserError, match=words) as caught:
        scoring_of(section(**fields))
    assert caught.value.code == "metric-invalid"


@pytest.mark.usefixtures("installed")
def test_a_metric_of_one_s_own_sees_the_answer_the_references_and_the_fields():
    scoring = scoring_of(section(metrics=["short"]))
    rows = [make_row(1, "a", most="3"), make_row(2, "a", most="3")]
    found = score_rows(["abc", "abcd"], rows, scoring)
    assert found.metrics["short"] == (1, 0.25)
    assert summarise(["abc", "abcd"], rows, found, scoring)["short"].value == pytest.approx(0.625)
    assert describe_own("short")["package"] == "own-metrics-of-a-test 1.2"
    assert len(describe_scoring(scoring)["metric short"]["source"]) > 20


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "words"), [("broken", "test.jsonl:1: .*gave nan"), ("failing", "test.jsonl:1: .*KeyError")]
)
def test_a_metric_of_one_s_own_that_gives_no_number_is_refused_with_its_row(name, words):
    scoring = scoring_of(section(metrics=[name]))
    with pytest.raises(UserError, match=words) as caught:
        score_rows(["a"], [make_row(1, "a")], scoring)
    assert caught.value.code == "metric-invalid"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("name", "words"), [("two", "too many positional"), ("absent", "cannot be imported")])
def test_a_metric_of_one_s_own_that_is_none_is_refused_before_anything_is_measured(name, words):
    with pytest.raises(UserError, match=words) as caught:
        scoring_of(section(metrics=[name]))
    assert caught.value.code == "metric-invalid"


def test_golden_answers_are_scored_by_the_main_metric():
    assert mean_score("classification", ["joy\nx", "fear"], ["joy", "joy"]) == 0.5
    assert mean_score("question_answering", ["in 1969", "x"], ["1969", "y"]) == pytest.approx(1 / 3)
    assert mean_score("code", ["x = 1"], ["x = 1"]) == 1


def test_scores_are_json_once_summarised():
    rows, scoring = [make_row(1, "a b")], Scoring("summarisation", resamples=100)
    estimates = summarise(["a"], rows, score_rows(["a"], rows, scoring), scoring)
    assert json.loads(json.dumps({name: each.to_json() for name, each in estimates.items()}))["chrf"]["value"] < 1
