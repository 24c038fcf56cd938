"""What is kept of trials, how their events are read, and what is said of them at the end."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from search_recipe import MakePlan

from kivnun.errors import UserError
from kivnun.search.loop import describe_search, run_search
from kivnun.search.process import Course, EventTail
from kivnun.search.summary import SearchResult, rank, say_caveats, summarise
from kivnun.search.trials import Trial, read_trials, require_same_search, write_trial

SEARCH = "{space: {lora_r: {type: int, low: 1, high: 9}, epochs: {type: float, low: 1.0, high: 9.0}}, num_trials: 3}"
VALUES = {"method.rank": 4, "training.epochs": 1.5}
DONE = Trial(1, VALUES, VALUES, "complete", 0.5, 6, 8, 8, num_rows=50, seconds=2.0, reports=((50, 0.6), (100, 0.5)))


def test_a_trial_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    write_trial(tmp_path, DONE)
    write_trial(tmp_path, Trial(2, {"a": 0.1}, {"a": 0.1}, reason="x"))
    assert read_trials(tmp_path) == [DONE, Trial(2, {"a": 0.1}, {"a": 0.1}, reason="x")]
    (tmp_path / "trials" / "0003.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match=r"0003\.json cannot be read"):
        read_trials(tmp_path)


def test_a_folder_of_another_search_is_refused_and_more_trials_are_not_another_search(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    require_same_search(folder, describe_search(make_plan(SEARCH)))
    require_same_search(folder, describe_search(make_plan(SEARCH, "search.num_trials=9", "search.workers=3")))
    require_same_search(folder, describe_search(make_plan(SEARCH, "evaluation={task: generation}")))
    for other, words in (("training.epochs=9", "another recipe"), ("search.seed=1", "another seed")):
        with pytest.raises(UserError, match=words):
            require_same_search(folder, describe_search(make_plan(SEARCH, other)))


def course_of(metric: str, *events: dict) -> tuple[Course, list]:
    course = Course(metric)
    reports = [course.take(event) for event in events]
    return course, [report for report in reports if report is not None]


def validation(step: int, *, best: bool, **metrics: object) -> dict:
    return {"event": "validation", "step": step, "best": best, **metrics}


def test_the_value_is_that_of_the_step_which_training_keeps_and_repeated_steps_count_once() -> None:
    started = {"event": "training_started", "num_steps": 8}
    course, reports = course_of(
        "accuracy",
        started,
        validation(2, best=True, loss=3.0, accuracy=0.4),
        validation(4, best=True, loss=2.0, accuracy=0.8),
        started,
        validation(2, best=True, loss=3.0, accuracy=0.4),
        validation(4, best=True, loss=2.0, accuracy=0.8),
        validation(6, best=False, loss=1.0, accuracy=0.8),
        validation(8, best=False, loss="nan", accuracy="nan"),
    )
    assert reports == [(25, 0.4), (50, 0.8), (75, 0.8)]
    assert (course.best_value, course.best_step) == (0.8, 4)


def test_a_line_that_is_not_ended_is_read_when_it_is(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert list(tail.read()) == []
    path.write_bytes(b'{"event": "a"}\n{"event"')
    assert [event["event"] for event in tail.read()] == ["a"]
    path.write_bytes(b'{"event": "a"}\n{"event": "b"}\n')
    assert [event["event"] for event in tail.read()] == ["b"]


def test_trials_are_ranked_by_value_in_the_direction_of_the_metric_and_failed_ones_last() -> None:
    low, high = replace(DONE, number=2, value=0.1), replace(DONE, number=3, value=0.9)
    stopped = replace(DONE, number=4, state="pruned", value=0.0)
    failed = replace(DONE, number=5, state="failed", value=None)
    trials = [failed, stopped, DONE, high, low]
    assert [trial.number for trial in rank(trials, higher_is_better=False)] == [2, 1, 3, 4, 5]
    assert [trial.number for trial in rank(trials, higher_is_better=True)] == [3, 1, 2, 4, 5]


def test_the_runner_up_is_told_apart_only_beyond_the_noise(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(SEARCH.replace("{space", "{metric: accuracy, space"), "training.validation_metrics=[accuracy]")

    def caveats(second: float) -> str:
        trials = [replace(DONE, value=0.8), replace(DONE, number=2, value=second)]
        return " ".join(say_caveats(SearchResult(plan, tmp_path, trials, {})))

    assert "the best of 2 validation accuracy values is optimistic" in caveats(0.78)
    # sqrt(2 * 0.8 * 0.2 / 50) = 0.08
    assert "within the noise" in caveats(0.73)
    assert "more than the noise" in caveats(0.71)
    assert "over 50 validation rows is 0.08" in caveats(0.71)


@pytest.mark.parametrize(
    ("objective", "metric", "rows"),
    [("classification", "accuracy", 300), ("contrastive", "recall_at_1", 300), ("supervised", "accuracy", 100)],
)
def test_the_noise_is_that_of_the_rows_that_were_measured(
    make_plan: MakePlan, tmp_path: Path, objective: str, metric: str, rows: int
) -> None:
    changes = [f"training.objective={objective}"]
    if objective == "supervised":
        changes.append("training.validation_metrics=[accuracy]")
    plan = make_plan(SEARCH.replace("{space", f"{{metric: {metric}, space"), *changes)
    trials = [replace(DONE, value=0.5, num_rows=300), replace(DONE, number=2, value=0.45, num_rows=300)]
    assert f"over {rows} validation rows" in say_caveats(SearchResult(plan, tmp_path, trials, {}))[-1]


def test_an_equal_trial_takes_the_result_of_the_earlier_one_and_nothing_is_run(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan, folder = make_plan(SEARCH), tmp_path / "runs" / "search"
    (folder / "trials").mkdir(parents=True)
    (folder / ".lock").touch()
    write_trial(folder, DONE)
    write_trial(folder, replace(DONE, number=2, state="failed", value=None, reason="loss-not-finite: nan"))
    write_trial(folder, Trial(3, VALUES, VALUES, same_as=1))
    told = []
    result = summarise(run_search(plan, folder, show=lambda event, fields: told.append((event, fields))))
    third = next(trial for trial in result.trials if trial.number == 3)
    assert (third.state, third.value, third.same_as, third.seconds) == ("complete", 0.5, 1, 0.0)
    assert [event for event, _ in told] == ["search_started", "trial_finished", "search_finished"]
    assert not (folder / "trials" / "0003").exists()
    assert "as trial 1" in result.page.read_text("utf-8")
    written = json.loads((folder / "results.json").read_text("utf-8"))
    assert [trial["number"] for trial in written["trials"]] == [1, 3, 2]


def test_a_search_without_any_value_ends_with_the_reasons(make_plan: MakePlan, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "search"
    (folder / "trials").mkdir(parents=True)
    (folder / ".lock").touch()
    for number in (1, 2, 3):
        write_trial(folder, replace(DONE, number=number, state="failed", value=None, reason="ended by SIGKILL"))
    with pytest.raises(UserError) as caught:
        run_search(make_plan(SEARCH), folder)
    assert caught.value.code == "search-failed"
    assert caught.value.details[2] == "trial 3: ended by SIGKILL"


def test_values_that_do_not_go_together_are_a_failed_trial_and_not_the_end(make_plan: MakePlan, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "search"
    space = "{schedule: {type: choice, values: [cosine, wsd]}, decay_ratio: {type: float, low: 0.1, high: 0.2}}"
    plan = make_plan(f"{{space: {space}, num_trials: 2}}")
    (folder / "trials").mkdir(parents=True)
    (folder / ".lock").touch()
    write_trial(
        folder,
        replace(DONE, values=(values := {"training.schedule": "wsd", "training.decay_ratio": 0.1}), drawn=values),
    )
    values = {"training.schedule": "cosine", "training.decay_ratio": 0.1}
    write_trial(folder, Trial(2, values, values))
    run_search(plan, folder)
    assert read_trials(folder)[1].state == "failed"
    assert "it belongs to wsd" in str(read_trials(folder)[1].reason)
