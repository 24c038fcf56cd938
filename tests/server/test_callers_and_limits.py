import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from sqlalchemy import select
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from kivnun.database.audit import list_changes
from kivnun.database.keys import create_key, revoke_key
from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.projects import (
    DEFAULT_PROJECT,
    Quotas,
    create_project,
    ensure_defaults,
    find_project,
    set_quotas,
)
from kivnun.database.tables import ApiKey, FineTuningJob
from kivnun.server.audit_requests import REFUSED_LINES_PER_MINUTE, AuditRequests, RefusedKeys, note_subject
from kivnun.server.callers import Caller, require
from kivnun.server.counters import Counters
from kivnun.server.errors import ApiError, add_error_replies
from kivnun.server.limits import Limits, require_job_room, say_seconds
from kivnun.server.middleware import RequestFrame
from kivnun.server.service import ServeSettings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(sqlite_url(tmp_path))
    ensure_defaults(opened)
    yield opened
    opened.close()


def make_client(database: Database, limits: Limits, *, require_keys: bool = True, framed: bool = False) -> TestClient:
    """Routes of our own around the real parts."""
    app = FastAPI()
    settings = ServeSettings(Path(), require_keys=require_keys)
    app.state.service = SimpleNamespace(settings=settings, database=database, limits=limits)
    add_error_replies(app)
    if framed:
        app.add_middleware(RequestFrame, counters=Counters(), local_only=False, max_upload_bytes=1 << 20)
    app.add_middleware(AuditRequests, database=database)

    @app.get("/v1/files")
    def read(caller: Annotated[Caller, Depends(require("files:read"))]) -> dict[str, Any]:
        return {"project": caller.project_id, "organization": caller.organization_name, "key": caller.key_id}

    @app.post("/v1/files")
    def create(request: Request, caller: Annotated[Caller, Depends(require("files"))]) -> dict[str, str]:
        note_subject(request, "file-new")
        return {"project": caller.project_id}

    @app.post("/v1/fine_tuning/jobs/{job_id}/cancel")
    def cancel(job_id: str, caller: Annotated[Caller, Depends(require("fine_tuning"))]) -> dict[str, str]:
        if job_id == "ftjob-broken":
            raise ZeroDivisionError
        raise ApiError(404, f"No such job: {job_id} of {caller.project_id}")

    @app.post("/v1/chat/completions")
    async def chat(caller: Annotated[Caller, Depends(require("inference"))]) -> StreamingResponse:
        async def parts() -> Any:
            for part in ("data: 1\n\n", "data: 2\n\n"):
                yield part
                await asyncio.sleep(0)

        return StreamingResponse(parts(), media_type="text/event-stream", headers={"x-project": caller.project_id})

    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(database: Database, clock: Clock) -> TestClient:
    return make_client(database, Limits(clock))


def make_key(database: Database, *scopes: str, project: str = DEFAULT_PROJECT, **given: Any) -> str:
    with database.writing() as session:
        return create_key(session, "test", scopes=scopes or ("all",), project_id=project, **given)[1]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def changes(database: Database) -> list[tuple[str, str, int]]:
    with database.reading() as session:
        return [(entry.action, entry.subject, entry.status) for entry in list_changes(session, limit=100)]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer "}, {"Authorization": "Basic abc"}, {"api-key": " "}]
)
def test_a_request_without_a_key_is_refused_as_the_hosted_service_does(
    client: TestClient, headers: dict[str, str]
) -> None:
    reply = client.get("/v1/files", headers=headers)
    assert reply.status_code == 401
    error = reply.json()["error"]
    assert error["message"].startswith("You didn't provide an API key. ")
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)


def test_a_wrong_key_is_refused_and_only_its_ends_are_told(client: TestClient) -> None:
    reply = client.get("/v1/files", headers=bearer("sk-kivnun-neverGivenToAnyoneabcd"))
    assert reply.status_code == 401
    error = reply.json()["error"]
    assert error["message"].startswith("Incorrect API key provided: sk-kiv***abcd. ")
    assert error["code"] == "invalid_api_key"


@pytest.mark.parametrize("header", ["Authorization", "api-key", "x-goog-api-key"])
def test_a_key_is_read_from_the_header_of_each_library(client: TestClient, database: Database, header: str) -> None:
    secret = make_key(database, "files:read")
    value = f"bearer  {secret}" if header == "Authorization" else secret
    assert client.get("/v1/files", headers={header: value}).json()["organization"] == "personal"


def test_each_key_sees_its_own_project(client: TestClient, database: Database) -> None:
    with database.writing() as session:
        other = create_project(session, "tone", organization="acme").id
    first, second = make_key(database), make_key(database, project=other)
    assert client.get("/v1/files", headers=bearer(first)).json()["project"] == DEFAULT_PROJECT
    reply = client.get("/v1/files", headers=bearer(second)).json()
    assert (reply["project"], reply["organization"]) == (other, "acme")


def test_a_scope_that_a_key_lacks_is_named(client: TestClient, database: Database) -> None:
    headers = bearer(make_key(database, "files:read", "models"))
    assert client.get("/v1/files", headers=headers).status_code == 200
    reply = client.post("/v1/files", headers=headers)
    assert reply.status_code == 403
    error = reply.json()["error"]
    assert "Missing scopes: files. The key has: files:read, models." in error["message"]
    assert error["code"] == "missing_scope"


def test_a_scope_that_does_not_exist_is_found_when_the_route_is_made() -> None:
    with pytest.raises(ValueError, match="file:read"):
        require("file:read")


def test_a_revoked_key_ends_within_a_second_though_it_was_just_used(
    client: TestClient, database: Database, clock: Clock
) -> None:
    headers = bearer(make_key(database))
    key_id = client.get("/v1/files", headers=headers).json()["key"]
    with database.writing() as session:
        revoke_key(session, key_id)
    clock.now += 0.99
    assert client.get("/v1/files", headers=headers).status_code == 401


def test_a_remembered_key_ends_at_its_expiry(database: Database) -> None:
    end = int(time.time()) + 1
    headers = bearer(make_key(database, expires_at=end))
    client = make_client(database, Limits())
    statuses = []
    while time.time() < end + 0.1:
        before = time.time()
        statuses.append((before, client.get("/v1/files", headers=headers).status_code, time.time()))
    assert {status for _, status, after in statuses if after < end} == {200}
    assert {status for before, status, _ in statuses if before >= end} == {401}


def test_a_busy_key_is_looked_up_twice_a_second_at_most(client: TestClient, database: Database, clock: Clock) -> None:
    headers = bearer(make_key(database))
    assert client.get("/v1/files", headers=headers).status_code == 200
    with database.writing() as session:
        session.delete(session.scalars(select(ApiKey)).one())
    clock.now += 0.4
    assert client.get("/v1/files", headers=headers).status_code == 200
    clock.now += 0.2
    assert client.get("/v1/files", headers=headers).status_code == 401


def test_the_use_of_a_key_is_remembered(client: TestClient, database: Database) -> None:
    before = int(time.time())
    client.get("/v1/files", headers=bearer(make_key(database)))
    with database.reading() as session:
        assert (session.scalars(select(ApiKey)).one().last_used_at or 0) >= before


def test_without_keys_any_word_is_the_default_project_but_no_dead_key(database: Database) -> None:
    client = make_client(database, Limits(), require_keys=False)
    for headers in ({}, bearer("dummy"), {"api-key": "x"}):
        reply = client.get("/v1/files", headers=headers).json()
        assert (reply["project"], reply["key"]) == (DEFAULT_PROJECT, None)
    assert client.get("/v1/files", headers=bearer("sk-kivnun-neverGivenToAnyoneabcd")).status_code == 401
    with database.writing() as session:
        other = create_project(session, "tone", organization="acme").id
    assert client.get("/v1/files", headers=bearer(make_key(database, project=other))).json()["project"] == other


@pytest.mark.parametrize(
    ("header", "right", "code"),
    [
        ("OpenAI-Organization", ["org-personal", "personal"], "invalid_organization"),
        ("OpenAI-Project", ["proj_default", "default"], "mismatched_project"),
    ],
)
def test_a_client_that_names_anothers_project_is_refused(
    client: TestClient, database: Database, header: str, right: list[str], code: str
) -> None:
    headers = bearer(make_key(database))
    for name in right:
        assert client.get("/v1/files", headers={**headers, header: name}).status_code == 200
    reply = client.get("/v1/files", headers={**headers, header: "org-hosted"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, code)


def limit(database: Database, **quotas: int) -> None:
    with database.writing() as session:
        set_quotas(find_project(session, "default"), Quotas(**quotas))


def test_requests_beyond_the_rate_wait_for_the_refill(client: TestClient, database: Database, clock: Clock) -> None:
    limit(database, max_requests_per_minute=6)
    headers = bearer(make_key(database))
    replies = [client.get("/v1/files", headers=headers) for _ in range(7)]
    assert [reply.status_code for reply in replies] == [200] * 6 + [429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == [*"543210", "0"]
    assert {reply.headers["x-ratelimit-limit-requests"] for reply in replies} == {"6"}
    assert replies[1].headers["x-ratelimit-reset-requests"] == "20s"
    assert "x-ratelimit-limit-tokens" not in replies[0].headers
    refused = replies[6]
    assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("10", "10000")
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert error["message"].endswith("Limit 6. Please try again in 10s.")
    clock.now += 9.9
    assert client.get("/v1/files", headers=headers).status_code == 429
    clock.now += 0.2
    assert client.get("/v1/files", headers=headers).status_code == 200


def test_a_request_beyond_the_rate_is_refused_before_its_body_is_read(database: Database, clock: Clock) -> None:
    limit(database, max_requests_per_minute=1)
    client = make_client(database, Limits(clock), framed=True)
    headers = bearer(make_key(database))
    asked = {"url": "/v1/chat/completions", "content": b"{", "headers": {**headers, "content-type": "application/json"}}
    assert client.post(**asked).json()["error"]["code"] == "invalid_json"
    assert client.get("/v1/files", headers=headers).status_code == 200
    refused = client.post(**asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "retry-after" in refused.headers


def test_streams_tell_the_limits_too_and_come_in_parts(client: TestClient, database: Database) -> None:
    limit(database, max_tokens_per_minute=1000)
    with client.stream("POST", "/v1/chat/completions", headers=bearer(make_key(database))) as reply:
        assert reply.headers["x-ratelimit-remaining-tokens"] == "1000"
        assert reply.headers["x-project"] == DEFAULT_PROJECT
        assert "".join(reply.iter_text()) == "data: 1\n\ndata: 2\n\n"


def make_caller(project: str = "p", **quotas: int) -> Caller:
    return Caller(project, "o", "acme", "k", frozenset({"all"}), quotas=Quotas(**quotas))


def test_tokens_are_taken_given_back_and_refilled(clock: Clock) -> None:
    limits, caller = Limits(clock), make_caller(max_tokens_per_minute=600)
    limits.take_tokens(caller, 500)
    with pytest.raises(ApiError) as caught:
        limits.take_tokens(caller, 200)
    assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "10")
    limits.give_back_tokens(caller, 60)
    clock.now += 4
    limits.take_tokens(caller, 200)
    assert limits.headers(caller) == {
        "x-ratelimit-limit-tokens": "600", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m0s"
    }  # fmt: skip
    clock.now += 1e6
    limits.give_back_tokens(caller, 10**9)
    assert limits.headers(caller)["x-ratelimit-remaining-tokens"] == "600"


def test_more_tokens_than_a_minute_has_are_refused_for_good(clock: Clock) -> None:
    with pytest.raises(ApiError, match="Request too large") as caught:
        Limits(clock).take_tokens(make_caller(max_tokens_per_minute=600), 601)
    assert caught.value.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.headers


def test_projects_have_limits_of_their_own_and_none_where_none_is_set(clock: Clock) -> None:
    limits = Limits(clock)
    limits.take_request(make_caller("a", max_requests_per_minute=1))
    limits.take_request(make_caller("b", max_requests_per_minute=1))
    for _ in range(1000):
        limits.take_request(make_caller("c"))
    assert limits.headers(make_caller("c")) == {}
    with pytest.raises(ApiError):
        limits.take_request(make_caller("a", max_requests_per_minute=1))


def test_threads_together_take_no_more_than_there_is(clock: Clock) -> None:
    limits, caller = Limits(clock), make_caller(max_tokens_per_minute=500)
    taken = []

    def take() -> None:
        for _ in range(200):
            try:
                limits.take_tokens(caller, 1)
            except ApiError:
                continue
            taken.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 500


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (0.0061, "7ms"),
        (0.006, "6ms"),
        (8.64, "8.64s"),
        (1, "1s"),
        (90, "1m30s"),
        (59.999, "1m0s"),
        (600, "10m0s"),
    ],
)
def test_durations_are_said_as_the_hosted_headers_say_them(seconds: float, said: str) -> None:
    assert say_seconds(seconds) == said


def test_a_job_beyond_those_that_may_be_unfinished_is_refused_and_not_repeated(database: Database) -> None:
    limit(database, max_unfinished_jobs=1)
    caller = make_caller(DEFAULT_PROJECT)
    with database.writing() as session:
        require_job_room(session, caller)
        session.add(
            FineTuningJob(
                id="ftjob-1",
                project_id=DEFAULT_PROJECT,
                model="m",
                base_model="m",
                training_file="f",
                seed=1,
                asked={},
                hyperparameters={},
                integrations=[],
                status="paused",
                wanted="run",
                result_files=[],
                created_at=1,
            )
        )
    with pytest.raises(ApiError) as caught, database.writing() as session:
        require_job_room(session, caller)
    assert caught.value.status == 429
    assert caught.value.headers == {"x-should-retry": "false", "retry-after": "60"}


def test_every_change_is_written_down_with_who_and_what(client: TestClient, database: Database) -> None:
    secret = make_key(database)
    key_id = client.get("/v1/files", headers=bearer(secret)).json()["key"]
    client.post("/v1/files", headers=bearer(secret))
    client.post("/v1/fine_tuning/jobs/ftjob-1/cancel", headers=bearer(secret))
    client.post("/v1/fine_tuning/jobs/ftjob-broken/cancel", headers=bearer(secret))
    client.post("/v1/files", headers=bearer(make_key(database, "models")))
    client.post("/v1/files")
    client.post("/v1/chat/completions", headers=bearer(secret))
    cancel = "POST /v1/fine_tuning/jobs/*/cancel"
    assert changes(database) == [
        ("POST /v1/files", "no key", 401),
        ("POST /v1/files", "", 403),
        (cancel, "ftjob-broken", 500),
        (cancel, "ftjob-1", 404),
        ("POST /v1/files", "file-new", 200),
    ]
    with database.reading() as session:
        entry = list_changes(session, limit=10)[-1]
    assert (entry.key_id, entry.project_id, entry.address) == (key_id, DEFAULT_PROJECT, "testclient")
    assert not any(secret in str(value) for value in vars(entry).values())


def test_a_refused_key_is_written_down_as_its_list_shows_it_and_never_whole(
    client: TestClient, database: Database
) -> None:
    secret = make_key(database)
    with database.writing() as session:
        key = session.scalars(select(ApiKey)).one()
        revoke_key(session, key.id)
        shown = key.shown
    cancelled = client.post("/v1/fine_tuning/jobs/ftjob-1/cancel", headers=bearer(secret))
    assert cancelled.status_code == 401
    assert changes(database) == [("POST /v1/fine_tuning/jobs/*/cancel", shown, 401)]
    with database.reading() as session:
        entry = list_changes(session, limit=1)[0]
    assert (entry.project_id, entry.key_id, entry.address) == (None, None, "testclient")
    assert secret not in str(vars(entry))


def test_a_key_of_another_service_is_not_written_down(client: TestClient, database: Database) -> None:
    client.post("/v1/chat/completions", headers=bearer("sk-proj-" + "secret" * 8))
    client.get("/v1/files", headers=bearer("sk-kivnun-wrong"))
    assert changes(database) == [("POST /v1/chat/completions", "a key that is not of this server", 401)]


def test_a_flood_of_wrong_keys_is_counted_and_not_written_down(clock: Clock) -> None:
    refused = RefusedKeys(clock)
    assert [refused.take("a") for _ in range(3)] == [0, None, None]
    assert refused.take("b") == 2
    took = [refused.take(f"2001::{number}") for number in range(1000)]
    assert sum(each is not None for each in took) == REFUSED_LINES_PER_MINUTE - 2
    clock.now += 60
    assert refused.take("a") == took.count(None)
    assert refused.take("b") == 0
