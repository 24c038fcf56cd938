"""OpenAI's own description of its API, against the real server: schemathesis draws requests and checks what comes back.

Three changes are made to the description. Ids that exist stand in it, so that what is drawn does something. Answers are
kept short. And the exceptions, of which there is one:

- `GET /files/{file_id}/content` is declared as JSON, and gives the bytes of the file with their own type.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from openai import OpenAI
from running import RunningServer

from kivnun.database.identifiers import new_id
from kivnun.database.tables import JobCheckpoint, JobEvent

SPEC = Path(__file__).resolve().parents[3] / "shared" / "data" / "openai_openapi" / "openapi-in-scope.json"
ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"
CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance"
METRICS = {"step": 1, "train_loss": 0.5, "train_mean_token_accuracy": 0.5}


def make_objects(server: RunningServer) -> dict[str, str]:
    """One of everything, by the name of the parameter that takes its id."""
    with OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0) as client:
        file_id = client.files.create(file=("a.jsonl", ROW.encode() * 10), purpose="fine-tune").id
        job_id = client.fine_tuning.jobs.create(model="tiny", training_file=file_id).id
        upload = client.uploads.create(filename="a", purpose="fine-tune", bytes=3, mime_type="text/plain")
    checkpoint = f"ft:tiny:personal::{job_id[-8:]}:ckpt-step-1"
    now = int(time.time())
    event = JobEvent(
        id=new_id("ftevent-"), job_id=job_id, source="log:1", level="info", type="metrics", message="m",
        data={"step": 1}, created_at=now,
    )  # fmt: skip
    row = JobCheckpoint(
        id=new_id("ftckpt_"), job_id=job_id, model_name=checkpoint, step=1, metrics=METRICS, created_at=now
    )
    with closing(server.open_database()) as database, database.writing() as session:
        session.add_all([event, row])
    return {
        "file_id": file_id,
        "training_file": file_id,
        "input_file_id": file_id,
        "fine_tuning_job_id": job_id,
        "upload_id": upload.id,
        "fine_tuned_model_checkpoint": checkpoint,
        "model": "tiny",
    }


def write_spec(path: Path, known: Mapping[str, str]) -> None:
    """The description with what is known, short answers, and the exceptions."""
    spec = json.loads(SPEC.read_text("utf-8"))
    content = spec["paths"]["/files/{file_id}/content"]["get"]["responses"]["200"]["content"]
    content |= {kind: {} for kind in ("application/octet-stream", "application/jsonl", "text/csv")}
    del content["application/json"]
    _put(spec, known)
    path.write_text(json.dumps(spec), "utf-8")


def _put(value: object, known: Mapping[str, str]) -> None:
    if isinstance(value, list):
        for each in value:
            _put(each, known)
    if not isinstance(value, dict):
        return
    if value.get("in") in ("path", "query") and value.get("name") in known:
        value["schema"] = {"type": "string", "enum": [known[value["name"]]]}
        value.pop("example", None)
    properties = value.get("properties")
    if isinstance(properties, dict) and "object" not in properties:
        for name in known.keys() & properties.keys():
            properties[name] = {"type": "string", "enum": [known[name]]}
        for name in ("max_tokens", "max_completion_tokens", "n", "best_of"):
            if name in properties:
                properties[name] = {"type": "integer", "enum": [1, 2]}
    for each in value.values():
        _put(each, known)


@pytest.mark.skipif(not SPEC.is_file(), reason="needs OpenAI's description of its API, which lies beside the project")
def test_openais_description_of_its_api_holds_here(start_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    server = start_server("--workers", "0")
    server.wait_for_libraries()
    write_spec(tmp_path / "spec.json", make_objects(server))
    program = Path(sys.executable).with_name("schemathesis")
    words = ["--url", server.base_url, "-n", "4", "--seed", "1", "--phases", "examples,fuzzing", "-c", CHECKS]
    words += ["--header", f"Authorization: Bearer {server.key}", "--request-timeout", "60", "--no-color", "--no-shrink"]
    command = [program, "run", tmp_path / "spec.json", *words]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert "37 selected / 37 total" in ended.stdout
    assert "failed with" not in server.log_file.read_text("utf-8")
