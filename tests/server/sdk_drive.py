"""Drives every endpoint of a server with whatever version of OpenAI's library it finds, as a program of its own.

    OPENAI_BASE_URL=... OPENAI_API_KEY=... python sdk_drive.py

It prints one line of JSON for each part: its name, and what went wrong there or null. Further settings come from the
environment: DRIVE_JOB, a job that has succeeded; DRIVE_MODEL, a model that chats; DRIVE_EMBEDDER, one that embeds;
DRIVE_PROJECT, another project of the organisation.
"""

import base64
import inspect
import io
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import openai
from openai import OpenAI
from pydantic import BaseModel

WAIT_SECONDS = 240
MESSAGES: Any = [{"role": "user", "content": "The fox?"}]
MODEL, EMBEDDER = os.environ.get("DRIVE_MODEL", "tiny"), os.environ.get("DRIVE_EMBEDDER", "")


def training_lines(num_rows: int = 12) -> bytes:
    """Rows to learn from, in OpenAI's shape."""
    rows = [
        {"messages": [{"role": "user", "content": f"Count {n}"}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(num_rows)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(client: OpenAI, data: bytes, purpose: Any = "fine-tune") -> str:
    """A file's id."""
    return client.files.create(file=("data.jsonl", io.BytesIO(data)), purpose=purpose).id


def refusal(status: int, call: Callable[..., Any], *args: Any, **arguments: Any) -> openai.APIStatusError:
    """The error that a call must end with."""
    found = None
    try:
        call(*args, **arguments)
    except openai.APIStatusError as error:
        found = error
    assert found is not None, f"no error, but {status} was due"
    assert found.status_code == status, f"{found.status_code}: {found}"
    assert found.request_id
    assert isinstance(found.body, dict), found.body
    assert found.body["message"]
    return found


def wait_for(read: Callable[[], Any], states: tuple[str, ...]) -> Any:
    """What is read, as soon as its status is one of these."""
    end = time.monotonic() + WAIT_SECONDS
    while (found := read()).status not in states:
        assert time.monotonic() < end, f"still {found.status}: {found}"
        time.sleep(0.1)
    return found


def drive_files(client: OpenAI) -> None:
    """Create, wait, list, read and delete."""
    data = training_lines()
    expires: dict[str, Any] = {"expires_after": {"anchor": "created_at", "seconds": 3600}}
    if "expires_after" not in inspect.signature(client.files.create).parameters:
        expires = {"extra_body": {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}}
    file = client.files.create(file=("a.jsonl", io.BytesIO(data)), purpose="fine-tune", **expires)
    assert (file.bytes, file.filename, file.purpose, file.object) == (len(data), "a.jsonl", "fine-tune", "file")
    assert file.expires_at == file.created_at + 3600
    other = upload(client, b"x", "user_data")
    assert client.files.wait_for_processing(file.id, poll_interval=0.05).status == "processed"
    assert client.files.retrieve(file.id).id == file.id
    assert [each.id for each in client.files.list(limit=1)][:2] == [other, file.id]
    assert file.id in [each.id for each in client.files.list(purpose="fine-tune", order="asc")]
    assert client.files.content(file.id).read() == data
    assert client.files.delete(other).deleted
    assert refusal(404, client.files.retrieve, other).body


def drive_uploads(client: OpenAI) -> None:
    """A file in parts, one that is given up, and the library's own way to send a large one."""
    data = training_lines()
    given: Any = {"filename": "parts.jsonl", "bytes": len(data), "mime_type": "application/jsonl"}
    started = client.uploads.create(purpose="fine-tune", **given)
    assert started.status == "pending"
    parts = [client.uploads.parts.create(started.id, data=io.BytesIO(part)) for part in (data[:100], data[100:])]
    done = client.uploads.complete(started.id, part_ids=[part.id for part in parts])
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == data
    assert client.uploads.cancel(client.uploads.create(purpose="fine-tune", **given).id).status == "cancelled"
    chunked = client.uploads.upload_file_chunked(file=data, purpose="fine-tune", part_size=500, **given)
    assert chunked.file is not None
    assert client.files.content(chunked.file.id).read() == data


def drive_jobs(client: OpenAI) -> None:
    """Create, list, retrieve, pause, resume, cancel; what is refused."""
    jobs = client.fine_tuning.jobs
    file_id = upload(client, training_lines())
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}}
    tag = {"drive": openai.__version__}
    job = jobs.create(model=MODEL, training_file=file_id, method=method, suffix="drive", seed=5, metadata=tag)
    assert (job.object, job.seed, job.metadata, job.error) == ("fine_tuning.job", 5, tag, None)
    assert jobs.pause(job.id).status == "paused"
    second = jobs.create(model="gpt-4o-mini-2024-07-18", training_file=file_id, hyperparameters={"n_epochs": 1})
    assert jobs.cancel(second.id).status == "cancelled"
    assert [each.id for each in jobs.list(limit=1)][:2] == [second.id, job.id]
    assert [each.id for each in jobs.list(metadata=tag)] == [job.id]
    assert jobs.retrieve(job.id).status == "paused"
    assert jobs.resume(job.id).status in ("validating_files", "queued", "running", "succeeded")
    assert jobs.cancel(job.id).status in ("cancelled", "succeeded")
    messages = [event.message for event in jobs.list_events(job.id, limit=1)]
    assert messages[-1] == f"Created fine-tuning job: {job.id}", messages
    assert jobs.list_events(job.id, limit=1).has_more
    assert refusal(400, jobs.resume, second.id).code == "invalid_job_state"
    assert refusal(404, jobs.retrieve, "ftjob-unknown").param
    assert refusal(400, jobs.create, model=MODEL, training_file="file-unknown").code == "invalid_training_file"
    assert refusal(400, jobs.create, model="no-such-model", training_file=file_id).code == "model_not_available"


def drive_finished_job(client: OpenAI) -> None:
    """Events, metrics, checkpoints and the result file of a job that has trained."""
    jobs = client.fine_tuning.jobs
    job = jobs.retrieve(os.environ["DRIVE_JOB"])
    assert job.status == "succeeded"
    assert job.fine_tuned_model
    assert job.finished_at
    assert job.trained_tokens
    assert isinstance(job.hyperparameters.n_epochs, int)
    assert isinstance(job.hyperparameters.batch_size, int)
    events = list(jobs.list_events(job.id, limit=5))
    messages = [event.message for event in events]
    assert messages[0] == "The job has successfully completed", messages
    assert f"New fine-tuned model created: {job.fine_tuned_model}" in messages
    assert messages[-1] == f"Created fine-tuning job: {job.id}"
    metrics: Any = next(event.data for event in events if event.type == "metrics")
    assert {"step", "total_steps", "train_loss", "train_mean_token_accuracy"} <= metrics.keys(), metrics
    checkpoints = list(jobs.checkpoints.list(job.id, limit=1))
    assert checkpoints, "no checkpoint was kept"
    steps = [each.step_number for each in checkpoints]
    assert steps == sorted(steps, reverse=True)
    table = client.files.content(job.result_files[0]).read().decode()
    assert table.startswith("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"), table[:200]
    assert client.files.retrieve(job.result_files[0]).purpose == "fine-tune-results"
    for name in (job.fine_tuned_model, checkpoints[0].fine_tuned_model_checkpoint):
        assert client.models.retrieve(name).id == name
        answer = client.chat.completions.create(model=name, messages=MESSAGES, max_completion_tokens=4)
        assert answer.choices[0].message.content is not None
        assert answer.model == name


def drive_permissions(client: OpenAI) -> None:
    """Given, listed and taken back."""
    permissions: Any = client.fine_tuning.checkpoints.permissions
    name = client.fine_tuning.jobs.retrieve(os.environ["DRIVE_JOB"]).fine_tuned_model
    project = os.environ["DRIVE_PROJECT"]
    granted = permissions.create(name, project_ids=[project])
    assert [each.project_id for each in granted] == [project]
    assert [each.project_id for each in permissions.retrieve(name, order="ascending").data] == [project]
    if hasattr(permissions, "list"):
        assert [each.project_id for each in permissions.list(name, limit=1)] == [project]
    assert permissions.delete(granted.data[0].id, fine_tuned_model_checkpoint=name).deleted
    assert permissions.retrieve(name).data == []


def drive_models(client: OpenAI) -> None:
    """List, retrieve; base models cannot be deleted."""
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).object == "model"
    assert client.models.retrieve("gpt-3.5-turbo").id == "gpt-3.5-turbo"
    assert refusal(404, client.models.retrieve, "org/none").code == "model_not_found"
    assert refusal(403, client.models.delete, MODEL)


def drive_chat(client: OpenAI) -> None:
    """Whole and streamed, several at once, with logprobs and a seed."""
    ask = client.chat.completions.create
    given: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": 6, "seed": 3}
    whole = ask(**given)
    assert whole.object == "chat.completion"
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert ask(**given).choices[0].message.content == whole.choices[0].message.content
    stream = list(ask(**given, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content
    assert stream[-1].usage is not None
    assert stream[-1].usage.completion_tokens == whole.usage.completion_tokens
    several = ask(**given, n=2, logprobs=True, top_logprobs=2, temperature=1.5, frequency_penalty=0.5)
    assert [choice.index for choice in several.choices] == [0, 1]
    logprobs = several.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content[0].top_logprobs) == 2
    assert refusal(404, ask, model="none", messages=MESSAGES).code == "model_not_found"
    assert refusal(400, ask, model=MODEL, messages=[]).param == "messages"


class Mood(BaseModel):
    """What an answer must look like."""

    happy: bool
    level: int


def drive_constrained_chat(client: OpenAI) -> None:
    """JSON of any shape and of a given one, and tools."""
    ask = client.chat.completions.create
    given: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": 200, "seed": 1, "temperature": 0}
    try:
        parsed = client.chat.completions.parse(**given, response_format=Mood).choices[0].message.parsed
        assert isinstance(parsed, Mood)
    except openai.LengthFinishReasonError:
        # A model that knows nothing may write digits until its room ends.
        pass
    plain = ask(**given, response_format={"type": "json_object"}).choices[0]
    assert plain.finish_reason == "length" or isinstance(json.loads(plain.message.content or ""), dict)
    parameters = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": parameters}}]
    called = ask(**given, tools=tools, tool_choice="required").choices[0]
    if called.finish_reason == "tool_calls":
        call: Any = (called.message.tool_calls or [])[0]
        assert call.function.name == "look"
        assert isinstance(json.loads(call.function.arguments)["a"], bool)
    else:
        assert called.finish_reason == "length", called


def drive_completions(client: OpenAI) -> None:
    """Texts that are continued."""
    ask = client.completions.create
    whole = ask(model=MODEL, prompt=["The fox", "The dog"], max_tokens=4, n=2, seed=1, logprobs=2, echo=True)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.object == "text_completion"
    assert whole.choices[0].text.startswith("The fox")
    assert whole.choices[3].text.startswith("The dog")
    stream = list(ask(model=MODEL, prompt="The fox", max_tokens=4, seed=1, stream=True))
    alone = ask(model=MODEL, prompt="The fox", max_tokens=4, seed=1)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == alone.choices[0].text


def drive_embeddings(client: OpenAI) -> None:
    """As numbers and as base64, which the library asks for by itself."""
    create = client.embeddings.create
    asked = create(model=EMBEDDER, input=["one", "two"])
    assert [each.index for each in asked.data] == [0, 1]
    assert asked.usage.prompt_tokens > 0
    plain = create(model=EMBEDDER, input="one", encoding_format="float").data[0].embedding
    assert max(abs(a - b) for a, b in zip(plain, asked.data[0].embedding, strict=True)) < 1e-5
    raw: Any = create(model=EMBEDDER, input="one", encoding_format="base64").data[0].embedding
    assert len(base64.b64decode(raw)) == 4 * len(plain)


def drive_batches(client: OpenAI) -> None:
    """Requests of a file, answered when there is room."""
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file_id = upload(client, json.dumps(line).encode() + b"\n", "batch")
    given: Any = {"completion_window": "24h", "endpoint": "/v1/chat/completions", "input_file_id": file_id}
    batch = client.batches.create(**given, metadata={"k": "v"})
    done = wait_for(lambda: client.batches.retrieve(batch.id), ("completed", "failed", "expired"))
    assert (done.status, done.output_file_id is not None) == ("completed", True), done
    answer = json.loads(client.files.content(done.output_file_id).read().splitlines()[0])
    assert (answer["custom_id"], answer["response"]["status_code"]) == ("a", 200), answer
    assert next(each.id for each in client.batches.list(limit=1)) == batch.id
    second = client.batches.create(**given)
    assert client.batches.cancel(second.id).status in ("cancelling", "cancelled", "completed", "finalizing")


def drive_errors(client: OpenAI) -> None:
    """A wrong key, an address that is not there, a body that is wrong."""
    refusal(401, client.with_options(api_key="sk-wrong").models.list)
    refusal(404, client.get, "/nothing/like/it", cast_to=object)
    error = refusal(400, client.post, "/chat/completions", body={"model": 3}, cast_to=object)
    assert error.param, error.body


PARTS: tuple[Callable[[OpenAI], None], ...] = (
    drive_errors,
    drive_files,
    drive_uploads,
    drive_models,
    drive_jobs,
    drive_finished_job,
    drive_permissions,
    drive_chat,
    drive_constrained_chat,
    drive_completions,
    drive_embeddings,
    drive_batches,
)


def tell(facts: dict[str, Any]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Drive all parts, whatever becomes of the ones before."""
    with OpenAI(max_retries=0, timeout=WAIT_SECONDS) as client:
        for part in PARTS:
            problem = None
            started = time.monotonic()
            try:
                part(client)
            except Exception:  # noqa: BLE001 - the next part is driven all the same
                problem = traceback.format_exc(limit=-4)
            told = {"part": part.__name__, "problem": problem, "seconds": round(time.monotonic() - started, 2)}
            tell(told)
    tell({"version": openai.__version__})


if __name__ == "__main__":
    main()
