"""Leases: one holder at a time, taken over when it is lost, and what clients want is done."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from job_place import JobPlace, lessee
from sqlalchemy import insert

from kivnun.database.projects import create_project
from kivnun.database.tables import FineTuningJob
from kivnun.jobs.owner import Owner, is_gone, this_process
from kivnun.jobs.queue import (
    LEASE_SECONDS,
    LOOK_AHEAD,
    OVERTAKING_SECONDS,
    LeaseLostError,
    add_event,
    has_work,
    heartbeat,
    held,
    lease_next,
    settle,
    unfinished_jobs,
)


def lease(place: JobPlace, name: str, **options: object) -> str | None:
    with place.database.writing() as session:
        job = lease_next(session, lessee(name, **options))  # type: ignore[arg-type]
        return None if job is None else job.id


def give_back(place: JobPlace, job_id: str, name: str) -> None:
    with place.database.writing() as session:
        settle(session, held(session, job_id, name))


def test_the_oldest_job_is_leased_first_and_no_job_twice(shared_place: JobPlace) -> None:
    jobs = [shared_place.add_job().id for _ in range(3)]
    assert [lease(shared_place, f"worker {number}") for number in range(4)] == [*jobs, None]


def test_many_workers_at_once_never_get_the_same_job(shared_place: JobPlace) -> None:
    jobs = {shared_place.add_job().id for _ in range(24)}

    def take_all(number: int) -> list[str]:
        taken = []
        while (job_id := lease(shared_place, f"worker {number}")) is not None:
            taken.append(job_id)
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = [job_id for found in pool.map(take_all, range(6)) for job_id in found]
    assert sorted(taken) == sorted(jobs)


def test_a_lease_that_nobody_renews_ends_and_its_job_has_an_attempt_more(shared_place: JobPlace) -> None:
    job = shared_place.add_job()
    lease(shared_place, "first")
    assert lease(shared_place, "second") is None
    shared_place.change(job.id, lease_until=shared_place.job(job.id).lease_until - LEASE_SECONDS - 1)  # type: ignore[operator]
    assert lease(shared_place, "second") == job.id
    assert shared_place.job(job.id).attempts == 1


def test_a_heartbeat_moves_the_end_of_a_lease_on_and_says_what_is_wanted(shared_place: JobPlace) -> None:
    job = shared_place.add_job()
    lease(shared_place, "first")
    shared_place.change(job.id, lease_until=1.0)
    shared_place.want(job.id, "pause")
    with shared_place.database.writing() as session:
        assert heartbeat(session, job.id, "first") == "pause"
    assert shared_place.job(job.id).lease_until > 1_000_000  # type: ignore[operator]


def test_a_holder_that_is_gone_is_not_waited_for(place: JobPlace) -> None:
    job = place.add_job()
    lease(place, "lost")
    assert lease(place, "second", gone="lost") == job.id


def test_a_lease_that_is_given_back_costs_no_attempt(place: JobPlace) -> None:
    job = place.add_job(status="running", estimated_finish=7)
    for _ in range(3):
        assert lease(place, "first") == job.id
        give_back(place, job.id, "first")
    now = place.job(job.id)
    assert (now.attempts, now.status, now.estimated_finish) == (0, "queued", None)


def test_who_lost_a_lease_can_neither_renew_nor_write(shared_place: JobPlace) -> None:
    job = shared_place.add_job()
    lease(shared_place, "first")
    lease(shared_place, "second", gone="first")
    for attempt in (heartbeat, held):
        with pytest.raises(LeaseLostError), shared_place.database.writing() as session:
            attempt(session, job.id, "first")


def test_a_process_is_gone_when_it_ended_or_its_number_is_used_again() -> None:
    here = this_process()
    assert not is_gone(str(here), here)
    assert is_gone(str(Owner(here.host, here.boot, here.namespace, here.pid, here.started + 1)), here)
    assert is_gone(str(Owner(here.host, here.boot, here.namespace, 2**22 + 1, 5)), here)


def test_nothing_is_known_of_processes_of_other_machines_and_containers() -> None:
    here = this_process()
    for other in (
        Owner("elsewhere", here.boot, here.namespace, 2**22 + 1, 5),
        Owner(here.host, "another", here.namespace, 2**22 + 1, 5),
        Owner(here.host, here.boot, "1", 2**22 + 1, 5),
    ):
        assert not is_gone(str(other), here)


@pytest.mark.parametrize(
    ("status", "wanted", "became"),
    [
        ("queued", "pause", "paused"),
        ("validating_files", "cancel", "cancelled"),
        ("running", "cancel", "cancelled"),
        ("paused", "run", "queued"),
        ("paused", "cancel", "cancelled"),
    ],
)
def test_what_a_client_wants_of_a_job_that_nobody_works_at_is_done_at_once(
    place: JobPlace, status: str, wanted: str, became: str
) -> None:
    job = place.add_job(status=status, wanted="pause" if status == "paused" else "run")
    assert place.want(job.id, wanted)
    assert place.job(job.id).status == became
    assert not place.want(job.id, wanted)


def test_a_job_that_is_worked_at_keeps_its_status_until_its_worker_obeys(shared_place: JobPlace) -> None:
    job = shared_place.add_job(status="queued")
    lease(shared_place, "first")
    shared_place.change(job.id, status="running")
    assert shared_place.want(job.id, "pause")
    assert shared_place.job(job.id).status == "running"
    give_back(shared_place, job.id, "first")
    assert shared_place.job(job.id).status == "paused"
    assert lease(shared_place, "first") is None


def test_a_job_that_is_being_cancelled_cannot_be_resumed(place: JobPlace) -> None:
    job = place.add_job(status="queued")
    lease(place, "first")
    assert place.want(job.id, "cancel")
    assert not place.want(job.id, "run")
    assert not place.want(job.id, "pause")


def test_what_was_wanted_of_a_lost_worker_is_done_by_the_next_one(place: JobPlace) -> None:
    job = place.add_job(status="running")
    lease(place, "lost")
    place.want(job.id, "cancel")
    assert lease(place, "second", gone="lost", limit_bytes=0) == job.id


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_job_that_ended_stays_as_it_is(place: JobPlace, status: str) -> None:
    job = place.add_job(status=status)
    assert not place.want(job.id, "cancel")
    assert lease(place, "first") is None
    with place.database.reading() as session:
        assert unfinished_jobs(session) == []


def test_jobs_run_beside_each_other_only_as_long_as_their_sum_fits(place: JobPlace) -> None:
    large, small = (place.add_job(status="queued", memory_bytes=size) for size in (80, 15))
    first = place.add_job(status="queued", memory_bytes=10)
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) == large.id
    place.change(large.id, status="running")
    other = place.add_job(status="queued", memory_bytes=30)
    assert lease(place, "here/boot/1/8/8", limit_bytes=100) == small.id
    place.change(small.id, status="running")
    assert lease(place, "here/boot/1/9/9", limit_bytes=100) is None
    give_back(place, large.id, "here/boot/1/7/7")
    place.change(large.id, wanted="pause", status="paused")
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) == first.id
    place.change(first.id, status="running")
    assert lease(place, "here/boot/1/9/9", limit_bytes=100) == other.id


def test_a_job_that_was_leased_a_moment_ago_takes_its_room_already(place: JobPlace) -> None:
    first, _ = (place.add_job(status="queued", memory_bytes=80) for _ in range(2))
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) == first.id
    assert lease(place, "here/boot/1/8/8", limit_bytes=100) is None


def test_small_jobs_overtake_a_large_one_for_a_while_only(place: JobPlace) -> None:
    running = place.add_job(status="queued", memory_bytes=50)
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) == running.id
    now = int(time.time())
    large = place.add_job(status="queued", memory_bytes=80, created_at=now)
    small, smaller = (place.add_job(status="queued", memory_bytes=10, created_at=now) for _ in range(2))
    assert lease(place, "here/boot/1/8/8", limit_bytes=100) == small.id
    place.change(large.id, created_at=now - int(OVERTAKING_SECONDS) - 5)
    assert lease(place, "here/boot/1/9/9", limit_bytes=100) is None
    validated = place.add_job()
    assert lease(place, "here/boot/1/9/9", limit_bytes=100) == validated.id
    for job, name in ((running, "here/boot/1/7/7"), (small, "here/boot/1/8/8")):
        place.change(job.id, wanted="cancel")
        give_back(place, job.id, name)
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) == large.id
    assert lease(place, "here/boot/1/8/8", limit_bytes=100) == smaller.id


def test_files_are_validated_and_jobs_are_cancelled_however_many_wait_for_room(place: JobPlace) -> None:
    running = place.add_job(status="queued", memory_bytes=50)
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) == running.id
    for _ in range(LOOK_AHEAD + 1):
        place.add_job(status="queued", memory_bytes=80)
    lost = place.add_job(status="running", wanted="cancel", lease_owner="lost", lease_until=2.0**40)
    new = place.add_job()
    assert lease(place, "here/boot/1/8/8", limit_bytes=100, gone="lost") == lost.id
    assert lease(place, "here/boot/1/9/9", limit_bytes=100) == new.id


def test_jobs_of_other_machines_take_no_room_here(place: JobPlace) -> None:
    for _ in range(2):
        place.add_job(status="queued", memory_bytes=80)
    first = lease(place, "elsewhere/boot/1/7/7", limit_bytes=100)
    place.change(str(first), status="running")
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) is not None


def test_a_job_by_itself_always_has_room_and_files_are_validated_whatever_runs(place: JobPlace) -> None:
    job = place.add_job(status="queued", memory_bytes=500)
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) == job.id
    place.change(job.id, status="running")
    waiting = place.add_job()
    assert lease(place, "here/boot/1/8/8", limit_bytes=100) == waiting.id


def test_looking_for_work_leases_nothing(shared_place: JobPlace) -> None:
    job = shared_place.add_job()
    with shared_place.database.reading() as session:
        assert has_work(session, lessee("first"))
    assert shared_place.job(job.id).lease_owner is None


def test_an_event_of_one_source_is_added_once(shared_place: JobPlace) -> None:
    job = shared_place.add_job()
    for _ in range(2):
        with shared_place.database.writing() as session:
            add_event(session, job.id, "started", "Fine-tuning job started")
    assert shared_place.messages(job.id) == ["Fine-tuning job started"]


def add_projects(place: JobPlace, *names: str) -> list[str]:
    with place.database.writing() as session:
        return [create_project(session, name).id for name in names]


def take_in_turn(place: JobPlace, count: int, *, status: str) -> list[str]:
    """The jobs that one worker takes, one after another, each of which ends before the next is taken."""
    taken = []
    for moment in range(count):
        job_id = lease(place, "here/boot/1/7/7")
        assert job_id is not None
        if status == "queued":
            place.change(job_id, status="running", started_at=1000 + moment)
        give_back(place, job_id, "here/boot/1/7/7")
        place.change(job_id, status="queued" if status == "validating_files" else "succeeded")
        taken.append(job_id)
    return taken


def test_a_project_that_queues_many_jobs_makes_others_wait_for_one(shared_place: JobPlace) -> None:
    """Even where only one worker takes one job at a time, and nothing runs when it chooses."""
    greedy, modest, late = add_projects(shared_place, "greedy", "modest", "late")
    many = [shared_place.add_job(status="queued", project_id=greedy).id for _ in range(100)]
    first, second = (shared_place.add_job(status="queued", project_id=modest).id for _ in range(2))
    other = shared_place.add_job(status="queued", project_id=late).id
    taken = take_in_turn(shared_place, 7, status="queued")
    assert taken == [many[0], first, other, many[1], second, many[2], many[3]]


def test_the_next_job_is_of_the_project_with_the_fewest_that_run(shared_place: JobPlace) -> None:
    greedy, modest = add_projects(shared_place, "greedy", "modest")
    many = [shared_place.add_job(status="queued", project_id=greedy).id for _ in range(5)]
    assert [lease(shared_place, f"worker {number}") for number in range(2)] == many[:2]
    few = [shared_place.add_job(status="queued", project_id=modest).id for _ in range(3)]
    assert [lease(shared_place, f"worker {number}") for number in range(2, 5)] == [few[0], few[1], many[2]]
    give_back(shared_place, few[0], "worker 2")
    shared_place.change(few[0], status="succeeded")
    assert lease(shared_place, "worker 2") == few[2]


def test_files_are_validated_in_turn_too(shared_place: JobPlace) -> None:
    greedy, modest = add_projects(shared_place, "greedy", "modest")
    many = [shared_place.add_job(project_id=greedy).id for _ in range(20)]
    few = [shared_place.add_job(project_id=modest).id for _ in range(2)]
    assert take_in_turn(shared_place, 5, status="validating_files") == [many[0], few[0], many[1], few[1], many[2]]


def test_a_turn_does_not_make_room_and_an_old_job_that_finds_none_still_keeps_its_own(place: JobPlace) -> None:
    """Small jobs of others overtake a large one for a while only, as those of its own project do."""
    greedy, modest = add_projects(place, "greedy", "modest")
    running = place.add_job(status="queued", memory_bytes=50, project_id=greedy)
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) == running.id
    now = int(time.time())
    large = place.add_job(status="queued", memory_bytes=80, project_id=modest, created_at=now)
    small = place.add_job(status="queued", memory_bytes=10, project_id=greedy, created_at=now)
    smaller = place.add_job(status="queued", memory_bytes=5, project_id=greedy, created_at=now)
    assert lease(place, "here/boot/1/8/8", limit_bytes=100) == small.id
    place.change(large.id, created_at=now - int(OVERTAKING_SECONDS) - 5)
    assert lease(place, "here/boot/1/9/9", limit_bytes=100) is None
    assert place.job(smaller.id).lease_owner is None


def test_however_many_jobs_of_a_project_find_no_room_a_small_one_of_another_is_seen(place: JobPlace) -> None:
    greedy, modest, third = add_projects(place, "greedy", "modest", "third")
    running = place.add_job(status="queued", memory_bytes=50, project_id=third)
    assert lease(place, "here/boot/1/7/7", limit_bytes=100) == running.id
    now = int(time.time())
    for _ in range(LOOK_AHEAD + 1):
        place.add_job(status="queued", memory_bytes=80, project_id=greedy, created_at=now)
    small = place.add_job(status="queued", memory_bytes=10, project_id=modest, created_at=now)
    assert lease(place, "here/boot/1/8/8", limit_bytes=100) == small.id


def test_a_paused_job_takes_no_turn(shared_place: JobPlace) -> None:
    greedy, modest = add_projects(shared_place, "greedy", "modest")
    paused = shared_place.add_job(status="paused", wanted="pause", project_id=modest)
    waiting = [shared_place.add_job(status="queued", project_id=project).id for project in (greedy, modest)]
    assert [lease(shared_place, f"worker {number}") for number in range(3)] == [*waiting, None]
    shared_place.want(paused.id, "run")
    assert lease(shared_place, "worker 3") == paused.id


def test_ten_thousand_waiting_jobs_do_not_slow_the_queue_down(place: JobPlace) -> None:
    first = place.add_job(status="queued")
    columns = {name: getattr(first, name) for name in FineTuningJob.__mapper__.column_attrs.keys()}  # noqa: SIM118
    del columns["number"]
    with place.database.writing() as session:
        session.execute(insert(FineTuningJob), [{**columns, "id": f"ftjob-{number}"} for number in range(10_000)])
        began = time.monotonic()
        assert lease_next(session, lessee("first")).id == first.id  # type: ignore[union-attr]
        assert time.monotonic() - began < 0.5
        assert len(session.identity_map) < 200
