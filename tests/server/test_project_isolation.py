"""One project at every route of another: nothing of the other is told, and nothing of it changes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import select
from starlette.testclient import TestClient

from kivnun.database.identifiers import new_id
from kivnun.database.keys import create_key
from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.projects import create_project, ensure_defaults
from kivnun.database.tables import (
    ApiKey,
    AuditEntry,
    Batch,
    CheckpointPermission,
    File,
    FineTuningJob,
    JobCheckpoint,
    JobEvent,
    Table,
    TunedModel,
    Upload,
    UploadPart,
    VertexJob,
)
from kivnun.server.app import BUCKET_ROUTERS, OTHER_ROUTERS, ROUTERS, VERTEX_ROUTERS, create_app
from kivnun.server.counters import Counters
from kivnun.server.folders import DataFolder
from kivnun.server.limits import Limits
from kivnun.server.service import ServeSettings, Service

HOST = "http://127.0.0.1"
SECRET = b"nobody else may read this"
STEP = 10**9
PLACE = "/projects/{project}/locations/{location}"
ASKED = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
TUNING = {"baseModel": "{model}", "supervisedTuningSpec": {"trainingDatasetUri": "gs://bucket/rows.jsonl"}}
CHAT = {"model": "{model}", "messages": [{"role": "user", "content": "Hi"}]}
MINE = "mine.jsonl"

# What B asks of A's things, and what it is told. Routes without ids of others in their address have them in the body.
REFUSED: dict[str, tuple[Any, int]] = {
    "GET /files/{file_id}": (None, 404),
    "GET /files/{file_id}/content": (None, 404),
    "DELETE /files/{file_id}": (None, 404),
    "POST /uploads/{upload_id}/parts": ({}, 404),
    "POST /uploads/{upload_id}/complete": ({"part_ids": ["{part_id}"]}, 404),
    "POST /uploads/{upload_id}/cancel": (None, 404),
    "GET /models/{model:path}": (None, 404),
    "DELETE /models/{model:path}": (None, 404),
    "POST /chat/completions": (CHAT, 404),
    "POST /completions": ({"model": "{model}", "prompt": "Hi"}, 404),
    "POST /embeddings": ({"model": "{model}", "input": "Hi"}, 404),
    "POST /fine_tuning/jobs": ({"model": "bundled", "training_file": "{file_id}"}, 400),
    "GET /fine_tuning/jobs/{job_id}": (None, 404),
    "POST /fine_tuning/jobs/{job_id}/cancel": (None, 404),
    "POST /fine_tuning/jobs/{job_id}/pause": (None, 404),
    "POST /fine_tuning/jobs/{job_id}/resume": (None, 404),
    "GET /fine_tuning/jobs/{job_id}/events": (None, 404),
    "GET /fine_tuning/jobs/{job_id}/checkpoints": (None, 404),
    "POST /fine_tuning/checkpoints/{checkpoint:path}/permissions": ({"project_ids": ["{own}"]}, 404),
    "GET /fine_tuning/checkpoints/{checkpoint:path}/permissions": (None, 404),
    "DELETE /fine_tuning/checkpoints/{checkpoint:path}/permissions/{permission_id}": (None, 404),
    "POST /batches": ({"input_file_id": "{file_id}", "endpoint": "/v1/embeddings", "completion_window": "24h"}, 404),
    "GET /batches/{batch_id}": (None, 404),
    "POST /batches/{batch_id}/cancel": (None, 404),
    f"POST {PLACE}/tuningJobs": (TUNING, 400),
    f"GET {PLACE}/tuningJobs/{{number}}": (None, 404),
    f"POST {PLACE}/tuningJobs/{{number}}:cancel": (None, 404),
    f"POST {PLACE}/endpoints/{{endpoint}}:generateContent": (ASKED, 404),
    f"POST {PLACE}/endpoints/{{endpoint}}:streamGenerateContent?alt=sse": (ASKED, 404),
    f"POST {PLACE}/publishers/google/models/{{model}}:generateContent": (ASKED, 404),
    f"POST {PLACE}/publishers/google/models/{{model}}:streamGenerateContent?alt=sse": (ASKED, 404),
}
# Lists, in which nothing of A may stand; with A's newest id as the cursor they are refused.
LISTS = ("/files", "/models", "/fine_tuning/jobs", "/batches", f"{PLACE}/tuningJobs")
# They make something new of the caller's own, or tell numbers alone.
HARMLESS = {"POST /files", "POST /uploads", "GET /health", "GET /metrics"}
# Whoever runs the server gives all projects one bucket folder, or none.
SHARED = {
    "POST /upload/storage/v1/b/{bucket}/o",
    # A session of another project is looked for in test_vertex_pieces.py.
    "PUT /upload/storage/v1/b/{bucket}/o",
    "DELETE /upload/storage/v1/b/{bucket}/o",
    "GET /storage/v1/b/{bucket}",
    "GET /storage/v1/b/{bucket}/o",
    "GET /storage/v1/b/{bucket}/o/{name:path}",
    "GET /download/storage/v1/b/{bucket}/o/{name:path}",
}


@dataclass(frozen=True)
class Two:
    """Two projects of one organisation, and everything that the first has."""

    client: TestClient
    database: Database
    headers: dict[str, str]
    owner_headers: dict[str, str]
    names: dict[str, str]

    def rows(self) -> dict[str, list[str]]:
        """All that is kept, but for the audit log and when keys were used."""
        kept = [mapper.class_ for mapper in Table.registry.mappers if mapper.class_ not in (ApiKey, AuditEntry)]
        with self.database.reading() as session:
            return {
                table.__name__: sorted(
                    repr({column.key: getattr(row, column.key) for column in table.__mapper__.column_attrs})
                    for row in session.scalars(select(table))
                )
                for table in kept
            }

    def fill(self, text: str) -> str:
        for name, value in self.names.items():
            text = text.replace("{" + name + ":path}", value).replace("{" + name + "}", value)
        return text

    def ask(self, route: str, body: Any, headers: dict[str, str]) -> tuple[int, str]:
        method, path = self.fill(route).split(" ", 1)
        if body is None:
            reply = self.client.request(method, f"/v1{path}", headers=headers)
        elif path.endswith("/parts"):
            reply = self.client.post(f"/v1{path}", headers=headers, files={"data": b"x"})
        else:
            reply = self.client.request(
                method, f"/v1{path}", headers=headers, json=json.loads(self.fill(json.dumps(body)))
            )
        return reply.status_code, reply.text


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    root = tmp_path_factory.mktemp("isolation")
    bucket = root / "buckets" / "bucket"
    bucket.mkdir(parents=True)
    (bucket / "rows.jsonl").write_text("{}\n")
    folder = DataFolder(root / "data")
    folder.make()
    database = open_database(sqlite_url(folder.root))
    ensure_defaults(database)
    settings = ServeSettings(folder.root, bucket_dir=bucket.parent)
    pool: Any = SimpleNamespace(facts=lambda: None)
    app = create_app(Service(settings, database, pool, Limits(), Counters()))
    with database.writing() as session:
        projects = [create_project(session, name).id for name in ("a", "b")]
        secrets = [create_key(session, "test", project_id=each)[1] for each in projects]
        names = _add_everything(session, folder, projects[0])
    names |= {"own": projects[1], "project": "cloud", "location": "here"}
    headers = [{"authorization": f"Bearer {secret}"} for secret in secrets]
    client = TestClient(app, base_url=HOST, raise_server_exceptions=False)
    yield Two(client, database, headers[1], headers[0], names)
    database.close()


def _add_everything(session: Any, folder: DataFolder, project_id: str) -> dict[str, str]:
    ids = {kind: new_id(prefix) for kind, prefix in (
        ("file_id", "file-"), ("upload_id", "upload_"), ("part_id", "part_"), ("job_id", "ftjob-"),
        ("batch_id", "batch_"), ("permission_id", "cp_"),
    )}  # fmt: skip
    name = "ft:bundled:personal::abcdefgh"
    session.add_all([
        File(
            id=ids["file_id"], project_id=project_id, filename=MINE, purpose="fine-tune", num_bytes=len(SECRET),
            sha256="0" * 64, status="processed", created_at=1,
        ),
        Upload(
            id=ids["upload_id"], project_id=project_id, filename=MINE, purpose="fine-tune", mime_type="text/plain",
            num_bytes=1, status="pending", created_at=1, expires_at=2**40,
        ),
        FineTuningJob(
            id=ids["job_id"], project_id=project_id, model="bundled", base_model="bundled",
            training_file=ids["file_id"], seed=1, asked={"type": "supervised", "hyperparameters": {}},
            hyperparameters={"n_epochs": 1}, integrations=[],
            status="running", wanted="run", result_files=[], fine_tuned_model=name, created_at=1,
        ),
        Batch(
            id=ids["batch_id"], project_id=project_id, endpoint="/v1/embeddings", input_file_id=ids["file_id"],
            completion_window="24h", status="in_progress", errors=[], times={"expires_at": 2**40}, created_at=1,
        ),
    ])  # fmt: skip
    session.flush()
    vertex = VertexJob(
        job_id=ids["job_id"], cloud_project="cloud", location="here",
        asked={"supervisedTuningSpec": {"trainingDatasetUri": "gs://bucket/x"}},
    )  # fmt: skip
    session.add_all([
        vertex,
        UploadPart(id=ids["part_id"], upload_id=ids["upload_id"], num_bytes=1, created_at=1),
        JobEvent(
            id=new_id("ftevent-"), job_id=ids["job_id"], source="x", level="info", type="message", message=MINE,
            created_at=1,
        ),
        CheckpointPermission(id=ids["permission_id"], model_name=name, project_id=project_id, created_at=1),
        JobCheckpoint(
            id=new_id("ftckpt_"), job_id=ids["job_id"], model_name=f"{name}:ckpt-step-3", step=3, metrics={},
            created_at=1,
        ),
        *(TunedModel(
            name=each, project_id=project_id, organization_name="personal", base_model="bundled",
            folder=f"jobs/{ids['job_id']}/run/model", job_id=ids["job_id"], checkpoint_step=step, created_at=1,
        ) for each, step in ((name, None), (f"{name}:ckpt-step-3", 3))),
    ])  # fmt: skip
    session.flush()
    folder.file(ids["file_id"]).write_bytes(SECRET)
    folder.upload(ids["upload_id"]).mkdir()
    folder.part(ids["upload_id"], ids["part_id"]).write_bytes(b"x")
    (folder.run(ids["job_id"]) / "model").mkdir(parents=True)
    return ids | {
        "model": name,
        "checkpoint": name,
        "number": str(vertex.number),
        "endpoint": str(vertex.number * STEP),
    }


def test_every_route_is_looked_at_here() -> None:
    routes = {
        f"{method} {route.path}"
        for router in (*ROUTERS, *VERTEX_ROUTERS, *OTHER_ROUTERS, *BUCKET_ROUTERS)
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    told = {route.partition("?")[0] for route in REFUSED} | {f"GET {path}" for path in LISTS} | HARMLESS | SHARED
    named = {"publishers/google/models/{model}": "publishers/{publisher}/models/{model:path}"}
    for short, whole in named.items():
        told = {route.replace(short, whole) for route in told}
    assert routes == told


@pytest.mark.parametrize("route", REFUSED)
def test_nothing_of_another_project_is_told_or_changed(two: Two, route: str) -> None:
    body, status = REFUSED[route]
    before = two.rows()
    found, text = two.ask(route, body, two.headers)
    assert found == status, text
    assert json.loads(text).keys() == {"error"}
    assert MINE not in text
    assert SECRET.decode() not in text
    assert two.rows() == before


@pytest.mark.parametrize("route", [route for route in REFUSED if route.startswith("GET")])
def test_its_owner_reads_it(two: Two, route: str) -> None:
    found, text = two.ask(route, None, two.owner_headers)
    assert found == 200, text


@pytest.mark.parametrize("path", LISTS)
def test_lists_hold_nothing_of_another_project(two: Two, path: str) -> None:
    theirs = [value for name, value in two.names.items() if name not in ("own", "number", "project", "location")]
    _, own = two.ask(f"GET {path}", None, two.owner_headers)
    assert any(value in own for value in (*theirs, "tuningJobs/1"))
    found, text = two.ask(f"GET {path}", None, two.headers)
    assert found == 200
    assert not any(value in text for value in (*theirs, "tuningJobs/1", MINE))


@pytest.mark.parametrize(
    "cursor", ["/files?after={file_id}", "/fine_tuning/jobs?after={job_id}", "/batches?after={batch_id}"]
)
def test_an_id_of_another_project_is_no_cursor(two: Two, cursor: str) -> None:
    assert two.ask(f"GET {cursor}", None, two.headers)[0] == 400
