"""`kivnun serve` as a process: what it says, what it refuses, how it ends, and what it finds when it begins again."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from http.client import HTTPResponse
from pathlib import Path

import httpx
import psutil
import pytest
from openai import OpenAI
from running import RunningServer

from kivnun.cli.serve import describe
from kivnun.database.open import open_database, sqlite_url
from kivnun.errors import UserError
from kivnun.server.binding import is_loopback, listen, require_database, require_safe
from kivnun.server.folders import DataFolder
from kivnun.server.service import ServeSettings
from kivnun.server.start import Listening

Start = Callable[..., RunningServer]


def serve(*flags: str) -> subprocess.CompletedProcess[str]:
    """A server that does not get to serve."""
    command = [sys.executable, "-m", "kivnun", "serve", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def wait_for(what: Callable[[], object], seconds: float = 20) -> object:
    """The first result that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = what()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError("it did not come")


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.example.org", "")),  # noqa: S104
    ],
)
def test_only_a_loopback_address_goes_without_keys(host: str, alone: bool) -> None:
    settings = ServeSettings(Path("data"), host=host, require_keys=False)
    assert is_loopback(host) == alone
    if alone:
        require_safe(settings)
    else:
        with pytest.raises(UserError) as raised:
            require_safe(settings)
        assert raised.value.code == "serve-unsafe"


@pytest.mark.parametrize("flags", [["--tls-key", "k.pem"], ["--tls-certificate", "c.pem", "--tls-key", "k.pem"]])
def test_half_a_pair_of_tls_files_is_refused_and_one_that_is_none(flags: list[str], tmp_path: Path) -> None:
    ended = serve("--data-dir", str(tmp_path / "data"), *flags)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error[tls-invalid]")
    assert not (tmp_path / "data").exists()


LISTENING = Listening("http://127.0.0.1:8000/v1", 8000, ("bundled",), "bundled", True, True, Path("d"), 1)


@pytest.mark.parametrize(
    ("listening", "said", "unsaid"),
    [
        (LISTENING, "OPENAI_API_KEY=...   a key that", "keys create first"),
        (replace(LISTENING, stand_in="tiny"), "gpt-4o-mini and the like are not on this machine: tiny answers", "TLS"),
        (LISTENING, "memory: most of what is free for models, what the machine has for jobs", "GiB"),
        (
            replace(LISTENING, model_memory_bytes=6 << 30, job_memory_bytes=2 << 30),
            "6.0 GiB for models, 2.0 GiB",
            "free",
        ),
        (replace(LISTENING, has_keys=False), "kivnun keys create first --data-dir d", "WITHOUT TLS"),
        (replace(LISTENING, require_keys=False), "--no-auth: every program of this machine", "keys create first"),
        (replace(LISTENING, require_keys=False, num_projects=3), "`default` has; the 2 other project(s)", "all of it"),
        (replace(LISTENING, num_workers=0), "--workers 0: jobs wait until a worker takes them", "--no-auth"),
        (replace(LISTENING, url="http://192.0.2.1:80/v1"), "WITHOUT TLS", "--no-auth"),
        (replace(LISTENING, url="https://192.0.2.1:80/v1"), "OPENAI_BASE_URL=https://192.0.2.1:80/v1", "WITHOUT TLS"),
    ],
    ids=["keys", "another base", "memory", "less", "no key yet", "no auth", "others", "no workers", "no tls", "tls"],
)
def test_a_server_says_how_to_use_it_and_what_to_worry_about(listening: Listening, said: str, unsaid: str) -> None:
    text = "\n".join(describe(listening, has_own_database=False))
    assert said in text
    assert unsaid not in text
    assert f"export OPENAI_BASE_URL={listening.url}" in text


GIB = 1 << 30


@pytest.mark.parametrize(
    ("asked", "models", "jobs"),
    [
        ({"memory_bytes": 8 * GIB}, 4 * GIB, 4 * GIB),
        ({"memory_bytes": 8 * GIB, "job_memory_bytes": 2 * GIB}, 6 * GIB, 2 * GIB),
        ({"memory_bytes": 8 * GIB, "num_workers": 0}, 8 * GIB, 0),
        ({"job_memory_bytes": 2 * GIB}, None, 2 * GIB),
        ({}, None, None),
    ],
)
def test_memory_is_counted_once(asked: dict[str, int], models: int | None, jobs: int | None) -> None:
    settings = ServeSettings(Path("data"), **asked)
    assert (settings.memory_of_models, settings.memory_of_jobs) == (models, jobs)


def test_models_and_jobs_of_a_server_share_the_memory_that_it_was_given(start_server: Start, tmp_path: Path) -> None:
    server = start_server("--memory-gib", "3", "--job-memory-gib", "1", data_dir=tmp_path / "data")
    log = DataFolder(server.data_dir).logs / "workers.jsonl"
    started = json.loads(str(wait_for(lambda: log.is_file() and log.read_text("utf-8"), 60)).splitlines()[0])
    server.wait_for_libraries()
    lines = httpx.get(f"{server.root_url}/metrics").text.splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if "_memory_" in line and not line.startswith("#"))
    assert float(told["kivnun_jobs_memory_bytes"]) == GIB
    assert float(told["kivnun_jobs_memory_reserved_bytes"]) == 0
    assert float(told["kivnun_pool_memory_bytes"]) == 2 * GIB
    assert started["memory_bytes"] == GIB


def test_jobs_cannot_be_given_all_of_the_memory(tmp_path: Path) -> None:
    ended = serve("--memory-gib", "2", "--job-memory-gib", "2", "--data-dir", str(tmp_path / "data"))
    assert ended.returncode == 2
    assert "leaves models none" in ended.stderr


def test_a_port_that_is_taken_is_told() -> None:
    with listen(ServeSettings(Path("data"), port=0)) as taken, pytest.raises(UserError) as raised:
        listen(ServeSettings(Path("data"), port=taken.getsockname()[1]))
    assert raised.value.code == "address-taken"


@pytest.mark.parametrize("word", ["tiny", "=x", "ft:a=b"])
def test_a_model_flag_that_is_no_pair_is_refused(word: str) -> None:
    ended = serve("--model", word)
    assert ended.returncode == 2
    assert "NAME=FOLDER" in ended.stderr


def test_a_data_folder_has_one_server(server: RunningServer) -> None:
    ended = serve("--data-dir", str(server.data_dir), "--port", "0")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error[server-running]")
    assert httpx.get(f"{server.root_url}/health").status_code == 200


def test_every_reply_has_a_name_and_a_clock(server: RunningServer) -> None:
    replies = [
        httpx.get(f"{server.base_url}/models", headers=server.headers),
        httpx.get(f"{server.base_url}/models"),
        httpx.get(f"{server.base_url}/nothing"),
        httpx.patch(f"{server.base_url}/files"),
    ]
    assert [reply.status_code for reply in replies] == [200, 401, 404, 405]
    assert len({reply.headers["x-request-id"] for reply in replies}) == 4
    assert all(reply.headers["openai-processing-ms"].isdigit() for reply in replies)
    assert all(reply.headers["openai-version"] == "2020-10-01" for reply in replies)
    assert all(set(reply.json()) == {"error"} for reply in replies[1:])


def test_azures_addresses_and_key_lead_to_the_same(server: RunningServer) -> None:
    for path in ("/openai/v1/models", "/openai/models?api-version=2024-10-21"):
        assert httpx.get(server.root_url + path, headers={"api-key": server.key}).json()["object"] == "list"
    reply = httpx.get(f"{server.base_url}/models?api_version=1", headers=server.headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unknown_parameter")


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({}, b"{}", 415),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({"content-type": "application/json"}, b"{", 400),
        ({"content-type": "application/json"}, b"[]", 400),
        ({"content-type": "application/json"}, b"", 400),
        ({"content-type": "application/json", "content-encoding": "gzip"}, b"{}", 415),
        ({"content-type": "application/json"}, b" " * ((32 << 20) + 1), 413),
    ],
    ids=range(8),
)
def test_bodies_that_no_route_reads_are_refused(
    server: RunningServer, headers: dict[str, str], content: bytes, status: int
) -> None:
    reply = httpx.post(f"{server.base_url}/uploads", headers={**server.headers, **headers}, content=content)
    assert (reply.status_code, set(reply.json()["error"])) == (status, {"message", "type", "param", "code"})


def test_a_body_in_pieces_that_grows_too_long_is_refused(server: RunningServer) -> None:
    headers = {**server.headers, "content-type": "application/json"}
    pieces = (b" " * (1 << 20) for _ in range(40))
    assert httpx.post(f"{server.base_url}/uploads", headers=headers, content=pieces).status_code == 413


def test_no_page_loads_scripts_from_elsewhere(server: RunningServer) -> None:
    assert [httpx.get(server.root_url + path).status_code for path in ("/docs", "/redoc")] == [404, 404]
    paths = httpx.get(f"{server.root_url}/openapi.json").json()["paths"]
    assert {"/v1/files", "/v1/uploads/{upload_id}/complete", "/health"} <= set(paths)


def test_prometheus_can_read_what_is_counted(server: RunningServer) -> None:
    def count() -> float:
        lines = httpx.get(f"{server.root_url}/metrics").text.splitlines()
        wanted = 'kivnun_requests_total{method="GET",route="/models/{model:path}",status="404"} '
        return next((float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0)

    before = count()
    for _ in range(3):
        httpx.get(f"{server.base_url}/models/none", headers=server.headers)
    assert count() == before + 3


def test_without_keys_programs_of_this_machine_are_served_and_pages_of_others_are_not(start_server: Start) -> None:
    server = start_server("--no-auth", "--workers", "0")
    address = f"{server.base_url}/models"
    assert httpx.get(address).status_code == 200
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        reply = httpx.get(address, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "foreign_origin")
    assert httpx.get(address, headers={"host": "localhost:1", "origin": "http://127.0.0.1:5"}).status_code == 200


def test_what_was_acknowledged_survives_kill_9_and_nothing_else_does(start_server: Start, tmp_path: Path) -> None:
    first = start_server("--workers", "0", data_dir=tmp_path / "data")
    folder = DataFolder(first.data_dir)
    with OpenAI(base_url=first.base_url, api_key=first.key, max_retries=0) as client:
        kept = client.files.create(file=("a.jsonl", b"kept"), purpose="fine-tune")
        upload = client.uploads.create(filename="b", purpose="fine-tune", bytes=6, mime_type="text/plain")
        part = client.uploads.parts.create(upload.id, data=b"abcdef")
    half = [folder.files / ".0.partial", folder.upload(upload.id) / ".1.partial", folder.files / "file-00000000"]
    for path in half:
        path.write_bytes(b"half")
    os.utime(half[2], (1, 1))
    first.process.kill()
    first.process.wait()
    second = start_server("--workers", "0", data_dir=first.data_dir)
    assert [path for path in half if path.exists()] == []
    assert "removed 3" in second.log_file.read_text("utf-8")
    with OpenAI(base_url=second.base_url, api_key=first.key, max_retries=0) as client:
        assert client.files.content(kept.id).read() == b"kept"
        assert client.uploads.complete(upload.id, part_ids=[part.id]).file.bytes == 6


def test_a_data_folder_keeps_to_its_database(start_server: Start, tmp_path: Path) -> None:
    first = start_server("--workers", "0", data_dir=tmp_path / "data")
    assert first.stop() == 0
    kept = DataFolder(first.data_dir).files / "file-00000000"
    kept.write_bytes(b"kept")
    os.utime(kept, (1, 1))
    # The other database knows none of the files, which would all be removed as nobody's.
    ended = serve("--data-dir", str(first.data_dir), "--port", "0", "--database", f"sqlite:///{tmp_path}/other.sqlite")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error[database-failed]")
    assert kept.read_bytes() == b"kept"


def test_a_data_folder_may_move_with_the_database_in_it(tmp_path: Path) -> None:
    for name in ("before", "after"):
        folder = DataFolder(tmp_path / name)
        if name == "before":
            folder.make()
        else:
            (tmp_path / "before").rename(folder.root)
        with closing(open_database(sqlite_url(folder.root))) as database:
            require_database(folder, database)


def test_nobody_without_a_key_makes_the_server_read_a_body(server: RunningServer) -> None:
    address = httpx.URL(server.root_url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address.host}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((address.host, address.port), timeout=10) as client:
        client.sendall(f"{head}content-length: {32 << 20}\r\n\r\n".encode())
        reply = HTTPResponse(client)
        reply.begin()
        assert (reply.status, json.load(reply)["error"]["code"]) == (401, "invalid_api_key")


def test_azures_address_names_the_model_whatever_the_body_says(server: RunningServer) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
    address = f"{server.root_url}/openai/deployments/none/chat/completions?api-version=2024-10-21"
    reply = httpx.post(address, headers=server.headers, json=body, timeout=60)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "`none`" in reply.json()["error"]["message"]


def test_a_worker_that_dies_is_started_again_and_none_outlives_the_server(start_server: Start) -> None:
    server = start_server()

    def workers() -> list[psutil.Process]:
        children = psutil.Process(server.process.pid).children()
        alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        return [child for child in alive if "kivnun.jobs" in child.cmdline()]

    (first,) = wait_for(workers)
    first.kill()
    second = wait_for(lambda: [each for each in workers() if each.pid != first.pid])
    assert "ended with status -9" in server.log_file.read_text("utf-8")
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    _, alive = psutil.wait_procs(second, timeout=30)
    assert alive == []


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """For 127.0.0.1, signed by itself."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    words = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    command = ["openssl", "req", "-x509", *words, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls_files_make_it_https(start_server: Start, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    server = start_server("--tls-certificate", str(certificate), "--tls-key", str(key), "--workers", "0")
    assert server.base_url.startswith("https://127.0.0.1:")
    context = ssl.create_default_context(cafile=certificate)
    assert httpx.get(f"{server.base_url}/models", headers=server.headers, verify=context).status_code == 200
    assert server.stop() == 0


def test_a_data_folder_that_cannot_be_one_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        ended = serve("--data-dir", str(path), "--port", "0")
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"error[file-unwritable]: {path} cannot be the data folder: ")
        assert "hint: name a folder that you may write to with --data-dir" in ended.stderr


def test_a_server_for_all_addresses_names_one_that_others_can_use(start_server: Start, tmp_path: Path) -> None:
    server = start_server("--host", "0.0.0.0", "--workers", "0", data_dir=tmp_path / "data")  # noqa: S104
    assert "//0.0.0.0:" not in server.base_url
    assert httpx.get(f"{server.base_url}/models", headers=server.headers).status_code == 200


def test_a_job_is_told_and_survives_ctrl_c_twice(start_server: Start, tmp_path: Path) -> None:
    first = start_server(data_dir=tmp_path / "data")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    rows = (json.dumps({"messages": turns}) + "\n").encode() * 12
    with OpenAI(base_url=first.base_url, api_key=first.key, max_retries=0) as client:
        file = client.files.create(file=("a.jsonl", rows), purpose="fine-tune")
        hyperparameters = {"n_epochs": 50, "batch_size": 1}
        job = client.fine_tuning.jobs.create(training_file=file.id, model="tiny", hyperparameters=hyperparameters)
        wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "running", 60)

    def said() -> str:
        return first.log_file.read_text("utf-8")

    wait_for(lambda: '"status": "running"' in said())
    assert f'{{"event": "job", "job": "{job.id}", "status": "created", "model": "tiny"' in said()
    first.process.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping: 1 job(s) that run save a checkpoint first" in said(), 2)
    first.process.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping at once" in said(), 2)
    assert first.process.wait(10) is not None
    assert "Traceback" not in said()
    second = start_server("--workers", "0", data_dir=first.data_dir)
    assert "1 job(s) of before have not ended" in second.log_file.read_text("utf-8")
    with OpenAI(base_url=second.base_url, api_key=first.key, max_retries=0) as client:
        assert client.fine_tuning.jobs.retrieve(job.id).status in ("queued", "running")
        waiting = client.fine_tuning.jobs.create(training_file=file.id, model="tiny")
        assert "has no workers" in client.fine_tuning.jobs.list_events(waiting.id).data[0].message
