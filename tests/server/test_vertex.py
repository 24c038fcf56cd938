"""Google's own library against a real server: tuned from a bucket folder, asked at the endpoint that a job returns."""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import google.auth.credentials
import httpx
import pytest
from google import genai
from google.genai import errors, types
from openai import OpenAI
from running import RunningServer, make_project_key
from sqlalchemy import select

from kivnun.database.tables import File, FineTuningJob, VertexJob
from kivnun.server.errors import ApiError
from kivnun.server.vertex.bucket import copy_object, find_object
from kivnun.server.vertex.content import GenerateContent, to_chat
from kivnun.server.vertex.shapes import TuningJob

SECONDS = 300
PLACE = "projects/p/locations/us-central1"
# The library warns once, in whichever test tunes first.
EXPERIMENTAL = "ignore:The SDK's tuning implementation is experimental"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", EXPERIMENTAL)


class Stub(google.auth.credentials.Credentials):
    """What stands in for Google's credentials: the server's own key as the bearer."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def refresh(self, request: object) -> None:
        self.token = self._key

    @property
    def valid(self) -> bool:
        return self.token is not None


def open_client(server: RunningServer, *, version: str = "v1", key: str | None = None, location: str = "us-central1"):
    options = types.HttpOptions(base_url=server.root_url, api_version=version)
    credentials = Stub(server.key if key is None else key)
    return genai.Client(enterprise=True, project="p", location=location, credentials=credentials, http_options=options)


def turn(role: str, text: str) -> dict[str, object]:
    return {"role": role, "parts": [{"text": text}]}


def write_rows(path: Path, rows: list[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("buckets")
    system = {"role": "system", "parts": [{"text": "Be kind."}]}
    rows = [
        {"systemInstruction": system, "contents": [turn("user", f"Hello {n}"), turn("model", f"Good day {n}.")]}
        for n in range(3)
    ]
    pairs = [
        {
            "contents": [turn("user", f"Hello {n}")],
            "completions": [
                {"score": 1, "completion": turn("model", "Good day.")},
                {"score": 0, "completion": turn("model", "Go away.")},
            ],
        }
        for n in range(2)
    ]
    write_rows(root / "bkt" / "deep" / "train.jsonl", rows)
    write_rows(root / "bkt" / "valid.jsonl", rows[:1])
    write_rows(root / "bkt" / "pairs.jsonl", pairs)
    write_rows(root / "secret.jsonl", rows)
    (root / "bkt" / "out.jsonl").symlink_to(root / "secret.jsonl")
    return root


@pytest.fixture(scope="module")
def google_server(start_server: Callable[..., RunningServer], buckets: Path) -> RunningServer:
    server = start_server("--bucket-dir", str(buckets), "--workers", "0")
    # The first answer waits until libraries and the model are loaded, which may take longer than clients wait.
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
    httpx.post(f"{server.base_url}/completions", json=body, headers=server.headers, timeout=SECONDS).raise_for_status()
    return server


@contextmanager
def working(server: RunningServer) -> Iterator[None]:
    """A worker that does not stand back behind other programs, as those that a server starts do."""
    flags = ["--data-dir", str(server.data_dir), "--settings", str(server.data_dir / "settings.json"), "--nice", "0"]
    with subprocess.Popen([sys.executable, "-m", "kivnun.jobs", *flags]) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def google_client(google_server: RunningServer) -> Iterator[genai.Client]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield open_client(google_server)


def tune(client: genai.Client, uri: str = "gs://bkt/deep/train.jsonl", model: str = "gemini-2.5-flash", **config: Any):
    return client.tunings.tune(
        base_model=model,
        training_dataset=types.TuningDataset(gcs_uri=uri),
        config=types.CreateTuningJobConfig(**config),
    )


def wait(client: genai.Client, name: str) -> types.TuningJob:
    end = time.monotonic() + SECONDS
    while not (job := client.tunings.get(name=name)).has_ended:
        assert time.monotonic() < end, job.state
        time.sleep(0.3)
    return job


@pytest.fixture(scope="module")
def tuned(google_client: genai.Client, google_server: RunningServer) -> types.TuningJob:
    """A job with a validation set, from its beginning to its end; nobody works at further ones."""
    job = tune(
        google_client,
        epoch_count=4,
        adapter_size="ADAPTER_SIZE_FOUR",
        learning_rate_multiplier=1.5,
        tuned_model_display_name="my greeter!",
        validation_dataset=types.TuningValidationDataset(gcs_uri="gs://bkt/valid.jsonl"),
        labels={"team": "one"},
    )
    assert job.state in (types.JobState.JOB_STATE_PENDING, types.JobState.JOB_STATE_QUEUED)
    assert job.name.startswith(f"{PLACE}/tuningJobs/")
    assert job.tuned_model is None
    with working(google_server):
        return wait(google_client, job.name)


def test_a_job_is_tuned_from_the_bucket_and_answers_at_its_endpoint(
    google_client: genai.Client, google_server: RunningServer, tuned: types.TuningJob
):
    assert (tuned.state, tuned.error) == (types.JobState.JOB_STATE_SUCCEEDED, None)
    assert tuned.create_time <= tuned.start_time <= tuned.end_time
    assert (tuned.base_model, tuned.tuned_model_display_name) == ("gemini-2.5-flash", "my greeter!")
    spec = tuned.supervised_tuning_spec
    assert (spec.training_dataset_uri, spec.hyper_parameters.epoch_count) == ("gs://bkt/deep/train.jsonl", 4)
    assert tuned.tuned_model.model.startswith(f"{PLACE}/models/")
    config = types.GenerateContentConfig(max_output_tokens=6, temperature=0)
    answer = google_client.models.generate_content(model=tuned.tuned_model.endpoint, contents="Hello 1", config=config)
    checkpoints = tuned.tuned_model.checkpoints
    # The last three epochs of four, of three steps each; the last one is the model itself, or a better one before it.
    assert [(int(point.epoch), int(point.step)) for point in checkpoints] == [(2, 6), (3, 9), (4, 12)]
    assert len({tuned.tuned_model.endpoint, *(point.endpoint for point in checkpoints)}) == 4
    with OpenAI(base_url=google_server.base_url, api_key=google_server.key, max_retries=0) as client:
        [job] = [job for job in client.fine_tuning.jobs.list() if job.fine_tuned_model]
        assert (job.model, job.user_provided_suffix) == ("gemini-2.5-flash", "my-greeter")
        assert job.hyperparameters.learning_rate_multiplier == 1.5
        recipe = (google_server.data_dir / "jobs" / job.id / "recipe.yaml").read_text("utf-8")
        assert "rank: 4" in recipe
        names = [job.fine_tuned_model]
        names += [
            point.fine_tuned_model_checkpoint
            for point in reversed(list(client.fine_tuning.jobs.checkpoints.list(job.id)))
        ]
        endpoints = [tuned.tuned_model.endpoint, *(point.endpoint for point in checkpoints)]
        for name, endpoint in zip(names, endpoints, strict=True):
            said = google_client.models.generate_content(model=endpoint, contents="Hello 1", config=config)
            asked = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": "Hello 1"}], max_tokens=6, temperature=0
            )
            assert said.text == asked.choices[0].message.content
            assert said.model_version == name
        assert answer.usage_metadata.candidates_token_count <= 6


def test_jobs_are_listed_in_pages_newest_first(google_client: genai.Client, google_server: RunningServer, tuned):
    made = [tune(google_client).name for _ in range(2)]
    listed = [job.name for job in google_client.tunings.list(config={"page_size": 1})]
    # Between them may lie the job of another test.
    assert [name for name in listed if name in (*made, tuned.name)] == [made[1], made[0], tuned.name]
    assert len(listed) == len(set(listed))
    assert list(open_client(google_server, location="europe-west4").tunings.list()) == []
    _, other = make_project_key(google_server.data_dir)
    assert list(open_client(google_server, key=other).tunings.list()) == []
    for name in made:
        assert google_client.tunings.cancel(name=name) is not None
        assert wait(google_client, name).state == types.JobState.JOB_STATE_CANCELLED
    with pytest.raises(errors.ClientError) as caught:
        google_client.tunings.cancel(name=tuned.name)
    assert (caught.value.code, caught.value.status) == (400, "FAILED_PRECONDITION")


def test_preferences_are_tuned_as_dpo(google_client: genai.Client, google_server: RunningServer):
    job = tune(google_client, "gs://bkt/pairs.jsonl", method="PREFERENCE_TUNING", epoch_count=1, beta=0.2)
    assert job.preference_optimization_spec.hyper_parameters.beta == 0.2
    with OpenAI(base_url=google_server.base_url, api_key=google_server.key, max_retries=0) as client:
        [made] = client.fine_tuning.jobs.list(limit=1).data
        assert (made.method.type, made.method.dpo.hyperparameters.beta) == ("dpo", 0.2)
    google_client.tunings.cancel(name=job.name)
    assert wait(google_client, job.name).state == types.JobState.JOB_STATE_CANCELLED


@pytest.mark.parametrize(
    ("status", "wanted", "state"),
    [
        ("validating_files", "run", "JOB_STATE_PENDING"),
        ("queued", "run", "JOB_STATE_QUEUED"),
        ("running", "run", "JOB_STATE_RUNNING"),
        ("running", "cancel", "JOB_STATE_CANCELLING"),
        ("paused", "pause", "JOB_STATE_PAUSED"),
        ("cancelled", "cancel", "JOB_STATE_CANCELLED"),
        ("failed", "run", "JOB_STATE_FAILED"),
    ],
)
def test_every_state_has_googles_name_and_a_failed_job_its_reason(status: str, wanted: str, state: str):
    job = FineTuningJob(id="ftjob-1", created_at=1, started_at=None, finished_at=2, status=status, wanted=wanted)
    job.error = {"code": "invalid_file_format", "message": "Line 2 is wrong"} if status == "failed" else None
    told = TuningJob(VertexJob(number=7, cloud_project="p", location="us-central1", asked={}), job).to_json()
    assert (told["name"], told["state"]) == (f"{PLACE}/tuningJobs/7", state)
    assert types.JobState(told["state"]) is not None
    assert (told["createTime"], told["endTime"]) == ("1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z")
    assert told.get("error") == ({"code": 3, "message": "Line 2 is wrong"} if status == "failed" else None)


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("gs://bkt/nothing.jsonl", 404),
        ("gs://other/train.jsonl", 404),
        ("gs://bkt/out.jsonl", 404),
        ("gs://bkt/deep", 404),
        ("gs://bkt/../secret.jsonl", 400),
        ("gs://bkt/deep/../../secret.jsonl", 400),
        ("gs://../secret.jsonl", 400),
        ("gs://bkt//etc/passwd", 400),
        ("gs://bkt/a\\b", 400),
        ("gs://bkt", 400),
        ("/etc/passwd", 400),
        ("file:///etc/passwd", 400),
    ],
)
def test_no_address_leaves_its_bucket(google_client: genai.Client, google_server: RunningServer, uri: str, code: int):
    with closing(google_server.open_database()) as database, database.reading() as session:
        before = len(session.scalars(select(File)).all())
    with pytest.raises(errors.ClientError) as caught:
        tune(google_client, uri)
    assert caught.value.code == code
    assert str(google_server.data_dir) not in str(caught.value)
    with closing(google_server.open_database()) as database, database.reading() as session:
        assert len(session.scalars(select(File)).all()) == before


def test_a_request_that_fails_leaves_no_file_behind(google_client: genai.Client, google_server: RunningServer):
    before = {path.name for path in (google_server.data_dir / "files").iterdir()}
    with pytest.raises(errors.ClientError) as caught:
        tune(google_client, model="no-such-model")
    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
    assert {path.name for path in (google_server.data_dir / "files").iterdir()} == before


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_stream_is_the_answer_in_pieces(google_server: RunningServer, version: str):
    client = open_client(google_server, version=version)
    config = types.GenerateContentConfig(max_output_tokens=12, temperature=1, seed=5, top_k=50, top_p=0.9)
    whole = client.models.generate_content(model="tiny", contents="Hello", config=config)
    pieces = list(client.models.generate_content_stream(model="tiny", contents="Hello", config=config))
    assert len(pieces) > 2
    assert "".join(piece.text or "" for piece in pieces) == whole.text
    assert [piece.candidates[0].finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].candidates[0].finish_reason == whole.candidates[0].finish_reason
    assert pieces[-1].usage_metadata.candidates_token_count == whole.usage_metadata.candidates_token_count
    assert len({piece.response_id for piece in pieces}) == 1


def test_several_candidates_stops_and_system_instructions(google_client: genai.Client):
    config = types.GenerateContentConfig(
        max_output_tokens=8, candidate_count=3, seed=1, temperature=1, system_instruction="Be brief."
    )
    contents = [
        types.Content(role="user", parts=[types.Part(text="Hi")]),
        types.Content(role="model", parts=[types.Part(text="Yes?")]),
        types.Content(parts=[types.Part(text="Hello")]),
    ]
    answer = google_client.models.generate_content(model="tiny", contents=contents, config=config)
    assert [candidate.index or 0 for candidate in answer.candidates] == [0, 1, 2]
    longest = max((candidate.content.parts[0].text for candidate in answer.candidates), key=len)
    stop = longest.strip()[-3:]
    config.stop_sequences = [stop]
    for candidate in google_client.models.generate_content(model="tiny", contents=contents, config=config).candidates:
        assert stop not in "".join(part.text for part in candidate.content.parts or [])


def test_an_answer_keeps_to_its_schema(google_client: genai.Client):
    schema = {
        "type": "OBJECT",
        "properties": {"mood": {"type": "STRING", "enum": ["joy", "anger"]}, "sure": {"type": "BOOLEAN"}},
        "required": ["mood", "sure"],
    }
    config = types.GenerateContentConfig(
        max_output_tokens=60, response_mime_type="application/json", response_schema=schema, temperature=1, seed=2
    )
    answer = google_client.models.generate_content(model="tiny", contents="How are you?", config=config)
    assert set(json.loads(answer.text)) == {"mood", "sure"}


@pytest.mark.parametrize(
    ("path", "body", "code", "status"),
    [
        ("publishers/google/models/nope:generateContent", {"contents": [turn("user", "x")]}, 404, "NOT_FOUND"),
        ("endpoints/77:generateContent", {"contents": [turn("user", "x")]}, 400, "INVALID_ARGUMENT"),
        ("endpoints/7000000000:generateContent", {"contents": [turn("user", "x")]}, 404, "NOT_FOUND"),
        ("publishers/google/models/tiny:generateContent", {"contents": []}, 400, "INVALID_ARGUMENT"),
        ("publishers/google/models/tiny:generateContent", {"contents": [{"parts": 1}]}, 400, "INVALID_ARGUMENT"),
        (
            "publishers/google/models/tiny:streamGenerateContent?alt=sse",
            {"contents": [turn("user", "x")], "generationConfig": {"temperature": 5}},
            400,
            "INVALID_ARGUMENT",
        ),
        (
            "publishers/google/models/tiny:generateContent",
            {"contents": [turn("user", "x")], "cachedContent": "c"},
            400,
            "INVALID_ARGUMENT",
        ),
        ("tuningJobs", {"baseModel": "tiny"}, 400, "INVALID_ARGUMENT"),
    ],
)
def test_what_is_wrong_is_told_in_googles_envelope(
    google_server: RunningServer, path: str, body: dict[str, object], code: int, status: str
):
    reply = httpx.post(f"{google_server.base_url}/{PLACE}/{path}", json=body, headers=google_server.headers)
    assert reply.status_code == code
    assert set(reply.json()) == {"error"}
    assert (reply.json()["error"]["code"], reply.json()["error"]["status"]) == (code, status)
    assert reply.json()["error"]["message"]
    no_json = httpx.post(
        f"{google_server.base_url}/{PLACE}/{path}",
        content=b"{",
        headers={**google_server.headers, "content-type": "application/json"},
    )
    assert no_json.json()["error"]["status"] == "INVALID_ARGUMENT"


def test_a_key_is_needed_in_either_of_two_headers(google_server: RunningServer):
    address = f"{google_server.base_url}/{PLACE}/publishers/google/models/tiny:generateContent"
    body = {"contents": [turn("user", "x")], "generationConfig": {"maxOutputTokens": "2"}}
    assert httpx.post(address, json=body).json()["error"]["status"] == "UNAUTHENTICATED"
    assert httpx.post(address, json=body, headers={"x-goog-api-key": "sk-kivnun-wrong"}).status_code == 401
    assert httpx.post(address, json=body, headers={"x-goog-api-key": google_server.key}).status_code == 200
    _, reading = make_project_key(google_server.data_dir, scopes=("files",))
    refused = httpx.post(address, json=body, headers={"x-goog-api-key": reading})
    assert (refused.status_code, refused.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_what_has_no_effect_is_said(google_server: RunningServer):
    address = f"{google_server.base_url}/{PLACE}/publishers/google/models/tiny:generateContent"
    settings = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    body = {"contents": [turn("user", "x")], "safetySettings": settings, "generationConfig": {"maxOutputTokens": 2}}
    reply = httpx.post(address, json=body, headers=google_server.headers)
    assert (reply.status_code, reply.headers["x-kivnun-unused"]) == (200, "safetySettings")


def test_settings_mean_the_same_in_both_languages():
    asked = GenerateContent.model_validate(
        {
            "contents": [turn("user", "a"), turn("model", "b"), {"parts": [{"text": "c"}]}],
            "systemInstruction": {"parts": [{"text": "s"}]},
            "generationConfig": {
                "temperature": 0.5,
                "topP": 0.9,
                "topK": 40,
                "candidateCount": 2,
                "maxOutputTokens": "7",
                "stopSequences": ["x"],
                "seed": 3,
                "presencePenalty": 0.1,
                "frequencyPenalty": 0.2,
                "responseMimeType": "application/json",
            },
        }
    )
    assert to_chat(asked, "m", stream=False) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "n": 2,
        "max_completion_tokens": 7,
        "stop": ["x"],
        "seed": 3,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "response_format": {"type": "json_object"},
    }


def test_a_file_of_the_bucket_is_copied_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "buckets" / "bkt" / "a.jsonl"
    write_rows(path, [{"a": 1}])
    assert find_object(tmp_path / "buckets", "gs://bkt/a.jsonl", "uri") == path
    copy = copy_object(path, tmp_path, 100, "uri")
    assert (copy.path.read_bytes(), copy.num_bytes) == (path.read_bytes(), path.stat().st_size)
    copy.discard()
    with pytest.raises(ApiError, match="more than 3 bytes"):
        copy_object(path, tmp_path, 3, "uri")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["buckets"]
    with pytest.raises(ApiError, match="bucket-dir"):
        find_object(None, "gs://bkt/a.jsonl", "uri")
