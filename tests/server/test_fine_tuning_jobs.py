"""The routes of jobs, asked by OpenAI's own library in this process; no worker runs, so that states stand still."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import select
from starlette.testclient import TestClient

from kivnun.database.keys import create_key
from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.projects import create_project, ensure_defaults
from kivnun.database.tables import CheckpointPermission, File, FineTuningJob, JobCheckpoint, JobEvent, TunedModel
from kivnun.server.app import create_app
from kivnun.server.counters import Counters
from kivnun.server.limits import Limits
from kivnun.server.service import ServeSettings, Service

HOST = "http://127.0.0.1"
LINE = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


@dataclass(frozen=True)
class Api:
    """The application, and what stands behind it."""

    app: Any
    database: Database
    project_id: str

    def client_of(self, project_id: str, *, scopes: tuple[str, ...] = ("all",), strict: bool = False) -> OpenAI:
        with self.database.writing() as session:
            _, secret = create_key(session, "test", project_id=project_id, scopes=scopes)
        return OpenAI(
            base_url=f"{HOST}/v1",
            api_key=secret,
            http_client=TestClient(self.app, base_url=HOST, raise_server_exceptions=False),
            max_retries=0,
            _strict_response_validation=strict,
        )

    def new_project(self, organization: str = "personal") -> str:
        with self.database.writing() as session:
            return create_project(session, secrets.token_hex(6), organization=organization).id

    def set_job(self, job_id: str, **values: Any) -> None:
        with self.database.writing() as session:
            job = session.scalar(select(FineTuningJob).where(FineTuningJob.id == job_id))
            for name, value in values.items():
                setattr(job, name, value)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "files").mkdir()
    exported = folder / "exported"
    exported.mkdir()
    (exported / "genai_config.json").write_text("{}")
    database = open_database(sqlite_url(folder))
    ensure_defaults(database)
    emptied = folder / "emptied"
    emptied.mkdir()
    settings = ServeSettings(folder, models={"exported": str(exported), "emptied": str(emptied)})
    pool = SimpleNamespace(facts=dict)
    service = Service(settings, database, pool, Limits(), Counters())  # type: ignore[arg-type]
    with database.writing() as session:
        project_id = create_project(session, "jobs").id
    yield Api(create_app(service), database, project_id)
    database.close()


@pytest.fixture(scope="module")
def client(api: Api) -> OpenAI:
    return api.client_of(api.project_id, strict=True)


@pytest.fixture(scope="module")
def file_id(client: OpenAI) -> str:
    return client.files.create(file=("train.jsonl", LINE), purpose="fine-tune").id


def refusal(call: Any, **arguments: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        call(**arguments)
    return caught.value


def test_a_job_is_created_as_openai_shows_it(client: OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model="gpt-3.5-turbo", training_file=file_id)
    shown = job.to_dict()
    assert job.id.startswith("ftjob-")
    assert job.seed is not None
    assert 0 <= job.seed < 2**31
    assert abs(job.created_at - time.time()) < 60
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert shown == {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "finished_at": None,
        "estimated_finish": None,
        "model": "gpt-3.5-turbo",
        "fine_tuned_model": None,
        "organization_id": "org-personal",
        "status": "validating_files",
        "training_file": file_id,
        "validation_file": None,
        "result_files": [],
        "trained_tokens": None,
        "seed": job.seed,
        "hyperparameters": auto,
        "method": {"type": "supervised", "supervised": {"hyperparameters": auto}},
        "integrations": [],
        "metadata": None,
        "error": None,
        "user_provided_suffix": None,
    }
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert [(event.level, event.type, event.message) for event in events] == [
        (
            "warn",
            "message",
            "gpt-3.5-turbo is not on this machine: bundled is trained in its place "
            "(`kivnun serve --base-model` chooses it)",
        ),
        ("info", "message", f"Created fine-tuning job: {job.id}"),
    ]


def test_a_model_of_the_server_is_trained_without_a_warning(client: OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model="bundled", training_file=file_id)
    assert [event.level for event in client.fine_tuning.jobs.list_events(job.id).data] == ["info"]


def test_everything_that_was_asked_for_is_shown_again(client: OpenAI, file_id: str) -> None:
    validation = client.files.create(file=("valid.jsonl", LINE), purpose="fine-tune").id
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.25, "n_epochs": 4, "batch_size": "auto"}}}
    job = client.fine_tuning.jobs.create(
        model="bundled",
        training_file=file_id,
        validation_file=validation,
        method=method,  # type: ignore[arg-type]
        suffix="my-words",
        seed=7,
        metadata={"who": "me", "why": ""},
        integrations=[{"type": "wandb", "wandb": {"project": "p", "tags": ["a", "b"]}}],
    )
    numbers = {"beta": 0.25, "n_epochs": 4, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    shown = job.to_dict()
    assert shown["method"] == {"type": "dpo", "dpo": {"hyperparameters": numbers}}
    assert shown["hyperparameters"] == {name: numbers[name] for name in numbers if name != "beta"}
    assert (job.validation_file, job.seed, job.metadata) == (validation, 7, {"who": "me", "why": ""})
    assert shown["user_provided_suffix"] == "my-words"
    assert shown["integrations"] == [{"type": "wandb", "wandb": {"project": "p", "tags": ["a", "b"]}}]
    assert client.fine_tuning.jobs.retrieve(job.id).to_dict() == shown


def test_the_old_place_of_hyperparameters_still_counts(client: OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="gpt-3.5-turbo", training_file=file_id, hyperparameters={"n_epochs": 2, "learning_rate_multiplier": 0.5}
    )
    assert job.hyperparameters.to_dict() == {
        "n_epochs": 2,
        "learning_rate_multiplier": 0.5,
        "batch_size": "auto",
    }


BAD_REQUESTS = {
    "n_epochs": ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
    "no epochs": ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    "half an epoch": ({"hyperparameters": {"n_epochs": 1.5}}, "hyperparameters.n_epochs"),
    "a text for a number": ({"hyperparameters": {"batch_size": "3"}}, "hyperparameters.batch_size"),
    "batch_size": ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
    "multiplier": ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier"),
    "beta": ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.1}}}}, "method.dpo.hyperparameters.beta"),
    "both places": (
        {
            "hyperparameters": {"n_epochs": 1},
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        },
        "hyperparameters",
    ),
    "another method's section": ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
    "reinforcement": ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "method.type"),
    "unknown method": ({"method": {"type": "magic"}}, "method.type"),
    "empty suffix": ({"suffix": ""}, "suffix"),
    "long suffix": ({"suffix": "x" * 65}, "suffix"),
    "colon in suffix": ({"suffix": "a:b"}, "suffix"),
    "space in suffix": ({"suffix": "my words"}, "suffix"),
    "slash in suffix": ({"suffix": "a/b"}, "suffix"),
    "percent in suffix": ({"suffix": "a%3Ab"}, "suffix"),
    "line break in suffix": ({"suffix": "a\n"}, "suffix"),
    "direction mark in suffix": ({"suffix": "a\u202eb"}, "suffix"),
    "negative seed": ({"seed": -1}, "seed"),
    "large seed": ({"seed": 2**31}, "seed"),
    "many pairs": ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    "long value": ({"metadata": {"k": "x" * 513}}, "metadata.k"),
    "long key": ({"metadata": {"k" * 65: "x"}}, None),
    "a number in metadata": ({"metadata": {"k": 1}}, "metadata.k"),
    "integration without project": (
        {"integrations": [{"type": "wandb", "wandb": {}}]},
        "integrations[0].wandb.project",
    ),
    "other tracker": ({"integrations": [{"type": "other", "wandb": {"project": "p"}}]}, "integrations[0].type"),
    "two trackers": ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}] * 2}, "integrations"),
    "misspelt field": ({"sufix": "x"}, "sufix"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_refused_with_its_field(name: str, client: OpenAI, file_id: str) -> None:
    body, param = BAD_REQUESTS[name]
    body = {"model": "gpt-3.5-turbo", "training_file": file_id, **body}
    error = refusal(client.post, path="/fine_tuning/jobs", body=body, cast_to=object)
    assert error.status_code == 400
    assert error.message
    assert error.type == "invalid_request_error"
    if param is not None:
        assert error.param == param


def test_a_method_that_is_not_there_names_those_that_are(client: OpenAI, file_id: str) -> None:
    body = {"model": "gpt-3.5-turbo", "training_file": file_id, "method": {"type": "reinforcement"}}
    error = refusal(client.post, path="/fine_tuning/jobs", body=body, cast_to=object)
    assert "supervised and dpo" in error.message


@pytest.mark.parametrize(
    "limits", [{"suffix": "x" * 64}, {"suffix": "x"}, {"suffix": "רגשות-2_a.b"}, {"seed": 0}, {"seed": 2**31 - 1}]
)
def test_the_limits_themselves_are_allowed(limits: dict[str, Any], client: OpenAI, file_id: str) -> None:
    assert client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file_id, **limits).id


def test_files_must_be_there_and_be_the_projects_own(api: Api, client: OpenAI, file_id: str) -> None:
    create = client.fine_tuning.jobs.create
    error = refusal(create, model="gpt-3.5-turbo", training_file="file-x")
    assert (error.status_code, error.code, error.param) == (400, "invalid_training_file", "training_file")
    assert error.message.endswith("invalid training_file: file-x") or "invalid training_file: file-x" in error.message
    error = refusal(create, model="gpt-3.5-turbo", training_file=file_id, validation_file="file-" + "a" * 24)
    assert (error.code, error.param) == ("invalid_validation_file", "validation_file")
    stranger = api.client_of(api.new_project())
    assert refusal(stranger.fine_tuning.jobs.create, model="gpt-3.5-turbo", training_file=file_id).status_code == 400
    other = client.files.create(file=("b.jsonl", b"{}\n"), purpose="user_data").id
    assert "purpose" in refusal(create, model="gpt-3.5-turbo", training_file=other).message


def test_a_file_that_expired_is_not_learnt_from(api: Api, client: OpenAI) -> None:
    file = client.files.create(file=("old.jsonl", LINE), purpose="fine-tune")
    with api.database.writing() as session:
        session.scalars(select(File).where(File.id == file.id)).one().expires_at = 1
    error = refusal(client.fine_tuning.jobs.create, model="gpt-3.5-turbo", training_file=file.id)
    assert error.code == "invalid_training_file"


@pytest.mark.parametrize(("model", "why"), [("exported", "an exported form"), ("emptied", "its weights are not where")])
def test_why_a_served_model_cannot_be_tuned_is_what_is_so(model: str, why: str, client: OpenAI, file_id: str) -> None:
    assert why in refusal(client.fine_tuning.jobs.create, model=model, training_file=file_id).message


@pytest.mark.parametrize("model", ["nothing-like-it", "ft:gpt-3.5-turbo:personal::abcdefgh", "exported", "../etc"])
def test_models_that_cannot_be_tuned_are_refused(model: str, client: OpenAI, file_id: str) -> None:
    error = refusal(client.fine_tuning.jobs.create, model=model, training_file=file_id)
    assert (error.status_code, error.code, error.param) == (400, "model_not_available", "model")


def test_a_tuned_model_can_be_tuned_further_by_those_who_may_use_it(api: Api, client: OpenAI, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model="bundled", training_file=file_id).id
    name = f"ft:bundled:personal:z:{job_id[-8:]}"
    add_model(api, job_id, name)
    further = client.fine_tuning.jobs.create(model=name, training_file=file_id)
    assert further.model == name
    with api.database.reading() as session:
        base = session.scalar(select(FineTuningJob.base_model).where(FineTuningJob.id == further.id))
    assert base == f"jobs/{job_id}/run/model"
    stranger = api.client_of(api.new_project())
    theirs = stranger.files.create(file=("train.jsonl", LINE), purpose="fine-tune").id
    assert refusal(stranger.fine_tuning.jobs.create, model=name, training_file=theirs).code == "model_not_available"


def test_lists_end_and_hold_every_job_once(api: Api) -> None:
    client = api.client_of(api.new_project(), strict=True)
    file = client.files.create(file=("train.jsonl", LINE), purpose="fine-tune").id
    made = [client.fine_tuning.jobs.create(model="bundled", training_file=file).id for _ in range(5)]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=5)] == made[::-1]
    first = client.fine_tuning.jobs.list(limit=2)
    assert (len(first.data), first.has_more) == (2, True)
    assert client.fine_tuning.jobs.list(after=made[0]).data == []
    assert refusal(client.fine_tuning.jobs.list, after="ftjob-unknown").status_code == 400
    assert refusal(client.fine_tuning.jobs.list, limit=0).status_code == 400


def test_jobs_are_found_by_their_metadata(api: Api) -> None:
    client = api.client_of(api.new_project())
    file = client.files.create(file=("train.jsonl", LINE), purpose="fine-tune").id

    def create(metadata: dict[str, str] | None) -> str:
        return client.fine_tuning.jobs.create(model="bundled", training_file=file, metadata=metadata).id

    both, one, bare = create({"a": "1", "b": "2"}), create({"a": "1"}), create(None)

    def found(metadata: Any) -> list[str]:
        return [job.id for job in client.fine_tuning.jobs.list(metadata=metadata)]

    assert found({"a": "1"}) == [one, both]
    assert found({"a": "1", "b": "2"}) == [both]
    assert found({"a": "2"}) == []
    query = {"metadata": "null"}
    assert [job.id for job in client.fine_tuning.jobs.list(extra_query=query)] == [bare]
    assert refusal(client.fine_tuning.jobs.list, extra_query={"metadata": "x"}).status_code == 400
    assert refusal(client.fine_tuning.jobs.list, extra_query={"metadatas[a]": "1"}).status_code == 400


def test_projects_do_not_see_each_others_jobs(api: Api, client: OpenAI, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model="bundled", training_file=file_id).id
    stranger = api.client_of(api.new_project()).fine_tuning.jobs
    for call in (stranger.retrieve, stranger.cancel, stranger.pause, stranger.resume, stranger.list_events):
        assert refusal(call, fine_tuning_job_id=job_id).status_code == 404
    assert refusal(stranger.checkpoints.list, fine_tuning_job_id=job_id).status_code == 404
    assert stranger.list().data == []
    assert client.fine_tuning.jobs.retrieve(job_id).status == "validating_files"


def test_a_key_that_may_only_read_changes_nothing(api: Api, client: OpenAI, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model="bundled", training_file=file_id).id
    reader = api.client_of(api.project_id, scopes=("fine_tuning:read",)).fine_tuning.jobs
    assert reader.retrieve(job_id).id == job_id
    assert refusal(reader.cancel, fine_tuning_job_id=job_id).status_code == 403
    assert refusal(reader.create, model="bundled", training_file=file_id).status_code == 403


def test_jobs_stop_wait_and_go_on(api: Api, file_id: str) -> None:
    # OpenAI's own list of states lacks `paused`, which its strict mode refuses.
    jobs = api.client_of(api.project_id).fine_tuning.jobs
    job_id = jobs.create(model="bundled", training_file=file_id).id
    assert jobs.pause(job_id).status == "paused"
    assert jobs.pause(job_id).status == "paused"
    assert jobs.resume(job_id).status == "queued"
    assert jobs.resume(job_id).status == "queued"
    cancelled = jobs.cancel(job_id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    assert jobs.cancel(job_id).status == "cancelled"
    for call in (jobs.pause, jobs.resume):
        error = refusal(call, fine_tuning_job_id=job_id)
        assert (error.status_code, error.code) == (400, "invalid_job_state")
        assert "was cancelled" in error.message
    assert refusal(jobs.retrieve, fine_tuning_job_id="ftjob-none").code == "fine_tune_not_found"


def test_a_paused_job_is_all_that_openais_strict_mode_does_not_know(client: OpenAI, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model="bundled", training_file=file_id).id
    with pytest.raises(openai.APIResponseValidationError):
        client.fine_tuning.jobs.pause(job_id)
    assert client.fine_tuning.jobs.resume(job_id).status == "queued"
    assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_job_that_ended_cannot_be_told_anything(status: str, api: Api, client: OpenAI, file_id: str) -> None:
    jobs = client.fine_tuning.jobs
    job_id = jobs.create(model="bundled", training_file=file_id).id
    api.set_job(job_id, status=status)
    for call in (jobs.cancel, jobs.pause, jobs.resume):
        error = refusal(call, fine_tuning_job_id=job_id)
        assert error.status_code == 400
        assert f"has {status}" in error.message
    assert jobs.retrieve(job_id).status == status


def test_a_job_that_is_being_cancelled_is_not_brought_back(api: Api, client: OpenAI, file_id: str) -> None:
    jobs = client.fine_tuning.jobs
    job_id = jobs.create(model="bundled", training_file=file_id).id
    api.set_job(job_id, status="running", wanted="cancel", lease_owner="somebody", lease_until=time.time() + 60)
    for call in (jobs.pause, jobs.resume):
        assert refusal(call, fine_tuning_job_id=job_id).status_code == 400
    with api.database.reading() as session:
        assert session.scalar(select(FineTuningJob.wanted).where(FineTuningJob.id == job_id)) == "cancel"


def test_numbers_and_errors_are_shown_as_the_worker_left_them(api: Api, client: OpenAI, file_id: str) -> None:
    jobs = client.fine_tuning.jobs
    job_id = jobs.create(model="bundled", training_file=file_id).id
    numbers = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.0}
    error = {"code": "invalid_n_examples", "message": "Training file has 7 example(s)", "param": "training_file"}
    api.set_job(job_id, hyperparameters=numbers, status="failed", error=error, finished_at=5, trained_tokens=0)
    job = jobs.retrieve(job_id)
    assert job.hyperparameters.to_dict() == numbers
    assert job.method is not None
    assert job.method.to_dict()["supervised"] == {"hyperparameters": numbers}
    assert job.error is not None
    assert job.error.to_dict() == error


def test_events_are_newest_first_and_end(api: Api, client: OpenAI, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model="bundled", training_file=file_id).id
    with api.database.writing() as session:
        for number in range(4):
            data = {"step": number} if number else None
            kind = "metrics" if number else "message"
            session.add(
                JobEvent(
                    id=f"ftevent-{job_id}-{number}",
                    job_id=job_id,
                    source=f"log:{number}",
                    level="info",
                    type=kind,
                    message=f"Step {number}",
                    data=data,
                    created_at=number,
                )
            )
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=2))
    assert [event.message for event in events[:4]] == ["Step 3", "Step 2", "Step 1", "Step 0"]
    assert (len(events), events[0].data, events[3].data) == (5, {"step": 3}, {})


def add_model(api: Api, job_id: str, name: str, *, step: int | None = None) -> None:
    with api.database.writing() as session:
        project_id = session.scalars(select(FineTuningJob.project_id).where(FineTuningJob.id == job_id)).one()
        session.add(
            TunedModel(
                name=name,
                project_id=project_id,
                organization_name="personal",
                base_model="bundled",
                folder=f"jobs/{job_id}/run/model",
                job_id=job_id,
                checkpoint_step=step,
                created_at=1,
            )
        )
        if step is not None:
            metrics = {"step": step, "train_loss": 0.5}
            checkpoint = JobCheckpoint(
                id=f"ftckpt_{step}{job_id}", job_id=job_id, model_name=name, step=step, metrics=metrics, created_at=step
            )
            session.add(checkpoint)


def test_checkpoints_are_newest_first(api: Api, client: OpenAI, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model="bundled", training_file=file_id).id
    names = [f"ft:bundled:personal::{job_id[-8:]}:ckpt-step-{step}" for step in (10, 20, 30)]
    for step, name in zip((10, 20, 30), names, strict=True):
        add_model(api, job_id, name, step=step)
    page = client.fine_tuning.jobs.checkpoints.list(job_id, limit=2)
    assert [each.fine_tuned_model_checkpoint for each in page] == names[::-1]
    assert page.has_more is True
    first = page.data[0]
    assert (first.step_number, first.fine_tuning_job_id, first.metrics.train_loss) == (30, job_id, 0.5)


def test_permissions_are_given_listed_and_taken_back(api: Api, client: OpenAI, file_id: str) -> None:
    permissions = client.fine_tuning.checkpoints.permissions
    job_id = client.fine_tuning.jobs.create(model="bundled", training_file=file_id).id
    name = f"ft:org/name:personal:x:{job_id[-8:]}"
    add_model(api, job_id, name)
    first, second = api.new_project(), api.new_project()
    friend = api.client_of(first)
    assert refusal(friend.models.retrieve, model=name).status_code == 404
    granted = permissions.create(name, project_ids=[first, second])
    assert {each.project_id for each in granted.data} == {first, second}
    assert friend.models.retrieve(name).id == name
    again = permissions.create(name, project_ids=[first])
    assert again.data[0].id == next(each.id for each in granted.data if each.project_id == first)
    listed = list(permissions.list(name, limit=1))
    assert [each.project_id for each in listed] == [second, first]
    assert [each.project_id for each in permissions.list(name, order="ascending")] == [first, second]
    assert [each.project_id for each in permissions.list(name, project_id=first)] == [first]
    deleted = permissions.delete(again.data[0].id, fine_tuned_model_checkpoint=name)
    assert (deleted.deleted, deleted.id) == (True, again.data[0].id)
    assert refusal(friend.models.retrieve, model=name).status_code == 404
    gone = {"permission_id": again.data[0].id, "fine_tuned_model_checkpoint": name}
    assert refusal(permissions.delete, **gone).status_code == 404
    with api.database.reading() as session:
        left = session.scalars(select(CheckpointPermission.project_id).where(CheckpointPermission.model_name == name))
        assert left.all() == [second]


def test_permissions_stay_within_the_organisation_and_with_the_owner(api: Api, client: OpenAI, file_id: str) -> None:
    job_id = client.fine_tuning.jobs.create(model="bundled", training_file=file_id).id
    name = f"ft:bundled:personal:y:{job_id[-8:]}"
    add_model(api, job_id, name)
    outside, friend_id = api.new_project("others"), api.new_project()
    permissions = client.fine_tuning.checkpoints.permissions
    error = refusal(permissions.create, fine_tuned_model_checkpoint=name, project_ids=[friend_id, outside])
    assert (error.status_code, error.param) == (400, "project_ids")
    assert permissions.list(name).data == []
    permissions.create(name, project_ids=[friend_id])
    friend = api.client_of(friend_id).fine_tuning.checkpoints.permissions
    assert refusal(friend.create, fine_tuned_model_checkpoint=name, project_ids=[friend_id]).status_code == 404
    assert refusal(friend.list, fine_tuned_model_checkpoint=name).status_code == 404


def test_the_same_idempotency_key_makes_one_job(client: OpenAI, file_id: str) -> None:
    key = {"Idempotency-Key": secrets.token_hex(8)}
    create = client.fine_tuning.jobs.create
    first = create(model="bundled", training_file=file_id, extra_headers=key)
    assert create(model="bundled", training_file=file_id, extra_headers=key).id == first.id
    assert refusal(create, model="bundled", training_file=file_id, seed=9, extra_headers=key).status_code == 400
    assert create(model="bundled", training_file=file_id).id != first.id


def test_a_field_of_azures_is_taken_and_said_to_have_no_effect(client: OpenAI, file_id: str) -> None:
    extra = {"trainingType": "GlobalStandard"}
    job = client.fine_tuning.jobs.create(model="bundled", training_file=file_id, extra_body=extra)
    newest = client.fine_tuning.jobs.list_events(job.id).data[0]
    assert newest.level == "warn"
    assert "trainingType" in newest.message


def test_a_file_of_an_unfinished_job_cannot_be_deleted(client: OpenAI) -> None:
    file = client.files.create(file=("used.jsonl", LINE), purpose="fine-tune").id
    job_id = client.fine_tuning.jobs.create(model="bundled", training_file=file).id
    assert refusal(client.files.delete, file_id=file).status_code == 400
    client.fine_tuning.jobs.cancel(job_id)
    assert client.files.delete(file).deleted


def test_no_route_of_jobs_tells_a_path_of_the_server(api: Api, client: OpenAI, file_id: str, tmp_path: Path) -> None:
    job = client.fine_tuning.jobs.create(model="gpt-3.5-turbo", training_file=file_id)
    shown = f"{job.to_dict()}{client.fine_tuning.jobs.list_events(job.id).to_dict()}"
    assert str(tmp_path.parent.parent) not in shown
    assert "/" not in shown.replace("https://", "")
