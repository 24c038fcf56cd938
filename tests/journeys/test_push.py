"""`kivnun push` through the real hub client against a stand-in of the hub on loopback: all files or none."""

import hashlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from journey import KIVNUN, PATIENCE_SECONDS, Ended, clean_environment

from kivnun.runs import ModelLock, RunLock, stage_key, write_lock, write_stage

TOKEN = "hf_" + "x" * 30
REPO = "me/tone"


@dataclass
class Hub:
    """What the stand-in holds, and how it misbehaves.

    Attributes:
        repos: Files of each repository's only branch; their content, or the SHA-256 of large ones.
        large: Content of large files by their SHA-256.
        refuses: Steps that answer with a status: `create`, `preupload`, `batch`, `put`, `commit`.
        breaks_at_commit: Whether the connection ends in place of an answer to the commit.
        ignores: Names that it leaves out of a commit without a word.
    """

    repos: dict[str, dict[str, object]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    refuses: dict[str, int] = field(default_factory=dict)
    breaks_at_commit: bool = False
    ignores: set[str] = field(default_factory=set)
    made_private: list[object] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    address: str = ""


class Handler(BaseHTTPRequestHandler):
    """The part of the hub's interface that its client uses for one commit."""

    hub: Hub

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.hub.requests.append(f"GET {self.path}")
        if match := re.match(r"/api/models/(.+?/.+?)/tree/", self.path):
            files = self.hub.repos[match[1]]
            self.answer([{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in files])
        elif match := re.match(r"/api/models/([^/]+/[^/?]+)", self.path):
            if match[1] in self.hub.repos:
                self.answer({"id": match[1], "sha": "1" * 40, "siblings": []})
            else:
                self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_PUT(self) -> None:
        body = self.read()
        if not self.refused("put"):
            self.hub.large[hashlib.sha256(body).hexdigest()] = body
            self.answer({})

    def do_POST(self) -> None:
        body = self.read()
        self.hub.requests.append(f"POST {self.path}")
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
            return
        step = next(
            name
            for name, part in {
                "create": "/repos/create",
                "preupload": "/preupload/",
                "batch": "/objects/batch",
                "commit": "/commit/",
            }.items()
            if part in self.path
        )
        if not self.refused(step):
            getattr(self, f"do_{step}")(body)

    def do_create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            self.answer({"error": "You already created this model repo"}, 409)
            return
        self.hub.repos[name] = {}
        self.hub.made_private.append(asked.get("visibility") or asked.get("private"))
        self.answer({"url": f"{self.hub.address}/{name}"})

    def do_preupload(self, body: bytes) -> None:
        files = json.loads(body)["files"]
        modes = {file["path"]: "lfs" if file["size"] > 2000 else "regular" for file in files}
        ignored = self.hub.ignores
        self.answer(
            {
                "files": [
                    {"path": p, "uploadMode": m, "shouldIgnore": p in ignored, "oid": None} for p, m in modes.items()
                ]
            }
        )

    def do_batch(self, body: bytes) -> None:
        objects = json.loads(body)["objects"]
        link = {"href": f"{self.hub.address}/large", "header": {}}
        self.answer({"transfer": "basic", "objects": [{**each, "actions": {"upload": link}} for each in objects]})

    def do_commit(self, body: bytes) -> None:
        if self.hub.breaks_at_commit:
            self.connection.close()
            return
        name = re.match(r"/api/models/(.+?/.+?)/commit/", self.path)
        assert name is not None
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.repos[name[1]][value["path"]] = value["content"]
            elif line["key"] == "lfsFile":
                assert value["oid"] in self.hub.large
                self.hub.repos[name[1]][value["path"]] = value["oid"]
        self.answer(
            {"commitUrl": f"{self.hub.address}/{name[1]}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": ""}
        )

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def refused(self, step: str) -> bool:
        status = self.hub.refuses.get(step)
        if status is not None:
            self.answer({"error": f"no {step}"}, status)
        return status is not None

    def answer(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A workplace with a run whose folders are real stages, small and written by hand."""
    run = tmp_path / "runs" / "tone"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text("")
    files = {
        "merged/model.safetensors": b"\x80\x02" + bytes(5000),
        "merged/config.json": b"{}",
        "merged/golden.json": b'{"prompts": ["a row of mine"]}',
        "merged/reference.json": b"{}",
        "merged/parity.json": b"{}",
        "onnx-int4/model.onnx": b"onnx",
        "onnx-int4/model.onnx.data": bytes(3000),
        "gguf/model-q8_0.gguf": b"GGUF",
        "parity.json": b"{}",
    }
    with write_stage(run, "optimized", kind="optimized", key=stage_key({"a": 1})) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    for form in ("merged", "onnx-int4", "gguf"):
        (run / "optimized" / form / "README.md").write_text("---\nlicense: mit\n---\n# tone\n")
    return tmp_path


def push(hub: Hub, work: Path, *options: str, token: str | None = TOKEN) -> Ended:
    """The installed command, with the hub's own client in it."""
    environment = clean_environment(
        HF_ENDPOINT=hub.address,
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HOME=str(work / "hub"),
        **({"HF_TOKEN": token} if token else {}),
    )
    if token is None:
        environment.pop("HF_TOKEN", None)
    command = [KIVNUN, "push", "tone", "--to", REPO, *options]
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS, check=False
    )
    assert TOKEN not in done.stdout + done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def test_a_form_is_sent_whole_with_its_card_and_without_rows(hub: Hub, work: Path) -> None:
    ended = push(hub, work, "--private", "--json")
    assert ended.status == 0, ended.err
    told = json.loads(ended.out)
    assert (
        set(hub.repos[REPO]) == {"README.md", "config.json", "model.safetensors", "parity.json"} == set(told["files"])
    )
    weights = (work / "runs/tone/optimized/merged/model.safetensors").read_bytes()
    assert hub.large[str(hub.repos[REPO]["model.safetensors"])] == weights
    assert set(told["left_out"]) == {"golden.json", "reference.json"}
    assert (told["sent"], told["commit"]) == (True, "1" * 40)
    assert hub.made_private in ([True], ["private"])


def test_a_dry_run_says_what_would_be_sent_and_asks_nobody(hub: Hub, work: Path) -> None:
    ended = push(hub, work, "--form", "onnx-int4", "--dry-run", token=None)
    assert ended.status == 0, ended.err
    assert "would send onnx-int4 to me/tone: 3 files, 3,032 bytes" in ended.out
    assert hub.requests == []
    told = push(hub, work, "--dry-run", "--with-golden").out
    assert "golden.json  30" in told
    assert "not sent" not in told


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ({"create": 401}, "refused the token (status 401)"),
        ({"create": 403}, "refused the token (status 403)"),
        ({"put": 403}, "error[push-failed]"),
        ({"commit": 413}, "status 413"),
    ],
    ids=["token", "rights", "large file", "commit"],
)
def test_what_the_hub_refuses_ends_with_an_error_and_no_files(
    refuses: dict[str, int], words: str, hub: Hub, work: Path
) -> None:
    hub.refuses = refuses
    ended = push(hub, work)
    assert ended.status == 2
    assert words in ended.err
    assert "sent to" not in ended.out
    assert hub.repos.get(REPO, {}) == {}
    if "create" not in refuses:
        assert "--update" in ended.err
        hub.refuses = {}
        assert push(hub, work, "--update").status == 0
        assert "config.json" in hub.repos[REPO]


def test_a_wrong_token_and_none_at_all_are_said(hub: Hub, work: Path) -> None:
    wrong = push(hub, work, token="hf_wrong")  # noqa: S106
    assert (wrong.status, "status 401" in wrong.err, "hf_wrong" in wrong.err) == (2, True, False)
    none = push(hub, work, token=None)
    assert (none.status, "no token" in none.err) == (2, True)
    assert hub.repos == {}


def test_a_repository_that_exists_is_only_added_to_when_asked(hub: Hub, work: Path) -> None:
    hub.repos[REPO] = {"mine.txt": "kept"}
    ended = push(hub, work)
    assert (ended.status, "me/tone exists" in ended.err) == (2, True)
    assert hub.repos[REPO] == {"mine.txt": "kept"}
    assert push(hub, work, "--update", "--form", "gguf").status == 0
    assert set(hub.repos[REPO]) == {"mine.txt", "README.md", "model-q8_0.gguf"}


def test_a_connection_that_breaks_is_no_push(hub: Hub, work: Path) -> None:
    hub.breaks_at_commit = True
    ended = push(hub, work)
    assert ended.status == 2
    assert "error[push-failed]: the hub could not be reached" in ended.err
    assert "sent to" not in ended.out
    assert hub.repos[REPO] == {}


def test_files_that_the_hub_left_out_are_no_push(hub: Hub, work: Path) -> None:
    hub.ignores = {"config.json"}
    ended = push(hub, work)
    assert (ended.status, "lacks 1 of 4 files" in ended.err, "config.json" in ended.err) == (2, True, True)


def test_pickles_and_changed_files_stay_at_home(hub: Hub, work: Path) -> None:
    merged = work / "runs/tone/optimized/merged"
    (merged / "config.json").write_bytes(b"{ }")
    changed = push(hub, work)
    assert (changed.status, "differs from what was written" in changed.err) == (2, True)
    (merged / "config.json").write_bytes(b"{}")
    (merged / "weights").write_bytes(b"\x80\x04K\x01.")
    pickled = push(hub, work)
    assert (pickled.status, "are pickles" in pickled.err) == (2, True)
    assert hub.repos == {}


def test_a_path_of_this_machine_in_an_adapter_is_said_before_it_is_sent(hub: Hub, work: Path) -> None:
    run = work / "runs" / "tone"
    write_lock(run, RunLock({}, ModelLock("/home/me/models/base", None, "b" * 64), {}, 0, "cpu"))
    with write_stage(run, "model", kind="model", key=stage_key({"b": 1})) as folder:
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/me/models/base"}')
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (run / "model" / "README.md").write_text("# adapter")
    ended = push(hub, work, "--form", "adapter", "--dry-run")
    assert (ended.status, "adapter_config.json names the base model by its folder here" in ended.err) == (0, True)


def test_a_dry_run_writes_no_card(hub: Hub, work: Path) -> None:
    card = work / "runs/tone/optimized/merged/README.md"
    card.unlink()
    ended = push(hub, work, "--dry-run")
    assert (ended.status, "has no README.md: one would be written" in ended.err) == (0, True)
    assert not card.exists()
    assert hub.requests == []


def test_a_form_or_name_that_is_not_there_is_named(hub: Hub, work: Path) -> None:
    ended = push(hub, work, "--form", "onnx-fp16")
    assert (ended.status, "it has merged, gguf, onnx-int4" in ended.err) == (2, True)
    shutil.rmtree(work / "runs/tone/optimized")
    assert "nothing to send" in push(hub, work).err
    assert hub.requests == []
