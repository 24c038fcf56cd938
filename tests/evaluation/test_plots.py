import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivnun.evaluation.plot_forms import draw_forms
from kivnun.evaluation.plots import MAX_POINTS, choose_ticks, describe_losses, draw_losses, thin_out
from kivnun.generation.agreement import ParityRow

TRAIN = [(step, 3 / step + 0.2) for step in range(1, 101)]
VALIDATION = [(20, 0.6), (60, 0.4), (100, 0.5)]


def elements(svg, kind):
    return [each for each in ElementTree.fromstring(str(svg)).iter() if each.get("class") == kind]  # noqa: S314


def test_the_chart_has_words_for_those_who_do_not_see_it():
    root = ElementTree.fromstring(str(draw_losses(TRAIN, VALIDATION, 60, width=700, height=300)))  # noqa: S314
    assert root.get("role") == "img"
    assert root.get("aria-label") == describe_losses(TRAIN, VALIDATION, 60)
    assert "validation loss from 0.600 at step 20 to 0.500 at step 100; best step 60" in root.get("aria-label")


def test_a_lower_loss_is_drawn_lower_and_a_later_step_further_right():
    dots = elements(draw_losses(TRAIN, VALIDATION, 60, width=700, height=300), "validation-dot")
    across = [float(dot.get("cx")) for dot in dots]
    down = [float(dot.get("cy")) for dot in dots]
    assert across == sorted(across)
    assert down[0] < down[2] < down[1]


def test_the_best_step_is_marked_where_its_validation_is():
    svg = draw_losses(TRAIN, VALIDATION, 60, width=700, height=300)
    assert elements(svg, "best-label")[0].text == "best: step 60, 0.400"
    assert elements(svg, "best")[0].get("x1") == elements(svg, "validation-dot")[1].get("cx")


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e4)), min_size=1, max_size=30, unique_by=lambda p: p[0]),
    st.sampled_from([360, 760]),
)
def test_everything_is_drawn_inside_the_picture(points, width):
    svg = str(draw_losses(sorted(points), sorted(points), max(points)[0], width=width, height=260))
    places = re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r'points="([^"]*)"', svg)))
    assert all(0 <= float(x) <= width and 0 <= float(y) <= 260 for x, y in places)


def test_losses_that_are_not_finite_are_left_out():
    svg = str(draw_losses([(1, math.nan), (2, 1.0), (3, math.inf)], [], None, width=700, height=300))
    assert "nan" not in svg
    assert "inf" not in svg


def test_no_losses_give_no_chart():
    assert draw_losses([], [(1, math.nan)], None, width=700, height=300) is None


def test_a_long_curve_is_thinned_to_means_that_keep_its_level():
    points = [(step, float(step % 2)) for step in range(10_000)]
    thinned = thin_out(points)
    assert len(thinned) <= MAX_POINTS
    assert all(loss == pytest.approx(0.5, abs=0.02) for _, loss in thinned)


@given(st.floats(0, 1e4), st.floats(0, 1e4))
def test_ticks_are_few_and_enclose_the_losses(first, second):
    low, high = sorted((first, second))
    ticks = choose_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9


def form(name: str, size_mib: int, score: float | None, folder: str | None) -> ParityRow:
    verdict = "passed" if folder else "not kept"
    return ParityRow(
        name, "int4", size_mib * 2**20, 100.0, 40, 38, 1, 1, score, token_agreement=0.9, folder=folder, verdict=verdict
    )


def test_forms_are_drawn_by_size_and_score_and_the_kept_one_is_named():
    rows = [form("fp32", 40, 0.9, None), form("int4 <rtn>", 10, 0.8, None), form("int8", 20, 0.9, "onnx-int8")]
    picture = str(draw_forms(rows, width=760, height=300))
    assert picture.count("validation-dot") == 2
    assert picture.count("best-mark") == 1
    assert ">int8</text>" in picture
    assert "int4 &lt;rtn&gt;: 10.0 MiB, 80.0 %" in picture
    assert "size, MiB" in picture


def test_the_line_joins_the_forms_that_nothing_beats():
    rows = [form("a", 40, 0.9, "a"), form("b", 10, 0.8, "b"), form("c", 20, 0.9, "c"), form("d", 30, 0.7, "d")]
    picture = str(draw_forms(rows, width=760, height=300))
    line = picture.partition('<polyline class="train" points="')[2].partition('"')[0]
    assert len(line.split()) == 2


def test_without_scores_the_tokens_that_agree_are_drawn():
    rows = [form(name, 10, None, name) for name in "abc"]
    assert "tokens as the tuned model" in str(draw_forms(rows, width=760, height=300))


def test_two_forms_need_no_picture():
    assert draw_forms([form("a", 1, 0.9, "a"), form("b", 2, 0.9, "b")], width=760, height=300) is None
