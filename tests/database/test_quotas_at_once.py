import threading

import pytest

from kivnun.database.open import Database
from kivnun.database.projects import DEFAULT_PROJECT, Quotas, create_project, ensure_defaults, find_project, set_quotas
from kivnun.database.tables import File
from kivnun.server.callers import Caller
from kivnun.server.errors import ApiError
from kivnun.server.limits import require_storage


def file_row(project_id: str, number: int) -> File:
    return File(
        id=f"file-{project_id}-{number}",
        project_id=project_id,
        filename="a",
        purpose="fine-tune",
        num_bytes=10,
        sha256="",
        status="processed",
        created_at=1,
    )


def caller_of(project_id: str) -> Caller:
    return Caller(project_id, "org-personal", "personal", None, frozenset({"all"}))


def test_bytes_beyond_the_quota_are_refused_however_many_come_at_once(database: Database) -> None:
    ensure_defaults(database)
    with database.writing() as session:
        set_quotas(find_project(session, "default"), Quotas(max_storage_bytes=100))
    refused = []
    together = threading.Barrier(8)

    def keep(first: int) -> None:
        together.wait()
        for number in (first, first + 1):
            try:
                with database.writing() as session:
                    require_storage(session, caller_of(DEFAULT_PROJECT), 10)
                    session.add(file_row(DEFAULT_PROJECT, number))
            except ApiError as error:
                refused.append((error.status, error.code))

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(0, 16, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == [(403, "storage_quota_exceeded")] * 6


def test_a_project_without_a_quota_keeps_what_it_likes(database: Database) -> None:
    ensure_defaults(database)
    with database.writing() as session:
        set_quotas(find_project(session, "default"), Quotas(max_storage_bytes=10))
        other = create_project(session, "other").id
        session.add(file_row(DEFAULT_PROJECT, 1))
        require_storage(session, caller_of(other), 10**15)
        require_storage(session, caller_of(DEFAULT_PROJECT), 0)
        with pytest.raises(ApiError, match="may keep 10 bytes, keeps 10"):
            require_storage(session, caller_of(DEFAULT_PROJECT), 1)
