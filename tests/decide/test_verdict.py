"""The verdict: the cheapest arm stays unless a gain is large and shown; else it says how many rows are missing."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kivnun.decide.results import Arm, Cost, Freshness, Latency
from kivnun.decide.verdict import Z, decide_between, gain_over, order_by_cost, rows_to_settle
from kivnun.recipe.decide import ARMS, DecideSection

FAST = Latency(100, 200, None, 20, 0)
BENCH = Path(__file__).parents[2] / "bench"


def scores(right: int, total: int = 200) -> list[float]:
    return [1.0] * right + [0.0] * (total - right)


def arm(name: str, values: list[float], dollars: float | None = None, **more: object) -> Arm:
    cost = Cost(100, 120, 10, dollars_per_1000=dollars)
    return Arm(name, name.partition(":")[0], "m", "measured", scores=tuple(values), **{"cost": cost, **more})  # type: ignore[arg-type]


def test_a_dearer_arm_is_taken_for_a_gain_that_is_shown() -> None:
    decision = decide_between([arm("prompt", scores(100)), arm("rag", scores(140))], DecideSection(), metric="accuracy")
    assert (decision.chosen, decision.is_decided, decision.rows_needed) == ("rag", True, None)
    assert decision.sentence.startswith("Take rag: accuracy 70.0")
    assert "−20.0 points" in decision.reasons["prompt"]


def test_equal_arms_stay_with_the_cheapest_and_enough_equal_rows_decide() -> None:
    same = [arm("prompt", scores(120)), arm("rag", scores(120)), arm("tuned", scores(120))]
    decision = decide_between(same, DecideSection())
    assert (decision.chosen, decision.is_decided) == ("prompt", True)
    assert "the cheapest" in decision.sentence


def test_a_few_rows_without_any_difference_prove_nothing() -> None:
    decision = decide_between([arm("prompt", scores(12, 20)), arm("rag", scores(12, 20))], DecideSection())
    assert (decision.chosen, decision.is_decided) == ("prompt", False)
    assert decision.rows_needed is not None
    assert decision.rows_needed > 20


def test_a_gain_that_is_large_but_not_shown_is_undecided_and_says_the_rows() -> None:
    prompt, rag = scores(20, 40), [1.0] * 16 + [0.0] * 4 + [1.0] * 7 + [0.0] * 13
    decision = decide_between([arm("prompt", prompt), arm("rag", rag)], DecideSection())
    assert (decision.chosen, decision.is_decided) == ("prompt", False)
    needed = rows_to_settle(gain_over(rag, prompt), DecideSection())
    assert decision.rows_needed == needed
    assert f"({needed:,} in all)" in decision.sentence
    assert f"{needed - 40:,} more test rows" in decision.sentence


def test_the_rows_settle_every_arm_that_is_open() -> None:
    prompt, near, far = scores(50, 100), scores(50, 100), [*scores(45, 50), *scores(15, 50)]
    decision = decide_between(
        [arm("prompt", prompt), arm("rag", far), arm("tuned", near)], DecideSection(max_regret=0.031)
    )
    each = [rows_to_settle(gain_over(other, prompt), DecideSection(max_regret=0.031)) for other in (near, far)]
    assert None not in each
    assert each[0] != each[1]
    assert decision.rows_needed == max(filter(None, each))


def test_a_gain_that_is_shown_but_small_is_not_paid_for() -> None:
    rows = 2000
    decision = decide_between([arm("prompt", scores(1000, rows)), arm("tuned", scores(1040, rows))], DecideSection())
    assert (decision.chosen, decision.is_decided) == ("prompt", True)
    assert "gains less than 3\xa0points" in decision.reasons["tuned"]
    paid = decide_between(
        [arm("prompt", scores(1000, rows)), arm("tuned", scores(1040, rows))], DecideSection(min_gain=0.01)
    )
    assert paid.chosen == "tuned"


def test_graded_scores_count_as_they_are() -> None:
    low, high = [0.4] * 100, [0.5] * 100
    gain = gain_over(high, low)
    assert gain.value == pytest.approx(0.1)
    assert gain.low > 0
    assert decide_between([arm("prompt", low), arm("rag", high)], DecideSection()).chosen == "rag"


def test_the_bounds_are_those_of_two_more_rows_one_won_and_one_lost() -> None:
    new, old = [1.0, 1.0, 0.0, 0.5, 1.0], [0.0, 1.0, 1.0, 0.5, 0.0]
    padded = [a - b for a, b in zip(new, old, strict=True)] + [1.0, -1.0]
    mean = sum(padded) / 7
    error = (sum((each - mean) ** 2 for each in padded) / 7 / 7) ** 0.5
    gain = gain_over(new, old)
    assert gain.value == pytest.approx(0.2)
    assert (gain.low, gain.high) == (pytest.approx(mean - Z * error), pytest.approx(mean + Z * error))


def test_a_gain_turned_around_is_the_same_gain_with_the_other_sign() -> None:
    one, other = scores(90), [*scores(30, 100), *scores(80, 100)]
    there, back = gain_over(one, other), gain_over(other, one)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_rows_that_do_not_belong_together_are_our_bug() -> None:
    with pytest.raises(ValueError, match="shorter"):
        gain_over([1.0, 0.0], [1.0])


def test_with_the_rows_that_were_asked_for_it_is_settled() -> None:
    prompt = scores(50, 100)
    rag = [*scores(45, 50), *scores(15, 50)]
    first = decide_between([arm("prompt", prompt), arm("rag", rag)], DecideSection())
    assert first.rows_needed is not None
    times = -(-first.rows_needed // 100)
    again = decide_between([arm("prompt", prompt * times), arm("rag", rag * times)], DecideSection())
    assert again.is_decided


def test_order_is_by_dollars_with_training_paid_off_where_all_are_priced() -> None:
    trained = Cost(100, 120, 10, dollars_per_1000=0.5, training_minutes=60, training_dollars=200.0)
    arms = [arm("tuned", [1.0], cost=trained), arm("prompt", [1.0], 1.0), arm("few_shot", [1.0], 3.0)]
    ordered, note = order_by_cost(arms, DecideSection(expected_requests=100_000))
    assert [each.name for each in ordered] == ["prompt", "tuned", "few_shot"]
    assert "dollars" in note
    cheap, _ = order_by_cost(arms, DecideSection(expected_requests=1_000_000))
    assert [each.name for each in cheap] == ["tuned", "prompt", "few_shot"]


def test_order_is_fixed_where_a_price_is_missing_and_says_whose() -> None:
    arms = [arm("rag:claude", [1.0], 0.1), arm("tuned", [1.0]), arm("rag", [1.0]), arm("prompt", [1.0])]
    ordered, note = order_by_cost(arms, DecideSection())
    assert [each.name for each in ordered] == ["prompt", "rag", "rag:claude", "tuned"]
    assert "no dollars are known for prompt, rag, tuned" in note


def test_the_fixed_order_is_that_of_the_recipe() -> None:
    ordered, _ = order_by_cost([arm(name, [1.0]) for name in reversed(ARMS)], DecideSection())
    assert tuple(each.name for each in ordered) == ARMS


@pytest.mark.parametrize(
    ("limit", "kept", "broken"),
    [
        ({"max_latency_ms": 300.0}, {"latency": FAST}, {"latency": Latency(100, 900, None, 20, 0)}),
        ({"max_latency_ms": 300.0}, {"latency": FAST}, {}),
        (
            {"max_stale_minutes": 5.0},
            {"freshness": Freshness(5, 1.0, 0.0, 60.0, "")},
            {"freshness": Freshness(5, 0.0, 1.0, None, "only after training again")},
        ),
        ({"max_dollars_per_1000": 2.0}, {}, {"cost": Cost(1, 1, 1, dollars_per_1000=2.5)}),
        ({"max_dollars_per_1000": 2.0}, {}, {"cost": Cost(1, 1, 1, dollars_per_1000=None)}),
    ],
)
def test_an_arm_beyond_a_limit_or_of_unknown_kind_cannot_be_chosen(
    limit: dict[str, float], kept: dict[str, object], broken: dict[str, object]
) -> None:
    good = arm("prompt", scores(100), 1.0, **kept)
    best = arm("rag", scores(190), 1.5, **broken)
    decision = decide_between([good, best], DecideSection(**limit))
    assert decision.chosen == "prompt"
    assert decision.reasons["rag"].startswith("breaks a limit: ")
    nothing = decide_between([best], DecideSection(**limit))
    assert (nothing.chosen, nothing.is_decided) == ("", False)
    assert "No verdict" in nothing.sentence


def test_arms_that_were_not_run_and_diagnostics_are_named_and_never_chosen() -> None:
    arms = [
        arm("prompt", scores(100)),
        arm("oracle", scores(200)),
        Arm("rag", "rag", "m", "not run", "the recipe has no documents"),
        Arm("tuned", "tuned", "m", "pruned", "no gain on the pilot rows"),
    ]
    decision = decide_between(arms, DecideSection())
    assert (decision.chosen, decision.order) == ("prompt", ("prompt",))
    assert decision.reasons == {
        "rag": "not considered: the recipe has no documents",
        "tuned": "not considered: no gain on the pilot rows",
    }


def test_a_verdict_names_what_was_asked_for_and_not_measured() -> None:
    arms = [
        arm("prompt", scores(100)),
        Arm("rag", "rag", "m", "not run", "over budget"),
        Arm("tuned", "tuned", "m", "pruned", "no gain on the pilot rows"),
        Arm("few_shot", "few_shot", "m", "not run", "not asked for in decide.arms"),
        Arm("oracle", "oracle", "m", "not run", "no documents"),
    ]
    decision = decide_between(arms, DecideSection(arms=("prompt", "rag", "tuned")))
    assert decision.sentence.endswith("so that nothing is ruled out of: rag, tuned (pruned).")
    assert "Not measured" not in decide_between(arms[:1], DecideSection()).sentence


def test_the_cheapest_that_keeps_the_limits_is_not_called_the_cheapest() -> None:
    slow = Latency(500, 900, None, 20, 0)
    arms = [arm("prompt", scores(150, 2000), latency=slow)]
    arms += [arm(name, scores(150, 2000), latency=FAST) for name in ("few_shot", "rag")]
    decision = decide_between(arms, DecideSection(max_latency_ms=300.0))
    assert "Take few_shot, the cheapest that keeps the limits:" in decision.sentence


def test_no_bound_is_beyond_the_whole_scale() -> None:
    gain = gain_over([1.0] * 24, [0.0] * 24)
    assert (gain.value, gain.high) == (1, 1)


def test_nothing_measured_is_no_verdict() -> None:
    decision = decide_between([Arm("prompt", "prompt", "m", "not run", "no model")], DecideSection())
    assert (decision.chosen, decision.order) == ("", ())


def test_arms_that_are_never_right_are_not_recommended() -> None:
    decision = decide_between([arm("prompt", scores(0)), arm("tuned", scores(0))], DecideSection())
    assert decision.sentence.startswith("No arm gets anything right")


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("decide_rule", BENCH / "decide_rule.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules["decide_rule"] = module
    spec.loader.exec_module(module)
    return module


def test_in_simulation_equal_arms_cost_nothing_and_wrong_picks_are_flagged(simulation: ModuleType) -> None:
    equal = simulation.simulate("five equal arms", 200, 150)
    better = simulation.simulate("tuned better by 20 points", 200, 150)
    assert equal.cost < 1.2
    assert equal.best_mean_cost > 3.0
    assert better.wrong <= 0.02
    for found in (equal, better, simulation.simulate("rag better by 10 points", 100, 150)):
        assert found.wrong_unflagged <= 0.01
