"""Files and uploads, by OpenAI's own library and by hand, against a real server."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import openai
import pytest
from openai import OpenAI
from running import RunningServer, make_project_key, with_new_project

from kivnun.database.identifiers import new_id
from kivnun.database.tables import File, FineTuningJob
from kivnun.server.folders import DataFolder

CONTENT = b'{"messages": []}\n' * 1000
CONTENT_MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


def send(client: OpenAI, content: bytes = CONTENT, **fields: object) -> str:
    return client.files.create(file=("train.jsonl", content), purpose="fine-tune", **fields).id


def refused(call: object) -> dict:
    """The error of a call."""
    with pytest.raises(openai.APIStatusError) as raised:
        call()
    error = raised.value
    assert error.request_id.startswith("req_")
    assert set(error.body) == {"message", "type", "param", "code"}
    return {"status": error.status_code, **error.body}


def test_a_file_comes_back_as_it_was_sent(client: OpenAI) -> None:
    file = client.files.create(file=("train.jsonl", CONTENT), purpose="fine-tune")
    assert (file.bytes, file.filename, file.purpose, file.status) == (
        len(CONTENT),
        "train.jsonl",
        "fine-tune",
        "processed",
    )
    assert {"expires_at", "status_details"}.isdisjoint(file.model_fields_set)
    assert client.files.retrieve(file.id) == file
    reply = client.files.content(file.id)
    assert (reply.read(), reply.response.headers["content-type"]) == (CONTENT, "application/jsonl")
    assert client.files.wait_for_processing(file.id).id == file.id


def test_a_deleted_file_is_gone_and_its_bytes_too(server: RunningServer, client: OpenAI) -> None:
    file_id = send(client)
    path = DataFolder(server.data_dir).file(file_id)
    assert path.read_bytes() == CONTENT
    deleted = client.files.delete(file_id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file_id, True, "file")
    assert not path.exists()
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        assert refused(lambda call=call: call(file_id))["status"] == 404


def test_lists_come_in_pages_of_either_order(server: RunningServer) -> None:
    alone = with_new_project(server)
    with OpenAI(base_url=alone.base_url, api_key=alone.key, max_retries=0) as client:
        assert client.files.list().data == []
        sent = [send(client, str(number).encode()) for number in range(5)]
        batch = client.files.create(file=("b.jsonl", b"{}"), purpose="batch")
        assert [file.id for file in client.files.list()] == [batch.id, *reversed(sent)]
        assert [file.id for file in client.files.list(limit=2, order="asc")] == [*sent, batch.id]
        page = client.files.list(limit=2, purpose="fine-tune")
        assert ([file.id for file in page.data], page.has_more) == (sent[:-3:-1], True)
        assert (page.model_extra["first_id"], page.model_extra["last_id"]) == (sent[4], sent[3])
        assert refused(lambda: client.files.list(after="file-none"))["param"] == "after"
        assert refused(lambda: client.files.list(limit=10_001))["code"] == "integer_above_max_value"
        assert refused(lambda: client.files.list(extra_query={"limt": 1}))["code"] == "unknown_parameter"


def test_no_project_sees_the_files_of_another(server: RunningServer, client: OpenAI) -> None:
    file_id = send(client)
    other = with_new_project(server)
    with OpenAI(base_url=other.base_url, api_key=other.key, max_retries=0) as stranger:
        for call in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
            assert refused(lambda call=call: call(file_id))["status"] == 404
        assert refused(lambda: stranger.files.list(after=file_id))["status"] == 400
        assert stranger.files.list().data == []
    assert client.files.retrieve(file_id).id == file_id


def test_a_file_expires(server: RunningServer, client: OpenAI) -> None:
    file = client.files.create(
        file=("a.jsonl", b"{}"), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    assert client.files.create(file=("b.jsonl", b"{}"), purpose="batch").expires_at is not None
    with closing(server.open_database()) as database, database.writing() as session:
        session.query(File).filter_by(id=file.id).update({"expires_at": int(time.time()) - 1})
    assert refused(lambda: client.files.retrieve(file.id))["status"] == 404
    assert file.id not in [each.id for each in client.files.list()]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "lunch"}, "purpose"),
        ({"purpose": "fine-tune", "expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        ({"purpose": "fine-tune", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        (
            {"purpose": "fine-tune", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "expires_after.seconds",
        ),
        ({"purpose": "fine-tune", "colour": "red"}, "colour"),
        ({}, "purpose"),
    ],
    ids=range(6),
)
def test_wrong_fields_of_a_file_are_refused(server: RunningServer, fields: dict, param: str) -> None:
    reply = httpx.post(f"{server.base_url}/files", headers=server.headers, data=fields, files={"file": ("a", b"{}")})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert left_over(server) == []


def left_over(server: RunningServer) -> list[str]:
    """What lies among the files and has no row."""
    with closing(server.open_database()) as database, database.reading() as session:
        known = {file.id for file in session.query(File)}
    return [path.name for path in DataFolder(server.data_dir).files.iterdir() if path.name not in known]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 415),
        ("multipart/form-data; boundary=x", b"", 400),
        ("multipart/form-data; boundary=x", b"nothing", 400),
        ("multipart/form-data; boundary=" + "x" * 300, b"", 415),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf',
            400,
        ),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n", 400),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n\xff\r\n--x--\r\n',
            400,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n1\r\n' * 2 + b"--x--\r\n",
            400,
        ),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="' + b"n" * 20_000, 400),
    ],
    ids=range(10),
)
def test_bodies_that_are_no_files_leave_nothing_behind(
    server: RunningServer, kind: str, body: bytes, status: int
) -> None:
    reply = httpx.post(f"{server.base_url}/files", headers={**server.headers, "content-type": kind}, content=body)
    assert (reply.status_code, set(reply.json())) == (status, {"error"})
    assert left_over(server) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "שלום.jsonl", "a b'c.jsonl", "..", "x" * 512])
def test_a_name_is_only_text(server: RunningServer, client: OpenAI, name: str) -> None:
    file = client.files.create(file=(name, b"{}"), purpose="fine-tune")
    assert client.files.retrieve(file.id).filename == name
    assert DataFolder(server.data_dir).file(file.id).read_bytes() == b"{}"


def test_a_file_whose_end_is_missing_is_not_kept(server: RunningServer) -> None:
    whole = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n--x--\r\n'
    )
    headers = {**server.headers, "content-type": "multipart/form-data; boundary=x"}
    for missing, status in ((0, 200), (5, 400), (8, 400)):
        reply = httpx.post(f"{server.base_url}/files", headers=headers, content=whole[: len(whole) - missing])
        assert reply.status_code == status
    assert left_over(server) == []


def test_a_name_that_is_too_long_is_refused(client: OpenAI) -> None:
    assert refused(lambda: client.files.create(file=("x" * 513, b"{}"), purpose="fine-tune"))["param"] == "filename"


def test_a_file_that_a_job_needs_stays(server: RunningServer, client: OpenAI) -> None:
    file_id = send(client)
    job_id = new_id("ftjob-")
    job = FineTuningJob(
        id=job_id, project_id=server.project_id, model="m", base_model="bundled", training_file=file_id, seed=1,
        asked={}, hyperparameters={}, integrations=[], status="paused", wanted="pause", result_files=[], created_at=1,
    )  # fmt: skip
    with closing(server.open_database()) as database:
        with database.writing() as session:
            session.add(job)
        error = refused(lambda: client.files.delete(file_id))
        assert (error["status"], error["code"]) == (400, "file_in_use")
        assert job_id in error["message"]
        with database.writing() as session:
            session.query(FineTuningJob).filter_by(id=job_id).update({"status": "failed"})
    assert client.files.delete(file_id).deleted


def test_a_request_that_is_sent_again_makes_nothing_new(client: OpenAI) -> None:
    again = {"extra_headers": {"Idempotency-Key": new_id("key-")}}
    first = send(client, **again)
    assert send(client, **again) == first
    assert refused(lambda: send(client, b"other", **again))["code"] == "idempotency_key_reused"
    assert send(client) != first


def test_two_at_once_with_one_idempotency_key_make_one_file(client: OpenAI) -> None:
    again = {"extra_headers": {"Idempotency-Key": new_id("key-")}}
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: send(client, **again), range(8)))
    assert len(set(made)) == 1


def test_a_key_for_reading_may_not_write(server: RunningServer, client: OpenAI) -> None:
    file_id = send(client)
    _, key = make_project_key(server.data_dir, scopes=("files:read",), project_id=server.project_id)
    with OpenAI(base_url=server.base_url, api_key=key, max_retries=0) as reader:
        assert reader.files.content(file_id).read() == CONTENT
        assert refused(lambda: reader.files.delete(file_id))["status"] == 403
        assert refused(lambda: send(reader))["status"] == 403


def begin(client: OpenAI, num_bytes: int = len(CONTENT)) -> str:
    upload = client.uploads.create(
        filename="t.jsonl", purpose="fine-tune", bytes=num_bytes, mime_type="application/jsonl"
    )
    assert (upload.status, upload.bytes, upload.expires_at) == ("pending", num_bytes, upload.created_at + 3600)
    return upload.id


def test_parts_side_by_side_become_one_file_in_the_order_that_is_said(server: RunningServer, client: OpenAI) -> None:
    upload_id = begin(client)
    pieces = [CONTENT[place : place + 1234] for place in range(0, len(CONTENT), 1234)]
    with ThreadPoolExecutor(4) as threads:
        sent = list(threads.map(lambda piece: client.uploads.parts.create(upload_id, data=piece).id, reversed(pieces)))
    upload = client.uploads.complete(upload_id, part_ids=sent[::-1], md5=CONTENT_MD5)
    assert (upload.status, upload.file.bytes, upload.file.filename) == ("completed", len(CONTENT), "t.jsonl")
    assert client.files.content(upload.file.id).read() == CONTENT
    assert not (DataFolder(server.data_dir).uploads / upload_id).exists()
    assert client.uploads.complete(upload_id, part_ids=[]).file.id == upload.file.id
    assert refused(lambda: client.uploads.cancel(upload_id))["status"] == 400
    assert refused(lambda: client.uploads.parts.create(upload_id, data=b"x"))["status"] == 400


def test_the_library_cuts_a_file_by_itself(client: OpenAI) -> None:
    upload = client.uploads.upload_file_chunked(
        file=CONTENT,
        filename="c.jsonl",
        bytes=len(CONTENT),
        mime_type="application/jsonl",
        purpose="fine-tune",
        part_size=5000,
    )
    assert client.files.content(upload.file.id).read() == CONTENT


def test_an_upload_that_does_not_add_up_stays_open(client: OpenAI) -> None:
    upload_id = begin(client, 6)
    one, two = (client.uploads.parts.create(upload_id, data=data).id for data in (b"abc", b"def"))
    foreign = client.uploads.parts.create(begin(client, 3), data=b"xyz").id
    assert refused(lambda: client.uploads.complete(upload_id, part_ids=[one]))["param"] == "part_ids"
    assert refused(lambda: client.uploads.complete(upload_id, part_ids=[one, one]))["param"] == "part_ids[1]"
    assert refused(lambda: client.uploads.complete(upload_id, part_ids=[one, foreign]))["param"] == "part_ids[1]"
    assert refused(lambda: client.uploads.complete(upload_id, part_ids=[one, two], md5="0" * 32))["param"] == "md5"
    assert refused(lambda: client.uploads.parts.create(upload_id, data=b"abcdefg"))["status"] == 413
    assert client.files.content(client.uploads.complete(upload_id, part_ids=[two, one]).file.id).read() == b"defabc"


def test_a_cancelled_upload_takes_its_parts_along(server: RunningServer, client: OpenAI) -> None:
    upload_id = begin(client, 3)
    part_id = client.uploads.parts.create(upload_id, data=b"abc").id
    path = DataFolder(server.data_dir).part(upload_id, part_id)
    assert path.read_bytes() == b"abc"
    assert client.uploads.cancel(upload_id).status == "cancelled"
    assert not path.parent.exists()
    assert client.uploads.cancel(upload_id).status == "cancelled"
    for call in (
        lambda: client.uploads.complete(upload_id, part_ids=[part_id]),
        lambda: client.uploads.parts.create(upload_id, data=b"abc"),
    ):
        assert refused(call)["code"] == "invalid_upload_status"


def test_an_upload_whose_parts_went_meanwhile_is_refused(server: RunningServer, client: OpenAI) -> None:
    upload_id = begin(client, 3)
    part_id = client.uploads.parts.create(upload_id, data=b"abc").id
    shutil.rmtree(DataFolder(server.data_dir).upload(upload_id))
    error = refused(lambda: client.uploads.complete(upload_id, part_ids=[part_id]))
    assert (error["status"], error["code"]) == (400, "invalid_upload_status")


def test_a_part_whose_upload_ends_while_it_comes_is_refused(server: RunningServer, client: OpenAI) -> None:
    upload_id = begin(client, 3)

    def send_late() -> Iterator[bytes]:
        time.sleep(0.3)
        client.uploads.cancel(upload_id)
        yield b'--x\r\ncontent-disposition: form-data; name="data"; filename="d"\r\n\r\nabc\r\n--x--\r\n'

    headers = {**server.headers, "content-type": "multipart/form-data; boundary=x"}
    reply = httpx.post(f"{server.base_url}/uploads/{upload_id}/parts", headers=headers, content=send_late())
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_upload_status")


def test_two_that_complete_at_once_make_one_file(client: OpenAI) -> None:
    upload_id = begin(client, 3)
    part_id = client.uploads.parts.create(upload_id, data=b"abc").id
    barrier = threading.Barrier(4)

    def complete(_: int) -> str:
        barrier.wait()
        return client.uploads.complete(upload_id, part_ids=[part_id]).file.id

    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(complete, range(4)))
    assert len(made) == 1


@pytest.mark.parametrize(
    "change",
    [{"bytes": 0}, {"bytes": 1 << 62}, {"bytes": "3"}, {"purpose": "x"}, {"colour": 1}, {"filename": ""}],
    ids=json.dumps,
)
def test_wrong_uploads_are_refused(client: OpenAI, change: dict) -> None:
    body = {"filename": "a", "purpose": "fine-tune", "bytes": 3, "mime_type": "text/plain"} | change
    assert refused(lambda: client.post("/uploads", body=body, cast_to=object))["param"] == next(iter(change))
