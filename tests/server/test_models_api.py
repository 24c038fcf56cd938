"""Models: whose they are, what they are called, and what deleting one frees."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx
import openai
import pytest
from openai import OpenAI
from running import RunningServer, with_new_project

from kivnun.database.identifiers import new_id
from kivnun.database.tables import CheckpointPermission, FineTuningJob, TunedModel
from kivnun.jobs.tuned_base import MERGED_NAME
from kivnun.server.embeddings.models import find_embedder
from kivnun.server.folders import DataFolder
from kivnun.server.service import ServeSettings


def add_model(
    server: RunningServer, *, step: int | None = None, job_id: str | None = None, base: str = "bundled"
) -> tuple[str, str]:
    """A tuned model of this project, with a folder; returns its name and its job's id."""
    with closing(server.open_database()) as database, database.writing() as session:
        if job_id is None:
            job_id = new_id("ftjob-")
            session.add(FineTuningJob(
                id=job_id, project_id=server.project_id, model="tiny", base_model=base, training_file="file-x",
                seed=1, asked={}, hyperparameters={}, integrations=[], status="succeeded", wanted="run",
                result_files=[], created_at=1,
            ))  # fmt: skip
            session.flush()
        place = "model" if step is None else f"epochs/step-{step:06d}"
        folder = DataFolder(server.data_dir).run(job_id) / place
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * 100)
        name = f"ft:tiny:personal::{job_id[-8:]}" + (f":ckpt-step-{step}" if step is not None else "")
        session.add(TunedModel(
            name=name, project_id=server.project_id, organization_name="personal", base_model=base, job_id=job_id,
            folder=str(folder.relative_to(server.data_dir)), checkpoint_step=step, created_at=int(time.time()),
        ))  # fmt: skip
    return name, job_id


def status_of(call: object) -> tuple[int, str | None]:
    with pytest.raises(openai.APIStatusError) as raised:
        call()
    return raised.value.status_code, raised.value.code


def test_the_list_holds_what_there_is_and_hosted_names_lead_to_the_base_model(client: OpenAI) -> None:
    listed = {model.id for model in client.models.list() if not model.id.startswith("ft:")}
    assert listed - {"builtin"} == {"tiny", "bundled", "bundled-reader"}
    for name in ("tiny", "gpt-3.5-turbo", "gpt-4o-mini-2024-07-18", "o4-mini"):
        model = client.models.retrieve(name)
        assert (model.id, model.object, model.owned_by) == (name, "model", "kivnun")
    for name in ("gpt-../../etc", "claude", "bundled/../bundled", "ft:tiny:personal::12345678"):
        assert status_of(lambda name=name: client.models.retrieve(name)) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["meta/llama 3:x@1", "a%2Fb", "a b", "ä", "..", "x" * 3000])
def test_any_name_can_be_asked_for(server: RunningServer, name: str) -> None:
    address = f"{server.base_url}/models/{quote(name, safe=':@')}"
    reply = httpx.get(address, headers=server.headers)
    assert (reply.status_code, name in reply.text) == (404, name != "..")


def test_nul_in_an_address_is_refused(server: RunningServer) -> None:
    for path in ("/models/a%00b", "/files/%00", "/files?after=%00"):
        assert httpx.get(server.base_url + path, headers=server.headers).status_code == 400


def test_a_tuned_model_is_its_projects_own(server: RunningServer, client: OpenAI) -> None:
    name, _ = add_model(server)
    assert client.models.retrieve(name).owned_by == "personal"
    assert client.models.list().data[0].id == name
    other = with_new_project(server)
    with OpenAI(base_url=other.base_url, api_key=other.key, max_retries=0) as stranger:
        assert name not in [model.id for model in stranger.models.list()]
        assert status_of(lambda: stranger.models.retrieve(name)) == (404, "model_not_found")
        assert status_of(lambda: stranger.models.delete(name)) == (404, "model_not_found")


def test_a_checkpoint_that_was_shared_can_be_used_and_not_deleted(server: RunningServer) -> None:
    name, _ = add_model(server, step=3)
    other = with_new_project(server)
    with closing(server.open_database()) as database, database.writing() as session:
        session.add(CheckpointPermission(id=new_id("cp_"), model_name=name, project_id=other.project_id, created_at=1))
    with OpenAI(base_url=other.base_url, api_key=other.key, max_retries=0) as friend:
        assert friend.models.retrieve(name).id == name
        assert status_of(lambda: friend.models.delete(name)) == (403, "model_not_deletable")


def test_deleting_a_model_frees_its_own_folder_alone(server: RunningServer, client: OpenAI) -> None:
    name, job_id = add_model(server)
    checkpoint, _ = add_model(server, step=7, job_id=job_id)
    run = DataFolder(server.data_dir).run(job_id)
    deleted = client.models.delete(checkpoint)
    assert (deleted.id, deleted.deleted, deleted.object) == (checkpoint, True, "model")
    assert [path.name for path in (run / "epochs").iterdir()] == []
    assert (run / "model" / "weights").exists()
    client.models.delete(name)
    assert not (run / "model").exists()
    assert status_of(lambda: client.models.delete(name)) == (404, "model_not_found")


def test_what_embeds_is_a_model_where_it_is_on_this_machine(tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    settings = ServeSettings(tmp_path, embedding_model=f"dir:{encoder}")
    assert find_embedder(settings) is None
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    assert find_embedder(settings) == "encoder"


def test_the_list_holds_the_embedder(start_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text("{}")
    server = start_server("--embedding-model", f"dir:{tmp_path / 'encoder'}", "--workers", "0")
    with OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
        assert [model.id for model in client.models.list()][-1] == "encoder"
        assert client.models.retrieve("encoder").owned_by == "kivnun"
        assert status_of(lambda: client.models.delete("encoder")) == (403, "model_not_deletable")
    assert server.stop() == 0


def test_the_last_model_of_a_job_takes_the_base_along_that_was_made_for_it(
    server: RunningServer, client: OpenAI
) -> None:
    name, job_id = add_model(server, base="jobs/ftjob-abcdefgh/run/model")
    checkpoint, _ = add_model(server, step=2, job_id=job_id)
    base = DataFolder(server.data_dir).job(job_id) / MERGED_NAME
    base.mkdir()
    client.models.delete(name)
    assert base.is_dir()
    client.models.delete(checkpoint)
    assert not base.exists()


def test_the_base_of_a_job_that_still_trains_stays(server: RunningServer, client: OpenAI) -> None:
    checkpoint, job_id = add_model(server, step=2, base="jobs/ftjob-abcdefgh/run/model")
    base = DataFolder(server.data_dir).job(job_id) / MERGED_NAME
    base.mkdir()
    with closing(server.open_database()) as database, database.writing() as session:
        # No worker takes a job that another one has.
        values = {"status": "running", "lease_owner": "elsewhere", "lease_until": time.time() + 600}
        session.query(FineTuningJob).filter_by(id=job_id).update(values)
    client.models.delete(checkpoint)
    assert base.is_dir()
    with closing(server.open_database()) as database, database.writing() as session:
        session.query(FineTuningJob).filter_by(id=job_id).update({"status": "failed", "lease_owner": None})


def test_a_model_that_a_job_waits_to_start_from_stays(server: RunningServer, client: OpenAI) -> None:
    name, job_id = add_model(server)
    _, child = add_model(server, base=f"jobs/{job_id}/run/model")
    with closing(server.open_database()) as database, database.writing() as session:
        session.query(FineTuningJob).filter_by(id=child).update({"status": "paused", "wanted": "pause"})
    assert status_of(lambda: client.models.delete(name)) == (400, "model_in_use")
    (DataFolder(server.data_dir).job(child) / MERGED_NAME).mkdir()
    assert client.models.delete(name).deleted


@pytest.mark.parametrize("name", ["tiny", "bundled", "gpt-4o-mini"])
def test_a_base_model_cannot_be_deleted(client: OpenAI, name: str) -> None:
    assert status_of(lambda: client.models.delete(name)) == (403, "model_not_deletable")


def test_a_name_that_is_nearly_right_is_told_to_those_alone_who_may_use_the_model(
    server: RunningServer, client: OpenAI
) -> None:
    stranger = with_new_project(server)
    name, _ = add_model(server)
    asked = name[:-1]
    with pytest.raises(openai.NotFoundError, match=f"Did you mean `{name}`"):
        client.models.retrieve(asked)
    other = OpenAI(base_url=stranger.base_url, api_key=stranger.key, max_retries=0)
    with other, pytest.raises(openai.NotFoundError) as raised:
        other.models.retrieve(asked)
    assert name not in str(raised.value)
