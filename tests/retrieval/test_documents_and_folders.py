import json
import os
from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.retrieval.chunks import count_words, cut
from kivnun.retrieval.documents import LARGEST_FILE_BYTES, read_documents
from kivnun.retrieval.passages import Document, Unchanged, Unreadable


def read(*paths: Path, skip=None) -> list[Document | Unreadable | Unchanged]:
    return list(read_documents(paths, skip=skip or {}))


def ids(found) -> list[str]:
    return [each.id for each in found if isinstance(each, Document)]


def problems(found) -> dict[str, str]:
    return {Path(each.path).name: each.problem for each in found if isinstance(each, Unreadable)}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "b.txt").write_text("plain text")
    (tmp_path / "a.md").write_text("# Title\n\ntext")
    (tmp_path / "sub" / "c.HTML").write_text("<p>page</p>")
    (tmp_path / "sub" / "deep" / "ד.txt").write_text("שלום")
    return tmp_path


def test_folders_are_read_with_all_below_them_in_the_order_of_names(corpus):
    found = read(corpus)
    assert ids(found) == ["a.md", "b.txt", "sub/c.HTML", "sub/deep/ד.txt"]
    assert [document.metadata["kind"] for document in found] == ["md", "txt", "html", "txt"]
    assert found[1].metadata["source"] == str(corpus / "b.txt")
    assert found[0].title == "Title"


def test_a_corpus_with_unreadable_files_is_read_but_for_them(corpus):
    (corpus / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    (corpus / "broken.docx").write_bytes(b"PK nothing")
    (corpus / "empty.txt").write_bytes(b" \n")
    (corpus / "nothing.md").write_bytes(b"")
    (corpus / "binary.txt").write_bytes(bytes(range(256)) * 8)
    (corpus / "picture.png").write_bytes(b"\x89PNG")
    (corpus / ".hidden.txt").write_text("hidden")
    (corpus / "script.html").write_text("<script>only()</script>")
    with (corpus / "large.txt").open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    found = read(corpus)
    assert ids(found) == ["a.md", "b.txt", "sub/c.HTML", "sub/deep/ד.txt"]
    said = problems(found)
    assert said.pop("broken.docx") == "is no Word document"
    assert said.pop("broken.pdf").startswith("is no PDF that can be opened")
    assert said == {
        "empty.txt": "is empty",
        "nothing.md": "is empty",
        "binary.txt": "is binary, not text",
        "picture.png": "is of no kind that is read (txt, md, html, pdf, docx, jsonl)",
        ".hidden.txt": "is hidden (its name begins with a dot)",
        "script.html": "has no text",
        "large.txt": "has over 128 MiB, which is more than is read",
    }


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
def test_links_in_circles_and_pipes_are_told_and_end(corpus):
    (corpus / "sub" / "loop").symlink_to(corpus)
    (corpus / "gone.txt").symlink_to(corpus / "nowhere")
    os.mkfifo(corpus / "pipe.txt")
    found = read(corpus)
    assert ids(found) == ["a.md", "b.txt", "sub/c.HTML", "sub/deep/ד.txt"]
    assert problems(found) == {
        "loop": f"is a link to {corpus}, which is read already",
        "gone.txt": "cannot be opened: No such file or directory",
        "pipe.txt": "is no file, but a pipe or a device",
    }


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(corpus):
    (corpus / "b.txt").chmod(0)
    assert problems(read(corpus)) == {"b.txt": "cannot be opened: Permission denied"}


def test_unchanged_documents_are_not_read_again(corpus):
    known = {document.id: document.content_hash for document in read(corpus)}
    (corpus / "b.txt").write_text("new text")
    found = read(corpus, skip=known)
    assert ids(found) == ["b.txt"]
    assert [each.id for each in found if isinstance(each, Unchanged)] == ["a.md", "sub/c.HTML", "sub/deep/ד.txt"]
    assert all(each.content_hash == known[each.id] for each in found if isinstance(each, Unchanged))
    assert found[1].content_hash != known["b.txt"]


def test_a_hash_of_another_document_skips_nothing(corpus):
    known = {document.id: document.content_hash for document in read(corpus)}
    assert ids(read(corpus, skip={"b.txt": known["a.md"]})) == list(known)


def test_two_documents_of_one_id_are_told(corpus):
    found = read(corpus / "b.txt", corpus)
    assert ids(found) == ["b.txt", "a.md", "sub/c.HTML", "sub/deep/ד.txt"]
    assert problems(found)["b.txt"] == f"has the id b.txt of {corpus / 'b.txt'}, which was read before"


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        read(tmp_path, tmp_path / "no")
    assert caught.value.code == "document-unreadable"
    assert list(caught.value.details) == [str(tmp_path / "no")]


def test_records_of_jsonl_are_documents_and_broken_lines_are_told(tmp_path):
    rows = [
        {"id": "one", "text": "first\n\nsecond", "title": "T", "year": 2024, "tags": ["x", "y"], "more": {"a": 1}},
        {"id": 2, "text": "two", "ratio": 0.5, "open": True, "huge": 10**30, "none": None},
        {"id": "one", "text": "again"},
        {"text": "no id"},
        {"id": "3"},
        {"id": "4", "text": " "},
        ["no object"],
        {"id": "half", "text": "a \ud800 b \0"},
    ]
    lines = [json.dumps(row) for row in rows]
    path = tmp_path / "r.jsonl"
    path.write_bytes(("\ufeff" + "\n".join([*lines, "{broken", '{"id": "n", "text": "x", "v": NaN}', ""])).encode())
    found = read(path)
    assert ids(found) == ["r.jsonl#one", "r.jsonl#2", "r.jsonl#half"]
    assert found[0].metadata == {"source": str(path), "kind": "jsonl", "year": 2024, "tags": "x, y"}
    assert found[0].notes == ("fields that cannot be filtered by: more",)
    assert [found[0].text[block.start : block.end] for block in found[0].blocks] == ["first", "second"]
    assert found[1].metadata["huge"] == str(10**30)
    half = next(each for each in found if isinstance(each, Document) and each.id.endswith("half"))
    assert half.text == "a \ufffd b \ufffd"
    assert half.notes == ("2 characters that cannot be stored stand as \ufffd",)
    said = [each.problem for each in found if isinstance(each, Unreadable)]
    assert said[:5] == [
        "line 3 has the id 'one' of line 1",
        "line 4 has no `id` (a text or a whole number)",
        "line 5 has no `text`",
        "line 6 has no text",
        "line 7 is not a JSON object",
    ]
    assert [problem[:18] for problem in said[5:]] == ["line 9 is not JSON", "line 10 is not JSO"]


def test_unchanged_records_are_not_read_again(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n')
    known = {document.id: document.content_hash for document in read(path)}
    path.write_text('{"id": "new", "text": "n"}\r\n{"id": "a", "text": "x"}\r\n{"id": "b", "text": "z"}')
    found = read(path, skip=known)
    assert ids(found) == ["r.jsonl#new", "r.jsonl#b"]
    assert found[1] == Unchanged("r.jsonl#a", known["r.jsonl#a"])


def test_every_kind_of_file_is_cut_into_chunks_of_its_own_text(corpus):
    for document in read(corpus):
        for chunk in cut(document, count_tokens=count_words, max_tokens=16):
            assert document.text[chunk.start : chunk.end] == chunk.text


def test_a_record_whose_id_no_store_takes_is_told_and_the_others_are_read(tmp_path):
    lines = [{"id": name, "text": "text of it"} for name in ("a", "nul\0", "half \ud800", "low \udc80", "b")]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    found = read(path)
    assert ids(found) == ["r.jsonl#a", "r.jsonl#b"]
    told = [each.problem for each in found if isinstance(each, Unreadable)]
    assert told == [f"line {n} has an `id` with a zero byte or half a surrogate pair" for n in (2, 3, 4)]
