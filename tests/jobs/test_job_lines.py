"""What the terminal of a server is told of jobs, whoever works at them."""

import time

import pytest
from job_place import JobPlace
from sqlalchemy import event

from kivnun.server import job_lines
from kivnun.server.job_lines import JobWatch


def test_every_change_of_a_job_is_told_once(shared_place: JobPlace) -> None:
    place = shared_place
    old = place.add_job(status="queued")
    watch = JobWatch(place.database)
    assert (watch.num_unfinished, watch.look()) == (1, [])
    new, quick = (
        place.add_job(status="validating_files"),
        place.add_job(status="failed", error={"code": "x", "message": "y" * 999}),
    )
    told = watch.look()
    assert [(each.job, each.status) for each in told] == [
        (new.id, "created"),
        (quick.id, "created"),
        (quick.id, "failed"),
    ]
    assert told[-1].problem == f"x: {'y' * 297}..."
    assert watch.look() == []
    place.change(new.id, status="running")
    place.change(
        old.id, status="succeeded", fine_tuned_model="ft:a", trained_tokens=1200, finished_at=old.created_at + 90
    )
    assert [str(each) for each in watch.look()] == [
        f"job {old.id} succeeded after 1.5 minutes: ft:a, trained on 1,200 tokens",
        f"job {new.id} trains {new.model}",
    ]
    assert (watch.look(), watch.num_unfinished, watch.count_running()) == ([], 1, 1)


def test_jobs_that_wait_unchanged_are_not_read_whole(place: JobPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, for this is looked at every second."""
    waiting = [place.add_job(status="queued") for _ in range(5)]
    watch = JobWatch(place.database)
    asked: list[str] = []
    with place.database.reading() as session:
        engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    assert watch.look() == []
    assert [text.split("FROM")[0].split() for text in asked if "status IN" in text] == [
        ["SELECT", "fine_tuning_jobs.id,", "fine_tuning_jobs.status"]
    ]
    monkeypatch.setattr(job_lines, "_PART", 2)
    for job in waiting:
        place.change(job.id, status="cancelled", finished_at=int(time.time()))
    assert [each.job for each in watch.look()] == [job.id for job in waiting]
