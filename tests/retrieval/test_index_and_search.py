"""Indexes: brought up to date by what changed, searched as they were made, and refused where that cannot be."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from embedding_service import Service, serve
from tiny_bert import write_tiny_bert

from kivnun.errors import UserError
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.retrieval.fusion import fuse
from kivnun.retrieval.index import Index, IndexReport, build_index, open_index, plan_index
from kivnun.retrieval.index_manifest import without_password
from kivnun.retrieval.passages import Chunk
from kivnun.retrieval.search import SearchOptions, covered_share

Build = Callable[..., IndexReport]
CATS = "Cats sleep all day long.\n\nThey eat fish in the evening."
PARIS = "The capital of France is Paris."
HEBREW = "הרכבת יוצאת מהתחנה בכל שעה."


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "cats.txt").write_text(CATS, "utf-8")
    (folder / "paris.txt").write_text(PARIS, "utf-8")
    (folder / "trains.txt").write_text(HEBREW, "utf-8")
    return folder


@pytest.fixture
def build(docs: Path, tmp_path: Path) -> Build:
    def make(*, rebuild: bool = False, **settings: object) -> IndexReport:
        section = RetrievalSection.model_validate({"documents": str(docs), **settings})
        return build_index(section, tmp_path / "index", log=lambda _event, _fields: None, rebuild=rebuild)

    return make


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Index]]:
    indexes: list[Index] = []

    def call(**options: object) -> Index:
        indexes.append(open_index(tmp_path / "index", SearchOptions(**options)))
        return indexes[-1]

    yield call
    for each in indexes:
        each.close()


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as running:
        yield running


def found(index: Index, query: str, k: int = 3) -> list[str]:
    return [hit.chunk.document for hit in index.search(query, k).hits]


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.unchanged, report.removed


def test_only_what_changed_is_read_again_and_what_vanished_is_not_found(
    docs: Path, build: Build, opened: Callable[..., Index]
) -> None:
    assert counts(build()) == (3, 0, 0, 0)
    again = build()
    assert counts(again) == (0, 0, 3, 0)
    assert not again.has_changed
    (docs / "cats.txt").write_text("Cats chase mice.", "utf-8")
    (docs / "paris.txt").unlink()
    (docs / "rome.txt").write_text("The capital of Italy is Rome.", "utf-8")
    report = build()
    assert counts(report) == (1, 1, 1, 1)
    assert (report.documents, report.chunks) == (3, 3)
    index = opened()
    assert found(index, "capital") == ["rome.txt"]
    assert found(index, "fish") == []
    assert found(index, "mice") == ["cats.txt"]


def test_an_index_that_was_brought_up_to_date_finds_what_a_new_one_finds(
    docs: Path, build: Build, tmp_path: Path, bert_folder: Path
) -> None:
    build(embedder=f"dir:{bert_folder}", chunk_tokens=16)
    (docs / "cats.txt").write_text("Cats eat fish in Paris.", "utf-8")
    build(embedder=f"dir:{bert_folder}", chunk_tokens=16)
    section = RetrievalSection(documents=str(docs), embedder=f"dir:{bert_folder}", chunk_tokens=16)
    build_index(section, tmp_path / "fresh", log=lambda _event, _fields: None)
    with open_index(tmp_path / "index") as old, open_index(tmp_path / "fresh") as new:
        for query in ("what do cats eat", "capital", "station"):
            before, after = old.search(query, 5).hits, new.search(query, 5).hits
            assert [hit.chunk for hit in before] == [hit.chunk for hit in after]
            # Vectors that were computed in other batches differ in the last bits.
            np.testing.assert_allclose([hit.score for hit in before], [hit.score for hit in after], atol=1e-5)


def test_what_cannot_be_read_is_listed_and_the_rest_is_indexed(docs: Path, build: Build, tmp_path: Path) -> None:
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 cut off")
    (docs / "photo.png").write_bytes(b"\x89PNG")
    (docs / "rows.jsonl").write_text('{"id": "1", "text": "A row."}\n{cut\n', "utf-8")
    report = build()
    assert report.documents == 4
    named = [Path(each.path).name for each in report.unreadable]
    assert sorted(named) == ["broken.pdf", "photo.png", "rows.jsonl"]
    written = json.loads((tmp_path / "index" / "index.json").read_text("utf-8"))
    assert sorted(Path(path).name for path, _ in written["unreadable"]) == sorted(named)


def test_documents_of_which_none_can_be_read_leave_the_index_as_it_was(
    docs: Path, build: Build, opened: Callable[..., Index]
) -> None:
    build()
    for path in list(docs.iterdir()):
        path.unlink()
    (docs / "photo.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="can be read") as refused:
        build()
    assert refused.value.code == "document-unreadable"
    assert found(opened(), "capital") == ["paris.txt"]


def test_an_embedded_passage_is_not_embedded_again_when_its_document_grows(
    docs: Path, build: Build, service: Service
) -> None:
    spec = f"openai:m?base_url={service.url}"
    assert build(embedder=spec, chunk_tokens=16).embedded == 3
    (docs / "paris.txt").write_text(PARIS + "\n\n" + "The river is the Seine and it is long. " * 3, "utf-8")
    texts = sum(len(each["input"]) for each in service.requests)
    report = build(embedder=spec, chunk_tokens=16)
    assert report.changed == 1
    assert sum(len(each["input"]) for each in service.requests) == texts + report.embedded
    assert build(embedder=spec, chunk_tokens=16, rebuild=True).embedded == 0


def test_other_settings_are_refused_until_a_rebuild_is_asked_for(build: Build, opened: Callable[..., Index]) -> None:
    build()
    with pytest.raises(UserError, match="made in another way") as refused:
        build(chunk_tokens=50)
    assert refused.value.code == "index-differs"
    assert "chunk_tokens: 200 in the index, 50 now" in refused.value.details
    assert "--rebuild" in refused.value.hint
    assert counts(build(chunk_tokens=50, rebuild=True)) == (3, 0, 0, 0)
    assert found(opened(), "capital") == ["paris.txt"]
    assert counts(build(chunk_tokens=50)) == (0, 0, 3, 0)


def test_a_changed_embedder_is_refused_with_the_command_that_indexes_again(
    build: Build, opened: Callable[..., Index], tmp_path: Path, bert_folder: Path
) -> None:
    folder = tmp_path / "my bert"
    shutil.copytree(bert_folder, folder)
    build(embedder=f"dir:{folder}", chunk_tokens=16)
    opened()
    shutil.rmtree(folder)
    write_tiny_bert(folder, seed=9)
    with pytest.raises(UserError, match="another one now") as refused:
        opened()
    assert refused.value.code == "index-differs"
    assert f"--embedder 'dir:{folder}' --rebuild" in refused.value.hint
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="there is no such folder"):
        opened()
    assert opened(dense_weight=0.0).search("capital", 1).hits


def test_vectors_of_another_length_are_refused_when_an_endpoint_changes(
    build: Build, opened: Callable[..., Index], service: Service
) -> None:
    build(embedder=f"openai:m?base_url={service.url}")
    service.dims = 5
    with pytest.raises(UserError, match="8 numbers, those of the embedder now 5") as refused:
        opened().search("capital", 1)
    assert refused.value.code == "index-differs"


def test_chunks_that_the_embedder_would_cut_are_refused(build: Build, bert_folder: Path) -> None:
    with pytest.raises(UserError, match=r"reads 62 tokens, less than chunk_tokens \(63\)"):
        build(embedder=f"dir:{bert_folder}", chunk_tokens=63)


def test_a_query_that_the_embedder_cannot_read_is_searched_by_words_and_this_is_said(
    build: Build, opened: Callable[..., Index], bert_folder: Path
) -> None:
    report = build(embedder=f"dir:{bert_folder}", chunk_tokens=62)
    assert report.not_understood == 1
    assert any("cannot read the language of 1 passages" in note for note in report.notes)
    index = opened()
    hebrew = index.search("מתי הרכבת יוצאת מהתחנה?", 3)
    assert [hit.chunk.document for hit in hebrew.hits] == ["trains.txt"]
    assert {hit.dense for hit in hebrew.hits} == {None}
    assert "cannot read the query's language" in hebrew.notes[0]
    english = index.search("what is the capital", 3)
    assert english.notes == ()
    assert english.hits[0].dense is not None
    kept = opened(dense_weight=0.8).search("מתי הרכבת יוצאת מהתחנה?", 3)
    assert kept.hits[0].dense is not None
    assert "its weight is 0.8 all the same" in kept.notes[0]


def test_the_weight_decides_between_words_and_vectors(
    build: Build, opened: Callable[..., Index], bert_folder: Path
) -> None:
    build(embedder=f"dir:{bert_folder}", chunk_tokens=16)
    words = opened(dense_weight=0.0).search("the capital of france", 9)
    vectors = opened(dense_weight=1.0).search("the capital of france", 9)
    assert {hit.dense for hit in words.hits} == {None}
    assert {hit.lexical for hit in vectors.hits} == {None}
    cosines = [hit.dense for hit in vectors.hits]
    assert cosines == sorted(cosines, reverse=True)


def test_a_weight_without_vectors_is_refused(build: Build, opened: Callable[..., Index]) -> None:
    build()
    with pytest.raises(UserError, match="has no vectors"):
        opened(dense_weight=0.5)


def test_fusion_is_the_weighted_sum_of_scaled_scores() -> None:
    a, b, c = (Chunk(name, 0, 0, 1, "x") for name in "abc")
    hits = fuse([(a, 0.9), (b, 0.5), (c, 0.1)], [(b, 4.0), (a, 1.0)], dense_weight=0.3)
    expected = {"a": 0.3 * 1 + 0.7 * 0.25, "b": 0.3 * 0.5 + 0.7 * 1}
    # The farthest passage has a score of 0, and was found all the same.
    assert [hit.chunk.document for hit in hits] == ["b", "a", "c"]
    np.testing.assert_allclose([hit.score for hit in hits], [expected["b"], expected["a"], 0.0])
    assert (hits[0].dense, hits[0].lexical) == (0.5, 4.0)
    alike = fuse([(b, 0.5), (a, 0.5)], [], dense_weight=1.0)
    assert [(hit.chunk.document, hit.score) for hit in alike] == [("a", 1.0), ("b", 1.0)]


def test_filters_choose_by_metadata_and_say_so_where_nothing_passes(
    docs: Path, build: Build, opened: Callable[..., Index]
) -> None:
    rows = [{"id": str(year), "text": f"The capital report of {year}.", "year": year} for year in (2023, 2024)]
    (docs / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    build()
    index = opened(filters={"year": 2024})
    assert found(index, "capital") == ["rows.jsonl#2024"]
    assert [hit.chunk.document for hit in index.search("capital", 9, filters={"year": 2023}).hits] == [
        "rows.jsonl#2023"
    ]
    nothing = index.search("capital", 3, filters={"year": 1999})
    assert (nothing.hits, nothing.evidence) == ((), 0.0)
    assert nothing.notes == ("no passage that has year=1999 was found",)


def test_a_title_finds_every_passage_of_its_document(docs: Path, build: Build, opened: Callable[..., Index]) -> None:
    row = {"id": "7", "title": "Gardens of Haifa", "text": "They are open on Sundays. " * 40}
    (docs / "rows.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    build(chunk_tokens=20)
    hits = opened().search("Haifa gardens", 50).hits
    assert {hit.chunk.document for hit in hits} == {"rows.jsonl#7"}
    assert len(hits) > 5
    assert "Haifa" not in hits[0].chunk.text


def test_evidence_is_the_share_of_the_querys_words_in_the_best_passage(
    build: Build, opened: Callable[..., Index]
) -> None:
    build()
    index = opened()
    assert index.search("capital France Paris", 1).evidence == 1.0
    assert index.search("capital of Spain", 1).evidence == 0.5
    assert covered_share([], "text") == 0.0


def test_an_empty_query_and_an_index_without_passages_are_refused(
    docs: Path, build: Build, opened: Callable[..., Index]
) -> None:
    build()
    with pytest.raises(UserError, match="query is empty"):
        opened().search(" \n", 3)
    index = opened()
    index.store.delete_documents(list(index.store.documents()))
    with pytest.raises(UserError, match="holds no passage") as refused:
        index.search("capital", 3)
    assert refused.value.code == "index-empty"
    assert f"kivnun index {docs} --out" in refused.value.hint


def test_folders_that_hold_no_index_are_refused(docs: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", docs):
        with pytest.raises(UserError) as refused:
            open_index(folder)
        assert refused.value.code == "index-missing"
    section = RetrievalSection(documents=str(docs))
    with pytest.raises(UserError, match="other things than an index"):
        build_index(section, docs, log=lambda _event, _fields: None)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "index.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        open_index(tmp_path / "bad")


def test_a_plan_says_what_indexing_would_do_and_changes_nothing(docs: Path, build: Build, tmp_path: Path) -> None:
    section = RetrievalSection(documents=str(docs))
    plan = plan_index(section, tmp_path / "index")
    assert (plan.added, plan.changed, plan.unchanged, plan.removed) == (3, 0, 0, 0)
    assert plan.characters == len(CATS) + len(PARIS) + len(HEBREW)
    assert not (tmp_path / "index").exists()
    build()
    (docs / "cats.txt").write_text("Cats chase mice.", "utf-8")
    (docs / "paris.txt").unlink()
    plan = plan_index(section, tmp_path / "index")
    assert (plan.added, plan.changed, plan.unchanged, plan.removed) == (0, 1, 1, 1)
    assert counts(build()) == (0, 1, 1, 1)


KILLED = """
import os, signal, sys
from pathlib import Path
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.retrieval import index, index_builder
index_builder.BATCH_DOCUMENTS = 5
batches = 0
def log(event, fields):
    global batches
    batches += 1
    if batches == 3:
        os.kill(os.getpid(), signal.SIGKILL)
index.build_index(RetrievalSection(documents=sys.argv[1]), Path(sys.argv[2]), log=log)
"""


def test_an_indexing_that_is_killed_keeps_its_batches_and_goes_on(tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": f"The word{number} stands here."} for number in range(40)]
    corpus = tmp_path / "rows.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [sys.executable, "-c", KILLED, str(corpus), str(tmp_path / "index")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with open_index(tmp_path / "index") as index:
        assert len(index.store.documents()) == 15
        assert not index.manifest.is_complete
        assert "not finished" in index.search("word3", 1).notes[0]
    section = RetrievalSection(documents=str(corpus))
    report = build_index(section, tmp_path / "index", log=lambda _event, _fields: None)
    assert counts(report) == (25, 0, 15, 0)
    with open_index(tmp_path / "index") as index:
        assert [found(index, f"word{number}", 1) for number in range(40)] == [
            [f"rows.jsonl#{number}"] for number in range(40)
        ]


HOLDS = """
import os, sys, time
from pathlib import Path
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.retrieval.index import build_index
def log(event, fields):
    Path(sys.argv[3]).touch()
    time.sleep(60)
build_index(RetrievalSection(documents=sys.argv[1]), Path(sys.argv[2]), log=log)
"""


def test_two_processes_do_not_index_into_one_folder(docs: Path, build: Build, tmp_path: Path) -> None:
    mark = tmp_path / "at-work"
    command = [sys.executable, "-c", HOLDS, str(docs), str(tmp_path / "index"), str(mark)]
    holder = subprocess.Popen(command)
    try:
        until = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < until:
            time.sleep(0.05)
        with pytest.raises(UserError) as refused:
            build()
        assert refused.value.code == "run-locked"
    finally:
        holder.kill()
        holder.wait()
    assert build().documents == 3


def test_a_rebuilding_that_stopped_half_way_goes_on_without_being_asked_to(
    docs: Path, build: Build, opened: Callable[..., Index]
) -> None:
    build()

    class StoppedError(Exception):
        """As Ctrl-C at the first batch."""

    def stop(_event: str, _fields: object) -> None:
        raise StoppedError

    section = RetrievalSection(documents=str(docs), chunk_tokens=50)
    with pytest.raises(StoppedError):
        build_index(section, opened().folder, log=stop, rebuild=True)
    assert build(chunk_tokens=50).documents == 3
    assert opened().manifest.is_complete


def test_a_password_of_a_store_is_not_written_down() -> None:
    spec = "postgresql://me:secret@host:5432/base?password=other&sslmode=require"
    assert without_password(spec) == "postgresql://me@host:5432/base?sslmode=require"
    assert without_password("sqlite") == "sqlite"


def test_the_folder_of_an_index_can_be_moved(build: Build, tmp_path: Path) -> None:
    build()
    (tmp_path / "index").rename(tmp_path / "moved")
    with open_index(tmp_path / "moved") as index:
        assert found(index, "capital") == ["paris.txt"]
