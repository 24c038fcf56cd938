"""Names that stand for models: nobody takes the base model's answer for that of a model that was tuned."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from running import RunningServer, make_project_key

from kivnun.database.identifiers import new_id
from kivnun.database.tables import FineTuningJob, TunedModel
from kivnun.errors import UserError
from kivnun.server.model_names import base_models, is_hosted, tell_stand_in
from kivnun.server.servable import require_models
from kivnun.server.service import ServeSettings

HEADER = "x-kivnun-model"
MESSAGES = [{"role": "user", "content": "Hello"}]
HOSTED = """
gpt-3.5-turbo gpt-3.5-turbo-0125 gpt-3.5-turbo-16k-0613 gpt-3.5-turbo-instruct-0914 gpt-35-turbo gpt-35-turbo-0613
gpt-4 gpt-4-0613 gpt-4-32k gpt-4-turbo-2024-04-09 gpt-4-1106-preview gpt-4o gpt-4o-2024-08-06 gpt-4o-mini
gpt-4o-mini-2024-07-18 chatgpt-4o-latest gpt-4.1-nano-2025-04-14 gpt-4.5-preview gpt-5 gpt-5.1-codex-max gpt-oss-20b
o1 o1-preview-2024-09-12 o3-mini-2025-01-31 o4-mini o4-mini-2025-04-16 o3-deep-research davinci-002 babbage-002
gemini-pro gemini-1.0-pro-001 gemini-1.5-flash-002 gemini-1.5-flash-8b gemini-2.0-flash-lite-001 gemini-2.5-flash
gemini-2.5-flash-preview-05-20 gemini-2.5-flash-lite-preview-09-2025 gemini-3-pro-preview text-bison@001
text-bison-32k@002 chat-bison
"""
MADE_UP = """
gpt-35-turbo-ft gpt-35-turbo-0613-ft gpt-4o-mini-mine gpt-4o-support gpt-3.5-turbo-ft-1 gpt-4o-mini- gpt-x gpt- gpt-2
my-gpt-4o o4-mini-tuned gemini-2.5-flash-ft text-bison-mine text-bison@mine davinci-002-mine gpt-4o-٢٠٢٤-٠٧-١٨
"""


def chat(server: RunningServer, model: str, **more: object) -> httpx.Response:
    body = {"model": model, "messages": MESSAGES, "max_tokens": 2, **more}
    return httpx.post(f"{server.base_url}/chat/completions", json=body, headers=server.headers, timeout=60)


def test_only_names_that_hosted_services_have_are_taken_for_such() -> None:
    settings = ServeSettings(Path("data"))
    assert [name for name in HOSTED.split() if not is_hosted(settings, name)] == []
    assert [name for name in MADE_UP.split() if is_hosted(settings, name)] == []
    assert not is_hosted(settings, "gpt-4o" + "-mini" * 20)
    own = ServeSettings(Path("data"), models={"gpt-4o": "folder", "gpt-4o-mini": "ft:bundled:personal::abcdefgh"})
    assert [is_hosted(own, name) for name in ("gpt-4o", "gpt-4o-mini", "gpt-4.1")] == [False, False, True]
    assert list(base_models(own)) == ["bundled", "bundled-reader", "gpt-4o"]


@pytest.mark.parametrize("model", ["gpt-35-turbo-ft", "my-deployment"])
def test_a_made_up_name_is_not_found_and_the_right_one_is_told(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert "job.fine_tuned_model" in caught.value.message
    assert "--model NAME=ft:" in caught.value.message
    with pytest.raises(openai.BadRequestError, match="not available for fine-tuning"):
        client.fine_tuning.jobs.create(model=model, training_file="file-x")


@pytest.mark.parametrize("stream", [False, True])
def test_a_stand_in_says_who_it_is(server: RunningServer, stream: bool) -> None:
    assert chat(server, "gpt-4o-mini", stream=stream).headers[HEADER] == "tiny"
    assert HEADER not in chat(server, "tiny", stream=stream).headers
    body = {"prompt": "Hello", "max_tokens": 2, "stream": stream}
    asked = [
        httpx.post(f"{server.base_url}/completions", json={**body, "model": model}, headers=server.headers)
        for model in ("gpt-3.5-turbo-instruct", "tiny")
    ]
    assert [reply.headers.get(HEADER) for reply in asked] == ["tiny", None]


def test_a_stand_in_says_who_it_is_to_googles_clients_and_azures(server: RunningServer) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "x"}]}], "generationConfig": {"maxOutputTokens": 2}}
    place = f"{server.base_url}/projects/p/locations/l/publishers/google/models"
    for call in ("generateContent", "streamGenerateContent?alt=sse"):
        for model, told in (("gemini-2.5-flash", "tiny"), ("tiny", None)):
            reply = httpx.post(f"{place}/{model}:{call}", json=body, headers=server.headers, timeout=60)
            assert (reply.status_code, reply.headers.get(HEADER)) == (200, told)
    address = f"{server.root_url}/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    asked = httpx.post(address, json={"messages": MESSAGES, "max_tokens": 2}, headers=server.headers)
    assert (asked.status_code, asked.headers[HEADER]) == (200, "tiny")


def test_a_header_takes_any_name() -> None:
    settings = ServeSettings(Path("data"), base_model="דגם\n", models={"דגם\n": "folder"})
    [told] = tell_stand_in(settings, "gpt-4o").values()
    assert told.isascii()
    assert told.isprintable()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "openai/deployments/gpt-35-turbo-ft?api-version=2023-05-15"),
        ("POST", "openai/deployments?api-version=2022-12-01"),
        ("PUT", "subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a/deployments/d"),
    ],
)
def test_a_deployment_is_refused_with_what_to_write(server: RunningServer, method: str, path: str) -> None:
    body = {"properties": {"model": {"name": "ft:x"}}}
    reply = httpx.request(method, f"{server.root_url}/{path}", json=body, headers=server.headers)
    assert (reply.status_code, "job.fine_tuned_model" in reply.json()["error"]["message"]) == (404, True)


def add_tuned(server: RunningServer, name: str, project_id: str, folder: Path) -> None:
    """A tuned model that answers: the tiny model's own weights."""
    job_id = new_id("ftjob-")
    place = server.data_dir / "jobs" / job_id / "run" / "model"
    shutil.copytree(folder, place)
    database = server.open_database()
    with database.writing() as session:
        session.add(FineTuningJob(
            id=job_id, project_id=project_id, model="tiny", base_model="tiny", training_file="file-x", seed=1,
            asked={}, hyperparameters={}, integrations=[], status="succeeded", wanted="run", result_files=[],
            created_at=1,
        ))  # fmt: skip
        session.flush()
        session.add(TunedModel(
            name=name, project_id=project_id, organization_name="personal", base_model="tiny", job_id=job_id,
            folder=str(place.relative_to(server.data_dir)), checkpoint_step=None, created_at=int(time.time()),
        ))  # fmt: skip
    database.close()


def test_a_tuned_model_may_have_a_second_name_as_on_azure(
    start_server: Callable[..., RunningServer], chat_model_folder: Path
) -> None:
    tuned = "ft:gpt-35-turbo:personal::abcdefgh"
    server = start_server("--model", f"gpt-35-turbo-ft={tuned}", "--workers", "0")
    assert chat(server, "gpt-35-turbo-ft").json()["error"]["code"] == "model_not_found"
    add_tuned(server, tuned, server.project_id, chat_model_folder)
    address = f"{server.root_url}/openai/deployments/gpt-35-turbo-ft/chat/completions?api-version=2024-10-21"
    asked = {"messages": MESSAGES, "max_tokens": 6, "seed": 1}
    reply = httpx.post(address, json=asked, headers=server.headers, timeout=60)
    assert (reply.status_code, HEADER in reply.headers) == (200, False)
    assert reply.json()["choices"] == chat(server, tuned, **asked).json()["choices"]
    with OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
        listed = [model.id for model in client.models.list()]
        assert {tuned, "gpt-35-turbo-ft"} <= set(listed)
        assert client.models.retrieve("gpt-35-turbo-ft").id == tuned
    _, other = make_project_key(server.data_dir)
    with OpenAI(base_url=server.base_url, api_key=other, max_retries=0) as stranger:
        assert not {tuned, "gpt-35-turbo-ft"} & {model.id for model in stranger.models.list()}
        with pytest.raises(openai.NotFoundError):
            stranger.chat.completions.create(model="gpt-35-turbo-ft", messages=MESSAGES)


def test_a_tuned_model_stands_in_for_nothing() -> None:
    models = {"mine": "ft:bundled:personal::abcdefgh"}
    require_models(ServeSettings(Path("data"), models=models))
    with pytest.raises(UserError, match="is a tuned model"):
        require_models(ServeSettings(Path("data"), base_model="mine", models=models))
    assert ServeSettings(Path("data"), models=models).private_folders == ("data", "bundled")
