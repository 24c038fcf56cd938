"""What lines of a log say, in the words of the hosted service."""

from collections.abc import Iterable

import pytest
from log_samples import Line, dataset, fit, kept, run_with_kills, saved, step, timed, validation, whole_run

from kivnun.jobs.wording import Told, Wording


def tell(lines: Iterable[Line]) -> Told:
    wording = Wording()
    for line in timed(lines):
        wording.take(line)
    return wording.hand_over()


def messages(lines: Iterable[Line]) -> list[str]:
    return [said.message for said in tell(lines).said]


def test_steps_are_told_in_the_hosted_words() -> None:
    assert messages(whole_run()) == [
        "Step 1/4: training loss=1.00",
        "Step 2/4: training loss=0.50, validation loss=1.00, full validation loss=1.00",
        "Step 3/4: training loss=0.33",
        "Step 4/4: training loss=0.25, validation loss=0.50, full validation loss=0.50",
    ]


def test_the_numbers_of_a_step_have_the_hosted_names() -> None:
    said = tell(whole_run()).said
    assert said[0].type == "metrics"
    assert said[0].data == {"step": 1, "total_steps": 4, "train_loss": 1.0, "train_mean_token_accuracy": 0.5}
    assert said[1].data == {
        "step": 2,
        "total_steps": 4,
        "train_loss": 0.5,
        "train_mean_token_accuracy": 0.5,
        "valid_loss": 1.0,
        "valid_mean_token_accuracy": 0.25,
        "full_valid_loss": 1.0,
        "full_valid_mean_token_accuracy": 0.25,
    }


def test_a_run_that_was_killed_again_and_again_tells_the_same_steps() -> None:
    undisturbed = [(said.source, said.message, said.data) for said in tell(whole_run()).said]
    disturbed = {said.source: (said.source, said.message, said.data) for said in reversed(tell(run_with_kills()).said)}
    assert [disturbed[source] for source, _, _ in undisturbed] == undisturbed


def test_a_step_waits_for_its_validation_and_is_read_again_until_then() -> None:
    told = tell([dataset(), fit(), step(1)])
    assert (told.said, told.num_lines) == ((), 2)
    assert tell([dataset(), fit(), step(1), {"event": "usage"}]).num_lines == 2
    assert len(tell([dataset(), fit(), step(1), saved(1)]).said) == 1


def test_a_step_waits_for_nothing_where_there_is_no_validation_file() -> None:
    told = tell([dataset(validation=0), fit(), step(1)])
    assert (len(told.said), told.num_lines) == (1, 3)


def test_a_step_that_was_saved_before_a_kill_is_told_and_one_that_was_not_is_done_again() -> None:
    assert messages([dataset(), fit(), step(1), dataset(), fit(1)]) == ["Step 1/4: training loss=1.00"]
    assert messages([dataset(), fit(), step(1), dataset(), fit(0)]) == []


def test_a_million_steps_are_about_a_thousand_events() -> None:
    wording = Wording()
    wording.take(dataset(validation=0))
    line = step(1, 1_000_000)
    count = 0
    # One part in ten: the same rule holds for all of them.
    for number in range(1, 100_001):
        line["step"] = number
        wording.take(line)
        count += len(wording.hand_over().said)
    assert 100 <= count <= 102


def test_of_a_long_training_first_last_and_validated_steps_are_told() -> None:
    lines = [dataset()]
    for number in range(1, 5001):
        lines += [step(number, 5000), *([validation(number)] if number == 3333 else [])]
    lines.append({"event": "training_finished"})
    steps = [said.data["step"] for said in tell(lines).said]
    assert {1, 3333, 5000} <= set(steps)
    assert len(steps) <= 1002


def test_a_model_of_an_epoch_has_the_numbers_of_its_step() -> None:
    (checkpoint, _) = tell(whole_run()).kept
    assert (checkpoint.step, checkpoint.folder) == (2, "step-000002")
    assert checkpoint.metrics == {
        "step": 2,
        "train_loss": 0.5,
        "train_mean_token_accuracy": 0.5,
        "valid_loss": 1.0,
        "valid_mean_token_accuracy": 0.25,
        "full_valid_loss": 1.0,
        "full_valid_mean_token_accuracy": 0.25,
    }


def test_only_steps_that_were_never_done_are_progress() -> None:
    wording = Wording()
    for line in (dataset(), fit(), step(1), saved(1), step(2), saved(2)):
        wording.take(line)
    assert wording.hand_over().is_further
    for line in (dataset(), fit(1), step(2), saved(2)):
        wording.take(line)
    assert not wording.hand_over().is_further
    for line in (step(3), saved(3)):
        wording.take(line)
    assert wording.hand_over().is_further


def test_the_end_is_estimated_from_the_pace_of_the_last_steps() -> None:
    lines = list(timed([dataset(), fit(), step(1), saved(1)]))
    at = tell(whole_run()).said[0].at
    wording = Wording()
    for line in lines:
        wording.take(line)
    assert wording.hand_over().finishes_at == at + 3 * 2


@pytest.mark.parametrize(
    ("line", "level", "part"),
    [
        (dataset(dropped={"too-long": 3}), "warn", "3 example(s) were left out: too-long"),
        ({"event": "overfitting", "step": 2, "words": "rises since step 1"}, "warn", "rises since step 1"),
        ({"event": "not_learnt", "first": 1.0, "best": 2.0}, "warn", "Nothing was learnt"),
        ({"event": "early_stop", "step": 9, "best_step": 4}, "info", "step 4 was best"),
        ({"event": "context_limit", "max_seq_len": 9, "context": 8}, "warn", "8 tokens"),
        ({"event": "training_started", "notes": ["no compiler"]}, "info", "no compiler"),
    ],
)
def test_what_a_run_says_aloud_is_an_event(line: Line, level: str, part: str) -> None:
    (said,) = tell([line]).said
    assert said.level == level
    assert part in said.message


def test_what_every_start_says_is_told_once_and_that_it_goes_on_is_told_each_time() -> None:
    sources = [said.source for said in tell([dataset(dropped={"x": 1}), dataset(dropped={"x": 1})]).said]
    assert len(set(sources)) == 1
    resumed = {"event": "resumed", "step": 4}
    assert len({said.source for said in tell([resumed, resumed]).said}) == 2


def test_a_loss_that_is_no_number_is_told_without_one() -> None:
    lines = [dataset(validation=0), {**step(1), "loss": "nan"}]
    assert messages(lines) == ["Step 1/4: training loss=unknown"]
    assert "train_loss" not in tell(lines).said[0].data


def test_lines_that_nobody_knows_say_nothing() -> None:
    assert tell([{"event": "surprise"}, {}]) == Told(num_lines=2)


def test_the_folder_of_an_epoch_is_only_a_name() -> None:
    assert tell([kept(2)]).kept[0].folder == "step-000002"
