"""Optuna's part: the same choices after a restart, the right direction, and trials that fall behind."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from search_recipe import MakePlan

from kivnun.search.advice import Advisor
from kivnun.search.plan import SearchPlan
from kivnun.search.trials import Trial

SPACE = (
    "learning_rate: {type: float, low: 1e-5, high: 1e-1, log: true}, lora_r: {type: int, low: 1, high: 64}, "
    "use_dora: {type: choice, values: [false, true]}"
)


def distance(trial: Trial) -> float:
    """How far a trial's learning rate is from the best one, in powers of ten."""
    return abs(math.log10(float(trial.values["training.learning_rate"])) + 2)


def end(trial: Trial, value: float) -> Trial:
    return replace(trial, state="complete", value=value, reports=((50, value + 0.1), (100, value)))


def straight(plan: SearchPlan, number: int) -> list[Trial]:
    """A search in one go; what is made small is the distance."""
    advisor, trials = Advisor(plan), []
    for each in range(1, number + 1):
        trial = end(advisor.draw(each, [other.values for other in trials]), 0.0)
        value = -distance(trial) if plan.higher_is_better else distance(trial)
        trials.append(end(trial, value))
        advisor.finish(trials[-1])
    return trials


def restored(plan: SearchPlan, trials: Sequence[Trial]) -> Advisor:
    advisor = Advisor(plan)
    for trial in trials:
        advisor.restore(trial)
    return advisor


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_killed_chooses_what_the_undisturbed_one_chose(make_plan: MakePlan, sampler: str) -> None:
    plan = make_plan(f"{{space: {{{SPACE}}}, sampler: {sampler}}}")
    trials = straight(plan, 16)
    for done in (0, 1, 9, 12, 15):
        drawn = restored(plan, trials[:done]).draw(done + 1, [])
        assert drawn.drawn == trials[done].drawn
        assert drawn.values == trials[done].values


def test_another_seed_chooses_otherwise_and_no_two_trials_are_alike(make_plan: MakePlan) -> None:
    first, second = (straight(make_plan(f"{{space: {{{SPACE}}}, seed: {seed}}}"), 4) for seed in (0, 1))
    assert first[0].values != second[0].values
    assert len({str(trial.values) for trial in first}) == 4


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_sampler_goes_where_the_metric_is_better(make_plan: MakePlan, metric: str) -> None:
    plan = make_plan(f"{{space: {{{SPACE}}}, metric: {metric}}}", "training.validation_metrics=[accuracy]")
    trials = straight(plan, 40)
    assert sum(map(distance, trials[-10:])) < 0.5 * sum(map(distance, trials[:10]))


def test_values_have_four_digits_and_stay_in_their_range(make_plan: MakePlan) -> None:
    space = "{learning_rate: {type: float, low: 0.0123456, high: 0.0123457}, lora_r: {type: int, low: 1, high: 64}}"
    for trial in straight(make_plan(f"{{space: {space}}}"), 3):
        assert 0.0123456 <= trial.values["training.learning_rate"] <= 0.0123457
        assert isinstance(trial.values["method.rank"], int)
    rates = [trial.values["training.learning_rate"] for trial in straight(make_plan(f"{{space: {{{SPACE}}}}}"), 5)]
    assert all(rate == float(f"{rate:.4g}") for rate in rates)


def test_all_combinations_are_tried_once_and_those_that_are_there_are_not_tried_again(make_plan: MakePlan) -> None:
    plan = make_plan("{space: {lora_r: {type: int, low: 1, high: 3}, use_dora: {type: choice, values: [false, true]}}}")
    advisor, used = Advisor(plan), []
    for number in range(1, plan.num_trials + 1):
        trial = advisor.draw(number, used)
        used.append(trial.values)
        advisor.finish(end(trial, 1.0))
    assert len({str(values) for values in used}) == 6
    assert restored(plan, []).draw(5, used[:4]).values == used[4]


def finished(number: int, value: float) -> Trial:
    values = {"method.rank": number, "training.learning_rate": 0.001, "method.use_dora": False}
    return end(Trial(number, values, values), value)


def test_a_trial_below_the_median_is_stopped_after_enough_others_and_past_the_first_tenth(make_plan: MakePlan) -> None:
    plan = make_plan(f"{{space: {{{SPACE}}}, prune_after: 3}}")
    done = [finished(number, value) for number, value in ((1, 1.0), (2, 2.0), (3, 3.0))]
    running = replace(finished(4, 0.0), state="running", reports=())

    def stops(others: Sequence[Trial], percent: int, value: float) -> bool:
        return restored(plan, [*others, running]).should_stop(4, percent, value)

    assert stops(done, 50, 2.2)
    assert not stops(done, 50, 2.0)
    assert not stops(done[:2], 50, 9.0)
    assert not stops([replace(trial, reports=((5, trial.value), (100, trial.value))) for trial in done], 5, 9.0)


def test_higher_is_better_turns_the_pruner_round(make_plan: MakePlan) -> None:
    search = f"{{space: {{{SPACE}}}, prune_after: 1, metric: accuracy}}"
    plan = make_plan(search, "training.validation_metrics=[accuracy]")
    running = replace(finished(2, 0.0), state="running", reports=())
    assert not restored(plan, [finished(1, 0.5), running]).should_stop(2, 50, 0.9)
    assert restored(plan, [finished(1, 0.5), running]).should_stop(2, 50, 0.1)


def test_successive_halving_keeps_the_best_third_and_remembers_its_rungs_after_a_restart(make_plan: MakePlan) -> None:
    plan = make_plan(f"{{space: {{{SPACE}}}, pruner: successive_halving}}")
    done = [finished(number, float(number)) for number in (1, 2, 3)]
    running = replace(finished(4, 0.0), state="running", reports=())
    assert restored(plan, [*done, running]).should_stop(4, 50, 2.5)
    assert not restored(plan, [*done, running]).should_stop(4, 50, 0.5)
    assert not restored(plan, [*done, running]).should_stop(4, 5, 9.0)


def test_what_mattered_is_told_where_there_are_enough_trials(make_plan: MakePlan) -> None:
    plan = make_plan(f"{{space: {{{SPACE}}}}}")
    trials = straight(plan, 30)
    importance = restored(plan, trials).importance()
    assert max(importance, key=importance.__getitem__) == "training.learning_rate"
    assert math.isclose(sum(importance.values()), 1.0)
    assert restored(plan, trials[:3]).importance() == {}
