"""No client learns where a server keeps its things: real errors, from folders with spaces in their names."""

import errno
import os
from pathlib import Path

import pytest
from job_place import JobPlace, lessee, to_lines

from kivnun.errors import UserError
from kivnun.jobs import failures
from kivnun.jobs.finishing import fail
from kivnun.jobs.follow import Follower
from kivnun.jobs.job_error import JobError
from kivnun.jobs.prepare import prepare
from kivnun.jobs.prepared import Asked
from kivnun.jobs.private_paths import without_paths
from kivnun.jobs.queue import lease_next
from kivnun.runs.atomic import disk_full_as_user_error

DATA, MODEL = "/Volumes/My Disk/kivnun data", "/srv/base models/llama 1.5"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"{DATA}/jobs/ftjob-a/training.jsonl:4: no answer", "training.jsonl:4: no answer"),
        (f"cannot write {DATA}/files/file-abc: disk full", "cannot write file-abc: disk full"),
        (f"{MODEL}: no weights in '{MODEL}/sub/x.safetensors'", "llama 1.5: no weights in 'x.safetensors'"),
        (f"dir:{MODEL} cannot be read", "dir:llama 1.5 cannot be read"),
        (f"{MODEL}-old/x", "base models/llama 1.5-old/x"),
        (f"{Path.home()}/x", "x"),
        (f"{Path.cwd()}: no such folder", f"{Path.cwd().name}: no such folder"),
        ("cannot read /srv/secret/models/base/config.json", "cannot read config.json"),
        ("`/home/me/x y` is missing", "`x y` is missing"),
        ("~/models/base is missing", "base is missing"),
        (r"cannot read C:\Users\me\my data\file-abc", "cannot read file-abc"),
        ("נכשל: /data/קובץ.jsonl", "נכשל: קובץ.jsonl"),
    ],
)  # fmt: skip
def test_a_path_is_told_by_its_last_part(text: str, clean: str) -> None:
    assert without_paths(text, DATA, MODEL, "bundled", "org/name") == clean


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.org/a/b or 3/4",
        "ask POST /v1/chat/completions",
        "`$ref`: #/definitions/a/b is not there",
        "the row holds </s> and [/INST], and/or <a>/<b>",
        "fetch org/name/file from the hub: models/x/y",
        "Step 3/10: training loss=1.00",
        "16:9 and D: a letter",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_path_stays(text: str) -> None:
    assert without_paths(text, DATA, MODEL, "bundled", "org/name") == text


def spaced(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """A model folder with a space in its name."""
    folder = tmp_path / "base models" / "my llama"
    folder.mkdir(parents=True)
    for file in tiny_model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def prepared(data: Path, base_model: Path, content: bytes) -> JobError:
    training, folder = data / "files" / "file-abc", data / "jobs" / "ftjob-abc"
    for path in (training.parent, folder):
        path.mkdir(parents=True)
    training.write_bytes(content)
    asked = Asked(
        "ftjob-abc", "tiny", str(base_model), 1, {"type": "supervised"}, [], str(training), None, strict=False
    )
    error = prepare(asked, folder)
    assert isinstance(error, JobError)
    return error


def assert_private(text: str, tmp_path: Path) -> None:
    for part in (*tmp_path.parts[1:], "server data", "base models"):
        assert part not in text


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "broken config", "broken tokenizer"])
def test_a_damaged_model_is_named_and_not_where_it_lies(damage: str, tmp_path: Path, tiny_model_folder: Path) -> None:
    folder = spaced(tmp_path, tiny_model_folder)
    weights = folder / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        (folder / ("config.json" if damage == "broken config" else "tokenizer.json")).write_text("{", "utf-8")
    try:
        error = prepared(tmp_path / "server data", folder, to_lines())
    except ValueError:
        # The process that prepares jobs ends with it; its worker tells a client nothing of that.
        assert damage == "cut weights"
        return
    assert error.code == "model_not_available"
    assert "my llama" in error.message or "json" in error.message
    assert_private(str(error), tmp_path)


@pytest.mark.parametrize("content", [b'{"messages": 7}\n' * 12, b"\xff\xfe\xff\n" * 12, b"", b"[1]\n" * 12])
def test_a_bad_file_is_told_by_its_lines_and_not_by_its_place(
    content: bytes, tmp_path: Path, tiny_model_folder: Path
) -> None:
    error = prepared(tmp_path / "server data", spaced(tmp_path, tiny_model_folder), content)
    assert_private(str(error), tmp_path)


def test_a_full_disk_is_told_without_the_file_that_filled_it(tmp_path: Path) -> None:
    path = tmp_path / "server data" / "jobs" / "ftjob-abc" / "run" / "model"
    with pytest.raises(UserError) as caught, disk_full_as_user_error(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    assert str(tmp_path) in str(caught.value)
    error = failures.worker_failed(caught.value, tmp_path / "server data")
    assert error.code == "insufficient_storage"
    assert_private(str(error), tmp_path)


def test_nothing_that_is_kept_of_a_job_tells_a_path_whoever_made_its_words(place: JobPlace, tmp_path: Path) -> None:
    model = tmp_path / "base models" / "my llama"
    job = place.add_job(model)
    work = place.work()
    with place.database.writing() as session:
        assert lease_next(session, lessee(str(work.owner))) is not None
    log = work.folder(job.id) / "run" / "events.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(f'{{"event": "training_started", "notes": ["{model}/a.json is old"]}}\n', "utf-8")
    Follower(place.database, job.id, str(work.owner), log).read()
    said = f"{place.root}/files/file-abc and {model}"
    fail(work, job.id, JobError("x", said, None, (f"{place.root}/jobs/a: bad",)))
    (note, failed) = sorted(place.events(job.id), key=lambda event: event.number)
    assert note.message == "a.json is old"
    assert place.job(job.id).error["message"] == "file-abc and my llama"
    assert (failed.message, failed.data["problems"]) == ("The job failed: file-abc and my llama", ["a: bad"])
