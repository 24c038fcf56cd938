"""The task that answers batches, through the same routes as over HTTP and behind other clients.

A batch that a kill interrupted goes on from the lines that it has. Each batch is worked at by a task of its own, and
all share the same few places, so that a long one does not hold up the others.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp

from kivnun.database.tables import Batch
from kivnun.server.batches.ends import End, end_batch, remove_left_folders
from kivnun.server.batches.input import BatchInput, BatchRequest, read_input
from kivnun.server.batches.places import Places
from kivnun.server.batches.results import BatchResults, open_results
from kivnun.server.callers import Caller, make_caller
from kivnun.server.embeddings.models import find_source
from kivnun.server.errors import ApiError, log_failure
from kivnun.server.files.use import BATCH_FINISHED
from kivnun.server.folders import DataFolder
from kivnun.server.in_process import Reply, ask
from kivnun.server.model_names import find_model
from kivnun.server.service import Service

EMBEDDINGS = "/v1/embeddings"
# Of 50,000 requests each, 30 MiB.
MOST_BEGUN, MOST_BEGUN_OF_A_PROJECT = 8, 2
ONLY_END = ("cancelling", "finalizing")
BUSY = 429
SECONDS_BETWEEN_LOOKS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
MOST_ATTEMPTS = 3
EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}


@dataclass(frozen=True)
class Runner:
    """What the tasks of all batches share.

    Attributes:
        service: Of the server.
        app: The server's application, which takes the requests.
        places: Those in which requests are asked.
        writing: Held by who writes an answer down: each waits for the disk, in a thread that others need too.
    """

    service: Service
    app: ASGIApp
    places: Places
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True)
class Begun:
    """A batch that is being answered.

    Attributes:
        batch_id: Its id.
        caller: In whose name its requests are asked.
        endpoint: Where they go.
        path: Its input file.
        requests: All of them.
        results: Those that have a line.
    """

    batch_id: str
    caller: Caller
    endpoint: str
    path: Path
    requests: list[BatchRequest]
    results: BatchResults

    def left(self) -> Iterator[BatchRequest]:
        """The requests without a line, in the file's order."""
        return (request for request in self.requests if not self.results.has(request.custom_id))


async def run_batches(service: Service, app: ASGIApp) -> None:
    """Answer the batches of all projects, for as long as the server runs.

    Args:
        service: Of the server.
        app: The application around it.
    """
    runner = Runner(service, app, Places(service))
    await run_in_threadpool(remove_left_folders, service)
    working: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            working = {batch_id: task for batch_id, task in working.items() if not task.done()}
            unfinished = await run_in_threadpool(_find_unfinished, service)
            for batch_id in choose_next(unfinished, working):
                working[batch_id] = asyncio.create_task(_work_at(runner, batch_id))
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        for task in working.values():
            task.cancel()
        await asyncio.gather(*working.values(), return_exceptions=True)


@dataclass(frozen=True)
class Unfinished:
    """A batch that has not ended.

    Attributes:
        batch_id: Its id.
        project_id: Whose it is.
        only_ends: Whether nothing of it is left to be asked.
    """

    batch_id: str
    project_id: str
    only_ends: bool


def choose_next(unfinished: Sequence[Unfinished], working: Container[str]) -> list[str]:
    """The batches to begin now: few at once, for the requests of each are in memory, and not all of one project.

    Args:
        unfinished: All of them, the oldest first.
        working: The ids of those that are worked at.
    """
    begun = Counter(each.project_id for each in unfinished if each.batch_id in working)
    chosen: list[str] = []
    for each in unfinished:
        if each.batch_id in working:
            continue
        has_place = begun.total() < MOST_BEGUN and begun[each.project_id] < MOST_BEGUN_OF_A_PROJECT
        if has_place or each.only_ends:
            begun[each.project_id] += 1
            chosen.append(each.batch_id)
    return chosen


def _find_unfinished(service: Service) -> list[Unfinished]:
    with service.database.reading() as session:
        query = select(Batch.id, Batch.project_id, Batch.status).where(Batch.status.not_in(BATCH_FINISHED))
        rows = session.execute(query.order_by(Batch.number)).all()
    return [Unfinished(batch_id, project, status in ONLY_END) for batch_id, project, status in rows]


async def _work_at(runner: Runner, batch_id: str) -> None:
    """Bring a batch to its end; what goes wrong here, and not in a request, fails it at last, and it alone."""
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            await _answer_batch(runner, batch_id)
        except Exception as error:  # noqa: BLE001 - one batch must not end the task of all
            log_failure(error, batch_id)
            if attempt == MOST_ATTEMPTS:
                words = "The server had an error while processing the batch. Its log names the batch by its id."
                errors = [{"code": "server_error", "message": words, "param": None, "line": None}]
                await run_in_threadpool(end_batch, runner.service, batch_id, End("failed", errors))
            await asyncio.sleep(2.0**attempt)
        else:
            return


async def _answer_batch(runner: Runner, batch_id: str) -> None:
    begun = await run_in_threadpool(_begin, runner.service, batch_id)
    if begun is None:
        return
    status = await _answer_until(runner, begun)
    # From here on no thread of a request that was given up can add a line.
    begun.results.close()
    await run_in_threadpool(_end, runner.service, begun, status)


def _begin(service: Service, batch_id: str) -> Begun | None:
    """What is left to do of a batch; None where it ends now."""
    with service.database.reading() as session:
        batch = session.scalars(select(Batch).where(Batch.id == batch_id)).one()
        caller = make_caller(session, batch.project_id, None, frozenset({"inference"}))
    if batch.status in ONLY_END:
        end_batch(service, batch_id, End("cancelled" if batch.status == "cancelling" else "completed"))
        return None
    folder = DataFolder(service.settings.data_dir)
    path = folder.file(batch.input_file_id)
    found = read_input(path, batch.endpoint) if path.is_file() else _no_file()
    errors = found.errors or _find_wrong_model(service, caller, batch.endpoint, found.model)
    if errors:
        end_batch(service, batch_id, End("failed", errors))
        return None
    results = open_results(folder.batch(batch_id))
    with service.database.writing() as session:
        row = session.scalars(select(Batch).where(Batch.id == batch_id).with_for_update()).one()
        row.num_total, row.model = len(found.requests), found.model
        if row.status == "validating":
            row.status = "in_progress"
            row.times = {**row.times, "in_progress_at": int(time.time())}
    return Begun(batch_id, caller, batch.endpoint, path, found.requests, results)


def _no_file() -> BatchInput:
    words = "The input file does not exist any more."
    return BatchInput(errors=[{"code": "input_file_missing", "message": words, "param": "input_file_id", "line": None}])


def _find_wrong_model(service: Service, caller: Caller, endpoint: str, model: str) -> list[dict[str, Any]]:
    find = find_source if endpoint == EMBEDDINGS else find_model
    try:
        with service.database.reading() as session:
            find(session, service, caller, model)
    except ApiError as error:
        return [{"code": error.code, "message": error.message, "param": "body.model", "line": None}]
    return []


async def _answer_until(runner: Runner, begun: Begun) -> Literal["completed", "cancelled", "expired"]:
    """Answer the requests, and look again and again whether they are still wanted."""
    answering = asyncio.create_task(_answer_all(runner, begun))
    try:
        while True:
            await asyncio.wait({answering}, timeout=SECONDS_BETWEEN_LOOKS)
            unwanted = await run_in_threadpool(_look, runner.service, begun)
            if unwanted is not None:
                return unwanted
            if answering.done():
                answering.result()
                return "completed"
    finally:
        answering.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await answering


def _look(service: Service, begun: Begun) -> Literal["cancelled", "expired"] | None:
    """Write down how far the batch is, and read whether it goes on."""
    with service.database.writing() as session:
        batch = session.scalars(select(Batch).where(Batch.id == begun.batch_id).with_for_update()).one()
        begun.results.tell(batch)
        if batch.status == "cancelling":
            return "cancelled"
        return "expired" if time.time() >= batch.times["expires_at"] else None


async def _answer_all(runner: Runner, begun: Begun) -> None:
    left = begun.left()
    with begun.path.open("rb") as file:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(runner.places.most):
                tasks.create_task(_answer_some(runner, begun, left, file))


async def _answer_some(runner: Runner, begun: Begun, left: Iterator[BatchRequest], file: BinaryIO) -> None:
    for request in left:
        body = request.read_body(file)
        reply = await _ask_until_answered(runner, begun, body)
        request_id = reply.headers.get("x-request-id", "")
        answer = {"status_code": reply.status, "request_id": request_id, "body": orjson.loads(reply.body)}
        async with runner.writing:
            await run_in_threadpool(begun.results.add, request.custom_id, answer)


async def _ask_until_answered(runner: Runner, begun: Begun, body: dict[str, Any]) -> Reply:
    """Ask when no other client waits, and again after being told that there is no room."""
    while True:
        async with runner.places.take():
            reply = await ask(runner.app, begun.caller, begun.endpoint, body)
        if reply.status != BUSY or reply.headers.get("x-should-retry") == "false":
            return reply
        await asyncio.sleep(min(float(reply.headers.get("retry-after", "1")), LONGEST_PAUSE_SECONDS))


def _end(service: Service, begun: Begun, status: Literal["completed", "cancelled", "expired"]) -> None:
    if status == "expired":
        late = open_results(begun.results.folder)
        for request in begun.left():
            late.add(request.custom_id, None, EXPIRED)
    end_batch(service, begun.batch_id, End(status))
