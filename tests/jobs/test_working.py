"""Real workers, real runs: killed, paused, stopped and cancelled, jobs come to the same weights or to a clean end."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from job_place import JobPlace, lessee, to_lines, wait_for

from kivnun.database.tables import FineTuningJob
from kivnun.jobs import leash, one_job, worker
from kivnun.jobs.devices import take_device
from kivnun.jobs.job_error import JobError
from kivnun.jobs.one_job import work_at
from kivnun.jobs.owner import this_process
from kivnun.jobs.prepare import prepare
from kivnun.jobs.prepared import Asked, Prepared, read_answer, read_asked, write_answer, write_asked
from kivnun.jobs.queue import CRASH, MOST_ATTEMPTS, LeaseLostError, lease_next
from kivnun.jobs.work import PATIENCE_SECONDS, Ended, attend
from kivnun.pipeline import run_recipe
from kivnun.recipe import load_recipe
from kivnun.runs import hash_file, open_run

EPOCHS = 25


def add_training(place: JobPlace, base_model: Path, content: bytes | None = None) -> FineTuningJob:
    file_id = place.add_file(to_lines() if content is None else content)
    asked = {"type": "supervised", "hyperparameters": {"n_epochs": EPOCHS, "batch_size": 4}}
    return place.add_job(base_model, training_file=file_id, asked=asked)


def prepare_here(place: JobPlace, job_id: str) -> Prepared | JobError:
    """What the process that validates a job's files does, without the seconds that it takes to begin."""
    job, folder = place.job(job_id), place.root / "jobs" / job_id
    folder.mkdir(exist_ok=True)
    path = str(place.root / "files" / job.training_file)
    asked = Asked(job_id, job.model, job.base_model, job.seed, job.asked, [], path, None, strict=False)
    write_asked(asked, folder)
    assert read_asked(folder) == asked
    write_answer(prepare(asked, folder), folder)
    answer = read_answer(folder)
    assert answer is not None
    if isinstance(answer, Prepared):
        place.change(job_id, status="queued", memory_bytes=answer.memory_bytes)
    return answer


def processes_of(job_id: str) -> list[str]:
    """What computes for a job now."""
    mark = f"{leash.MARK}={job_id}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(folder.name)
        except OSError:
            continue
    return found


def send(job_id: str, number: int) -> bool:
    """Whether there was a process of a job to send a signal to."""
    found = processes_of(job_id)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(int(pid), number)
    return bool(found)


def hash_weights(run_dir: Path) -> dict[str, str]:
    folders = [run_dir / "model", *sorted((run_dir / "epochs").glob("step-*"))]
    return {folder.name: hash_file(folder / "adapter_model.safetensors") for folder in folders}


def undisturbed_weights(place: JobPlace, job_id: str, folder: Path) -> dict[str, str]:
    """What the same recipe comes to when nobody disturbs it."""
    with open_run(folder) as run:
        run_recipe(load_recipe(place.root / "jobs" / job_id / "recipe.yaml"), run)
    return hash_weights(folder)


def test_a_job_whose_workers_are_killed_and_that_is_paused_comes_to_the_same_weights(
    place: JobPlace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    job_id = add_training(place, tiny_model_folder).id
    process = place.start_worker()
    wait_for(lambda: processes_of(job_id))
    process.kill()
    process.wait()
    wait_for(lambda: not processes_of(job_id), seconds=5)
    assert place.job(job_id).status == "validating_files"

    process = place.start_worker()
    wait_for(lambda: place.num_steps(job_id) > 20)
    process.kill()
    process.wait()
    wait_for(lambda: not processes_of(job_id), seconds=5)
    assert place.job(job_id).status == "running"

    place.start_worker()
    told = place.num_steps(job_id)
    wait_for(lambda: place.num_steps(job_id) > told + 20)
    place.want(job_id, "pause")
    began = time.monotonic()
    wait_for(lambda: place.job(job_id).status == "paused")
    assert time.monotonic() - began < 20
    paused = place.job(job_id)
    assert (paused.lease_owner, paused.attempts, processes_of(job_id)) == (None, 0, [])

    place.want(job_id, "run")
    told = place.num_steps(job_id)
    wait_for(lambda: place.num_steps(job_id) > told + 5)
    place.workers[-1].kill()
    place.start_worker()
    wait_for(lambda: place.job(job_id).status == "succeeded")
    run_dir = place.root / "jobs" / job_id / "run"
    assert hash_weights(run_dir) == undisturbed_weights(place, job_id, tmp_path / "undisturbed")
    steps = [event.data["step"] for event in place.events(job_id) if event.type == "metrics"]  # type: ignore[index]
    assert steps == list(range(1, 10 * EPOCHS + 1))
    assert [row.step for row in place.checkpoints(job_id)] == [230, 240, 250]
    # After the pause and after the last kill surely; after the first one where half a second had passed.
    assert sum("continues after step" in message for message in place.messages(job_id)) in (2, 3)
    assert not (run_dir / "checkpoints").exists()


def test_a_stopped_worker_saves_and_costs_no_attempt_and_a_cancelled_job_ends_within_seconds(
    place: JobPlace, tiny_model_folder: Path
) -> None:
    job_id = add_training(place, tiny_model_folder).id
    prepare_here(place, job_id)
    process = place.start_worker()
    wait_for(lambda: place.num_steps(job_id) > 20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    job = place.job(job_id)
    assert (job.status, job.attempts, job.lease_owner) == ("queued", 0, None)
    assert any((place.root / "jobs" / job_id / "run" / "checkpoints").glob("step-*"))

    place.start_worker()
    told = place.num_steps(job_id)
    wait_for(lambda: place.num_steps(job_id) > told)
    place.want(job_id, "cancel")
    began = time.monotonic()
    wait_for(lambda: place.job(job_id).status == "cancelled")
    assert time.monotonic() - began < 20
    wait_for(lambda: not (place.root / "jobs" / job_id / "run" / "checkpoints").exists())
    job = place.job(job_id)
    assert (job.fine_tuned_model, job.lease_owner, processes_of(job_id)) == (None, None, [])
    # What clients may use already stays.
    assert all(model.checkpoint_step is not None for model in place.models(job_id))


@pytest.mark.parametrize("seconds", [0.0, 0.4])
def test_a_service_that_is_stopped_as_a_whole_costs_no_attempt(
    place: JobPlace, tiny_model_folder: Path, seconds: float
) -> None:
    """Whoever stops it sends SIGTERM to the process of a job too, which is gone before its worker is asked to stop."""
    job_id = add_training(place, tiny_model_folder).id
    process = place.start_worker()
    wait_for(lambda: send(job_id, signal.SIGTERM))
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    job = place.job(job_id)
    assert (job.status, job.attempts, job.lease_owner) == ("validating_files", 0, None)


def is_gpu_free(place: JobPlace) -> bool:
    with take_device(place.root / "jobs", this_process().place, ["0"]) as gpu:
        return gpu is not None


@pytest.mark.parametrize("now", ["validating", "validating again", "training"])
def test_a_job_keeps_others_from_the_gpu_only_while_it_trains(
    place: JobPlace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, now: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    job_id = add_training(place, tiny_model_folder).id
    if now == "training":
        prepare_here(place, job_id)
    elif now == "validating again":
        # What was prepared is gone.
        place.change(job_id, status="queued", memory_bytes=1)
    place.start_worker()
    # It takes as long as the test wants.
    wait_for(lambda: send(job_id, signal.SIGSTOP))
    assert place.job(job_id).status == ("running" if now == "training" else "validating_files")
    assert is_gpu_free(place) == (now != "training")


def test_good_files_become_numbers_and_a_recipe(place: JobPlace, tiny_model_folder: Path) -> None:
    prepared = prepare_here(place, add_training(place, tiny_model_folder).id)
    assert isinstance(prepared, Prepared)
    assert prepared.hyperparameters["n_epochs"] == EPOCHS
    assert 0 < prepared.least_bytes <= prepared.memory_bytes


def test_bad_files_become_an_error_that_names_the_line(place: JobPlace, tiny_model_folder: Path) -> None:
    error = prepare_here(place, add_training(place, tiny_model_folder, b'{"messages": 7}\n' * 12).id)
    assert isinstance(error, JobError)
    assert error.param == "training_file"
    assert error.problems


def work_once(place: JobPlace, job_id: str, *, limit_bytes: int = 1 << 60) -> None:
    work = place.work(limit_bytes=limit_bytes)
    with place.database.writing() as session:
        assert lease_next(session, lessee(str(work.owner))).id == job_id  # type: ignore[union-attr]
    work_at(work, job_id)


def test_a_job_that_was_paused_before_its_numbers_were_kept_is_validated_again(
    place: JobPlace, tiny_model_folder: Path
) -> None:
    job_id = add_training(place, tiny_model_folder).id
    prepare_here(place, job_id)
    place.change(job_id, status="validating_files", memory_bytes=None)
    place.want(job_id, "pause")
    place.want(job_id, "run")
    work_once(place, job_id)
    job = place.job(job_id)
    assert (job.status, job.hyperparameters["n_epochs"]) == ("queued", EPOCHS)
    assert any(message.startswith("Files validated") for message in place.messages(job_id))


def test_a_job_that_takes_too_much_memory_fails_alone(place: JobPlace, tiny_model_folder: Path) -> None:
    job_id = add_training(place, tiny_model_folder).id
    work_once(place, job_id, limit_bytes=60 * 2**20)
    job = place.job(job_id)
    assert (job.status, job.error["code"]) == ("failed", "out_of_memory")  # type: ignore[index]
    assert processes_of(job_id) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
@pytest.mark.parametrize("is_prepared", [False, True], ids=["validating", "training"])
def test_a_job_whose_process_dies_again_and_again_fails_alone(
    place: JobPlace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, is_prepared: bool, number: int
) -> None:
    """Some programs that watch over the memory kill, and some ask to end."""
    monkeypatch.setattr(one_job, "STOP_SECONDS", 0.1)
    job_id = add_training(place, tiny_model_folder).id
    if is_prepared:
        prepare_here(place, job_id)
    for attempt in range(1, MOST_ATTEMPTS // CRASH + 1):
        assert place.job(job_id).status == ("queued" if is_prepared else "validating_files")
        killer = threading.Thread(target=lambda: wait_for(lambda: send(job_id, number)))
        killer.start()
        work_once(place, job_id)
        killer.join()
        assert place.job(job_id).attempts == CRASH * attempt
    job = place.job(job_id)
    assert (job.status, job.error["code"], job.lease_owner) == ("failed", "job_crashed", None)  # type: ignore[index]


def test_a_job_under_which_workers_are_lost_fails_after_many_of_them(place: JobPlace) -> None:
    job_id = place.add_job(attempts=MOST_ATTEMPTS - 1).id
    with place.database.writing() as session:
        lease_next(session, lessee("lost"))
    work = place.work()
    with place.database.writing() as session:
        lease_next(session, lessee(str(work.owner), gone="lost"))
    work_at(work, job_id)
    job = place.job(job_id)
    assert (job.status, job.error["code"]) == ("failed", "too_many_attempts")  # type: ignore[index]


def test_who_lost_the_lease_stops_computing(place: JobPlace) -> None:
    work, job_id = place.work(), place.add_job().id
    with place.database.writing() as session:
        lease_next(session, lessee(str(work.owner)))
    log = place.root / "log.txt"
    process = leash.start(("-c", "import time; time.sleep(60)"), folder=place.root, log=log, mark=job_id)
    place.change(job_id, lease_owner="somebody else")
    with pytest.raises(LeaseLostError):
        attend(work, job_id, process, look=lambda: None)
    assert process.poll() == -signal.SIGKILL


def test_a_process_that_does_not_obey_is_killed_when_patience_ends(
    place: JobPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PATIENCE_SECONDS, "pause", 0.5)
    work, job_id = place.work(), place.add_job().id
    with place.database.writing() as session:
        lease_next(session, lessee(str(work.owner)))
    place.want(job_id, "pause")
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    process = leash.start(("-c", deaf), folder=place.root, log=place.root / "log.txt", mark=job_id)
    assert attend(work, job_id, process, look=lambda: None) == Ended(-signal.SIGKILL, "pause")


def test_what_a_job_really_takes_is_kept_where_it_is_more_than_was_thought(place: JobPlace) -> None:
    work, job_id = place.work(), place.add_job(status="queued", memory_bytes=10).id
    with place.database.writing() as session:
        lease_next(session, lessee(str(work.owner)))
    code = "kept = bytearray(50_000_000); import time; time.sleep(1.5)"
    process = leash.start(("-c", code), folder=place.root, log=place.root / "log.txt", mark=job_id)
    attend(work, job_id, process, look=lambda: None)
    assert place.job(job_id).memory_bytes > 50_000_000  # type: ignore[operator]


def run_worker_once(place: JobPlace) -> None:
    work = place.work()
    settings = worker.WorkerSettings(place.database, place.root, work.owner, work.room)
    worker.run_worker(settings, is_stopping=lambda: False, is_once=True)


def test_checkpoints_of_jobs_that_ended_while_nobody_worked_at_them_are_removed(place: JobPlace) -> None:
    jobs = {status: place.add_job(status=status, wanted="pause").id for status in ("paused", "cancelled", "succeeded")}
    unknown = "ftjob-of-another-database"
    folders = {job_id: place.root / "jobs" / job_id / "run" / "checkpoints" for job_id in (*jobs.values(), unknown)}
    for folder in folders.values():
        (folder / "step-000001").mkdir(parents=True)
    run_worker_once(place)
    assert {job_id for job_id, folder in folders.items() if folder.exists()} == {jobs["paused"], unknown}


def test_a_full_disk_under_the_log_of_workers_keeps_no_job_from_its_end(place: JobPlace) -> None:
    job_id = place.add_job(status="running", wanted="cancel").id
    (place.root / "logs" / worker.LOG_NAME).symlink_to("/dev/full")
    run_worker_once(place)
    assert place.job(job_id).status == "cancelled"


def test_a_job_that_breaks_its_worker_fails_and_does_not_keep_it_from_the_next_one(
    place: JobPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TROUBLED_SECONDS", 0.01)
    broken, cancelled = place.add_job().id, place.add_job(status="running").id
    # Where its folder should be is something else.
    os.mkfifo(place.root / "jobs" / broken)
    place.change(cancelled, wanted="cancel")
    run_worker_once(place)
    assert place.job(broken).error["code"] == "too_many_attempts"  # type: ignore[index]
    assert [place.job(job_id).status for job_id in (broken, cancelled)] == ["failed", "cancelled"]
