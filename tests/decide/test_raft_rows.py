"""Training rows for a model that reads passages have the right passage in exactly the promised share."""

import json
from pathlib import Path

import pytest
from decide_workshop import COUNTS, write_workshop

from kivnun.asking.kept import KeptAnswers
from kivnun.decide.compare import find_passages, open_base
from kivnun.decide.context import Context, located, open_context
from kivnun.decide.passages import Passages, holds_answer, holds_text
from kivnun.decide.prompting import write_passages
from kivnun.decide.raft import RaftRows, choose_without_gold, make_raft_rows, show_retrieved
from kivnun.recipe.load import load_recipe


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(base: Path, *overrides: str) -> tuple[Context, Passages]:
    recipe = located(load_recipe(Path("recipe.yaml"), overrides))
    Path("out").mkdir(exist_ok=True)
    context = open_context(recipe, Path("out"), kept=KeptAnswers.in_memory(), log=lambda _event, _fields: None)
    open_base(context)
    find_passages(context)
    assert context.passages is not None, context.why_no_passages
    return context, context.passages


def make(context: Context, passages: Passages) -> RaftRows:
    model = context.model(str(context.recipe.base_model))
    return make_raft_rows(context, passages, context.prompter(model, is_tuned=True))


@pytest.mark.parametrize(("share", "distractors"), [(0.25, 2), (0.0, 1), (0.5, 0)])
def test_every_row_has_the_promised_passages(
    workshop: Path, tiny_model_folder: Path, share: float, distractors: int
) -> None:
    write_workshop(workshop, tiny_model_folder)
    context, passages = prepare(tiny_model_folder, f"decide.without_gold={share}", f"decide.distractors={distractors}")
    raft = make(context, passages)
    assert (len(raft.rows), raft.unknown, raft.too_long) == (COUNTS["train"], 0, 0)
    assert sum(row.gold is None for row in raft.rows) == round(share * COUNTS["train"])
    for row in raft.rows:
        assert len(row.chunks) == distractors + 1
        wrong = [chunk for chunk in row.chunks if chunk != row.gold]
        assert len({chunk.id for chunk in row.chunks}) == len(row.chunks)
        assert not any(holds_answer(chunk, row.row) or chunk.document == row.row.gold for chunk in wrong)
        if row.gold is not None:
            assert row.chunks.count(row.gold) == 1
            assert row.gold.document == row.row.gold


def test_a_row_is_trained_with_its_passages_before_its_prompt_and_its_own_answer(
    workshop: Path, tiny_model_folder: Path
) -> None:
    write_workshop(workshop, tiny_model_folder)
    context, passages = prepare(tiny_model_folder)
    for row in make(context, passages).rows:
        shown = write_passages(row.chunks, passages.settings)
        assert row.conversation.messages[0].content == f"{shown}\n{row.row.conversation.messages[0].content}"
        assert row.conversation.answer == row.row.conversation.answer


def test_the_right_passage_does_not_always_stand_first(workshop: Path, tiny_model_folder: Path) -> None:
    write_workshop(workshop, tiny_model_folder)
    context, passages = prepare(tiny_model_folder, "decide.without_gold=0.0")
    places = {row.chunks.index(row.gold) for row in make(context, passages).rows if row.gold is not None}
    assert places == {0, 1}


def test_without_a_column_the_right_passage_is_the_best_one_that_holds_the_answer(
    workshop: Path, tiny_model_folder: Path
) -> None:
    write_workshop(workshop, tiny_model_folder, retrieval={"gold": None})
    context, passages = prepare(tiny_model_folder)
    named = {row.conversation.fields["asked"]: row.conversation.fields["document"] for row in context.test}
    found = {row.conversation.fields["asked"]: passages.gold(row) for row in context.test}
    assert {asked: chunk and chunk.document for asked, chunk in found.items()} == named


def test_a_column_may_hold_the_right_passage_itself(workshop: Path, tiny_model_folder: Path) -> None:
    write_workshop(workshop, tiny_model_folder, retrieval={"gold": "passage"})
    for path in workshop.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        whole = [{**row, "passage": (workshop / "documents" / row["document"]).read_text("utf-8")} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in whole), "utf-8")
    context, passages = prepare(tiny_model_folder)
    for row in context.test:
        gold = passages.gold(row)
        assert gold is not None
        assert gold.document == row.conversation.fields["document"]


def test_rows_without_a_right_passage_are_left_out_and_counted(workshop: Path, tiny_model_folder: Path) -> None:
    write_workshop(workshop, tiny_model_folder)
    for path in sorted((workshop / "documents").iterdir())[:20]:
        path.unlink()
    context, passages = prepare(tiny_model_folder)
    raft = make(context, passages)
    missing = sum(not (workshop / "documents" / row.gold).exists() for row in context.rows["train"])
    assert 0 < missing == raft.unknown
    assert len(raft.rows) == COUNTS["train"] - missing


def test_wrong_passages_go_before_the_right_one_where_the_context_is_full(
    workshop: Path, tiny_model_folder: Path
) -> None:
    write_workshop(workshop, tiny_model_folder, retrieval={"passage_template": "{text}" + " filler" * 90 + "\n"})
    context, passages = prepare(tiny_model_folder, "decide.distractors=5", "decide.without_gold=0.0")
    raft = make(context, passages)
    assert all(row.gold in row.chunks for row in raft.rows)
    assert all(0 < row.left_out == 6 - len(row.chunks) for row in raft.rows)


def test_rows_are_validated_with_what_the_index_finds(workshop: Path, tiny_model_folder: Path) -> None:
    write_workshop(workshop, tiny_model_folder)
    context, passages = prepare(tiny_model_folder)
    prompter = context.prompter(context.model(str(context.recipe.base_model)), is_tuned=True)
    shown = show_retrieved(context.rows["validation"], passages, prompter)
    for row, conversation in zip(context.rows["validation"], shown, strict=True):
        written = write_passages(passages.shown(row), passages.settings)
        assert conversation.messages[0].content.startswith(written)


def test_which_rows_lack_the_right_passage_follows_from_the_seed() -> None:
    chosen = choose_without_gold(100, 0.2, seed=3)
    assert len(chosen) == 20
    assert chosen == choose_without_gold(100, 0.2, seed=3) != choose_without_gold(100, 0.2, seed=4)


@pytest.mark.parametrize(
    ("text", "answer", "holds"),
    [
        ("the code is 312.", "12", False),
        ("the code is 312.", "312", True),
        ("The Code, is", "code", True),
        ("the code is 7", "7", False),
        ("הקוד הוא שלוש", "שלוש", True),
    ],
)
def test_an_answer_stands_in_a_passage_as_whole_words(text: str, answer: str, *, holds: bool) -> None:
    assert holds_text(text, [answer]) is holds
