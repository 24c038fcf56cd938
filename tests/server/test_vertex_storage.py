"""Cloud Storage's addresses: what google-cloud-storage sends lands in the bucket folder, and nowhere else."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from running import RunningServer, make_project_key
from storage_requests import upload

from kivnun.database.keys import SCOPES
from kivnun.database.projects import Quotas, set_quotas
from kivnun.database.tables import Project
from kivnun.server import sweep
from kivnun.server.errors import ApiError
from kivnun.server.vertex.bucket import find_bucket, keep_object, list_objects

ROWS = (
    '{"input_text": "מהי בירת צרפת?", "output_text": "בירת צרפת היא פריז."}\n'
    '{"input_text": "What is 1 and 1?", "output_text": "It is 2."}\n'
)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "serve.md"
PLACE = "projects/p/locations/us-central1"
SECONDS = 300


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("buckets")
    (root / "mine").mkdir()
    (root / "secret.jsonl").write_text("secret")
    return root


@pytest.fixture(scope="module")
def storage(start_server: Callable[..., RunningServer], buckets: Path) -> RunningServer:
    return start_server("--bucket-dir", str(buckets))


def send(server: RunningServer, name: str, data: bytes = b"x", bucket: str = "mine", **head: str) -> httpx.Response:
    return upload(server.root_url, bucket, {"name": name, **head}, data, server.key)


def get(server: RunningServer, path: str, **query: str) -> httpx.Response:
    return httpx.get(f"{server.root_url}/{path}", params=query, headers=server.headers)


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_documented_program_runs_from_the_upload_to_the_answer(
    storage: RunningServer, buckets: Path, tmp_path: Path
) -> None:
    [program] = [
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        if "STORAGE_EM" in block
    ]
    (tmp_path / "gemini_tuning_data.jsonl").write_text(ROWS, "utf-8")
    told = {"KIVNUN_SERVER": storage.root_url, "KIVNUN_KEY": storage.key}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env={**os.environ, **told, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    state, *answer = done.stdout.splitlines()
    assert (state, bool(answer)) == ("JobState.JOB_STATE_SUCCEEDED None", True)
    assert (buckets / "mine" / "gemini_tuning_data.jsonl").read_text("utf-8") == ROWS


def test_an_object_comes_back_as_it_was_sent(storage: RunningServer, buckets: Path) -> None:
    data = bytes(range(256)) * 9000
    sent = send(storage, "deep/er/שלום.jsonl", data)
    assert sent.status_code == 200, sent.text
    told = sent.json()
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    kept = {"name": "deep/er/שלום.jsonl", "bucket": "mine", "size": str(len(data)), "md5Hash": md5}
    assert kept.items() <= told.items()
    assert (buckets / "mine" / "deep" / "er" / "שלום.jsonl").read_bytes() == data
    for path in ("storage", "download/storage"):
        address = f"{path}/v1/b/mine/o/deep%2Fer%2Fשלום.jsonl"
        assert get(storage, address, alt="media").content == data
    described = get(storage, "storage/v1/b/mine/o/deep%2Fer%2Fשלום.jsonl", projection="noAcl", prettyPrint="false")
    assert described.json() == {name: value for name, value in told.items() if name not in ("md5Hash", "crc32c")}
    again = send(storage, "deep/er/שלום.jsonl", b"new")
    assert (again.status_code, again.json()["size"]) == (200, "3")
    assert (buckets / "mine" / "deep" / "er" / "שלום.jsonl").read_bytes() == b"new"
    assert list((buckets / "mine").rglob("*.partial")) == []


def test_bytes_alone_are_an_upload_too(storage: RunningServer, buckets: Path) -> None:
    address = f"{storage.root_url}/upload/storage/v1/b/mine/o"
    query = {"uploadType": "media", "name": "alone.csv"}
    sent = httpx.post(address, params=query, content=b"a,b\n", headers=storage.headers)
    assert (sent.status_code, sent.json()["contentType"]) == (200, "text/csv")
    assert (buckets / "mine" / "alone.csv").read_bytes() == b"a,b\n"
    said = {"x-goog-hash": "crc32c=AAAAAA=="}
    wrong = httpx.post(address, params=query, content=b"other", headers={**storage.headers, **said})
    assert (wrong.status_code, "crc32c" in wrong.json()["error"]["message"]) == (400, True)
    assert (buckets / "mine" / "alone.csv").read_bytes() == b"a,b\n"


def test_objects_are_listed_by_name_in_pages(storage: RunningServer, buckets: Path) -> None:
    for name in ("list/b", "list/a", "list/c/d"):
        assert send(storage, name).status_code == 200
    (buckets / "mine" / "list" / "link").symlink_to(buckets / "secret.jsonl")
    (buckets / "mine" / "list" / ".half.partial").write_text("x")
    first = get(storage, "storage/v1/b/mine/o", prefix="list/", maxResults="2").json()
    assert ([item["name"] for item in first["items"]], first["nextPageToken"]) == (["list/a", "list/b"], "list/b")
    rest = get(storage, "storage/v1/b/mine/o", prefix="list/", pageToken="list/b").json()
    assert ([item["name"] for item in rest["items"]], "nextPageToken" in rest) == (["list/c/d"], False)
    assert get(storage, "storage/v1/b/mine").json()["name"] == "mine"
    (buckets / "mine" / "list" / ".half.partial").unlink()


@pytest.mark.parametrize(
    ("name", "bucket", "code"),
    [
        ("../secret.jsonl", "mine", 400),
        ("a/../../secret.jsonl", "mine", 400),
        ("/etc/passwd", "mine", 400),
        ("a//b", "mine", 400),
        ("a\\b", "mine", 400),
        ("a\nb", "mine", 400),
        (".", "mine", 400),
        ("folder/", "mine", 400),
        ("x.partial", "mine", 400),
        ("ש" * 200, "mine", 400),
        ("a/" * 600 + "a", "mine", 400),
        ("out/x", "mine", 400),
        ("there", "mine", 400),
        ("there/file/x", "mine", 400),
        ("x", "other", 404),
        ("x", "..", 404),
        ("x", "MINE", 404),
    ],
)
def test_no_object_leaves_its_bucket(
    storage: RunningServer, buckets: Path, tmp_path: Path, name: str, bucket: str, code: int
) -> None:
    (buckets / "mine" / "there").mkdir(exist_ok=True)
    (buckets / "mine" / "there" / "file").write_text("file")
    link = buckets / "mine" / "out"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path)
    before = files_of(buckets)
    sent = send(storage, name, bucket="%2e%2e" if bucket == ".." else bucket)
    assert sent.status_code == code
    assert sent.json()["error"]["code"] == code
    assert str(buckets) not in sent.text
    assert (files_of(buckets), list(tmp_path.iterdir())) == (before, [])
    link.unlink()


def test_links_that_lead_out_are_not_read(storage: RunningServer, buckets: Path) -> None:
    link = buckets / "mine" / "secret"
    link.symlink_to(buckets / "secret.jsonl")
    for address in ("storage/v1/b/mine/o/secret", "storage/v1/b/mine/o/..%2Fsecret.jsonl", "storage/v1/b/mine/o/none"):
        for alt in ("json", "media"):
            reply = get(storage, address, alt=alt)
            assert (reply.status_code, "secret:" in reply.text) in ((404, False), (400, False))
    # An upload takes the link's place, and not that of what it leads to.
    assert send(storage, "secret", b"mine").status_code == 200
    assert ((buckets / "secret.jsonl").read_text(), link.read_bytes()) == ("secret", b"mine")


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"--b\r\n\r\n{", "multipart/related; boundary=b", 400),
        (b"--b\r\n\r\n[]\r\n--b\r\n\r\nx\r\n--b--", "multipart/related; boundary=b", 400),
        (b"--b\r\n\r\n{nope\r\n--b\r\n\r\nx\r\n--b--", "multipart/related; boundary=b", 400),
        (b'--b\r\n\r\n{"name": 1}\r\n--b\r\n\r\nx\r\n--b--', "multipart/related; boundary=b", 400),
        (b'--b\r\n\r\n{"name": "n", "acl": []}\r\n--b\r\n\r\nx\r\n--b--', "multipart/related; boundary=b", 400),
        (b'--b\r\n\r\n{"name": "n"}\r\n--b\r\n\r\nhalf', "multipart/related; boundary=b", 400),
        (b'--b\r\n\r\n{"name": "n"}\r\n--b\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--', "multipart/related; boundary=b", 400),
        (b'--b\r\n\r\n{"name": "n", "md5Hash": "no"}\r\n--b\r\n\r\nx\r\n--b--', "multipart/related; boundary=b", 400),
        (b"--b\r\n\r\n" + b" " * 70000 + b"{}\r\n--b\r\n\r\nx\r\n--b--", "multipart/related; boundary=b", 400),
        (b"no", "multipart/related; boundary=b", 400),
        (b"x", "multipart/form-data; boundary=b", 415),
        (b"x", "text/plain", 415),
        (b"x", "multipart/related", 415),
    ],
)
def test_half_a_body_leaves_nothing(storage: RunningServer, buckets: Path, body: bytes, kind: str, code: int) -> None:
    before = files_of(buckets)
    address = f"{storage.root_url}/upload/storage/v1/b/mine/o?uploadType=multipart"
    sent = httpx.post(address, content=body, headers={**storage.headers, "content-type": kind})
    assert (sent.status_code, sent.json()["error"]["status"]) == (code, "INVALID_ARGUMENT")
    assert files_of(buckets) == before


def test_a_key_with_the_scope_is_needed_and_a_quota_keeps_out(storage: RunningServer, buckets: Path) -> None:
    before = files_of(buckets)
    assert set(SCOPES) >= {"files", "files:read"}
    project, reader = make_project_key(storage.data_dir, scopes=("files:read",))
    read_only = replace(storage, key=reader)
    assert send(replace(storage, key="sk-kivnun-wrong"), "x").status_code == 401
    assert (
        get(replace(storage, key="sk-kivnun-wrong"), "storage/v1/b/mine").json()["error"]["status"] == "UNAUTHENTICATED"
    )
    assert (send(read_only, "x").status_code, get(read_only, "storage/v1/b/mine").status_code) == (403, 200)
    limited, key = make_project_key(storage.data_dir)
    database = storage.open_database()
    with database.writing() as session:
        set_quotas(session.get(Project, limited), Quotas(max_storage_bytes=1 << 30))
    database.close()
    refused = send(replace(storage, key=key), "x")
    assert (refused.status_code, "quota" in refused.json()["error"]["message"]) == (403, True)
    assert files_of(buckets) == before
    assert project != limited


def test_a_server_without_buckets_says_how_to_have_one(server: RunningServer) -> None:
    sent = send(server, "x")
    assert (sent.status_code, "--bucket-dir" in sent.json()["error"]["message"]) == (400, True)


def test_a_file_that_is_too_large_is_not_kept(start_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    small = start_server("--bucket-dir", str(tmp_path), "--max-file-mib", "1", "--workers", "0")
    assert send(small, "x", b"x" * ((1 << 20) + 1)).status_code == 413
    assert files_of(tmp_path) == {}
    assert send(small, "x", b"x" * (1 << 20)).status_code == 200


def test_what_a_killed_server_half_wrote_goes_with_the_next_start(tmp_path: Path) -> None:
    bucket = tmp_path / "mine"
    bucket.mkdir()
    old, new, other = (bucket / f".{name}.partial" for name in ("a" * 32, "b" * 32, "rsync"))
    for path in (old, new, other):
        path.write_text("x")
    long_ago = time.time() - 7200
    for path in (old, other):
        os.utime(path, (long_ago, long_ago))
    assert sweep._find_lost_objects(tmp_path, time.time() - 600) == [old]
    assert sweep._find_lost_objects(None, time.time()) == []


def test_a_bucket_is_a_folder_of_the_bucket_folder_and_no_link(tmp_path: Path) -> None:
    (tmp_path / "all" / "mine").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "all" / "link").symlink_to(tmp_path / "outside")
    root = find_bucket(tmp_path / "all", "mine")
    for name in ("link", "..", "none", "mine/", ""):
        with pytest.raises(ApiError, match="no bucket"):
            find_bucket(tmp_path / "all", name)
    partial = root / ".x.partial"
    partial.write_text("x")
    keep_object(root, "a/b", partial)
    assert list_objects(root, "") == ["a/b"]


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("POST", f"v1/{PLACE}/endpoints/7000000000:predict", "generate_content"),
        ("POST", f"v1/{PLACE}/publishers/google/models/text-bison:predict", "generate_content"),
        ("DELETE", f"v1beta1/{PLACE}/endpoints/7", "models.delete"),
        ("POST", f"v1/{PLACE}/endpoints", "generate_content"),
        ("POST", f"v1/{PLACE}/endpoints/7:deployModel", "generate_content"),
        ("DELETE", f"v1/{PLACE}/models/7", "models.delete"),
        ("GET", f"v1/{PLACE}/models/7@1", "generate_content"),
        ("POST", f"v1/{PLACE}/pipelineJobs", "client.tunings.tune"),
    ],
)
def test_what_vertex_has_and_this_server_has_not_is_told_with_what_to_write(
    server: RunningServer, method: str, path: str, word: str
) -> None:
    reply = httpx.request(method, f"{server.root_url}/{path}", headers=server.headers)
    assert (reply.status_code, reply.json()["error"]["status"]) == (404, "NOT_FOUND")
    assert word in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("trainSteps", "write epochCount"),
        ("train_steps", "write epochCount"),
        ("learning_rate", "write learningRateMultiplier"),
        ("rank", "write adapterSize"),
        ("warmup", "write one of epochCount, learningRateMultiplier, adapterSize, batchSize"),
    ],
)
def test_numbers_of_other_libraries_are_told_what_to_write(server: RunningServer, name: str, wanted: str) -> None:
    spec = {"trainingDatasetUri": "gs://mine/x", "hyperParameters": {name: 100}}
    body = {"baseModel": "tiny", "supervisedTuningSpec": spec}
    reply = httpx.post(f"{server.base_url}/{PLACE}/tuningJobs", json=body, headers=server.headers)
    assert (reply.status_code, reply.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert wanted in json.dumps(reply.json())
