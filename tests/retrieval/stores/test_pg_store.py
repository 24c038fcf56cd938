"""What only the store in PostgreSQL has: a server that may go, an index of vectors, and names of schemas."""

import os
import signal
import uuid

import numpy as np
import pytest
from store_samples import entry, unit_rows

from kivnun.errors import UserError
from kivnun.retrieval.pg_schema import name_schema
from kivnun.retrieval.pg_store import PgStore

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("pgvector")


@pytest.fixture
def name() -> str:
    return f'O\'Brien "index"; תיקייה {uuid.uuid4().hex}'


def test_the_index_of_vectors_finds_nearly_all_and_filters_stay_exact(postgres_server: str, name: str) -> None:
    store = PgStore(postgres_server, name, create=True, index_from=1000)
    rows = unit_rows(1100, dimension=32)
    entries = [
        entry(str(number), ["x"], vectors=[row], metadata={"tenth": number % 10}) for number, row in enumerate(rows)
    ]
    store.replace_documents(entries[:1000])
    assert store._has_index(32)
    store.replace_documents(entries[1000:])
    store.delete_documents(["3", "1003"])
    hits = {False: 0, True: 0}
    for query in unit_rows(20, seed=5, dimension=32):
        for filtered in (False, True):
            cosines = rows @ query
            cosines[[3, 1003]] = -2
            if filtered:
                cosines[np.arange(1100) % 10 != 4] = -2
            expected = {str(number) for number in np.argsort(-cosines)[:10]}
            found = store.search_vector(query, 10, {"tenth": 4} if filtered else None)
            hits[filtered] += len(expected & {chunk.document for chunk, _ in found})
    assert hits[False] >= 190
    assert hits[True] == 200
    assert len(store.search_vector(rows[0], 5000)) == 1098
    store.delete_documents(list(store.documents()))
    longer = unit_rows(1, dimension=40)[0]
    store.replace_documents([entry("a", ["x"], vectors=[longer])])
    assert store.search_vector(longer, 1)[0][0].document == "a"
    store.close()


def test_a_lost_connection_is_made_again_once(postgres_server: str, name: str) -> None:
    store = PgStore(postgres_server, name, create=True)
    with psycopg.connect(postgres_server, autocommit=True) as other:

        def cut() -> None:
            pid = store._connection.info.backend_pid
            assert other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,)).fetchone() == (True,)

        cut()
        store.replace_documents([entry("a", ["x"]), entry("b", ["x"])])
        cut()
        assert len(store.search_terms(["x"], 5)) == 2
        cut()
        store.delete_documents(["a"])
        cut()
        assert list(store.documents()) == ["b"]
    store.close()


def test_a_server_that_crashes_and_recovers_is_waited_for(postgres_server: str, name: str) -> None:
    store = PgStore(postgres_server, name, create=True)
    store.replace_documents([entry("a", ["x"])])
    # A server that loses one of its processes this way ends all sessions and replays its log.
    os.kill(store._connection.info.backend_pid, signal.SIGKILL)
    store.replace_documents([entry("b", ["x"])])
    assert list(store.documents()) == ["a", "b"]
    assert len(store.search_terms(["x"], 5)) == 2
    store.close()


def test_two_indexes_in_one_database_know_nothing_of_each_other(postgres_server: str, name: str) -> None:
    long = "x" * 80
    stores = [PgStore(postgres_server, index, create=True) for index in (name, f"{name}2", f"{name}{long}1")]
    for number, store in enumerate(stores):
        store.replace_documents([entry(str(number), ["x"])])
    assert [list(store.documents()) for store in stores] == [["0"], ["1"], ["2"]]
    assert all(len(name_schema(f"{start}{long}").encode()) <= 63 for start in ("", "ת", "תת"))
    assert name_schema(f"{long}1") != name_schema(f"{long}2")
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:s3cret@127.0.0.1:9/nowhere",
        "postgresql://me:s3cret@x@[::bad/nowhere",
        "postgresql://me@127.0.0.1:9/nowhere?password=s3cret",
        "postgresql://me:s3cret@127.0.0.1:s3cret/x",
        "postgresql://me@127.0.0.1:9/x?s3cret=1",
    ],
)
def test_a_server_that_is_not_there_is_said_without_the_password(address: str) -> None:
    with pytest.raises(UserError) as caught:
        PgStore(address, "x", create=True)
    assert caught.value.code == "store-failed"
    shown = [str(caught.value), repr(caught.value.__cause__)]
    if caught.value.__context__ is not None and not caught.value.__suppress_context__:
        shown.append(str(caught.value.__context__))
    assert not any("s3cret" in text for text in shown)


def test_what_the_user_may_not_do_is_said(postgres_server: str, name: str) -> None:
    PgStore(postgres_server, name, create=True).close()
    role = f"reader_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as other:
        other.execute(f"CREATE ROLE {role} LOGIN")
    address = postgres_server.replace("postgres:", f"{role}:", 1)
    for create in (True, False):
        with pytest.raises(UserError, match="permission denied"):
            PgStore(address, f"{name}{'2' if create else ''}", create=create)
