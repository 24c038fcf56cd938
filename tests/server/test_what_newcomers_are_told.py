"""What a newcomer's mistakes are answered with, by OpenAI's own library and by hand, against a real server."""

from collections.abc import Callable, Iterator
from contextlib import closing
from urllib.parse import unquote

import httpx
import openai
import pytest
from openai import OpenAI
from running import RunningServer, make_project_key, with_new_project

from kivnun.database.audit import list_changes
from kivnun.database.projects import Quotas, find_project, set_quotas

CHAT = [{"role": "user", "content": "x"}]


@pytest.fixture
def small_quota(server: RunningServer) -> Iterator[OpenAI]:
    """OpenAI's library with the key of a project that may keep a thousand bytes."""
    project = with_new_project(server)
    with closing(server.open_database()) as database, database.writing() as session:
        set_quotas(find_project(session, project.project_id), Quotas(max_storage_bytes=1000))
    with OpenAI(base_url=project.base_url, api_key=project.key, max_retries=0) as client:
        yield client


def refused(call: object, **given: object) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as raised:
        call(**given)
    return raised.value


def message_of(error: openai.APIStatusError) -> str:
    return error.body["message"]


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("responses", "use /v1/chat/completions"),
        ("responses/resp_1", "use /v1/chat/completions"),
        ("moderations", "nothing is moderated here"),
        ("images/generations", "models here write text alone"),
        ("assistants", "with `tools`"),
        ("threads/thread_1/runs", "with all messages"),
        ("audio/speech", "text alone"),
        ("vector_stores", "use /v1/embeddings"),
        ("realtime/sessions", "with `stream`"),
        ("chat/completions/chatcmpl-1", "completions are not kept here"),
    ],
)
def test_what_openai_has_and_this_server_has_not_is_no_typing_error(
    server: RunningServer, path: str, instead: str
) -> None:
    reply = httpx.post(f"{server.base_url}/{path}", json={}, headers=server.headers)
    told = reply.json()["error"]["message"]
    assert reply.status_code == 404
    assert told.startswith(f"Unknown request URL: POST /v1/{path}. It is not served here: ")
    assert instead in told


@pytest.mark.parametrize("path", ["modles", "response", "chat/completions/", "filesystem"])
def test_any_other_address_is_to_be_checked(server: RunningServer, path: str) -> None:
    reply = httpx.get(f"{server.base_url}/{path}", headers=server.headers)
    assert (reply.status_code, reply.json()["error"]["message"].endswith("check the URL for typos.")) == (404, True)


def test_stored_completions_are_refused_as_the_documentation_says(client: OpenAI) -> None:
    assert refused(client.chat.completions.list).status_code == 405
    assert refused(client.chat.completions.retrieve, completion_id="chatcmpl-1").status_code == 404


@pytest.mark.parametrize("name", ["bundle", "bundeld"])
def test_a_model_that_is_nearly_right_is_told_with_the_right_one(client: OpenAI, name: str) -> None:
    error = refused(client.chat.completions.create, model=name, messages=CHAT)
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")
    assert message_of(error).startswith(
        f"The model `{name}` does not exist or you do not have access to it. Did you mean `bundled`? "
        "GET /v1/models lists those that you may use."
    )
    assert refused(client.models.retrieve, model=name).body == error.body
    assert message_of(refused(client.models.delete, model=name)) == message_of(error)


def test_a_model_that_cannot_be_trained_is_said_not_to_exist_once(client: OpenAI) -> None:
    error = refused(client.fine_tuning.jobs.create, model="bundle", training_file="file-x")
    assert message_of(error) == (
        "Model bundle is not available for fine-tuning or does not exist. Did you mean `bundled`? "
        "GET /v1/models lists those that you may use."
    )


def test_a_misspelt_field_and_a_misspelt_query_are_told_with_the_right_ones(
    server: RunningServer, client: OpenAI
) -> None:
    error = refused(client.chat.completions.create, model="tiny", messages=CHAT, extra_body={"tempreature": 1})
    assert message_of(error) == "Unrecognized request argument supplied: tempreature. Did you mean 'temperature'?"
    hyperparameters = {"hyperparameters": {"epochs": 3}}
    error = refused(client.fine_tuning.jobs.create, model="tiny", training_file="f", extra_body=hyperparameters)
    assert message_of(error).endswith("hyperparameters.epochs. Did you mean 'n_epochs'?")
    error = httpx.get(f"{server.base_url}/files?limitt=1", headers=server.headers).json()["error"]
    assert error["message"].endswith("limitt. Did you mean 'limit'?")
    fields = {"files": {"file": b"x"}, "data": {"purpos": "batch"}}
    error = httpx.post(f"{server.base_url}/files", headers=server.headers, **fields).json()["error"]
    assert (error["param"], error["message"].endswith("Did you mean 'purpose'?")) == ("purpos", True)


def test_a_file_beyond_the_whole_quota_is_told_the_quota(small_quota: OpenAI) -> None:
    for size in (1001, 100_000):
        error = refused(small_quota.files.create, file=("a.jsonl", b"x" * size), purpose="batch")
        assert (error.status_code, error.code) == (403, "storage_quota_exceeded")
        assert "The project may keep 1000 bytes, and this file alone has more." in message_of(error)
    announced = {"filename": "a", "purpose": "batch", "mime_type": "text/plain"}
    assert refused(small_quota.uploads.create, bytes=1001, **announced).code == "storage_quota_exceeded"
    upload = small_quota.uploads.create(bytes=900, **announced)
    error = refused(small_quota.uploads.parts.create, upload_id=upload.id, data=b"x" * 901)
    assert "the 900 that were announced for the whole upload" in message_of(error)


@pytest.mark.parametrize("name", ["train.jsonl", "שורות לאימון.jsonl", 'a "b" c\\d.csv', "50% off; x=1.json", "é"])
def test_a_files_content_comes_with_its_name(client: OpenAI, name: str) -> None:
    body = {"filename": name, "purpose": "batch", "bytes": 1, "mime_type": "text/plain"}
    upload = client.uploads.create(**body)
    part = client.uploads.parts.create(upload.id, data=b"x")
    file = client.uploads.complete(upload.id, part_ids=[part.id]).file
    said = client.files.content(file.id).response.headers["content-disposition"]
    assert said.startswith('attachment; filename="')
    plain, _, encoded = said.removeprefix('attachment; filename="').partition("\"; filename*=UTF-8''")
    assert unquote(encoded, errors="strict") == name
    assert encoded.isascii()
    assert " " not in encoded
    assert len(plain) == len(name)
    assert '"' not in plain


def test_what_is_refused_before_its_route_is_counted_by_its_route_and_written_down(
    start_server: Callable[..., RunningServer],
) -> None:
    # Of its own: the first refusal of a minute is the one that is written down.
    server = start_server("--workers", "0")
    headers = {"Authorization": "Bearer sk-kivnun-" + "0" * 43}
    refusal = httpx.post(f"{server.base_url}/chat/completions", json={"model": "tiny"}, headers=headers)
    assert refusal.status_code == 401
    httpx.post(f"{server.base_url}/fine_tuning/jobs/ftjob-secret/cancel", json={}, headers=headers)
    metrics = httpx.get(f"{server.root_url}/metrics").text
    assert 'kivnun_requests_total{method="POST",route="/chat/completions",status="401"}' in metrics
    assert 'route="/fine_tuning/jobs/{job_id}/cancel",status="401"' in metrics
    with closing(server.open_database()) as database, database.reading() as session:
        entries = [entry for entry in list_changes(session, limit=1000) if entry.status == 401]
    assert len(entries) == 1
    entry = entries[0]
    assert (entry.action, entry.project_id, entry.address) == ("POST /v1/chat/completions", None, "127.0.0.1")
    assert entry.subject == "sk-kiv***0000"
    assert entry.request_id == refusal.headers["x-request-id"]


def test_a_key_for_reading_is_still_named_where_it_may_not_write(server: RunningServer) -> None:
    project_id, secret = make_project_key(server.data_dir, scopes=("files:read",))
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx.post(f"{server.base_url}/files", headers=headers, files={"file": b"x"}).status_code == 403
    with closing(server.open_database()) as database, database.reading() as session:
        entry = list_changes(session, limit=1, project_id=project_id)[0]
    assert (entry.action, entry.status) == ("POST /v1/files", 403)
