"""How jobs end: whole, once, and with words that a client may read."""

import csv
from pathlib import Path

import pytest
from job_place import JobPlace, lessee
from log_samples import fit, run_with_kills, step, to_bytes, validation, whole_run
from sqlalchemy import select

from kivnun.database.tables import File, JobEvent
from kivnun.errors import UserError
from kivnun.jobs import failures
from kivnun.jobs.devices import take_device
from kivnun.jobs.finishing import COLUMNS, fail, read_numbers, remove_checkpoints, succeed
from kivnun.jobs.job_error import JobError
from kivnun.jobs.memory import Shapes, count_need, read_shapes, visible_gpus
from kivnun.jobs.naming import checkpoint_name, derive_signs, result_file_id
from kivnun.jobs.queue import LeaseLostError, lease_next
from kivnun.jobs.work import Work
from kivnun.models.resolve import BUNDLED_FOLDER
from kivnun.runs import write_stage

FOLDER = Path("/data/jobs/ftjob-12345678")


def trained(place: JobPlace, lines: list[dict[str, object]]) -> tuple[Work, str]:
    """A job of this process whose run has just ended."""
    work = place.work()
    job_id = place.add_job(status="running", suffix="mine").id
    run_dir = work.folder(job_id) / "run"
    with write_stage(run_dir, "model", kind="model", key="k") as folder:
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (run_dir / "events.jsonl").write_bytes(to_bytes(lines))
    with place.database.writing() as session:
        lease_next(session, lessee(str(work.owner)))
    return work, job_id


def test_a_finished_run_becomes_a_model_a_file_of_numbers_and_a_status(shared_place: JobPlace) -> None:
    work, job_id = trained(shared_place, whole_run())
    succeed(work, job_id)
    job = shared_place.job(job_id)
    assert (job.status, job.error, job.lease_owner, job.trained_tokens) == ("succeeded", None, None, 400)
    (model,) = shared_place.models(job_id)
    assert model.name == job.fine_tuned_model
    assert (model.folder, model.checkpoint_step) == (f"jobs/{job_id}/run/model", None)
    with shared_place.database.reading() as session:
        (file,) = session.scalars(select(File)).all()
    assert job.result_files == [file.id] == [result_file_id(job_id)]
    content = work.file(file.id).read_bytes()
    assert (file.purpose, file.num_bytes, file.status) == ("fine-tune-results", len(content), "processed")
    assert shared_place.messages(job_id) == [
        f"New fine-tuned model created: {job.fine_tuned_model}",
        "The job has successfully completed",
    ]


def test_the_event_of_the_model_tells_which_step_it_is(shared_place: JobPlace) -> None:
    lines = [{**line, "best": False} if line == validation(4) else line for line in run_with_kills()]
    work, job_id = trained(shared_place, lines)
    succeed(work, job_id)
    with shared_place.database.reading() as session:
        events = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.number)).all()
    model, kept, _ = events
    assert kept.message == "The model is that of step 2 of 4, which was best in validation"
    assert model.data == kept.data == {"step": 2, "num_steps": 4, "valid_loss": 1.0}


@pytest.mark.parametrize("lines", [whole_run(), run_with_kills()], ids=["undisturbed", "killed"])
def test_the_numbers_are_plain_csv_with_one_row_for_each_step(tmp_path: Path, lines: list[dict[str, object]]) -> None:
    (tmp_path / "log").write_bytes(to_bytes(lines))
    rows = list(csv.reader(read_numbers(tmp_path / "log").to_csv().decode().splitlines()))
    assert rows == [
        list(COLUMNS),
        ["1", "1.0", "0.5", "", ""],
        ["2", "0.5", "0.5", "1.0", "0.25"],
        ["3", "0.33333", "0.5", "", ""],
        ["4", "0.25", "0.5", "0.5", "0.25"],
    ]


def test_steps_whose_lines_were_lost_leave_their_rows_empty(tmp_path: Path) -> None:
    """As when the power fails after the checkpoint of a step and before its line reached the disk."""
    (tmp_path / "log").write_bytes(to_bytes([fit(), step(1), fit(3), step(4)]))
    rows = list(csv.reader(read_numbers(tmp_path / "log").to_csv().decode().splitlines()))
    assert [row[:2] for row in rows[1:]] == [["1", "1.0"], ["2", ""], ["3", ""], ["4", "0.25"]]


def test_finishing_that_is_cut_short_before_its_end_can_be_done_again(place: JobPlace) -> None:
    work, job_id = trained(place, whole_run())
    place.change(job_id, lease_owner="somebody else")
    with pytest.raises(LeaseLostError):
        succeed(work, job_id)
    assert (place.models(job_id), place.job(job_id).status, place.messages(job_id)) == ([], "running", [])
    place.change(job_id, lease_owner=str(work.owner))
    succeed(work, job_id)
    assert len(list((place.root / "files").iterdir())) == 1
    assert len(place.models(job_id)) == 1


def test_a_run_without_a_model_has_not_succeeded(place: JobPlace) -> None:
    work, job_id = trained(place, whole_run())
    (work.folder(job_id) / "run" / "model" / "artifact.json").unlink()
    with pytest.raises(UserError, match="model"):
        succeed(work, job_id)
    assert place.job(job_id).status == "running"


def test_a_job_that_was_cancelled_while_it_ended_is_cancelled(place: JobPlace) -> None:
    for end in (succeed, lambda work, job_id: fail(work, job_id, JobError("x", "y"))):
        work, job_id = trained(place, whole_run())
        place.want(job_id, "cancel")
        end(work, job_id)
        assert (place.job(job_id).status, place.models(job_id), place.job(job_id).error) == ("cancelled", [], None)
        assert list((place.root / "files").iterdir()) == []


def test_a_failed_job_has_the_three_fields_and_an_event_with_the_lines(place: JobPlace) -> None:
    work, job_id = trained(place, whole_run())
    fail(work, job_id, JobError("invalid_file_format", "Line 3 is broken", "training_file", ("line 3: no JSON",)))
    job = place.job(job_id)
    assert (job.status, job.finished_at is not None) == ("failed", True)
    assert job.error == {"code": "invalid_file_format", "message": "Line 3 is broken", "param": "training_file"}
    (event,) = place.events(job_id)
    assert (event.level, event.data) == (
        "error",
        {"error_code": "invalid_file_format", "problems": ["line 3: no JSON"]},
    )


def test_a_failed_job_names_the_file_that_its_client_sent_and_says_what_was_mended(place: JobPlace) -> None:
    work, job_id = trained(place, whole_run())
    file_id = place.job(job_id).training_file
    copy = work.folder(job_id) / "training.jsonl"
    fail(work, job_id, JobError("x", f"{copy}:3: bad", problems=(f"{copy}: bad",), notes=("line 5 was closed",)))
    assert place.job(job_id).error["message"] == f"{file_id}:3: bad"
    mended, failed = place.events(job_id)
    assert (mended.level, mended.message, failed.data["problems"]) == ("warn", "line 5 was closed", [f"{file_id}: bad"])


def test_what_only_a_run_that_goes_on_needs_is_removed(place: JobPlace) -> None:
    work, job_id = trained(place, whole_run())
    for name in ("checkpoints/step-000001", "epochs/step-000002"):
        (work.folder(job_id) / "run" / name).mkdir(parents=True)
    remove_checkpoints(work, job_id)
    assert {path.name for path in (work.folder(job_id) / "run").iterdir()} == {"epochs", "events.jsonl", "model"}


def test_our_own_faults_are_told_without_their_traceback() -> None:
    failure = {"code": "unexpected", "problem": f"KeyError: '{FOLDER}'"}
    error = failures.explain(failure, "", FOLDER)
    assert error.code == "server_error"
    assert "KeyError" not in error.message
    assert "/data" not in error.message


def test_what_a_worker_could_not_do_is_told_where_it_is_known() -> None:
    full = UserError("disk-full", "/data/files/file-1 cannot be written: no space left", hint="make room")
    error = failures.worker_failed(full, FOLDER)
    assert (error.code, error.message) == ("insufficient_storage", "file-1 cannot be written: no space left")
    assert failures.worker_failed(KeyError("x"), FOLDER).code == "too_many_attempts"


def test_a_run_that_failed_before_its_log_began_is_read_from_what_it_printed() -> None:
    printed = "error[old-code]: before\nsaid\nerror[model-missing]: there is no /srv/m/base\nhint: fetch it\n"
    error = failures.explain(None, printed, FOLDER)
    assert (error.code, error.message, error.param) == ("model_not_available", "there is no base", "model")


def test_a_process_that_printed_no_error_failed_by_our_fault() -> None:
    assert failures.explain(None, "Traceback ...", FOLDER).code == "server_error"


def test_the_names_of_a_jobs_things_follow_from_its_own() -> None:
    assert derive_signs("a", 8) == derive_signs("a", 8) != derive_signs("b", 8)
    assert len(derive_signs("a", 24)) == 24
    assert checkpoint_name("ft:m:o::x", 7) == "ft:m:o::x:ckpt-step-7"


def test_the_need_of_a_job_is_counted_from_the_headers_of_its_model() -> None:
    shapes = read_shapes(BUNDLED_FOLDER)
    adapter, whole = (count_need(shapes, rank=rank, batch_tokens=1000) for rank in (16, None))
    assert shapes.num_parameters > 1_000_000
    assert adapter < whole
    trained = Shapes(num_parameters=10, num_bytes=40, width=7, num_matrices=1)
    more = count_need(trained, rank=2, batch_tokens=5) - count_need(trained, rank=1, batch_tokens=5)
    # Seven numbers more of adapters, each with its gradient and two running averages.
    assert more == 7 * 4 * (1 + 3)


def test_a_gpu_is_for_one_job_at_a_time(tmp_path: Path) -> None:
    with take_device(tmp_path, "here/", ["0", "1"]) as first, take_device(tmp_path, "here/", ["0", "1"]) as second:
        assert (first, second) == ("0", "1")
        with take_device(tmp_path, "here/", ["0", "1"]) as third:
            assert third is None
        with take_device(tmp_path, "there/", ["0", "1"]) as elsewhere:
            assert elsewhere == "0"
    with take_device(tmp_path, "here/", ["0", "1"]) as again:
        assert again == "0"


def test_the_gpus_are_those_that_cuda_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert visible_gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
