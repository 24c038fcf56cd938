import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from kivnun.evaluation.compare import Outcome, compare_rows, group_outcomes
from kivnun.evaluation.metrics import rows_right
from kivnun.evaluation.report import ReportInput, clip_text, render_report
from kivnun.evaluation.results import BASE, LINEAR, MAJORITY, TUNED, Estimate
from kivnun.evaluation.runner import score_classification
from kivnun.generation.agreement import ParityRow

VOID = {"meta", "link", "br", "hr", "img", "input"}
ATTACK = '<script>alert("x")</script><img src=x onerror=alert(1)>'
HEBREW = "גשם אפור בחוץ, וגם בפנים"
OPTIONS = {"seed": 0, "resamples": 100}
REFERENCES = ["joy", "fear", "joy", "fear", "joy", "fear"]
ANSWERS = {
    BASE: ["joy", "joy", "fear", "babble", "fear", "joy"],
    TUNED: ["fear", "fear", "joy", "fear", "joy", "joy"],
    MAJORITY: ["fear"] * 6,
    LINEAR: ["joy", "joy", "joy", "fear", "fear", "fear"],
}


class Reader(HTMLParser):
    """Reads the page as a browser would, and remembers tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.unbalanced, self.words = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def make_outcomes(prompts):
    rows = zip(prompts, REFERENCES, ANSWERS[BASE], ANSWERS[TUNED], strict=True)
    outcomes = [Outcome(str(n), f"test.jsonl:{n}", *row) for n, row in enumerate(rows, 1)]
    return group_outcomes(outcomes, task="classification")


def make_report(**changes):
    right = {name: rows_right(answers, REFERENCES, task="classification") for name, answers in ANSWERS.items()}
    report = ReportInput(
        title="tone",
        created="2026-11-21 10:40 UTC",
        task="classification",
        recipe_yaml="name: tone  # משפט\n",
        lock={"seed": 0, "versions": {"torch": "2.13.0"}},
        train_losses=[(step, 2 / step) for step in range(1, 30)],
        validation_losses=[(10, 0.9), (20, 0.7), (29, 0.8)],
        best_step=20,
        scores=[
            score_classification(name, answers, REFERENCES, ["fear", "joy"], **OPTIONS)
            for name, answers in ANSWERS.items()
        ],
        comparison=compare_rows((BASE, TUNED), right[BASE], right[TUNED], **OPTIONS),
        yardstick_comparison=compare_rows((LINEAR, TUNED), right[LINEAR], right[TUNED], **OPTIONS),
        outcomes=make_outcomes(["one", HEBREW, "three", "four", "five", "six"]),
        parity=[ParityRow("onnx int4", "int4", 14_200_000, 2310.0, 6, 4, 1, 1, 0.86)],
        durations={"dataset": 1.2, "training": 190.0},
        tokens_per_second={"training": 1843.0},
        warnings=["2 rows were dropped"],
    )
    return replace(report, **changes)


def test_the_page_is_one_file_that_asks_for_nothing():
    html = render_report(make_report())
    reader = Reader(html)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|@font-face", html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in reader.tags}
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on") or name == "src"]
    assert all(attributes["href"].startswith("#") for tag, attributes in reader.tags if tag == "a")


def test_the_page_is_well_formed_and_its_anchors_exist():
    reader = Reader(render_report(make_report()))
    assert not reader.unbalanced
    assert not reader.open
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for tag, a in reader.tags if tag == "a"}
    targets |= {a["aria-labelledby"] for _, a in reader.tags if "aria-labelledby" in a}
    assert targets <= set(ids)


@pytest.mark.parametrize("place", ["title", "recipe_yaml", "warnings", "lock", "durations", "parity", "created"])
def test_no_value_can_bring_its_own_markup(place):
    values = {
        "warnings": [ATTACK],
        "lock": {ATTACK: ATTACK},
        "durations": {ATTACK: 1.0},
        "parity": [ParityRow(ATTACK, ATTACK, 1, 1.0, 1, 1, 0, 0, None)],
    }
    reader = Reader(render_report(make_report(**{place: values.get(place, ATTACK)})))
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}
    assert "alert(" in reader.text


def test_rows_and_labels_cannot_bring_their_own_markup():
    outcome = Outcome(ATTACK, f"{ATTACK}:1", ATTACK, "joy", "joy", ATTACK)
    scores = score_classification(BASE, [ATTACK], [ATTACK], [ATTACK], **OPTIONS)
    report = make_report(outcomes=group_outcomes([outcome], task="classification"), scores=[scores])
    reader = Reader(render_report(report))
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}
    assert reader.text.count(ATTACK) >= 4


def test_every_user_text_finds_its_own_direction():
    html = render_report(make_report())
    assert f'<span class="user" dir="auto">{HEBREW}</span>' in html
    assert '<bdi dir="auto">joy</bdi>' in html
    assert "unicode-bidi: plaintext" in html
    assert "unicode-bidi: isolate" in html
    assert "overflow-wrap: anywhere" in html


def test_regressions_come_before_fixes_and_fixes_before_rows_that_stay_wrong():
    text = Reader(render_report(make_report())).text
    places = [text.index(words) for words in ("Regressions (1)", "Fixes (4)", "Both wrong (1)")]
    assert places == sorted(places)


def test_rows_beyond_the_limit_are_counted():
    text = Reader(render_report(make_report(max_rows_shown=1))).text
    assert "3 more rows are not shown" in text
    assert "five" not in text


def test_the_verdict_stands_first_and_says_its_doubt_in_words():
    text = Reader(render_report(make_report())).text.replace("\u00a0", " ")
    assert "No difference between the tuned model and the base model is shown: accuracy 66.7 % against 16.7 %" in text
    assert "the yardstick TF-IDF + logistic regression is shown" in text
    assert text.index("No difference") < text.index("Scores on the test split")
    assert "only large differences can be shown" in text


def test_right_and_wrong_answers_are_told_apart_by_sign_and_word_and_not_only_by_colour():
    html = render_report(make_report())
    assert html.count('<span class="mark" aria-hidden="true">✗</span><span class="hidden">wrong:</span>') == 7
    assert html.count('<span class="mark" aria-hidden="true">✓</span><span class="hidden">right:</span>') == 5


def test_tables_have_headers_and_pictures_have_words():
    reader = Reader(render_report(make_report()))
    assert all("scope" in attributes for tag, attributes in reader.tags if tag == "th")
    pictures = [attributes for tag, attributes in reader.tags if tag == "svg"]
    assert all("aria-label" in a or a.get("aria-hidden") == "true" for a in pictures)
    assert sum(a.get("role") == "img" for a in pictures) == 2


def test_the_scores_stand_beside_their_intervals_and_the_best_is_named():
    html = render_report(make_report())
    text = Reader(html).text.replace("\u00a0", " ")
    assert "66.7 %best30.0 % to 90.3 %" in text  # Wilson for 4 of 6
    assert "majority class" in text


def test_a_lower_perplexity_is_the_better_one():
    scores = [
        each.with_metric("perplexity", Estimate(value, value - 1, value + 1, "bootstrap over rows"))
        for each, value in zip(make_report().scores[:2], (9.0, 3.0), strict=True)
    ]
    text = Reader(render_report(make_report(scores=scores))).text
    assert "3.00best" in text
    assert "9.00best" not in text


def test_answers_outside_the_label_set_are_counted_at_the_confusion_matrix():
    text = Reader(render_report(make_report())).text
    assert "1 of 6 answers were no label at all" in text


def test_a_report_without_evaluation_or_losses_still_says_what_was_run():
    report = make_report(
        train_losses=[], validation_losses=[], best_step=None, scores=[], comparison=None, yardstick_comparison=None,
        outcomes=None, parity=[], durations={}, tokens_per_second={}, warnings=[],
    )  # fmt: skip
    reader = Reader(render_report(report))
    assert not reader.unbalanced
    assert "No loss was recorded" in reader.text
    assert "name: tone # משפט" in reader.text


def test_the_same_values_give_the_same_page():
    assert render_report(make_report()) == render_report(make_report())


def test_a_very_long_text_is_cut_with_a_count():
    assert clip_text("x" * 1200) == "x" * 1200
    assert clip_text("x" * 3200).endswith("(2,000 more characters)")


def test_a_place_in_a_file_keeps_its_order_even_when_the_file_has_a_hebrew_name():
    outcome = Outcome("1", "שיחות/קובץ.jsonl:7", HEBREW, "joy", "joy", "  fear\n")
    html = render_report(make_report(outcomes=group_outcomes([outcome], task="classification")))
    assert '<bdi class="where" dir="ltr">שיחות/קובץ.jsonl:7</bdi>' in html
    assert '<span class="user" dir="auto">fear</span>' in html
