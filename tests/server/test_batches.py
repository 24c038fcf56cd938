"""Batches through OpenAI's own library against a real server: every line answered once, whatever happens meanwhile."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from openai import BadRequestError, NotFoundError, OpenAI, PermissionDeniedError
from openai.types import Batch as BatchObject
from running import RunningServer, make_project_key
from sqlalchemy import select

from kivnun.database.tables import Batch
from kivnun.server.batches.input import MAX_REQUESTS, read_input
from kivnun.server.batches.places import Places, most_places
from kivnun.server.batches.results import ERRORS, OUTPUT, open_results
from kivnun.server.batches.runner import Unfinished, choose_next
from kivnun.server.folders import DataFolder

CHAT, PLAIN, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
ENDED = ("completed", "failed", "expired", "cancelled")
SECONDS = 60


def chat(number: int, **fields: object) -> dict[str, object]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": f"Hello {number}"}], "max_tokens": 4, "seed": 1}
    return {"custom_id": f"row-{number}", "method": "POST", "url": CHAT, "body": {**body, **fields}}


def create(client: OpenAI, lines: list[object], endpoint: str = CHAT, **fields: object) -> BatchObject:
    content = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    file = client.files.create(file=("requests.jsonl", content.encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields)


def wait(client: OpenAI, batch_id: str, until: Callable[[BatchObject], bool] = lambda batch: batch.status in ENDED):
    end = time.monotonic() + SECONDS
    while not until(batch := client.batches.retrieve(batch_id)):
        assert time.monotonic() < end, batch
        time.sleep(0.1)
    return batch


def read(client: OpenAI, file_id: str | None) -> list[Mapping[str, object]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def names(lines: list[Mapping[str, object]]) -> list[object]:
    return sorted(line["custom_id"] for line in lines)


def add_usage(lines: list[Mapping[str, object]]) -> dict[str, object]:
    """What the answers' own counts come to."""
    told = [line["response"]["body"]["usage"] for line in lines]
    input_tokens = sum(each["prompt_tokens"] for each in told)
    output_tokens = sum(each.get("completion_tokens", 0) for each in told)
    cached = sum((each.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for each in told)
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def test_every_line_is_answered_as_over_http(client: OpenAI):
    batch = create(client, [chat(number) for number in range(7)], metadata={"for": "test"})
    assert batch.status == "validating"
    assert batch.expires_at == batch.created_at + 24 * 3600
    done = wait(client, batch.id)
    assert (done.status, done.errors, done.error_file_id, done.metadata) == ("completed", None, None, {"for": "test"})
    assert done.request_counts.model_dump() == {"total": 7, "completed": 7, "failed": 0}
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    lines = read(client, done.output_file_id)
    assert names(lines) == [f"row-{number}" for number in range(7)]
    assert done.model_dump(exclude_unset=True)["usage"] == add_usage(lines)
    assert (done.model_dump()["model"], done.usage.output_tokens) == ("tiny", 7 * 4)
    assert len({line["id"] for line in lines}) == 7
    for line in lines:
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        assert line["response"]["request_id"].startswith("req_")
        number = int(line["custom_id"].removeprefix("row-"))
        asked = chat(number)["body"]
        assert line["response"]["body"]["choices"][0]["message"]["content"] == (
            client.chat.completions.create(**asked).choices[0].message.content
        )
    kept = client.files.retrieve(done.output_file_id)
    assert (kept.purpose, kept.filename, kept.expires_at) == ("batch_output", f"{batch.id}_output.jsonl", None)


def test_a_line_that_is_refused_goes_to_the_error_file_alone(client: OpenAI):
    done = wait(client, create(client, [chat(0), chat(1, temperature=9), chat(2, nonsense=1), chat(3)]).id)
    assert done.status == "completed"
    assert done.request_counts.model_dump() == {"total": 4, "completed": 2, "failed": 2}
    assert names(read(client, done.output_file_id)) == ["row-0", "row-3"]
    errors = {line["custom_id"]: line["response"] for line in read(client, done.error_file_id)}
    assert set(errors) == {"row-1", "row-2"}
    assert [errors[name]["status_code"] for name in ("row-1", "row-2")] == [400, 400]
    assert errors["row-1"]["body"]["error"]["param"] == "temperature"
    assert errors["row-2"]["body"]["error"]["param"] == "nonsense"


def test_plain_completions_have_batches_too(client: OpenAI):
    line = {"custom_id": "a", "method": "POST", "url": PLAIN, "body": {"model": "tiny", "prompt": "x", "max_tokens": 2}}
    done = wait(
        client, create(client, [line], PLAIN, output_expires_after={"anchor": "created_at", "seconds": 3600}).id
    )
    [answer] = read(client, done.output_file_id)
    assert answer["response"]["body"]["object"] == "text_completion"
    kept = client.files.retrieve(done.output_file_id)
    assert kept.expires_at == kept.created_at + 3600


def test_a_file_with_wrong_lines_fails_with_each_of_them(client: OpenAI):
    lines = [
        chat(0),
        "{not json",
        chat(0),
        {**chat(1), "method": "GET"},
        {**chat(2), "url": PLAIN},
        chat(3, model="other"),
        chat(4, stream=True),
        {"custom_id": "x"},
    ]
    done = wait(client, create(client, lines).id)
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.failed_at >= done.created_at
    assert done.errors.object == "list"
    assert [(error.line, error.code, error.param) for error in done.errors.data] == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "invalid_method", "method"),
        (5, "invalid_url", "url"),
        (6, "mismatched_model", "body.model"),
        (7, "unsupported_parameter", "body.stream"),
        (8, "missing_required_parameter", "method"),
    ]


@pytest.mark.parametrize(
    ("lines", "code"), [([], "empty_file"), ([chat(0, model="ft:tiny:other::nothing1")], "model_not_found")]
)
def test_a_batch_that_cannot_begin_fails(client: OpenAI, lines: list[object], code: str):
    done = wait(client, create(client, lines or ["\n"]).id)
    assert (done.status, [error.code for error in done.errors.data]) == ("failed", [code])


def test_what_is_asked_wrongly_is_refused_at_once(client: OpenAI):
    file = client.files.create(file=("rows.jsonl", b"{}\n"), purpose="fine-tune")
    for fields, param in (
        ({"input_file_id": file.id, "endpoint": CHAT}, "input_file_id"),
        ({"input_file_id": file.id, "endpoint": "/v1/responses"}, "endpoint"),
        ({"input_file_id": file.id, "endpoint": CHAT, "completion_window": "1h"}, "completion_window"),
    ):
        with pytest.raises(BadRequestError) as caught:
            client.batches.create(**{"completion_window": "24h", **fields})
        assert caught.value.param == param
    with pytest.raises(NotFoundError):
        client.batches.create(input_file_id="file-nothing1", endpoint=CHAT, completion_window="24h")
    for call in (client.batches.retrieve, client.batches.cancel):
        with pytest.raises(NotFoundError):
            call("batch_nothing1")


def test_a_key_that_may_not_ask_a_model_may_not_let_a_batch_ask_it(server: RunningServer):
    """The scope is that of the route which the lines go to; a key of both makes a batch that is answered."""
    embedding = {"custom_id": "a", "method": "POST", "url": EMBEDDINGS, "body": {"model": "tiny", "input": "x"}}
    plain = {"custom_id": "a", "method": "POST", "url": PLAIN, "body": {"model": "tiny", "prompt": "x"}}
    cases = ((chat(0), CHAT, "inference"), (plain, PLAIN, "inference"), (embedding, EMBEDDINGS, "inference:read"))
    for scopes, refused in (((), cases), (("inference:read",), cases[:2])):
        _, key = make_project_key(server.data_dir, scopes=("files", "batches", *scopes))
        with OpenAI(base_url=server.base_url, api_key=key, max_retries=0) as narrow:
            for line, endpoint, scope in refused:
                with pytest.raises(PermissionDeniedError, match=f"Missing scopes: {scope}\\.") as caught:
                    create(narrow, [line], endpoint)
                assert (caught.value.type, caught.value.code) == ("invalid_request_error", "missing_scope")
            assert list(narrow.batches.list()) == []
    _, key = make_project_key(server.data_dir, scopes=("files", "batches", "inference"))
    with OpenAI(base_url=server.base_url, api_key=key, max_retries=0) as wide:
        done = wait(wide, create(wide, [chat(0)]).id)
        assert (done.status, done.request_counts.completed) == ("completed", 1)


def test_a_cancelled_batch_keeps_what_was_answered(client: OpenAI):
    batch = create(client, [chat(number, max_tokens=400, logit_bias={"0": -100}) for number in range(300)])
    wait(client, batch.id, lambda batch: batch.request_counts.completed > 0)
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = wait(client, batch.id)
    assert done.status == "cancelled"
    assert done.cancelling_at <= done.cancelled_at
    lines = read(client, done.output_file_id)
    assert 0 < len(lines) == done.request_counts.completed < 300
    assert len(set(names(lines))) == len(lines)
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_a_finished_batch_cannot_be_cancelled(client: OpenAI):
    done = wait(client, create(client, [chat(0)]).id)
    with pytest.raises(BadRequestError, match="completed"):
        client.batches.cancel(done.id)


def test_what_is_left_when_the_time_is_over_is_told_as_expired(client: OpenAI, server: RunningServer):
    batch = create(client, [chat(number, max_tokens=400, logit_bias={"0": -100}) for number in range(300)])
    wait(client, batch.id, lambda batch: batch.request_counts.completed > 0)
    with closing(server.open_database()) as database, database.writing() as session:
        row = session.scalars(select(Batch).where(Batch.id == batch.id)).one()
        row.times = {**row.times, "expires_at": int(time.time()) - 1}
    done = wait(client, batch.id)
    assert done.status == "expired"
    answered, late = read(client, done.output_file_id), read(client, done.error_file_id)
    assert names([*answered, *late]) == sorted(f"row-{number}" for number in range(300))
    assert (len(answered), len(late)) == (done.request_counts.completed, done.request_counts.failed)
    assert {(line["response"], line["error"]["code"]) for line in late} == {(None, "batch_expired")}


def test_batches_are_listed_newest_first_and_for_their_own_project_alone(client: OpenAI, server: RunningServer):
    made = [create(client, [chat(0)]).id for _ in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:3] == made[::-1]
    assert len(listed) == len(set(listed)) >= 3
    _, other_key = make_project_key(server.data_dir)
    with OpenAI(base_url=server.base_url, api_key=other_key, max_retries=0) as other:
        assert list(other.batches.list()) == []
        with pytest.raises(NotFoundError):
            other.batches.retrieve(made[0])
    for batch_id in made:
        wait(client, batch_id)


def test_nothing_of_a_finished_batch_stays_behind_but_its_files(client: OpenAI, server: RunningServer):
    done = wait(client, create(client, [chat(0), chat(1, temperature=9)]).id)
    folder = DataFolder(server.data_dir)
    assert not folder.batch(done.id).exists()
    assert {folder.file(file_id).stat().st_nlink for file_id in (done.output_file_id, done.error_file_id)} == {1}


def test_batches_have_a_share_of_the_rows_and_few_places_beside_others():
    assert [most_places(max_rows) for max_rows in (1, 16, 64, 200)] == [4, 4, 16, 50]

    async def look() -> None:
        facts = SimpleNamespace(running=0, waiting=0)
        settings = SimpleNamespace(max_rows=64)
        places = Places(SimpleNamespace(settings=settings, pool=SimpleNamespace(facts=lambda: facts)))
        asked: list[int] = []
        may_end = [asyncio.Event() for _ in range(40)]

        async def ask(number: int) -> None:
            async with places.take():
                asked.append(number)
                facts.running += 1
                await may_end[number].wait()
                facts.running -= 1

        async def rest_at(count: int) -> None:
            while len(asked) < count:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert asked == list(range(count))

        asking = [asyncio.create_task(ask(number)) for number in range(40)]
        await rest_at(16)
        # Somebody else asks: those that end are followed by others only when few are left.
        facts.running += 1
        for number in range(16):
            may_end[number].set()
        await rest_at(16 + 4)
        facts.running -= 1
        facts.waiting = 1
        for number in range(16, 40):
            may_end[number].set()
        await rest_at(20)
        facts.waiting = 0
        await asyncio.gather(*asking)
        assert asked == list(range(40))

    asyncio.run(asyncio.wait_for(look(), SECONDS))


def test_few_batches_are_begun_at_once_and_not_all_of_one_project():
    def choose(projects: str, working: str = "", only_ends: str = "") -> str:
        found = [Unfinished(f"{n}", project, f"{n}" in only_ends) for n, project in enumerate(projects)]
        return "".join(choose_next(found, set(working)))

    assert choose("aaabab") == "0135"
    assert choose("aaabab", working="01") == "35"
    assert choose("aaabab", working="13") == "05"
    assert choose("aaaa", working="01", only_ends="3") == "3"
    assert choose("abcdefghij") == "01234567"
    assert choose("abcdefghij", working="01234567") == ""
    assert choose("abcdefghij", working="0123456", only_ends="9") == "79"


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_server_answers_every_line_once(start_server: Callable[..., RunningServer], tmp_path: Path):
    """What was on the disk when it was killed stays as it was, byte for byte."""
    data_dir, count = tmp_path / "data", 30
    lines = [chat(number, max_tokens=60, logit_bias={"0": -100}) for number in range(count)]
    killed = start_server("--workers", "0", data_dir=data_dir)
    with OpenAI(base_url=killed.base_url, api_key=killed.key, max_retries=0) as client:
        batch_id = create(client, lines).id
        path = data_dir / "batches" / batch_id / OUTPUT
        end = time.monotonic() + SECONDS
        while not (path.exists() and path.stat().st_size):
            assert time.monotonic() < end
            time.sleep(0.005)
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
    before = path.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    assert 0 < before.count(b"\n") < count
    server = start_server("--workers", "0", data_dir=data_dir)
    with OpenAI(base_url=server.base_url, api_key=killed.key, max_retries=0) as client:
        done = wait(client, batch_id)
        assert (done.status, done.request_counts.completed) == ("completed", count)
        content = client.files.content(done.output_file_id).read()
        assert content.startswith(before)
        assert done.model_dump()["usage"] == add_usage(read(client, done.output_file_id))
        assert names(read(client, done.output_file_id)) == sorted(f"row-{number}" for number in range(count))
    assert server.stop() == 0


def test_a_line_that_a_kill_cut_is_asked_again_and_no_other(tmp_path: Path):
    folder = tmp_path / "batch"
    results = open_results(folder)
    for number in range(3):
        results.add(f"row-{number}", {"status_code": 200, "request_id": "req_1", "body": {"text": "שלום"}})
    results.add("bad", {"status_code": 400, "request_id": "req_2", "body": {}})
    whole = (folder / OUTPUT).read_bytes()
    for cut in range(1, len(whole) - whole[:-1].rfind(b"\n") - 1):
        (folder / OUTPUT).write_bytes(whole[:-cut])
        again = open_results(folder)
        assert [again.has(name) for name in ("row-0", "row-1", "row-2", "bad")] == [True, True, False, True]
        assert (folder / OUTPUT).read_bytes() == whole[: whole[:-1].rfind(b"\n") + 1]


def test_a_line_that_comes_twice_or_too_late_is_not_written(tmp_path: Path):
    results = open_results(tmp_path / "batch")
    response = {"status_code": 200, "request_id": "req_1", "body": {}}
    results.add("a", response)
    results.add("a", {**response, "status_code": 500})
    results.close()
    results.add("b", response)
    assert (results.num_completed, results.num_failed) == (1, 0)
    assert [(tmp_path / "batch" / name).read_bytes().count(b"\n") for name in (OUTPUT, ERRORS)] == [1, 0]


def test_a_batch_has_at_most_fifty_thousand_requests(tmp_path: Path):
    path = tmp_path / "requests.jsonl"
    body = {"model": "tiny", "prompt": "x"}

    def lines(count: int) -> Iterator[str]:
        for number in range(count):
            yield json.dumps({"custom_id": str(number), "method": "POST", "url": PLAIN, "body": body}) + "\n"

    path.write_text("".join(lines(MAX_REQUESTS)), "utf-8")
    assert len(read_input(path, PLAIN).requests) == MAX_REQUESTS
    path.write_text("".join(lines(MAX_REQUESTS + 2)), "utf-8")
    found = read_input(path, PLAIN)
    assert found.requests == []
    assert [(error["code"], error["line"]) for error in found.errors] == [("too_many_requests", MAX_REQUESTS + 1)]


def test_a_request_is_read_back_from_its_place_in_the_file(tmp_path: Path):
    path = tmp_path / "requests.jsonl"
    texts = ["שלום", "x" * 500, "🙂"]
    rows = [
        {"custom_id": text, "method": "POST", "url": PLAIN, "body": {"model": "m", "prompt": text}} for text in texts
    ]
    path.write_bytes(b"\xef\xbb\xbf" + b"\n\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows))
    found = read_input(path, PLAIN)
    assert found.errors == []
    with path.open("rb") as file:
        assert [request.read_body(file)["prompt"] for request in found.requests] == texts
