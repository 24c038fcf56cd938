"""A log becomes rows, each line once, wherever reading is cut short."""

import random
from pathlib import Path

import pytest
from job_place import JobPlace, lessee
from log_samples import Line, dataset, fit, kept, run_with_kills, saved, step, to_bytes, whole_run

from kivnun.jobs.follow import Follower
from kivnun.jobs.queue import CRASH, LeaseLostError, lease_next

NAME = "here/boot/1/7/7"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def leased(place: JobPlace, name: str = NAME, **fields: int) -> str:
    place.add_job(**{"status": "running", "suffix": "mine", **fields})
    with place.database.writing() as session:
        return lease_next(session, lessee(name)).id  # type: ignore[union-attr]


def rows(place: JobPlace, job_id: str) -> list[tuple[object, ...]]:
    told = [(event.source, event.message, event.data, event.created_at) for event in place.events(job_id)]
    steps = [(row.step, row.metrics) for row in place.checkpoints(job_id)]
    return [*told, *steps]


def test_a_log_that_is_read_whole_becomes_events_and_checkpoints(shared_place: JobPlace, log: Path) -> None:
    job_id = leased(shared_place)
    log.write_bytes(to_bytes(whole_run()))
    Follower(shared_place.database, job_id, NAME, log).read()
    assert len(shared_place.messages(job_id)) == 4
    assert [row.step for row in shared_place.checkpoints(job_id)] == [2, 4]
    assert shared_place.job(job_id).events_read == len(whole_run())


@pytest.mark.parametrize("seed", range(6))
def test_reading_that_is_cut_short_anywhere_comes_to_the_same_rows(place: JobPlace, log: Path, seed: int) -> None:
    content, draw = to_bytes(run_with_kills()), random.Random(seed)  # noqa: S311
    whole = leased(place)
    log.write_bytes(content)
    Follower(place.database, whole, NAME, log).read()
    cut = leased(place)
    log.write_bytes(b"")
    follower = Follower(place.database, cut, NAME, log)
    written = 0
    while written < len(content):
        size = draw.randrange(1, 400)
        with log.open("ab") as file:
            file.write(content[written : written + size])
        written += size
        if draw.random() < 0.5:
            # Another worker goes on.
            follower = Follower(place.database, cut, NAME, log)
        follower.read()
    assert rows(place, cut) == rows(place, whole)


def test_a_model_that_was_kept_is_told_though_the_log_lost_lines_that_were_told(place: JobPlace, log: Path) -> None:
    """As after a power cut: the database was on the disk, and the end of the log was not."""
    job_id = leased(place, events_read=100)
    log.write_bytes(to_bytes([fit(), step(1)]))
    Follower(place.database, job_id, NAME, log).read()
    for lines in ([fit(1), step(2), saved(2)], [kept(2)]):
        follower = Follower(place.database, job_id, NAME, log)
        with log.open("ab") as file:
            file.write(to_bytes(lines))
        follower.read()
    assert [row.step for row in place.checkpoints(job_id)] == [2]


def test_a_transaction_that_fails_leaves_nothing_and_the_next_reader_tells_it_all(place: JobPlace, log: Path) -> None:
    job_id = leased(place)
    log.write_bytes(to_bytes(whole_run()))
    with pytest.raises(LeaseLostError):
        Follower(place.database, job_id, "somebody else", log).read()
    assert (place.messages(job_id), place.job(job_id).events_read) == ([], 0)
    Follower(place.database, job_id, NAME, log).read()
    assert len(place.messages(job_id)) == 4


def test_checkpoints_are_models_that_may_be_asked_for_at_once_and_the_last_three_stay(
    shared_place: JobPlace, log: Path
) -> None:
    job_id = leased(shared_place)
    log.write_bytes(to_bytes([kept(number) for number in range(1, 6)]))
    Follower(shared_place.database, job_id, NAME, log).read()
    checkpoints = shared_place.checkpoints(job_id)
    assert [row.step for row in checkpoints] == [3, 4, 5]
    models = shared_place.models(job_id)
    assert [model.name for model in models] == [row.model_name for row in checkpoints]
    assert models[0].folder == f"jobs/{job_id}/run/epochs/step-000003"
    parts = models[0].name.split(":")
    assert parts[:4] == ["ft", "gpt-4o-mini", "personal", "mine"]
    assert (len(parts[4]), parts[5]) == (8, "ckpt-step-3")


def test_a_step_of_progress_forgets_the_attempts_before_it(place: JobPlace, log: Path) -> None:
    job_id = leased(place, attempts=3 * CRASH)
    log.write_bytes(to_bytes(whole_run()[:2]))
    follower = Follower(place.database, job_id, NAME, log)
    follower.read()
    assert place.job(job_id).attempts == 3 * CRASH
    log.write_bytes(to_bytes(whole_run()[:4]))
    follower.read()
    assert place.job(job_id).attempts == 0


def test_steps_that_are_only_done_again_are_no_progress(place: JobPlace, log: Path) -> None:
    job_id = leased(place)
    again = [*whole_run()[:4], *whole_run()[:2]]
    log.write_bytes(to_bytes(again))
    Follower(place.database, job_id, NAME, log).read()
    place.change(job_id, attempts=CRASH)
    log.write_bytes(to_bytes([*again, *whole_run()[2:4]]))
    Follower(place.database, job_id, NAME, log).read()
    assert place.job(job_id).attempts == CRASH


def attempts_after(place: JobPlace, job_id: str, log: Path, lines: list[Line]) -> int:
    """What a crash costs a job whose next attempt, by another worker, writes a log that goes on with these lines."""
    place.change(job_id, attempts=CRASH)
    follower = Follower(place.database, job_id, NAME, log)
    follower.read()
    log.write_bytes(to_bytes(lines))
    follower.read()
    return place.job(job_id).attempts


def test_a_model_that_was_kept_before_is_no_progress(place: JobPlace, log: Path) -> None:
    """As when a job crashes between an epoch's model and its checkpoint: each attempt finds the model there."""
    job_id = leased(place)
    lines = whole_run()[:7]
    assert lines[-1] == kept(2)
    assert attempts_after(place, job_id, log, lines) == 0
    for _ in range(2):
        lines = [*lines, *whole_run()[:2], *whole_run()[4:7]]
        assert attempts_after(place, job_id, log, lines) == CRASH


def test_a_new_model_is_progress_and_one_that_is_older_than_those_that_stay_is_none(place: JobPlace, log: Path) -> None:
    job_id = leased(place)
    lines = [kept(number) for number in (2, 3, 4)]
    assert attempts_after(place, job_id, log, lines) == 0
    assert attempts_after(place, job_id, log, [*lines, kept(1)]) == CRASH
    assert attempts_after(place, job_id, log, [*lines, kept(1), kept(5)]) == 0


@pytest.mark.parametrize("steps", [[step(1)], [step(1), step(2)]], ids=["one", "two"])
def test_steps_before_attempts_that_never_begin_to_train_count_once(
    place: JobPlace, log: Path, steps: list[Line]
) -> None:
    """As when memory, which was enough once, is too little even to load the model."""
    job_id = leased(place)
    lines = [dataset(), fit(), *steps]
    log.write_bytes(to_bytes(lines))
    Follower(place.database, job_id, NAME, log).read()
    for number in range(2):
        lines = [*lines, dataset(notes=[f"note {number}"])]
        assert attempts_after(place, job_id, log, lines) == CRASH


def test_a_step_whose_line_is_read_alone_is_progress(place: JobPlace, log: Path) -> None:
    job_id = leased(place, attempts=CRASH)
    follower = Follower(place.database, job_id, NAME, log)
    lines: list[Line] = []
    for line in (dataset(), fit(), step(1), saved(1)):
        lines.append(line)
        log.write_bytes(to_bytes(lines))
        follower.read()
    assert place.job(job_id).attempts == 0


def test_a_step_is_progress_though_the_log_lost_lines_that_were_told(place: JobPlace, log: Path) -> None:
    job_id = leased(place, events_read=100)
    # Of so many steps, not each is an event.
    assert attempts_after(place, job_id, log, [dataset(validation=0), fit(), step(3, 5000)]) == 0


def test_the_end_is_estimated_while_a_job_runs(place: JobPlace, log: Path) -> None:
    job_id = leased(place)
    log.write_bytes(to_bytes(whole_run()[:4]))
    Follower(place.database, job_id, NAME, log).read()
    assert place.job(job_id).estimated_finish is not None


def test_a_torn_line_waits_until_it_is_whole(place: JobPlace, log: Path) -> None:
    job_id = leased(place)
    content = to_bytes(whole_run())
    log.write_bytes(content[:-5])
    follower = Follower(place.database, job_id, NAME, log)
    follower.read()
    assert place.job(job_id).events_read == len(whole_run()) - 1
    with log.open("ab") as file:
        file.write(content[-5:])
    follower.read()
    assert place.job(job_id).events_read == len(whole_run())


def test_the_last_failure_is_known_until_a_run_goes_on(place: JobPlace, log: Path) -> None:
    job_id = leased(place)
    failed: Line = {"event": "run_failed", "code": "memory-full", "problem": "memory ran out"}
    log.write_bytes(to_bytes([*whole_run()[:4], failed]))
    follower = Follower(place.database, job_id, NAME, log)
    follower.read()
    assert follower.failure is not None
    assert follower.failure["code"] == "memory-full"
    with log.open("ab") as file:
        file.write(to_bytes(whole_run()[:1]))
    follower.read()
    assert follower.failure is None
