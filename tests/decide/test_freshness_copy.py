"""Documents are changed in a copy: the right ones, in the right place, and never the user's own."""

import json
from pathlib import Path

import pytest
from decide_workshop import facts, write_workshop

from kivnun.asking.kept import KeptAnswers
from kivnun.decide.compare import find_passages
from kivnun.decide.context import Context, located, open_context
from kivnun.decide.freshness import Change, change_documents, choose_changes, copy_documents, document_files
from kivnun.decide.passages import Passages
from kivnun.recipe.load import load_recipe


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_workshop(tmp_path, Path("no-model"))
    return tmp_path


def prepare(*overrides: str) -> tuple[Context, Passages]:
    recipe = located(load_recipe(Path("recipe.yaml"), overrides))
    Path("out").mkdir(exist_ok=True)
    context = open_context(recipe, Path("out"), kept=KeptAnswers.in_memory(), log=lambda _event, _fields: None)
    find_passages(context)
    assert context.passages is not None, context.why_no_passages
    return context, context.passages


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text("utf-8") for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_a_question_gets_the_answer_of_another_one(workshop: Path) -> None:
    context, passages = prepare("decide.freshness_documents=4")
    changes = choose_changes(context, passages)
    codes = facts()["test"]
    assert len({change.document for change in changes}) == 4
    for change in changes:
        assert change.old == codes[change.document.removesuffix(".md")]
        assert change.new != change.old
        assert change.new in codes.values()


def test_the_copy_is_changed_where_it_should_be_and_the_documents_stay(workshop: Path) -> None:
    context, passages = prepare()
    before = contents(workshop / "documents")
    changes = choose_changes(context, passages)
    Path("place").mkdir()
    copy = copy_documents(passages.settings, Path("place"))
    after = contents(Path(copy.documents[0]))
    assert after == before
    change_documents(copy, changes)
    changed = contents(Path(copy.documents[0]))
    by_document = {change.document: change for change in changes}
    for name, text in before.items():
        change = by_document.get(name)
        assert changed[name] == (text if change is None else text.replace(change.old, change.new))


def test_a_record_of_a_jsonl_file_is_changed_and_its_neighbours_stay(workshop: Path) -> None:
    lines = [
        {"id": "a", "text": "the code is 312, not 3120", "year": 2024},
        {"id": "b", "text": "the code is 312"},
    ]
    Path("notes.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n", "utf-8")
    context, passages = prepare("retrieval.documents=notes.jsonl", "retrieval.gold=null")
    assert set(passages.by_document) == {"notes.jsonl#a", "notes.jsonl#b"}
    Path("place").mkdir()
    copy = copy_documents(passages.settings, Path("place"))
    change_documents(copy, [Change(context.test[0], "notes.jsonl#a", "312", "999")])
    path = document_files(copy)["notes.jsonl"]
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [
        {"id": "a", "text": "the code is 999, not 3120", "year": 2024},
        {"id": "b", "text": "the code is 312"},
    ]


def test_answers_that_stand_in_no_document_change_nothing(workshop: Path) -> None:
    for path in (workshop / "documents").iterdir():
        path.write_text("nothing of use\n", "utf-8")
    context, passages = prepare()
    assert choose_changes(context, passages) == []
