"""Rows are frozen before anything is measured: leaks are refused, changes are refused, and every look is counted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from decide_workshop import facts, write_lines, write_workshop

from kivnun.decide.context import describe_fixed, located, read_rows
from kivnun.decide.freeze import count_looks, find_leaks, note_look, require_same
from kivnun.decide.plan import Plan, plan_strategies
from kivnun.errors import UserError
from kivnun.recipe.load import LoadedRecipe, load_recipe

LONG = "how many of the blue wooden boxes were brought to the harbour on the morning of the second day"


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_workshop(tmp_path, tmp_path / "no-model")
    return tmp_path


def load(*overrides: str) -> LoadedRecipe:
    return load_recipe(Path("recipe.yaml"), overrides)


def plan(*overrides: str) -> Plan:
    return plan_strategies(load(*overrides), Path("out"))


def add_rows(split: str, *asked: str) -> None:
    with Path(f"{split}.jsonl").open("a", encoding="utf-8") as file:
        for text in asked:
            file.write(json.dumps({"asked": text, "said": "nine", "document": "none"}) + "\n")


def test_a_test_row_that_stands_in_the_training_rows_is_refused_by_its_place(workshop: Path) -> None:
    add_rows("train", LONG)
    add_rows("test", LONG.upper())
    with pytest.raises(UserError) as caught:
        plan()
    assert caught.value.code == "test-leaked"
    assert caught.value.details == ("test.jsonl:21 is train.jsonl:25, word for word",)


def test_a_test_row_that_is_nearly_a_training_row_is_refused(workshop: Path) -> None:
    add_rows("train", LONG)
    add_rows("test", LONG.replace("second", "seconds"))
    with pytest.raises(UserError) as caught:
        plan()
    assert caught.value.code == "test-leaked"
    assert caught.value.details == ("test.jsonl:21 is nearly train.jsonl:25",)


def test_near_duplicates_that_the_recipe_accepts_are_counted_aloud(workshop: Path) -> None:
    add_rows("train", LONG)
    add_rows("test", LONG.replace("second", "seconds"))
    said = plan("data.ignore_checks=[leak-near]")
    assert "1 test rows are nearly the same as training rows, which the recipe allows" in said.notes


def test_a_row_that_is_the_same_word_for_word_is_refused_whatever_the_recipe_accepts(workshop: Path) -> None:
    add_rows("train", LONG)
    add_rows("test", LONG)
    with pytest.raises(UserError, match="1 of 21 test rows stand in the training rows"):
        plan("data.ignore_checks=[leak-near]")


@pytest.mark.parametrize("near", ["together", "ignore"])
def test_a_split_that_keeps_near_duplicates_together_never_leaks(workshop: Path, near: str) -> None:
    words = sorted(name for codes in facts().values() for name in codes)
    asked = [f"{words[n // 3]} {LONG[n // 3 :]}{'s' * (n % 3)} {words[-n // 3]}" for n in range(90)]
    write_lines(Path("all.jsonl"), [{"asked": text, "said": "x", "document": "x"} for text in asked])
    loaded = load(
        "data={train: all.jsonl, prompt_template: '{asked}', answer_template: ' {said}', "
        f"split: {{test: 0.3, near_duplicates: {near}}}}}"
    )
    frozen, _, _ = read_rows(located(loaded))
    exact, alike = find_leaks(frozen.splits, frozen.template)
    assert exact == {}
    assert bool(alike) is (near == "ignore")


def test_too_few_test_rows_are_refused_with_what_they_could_show(workshop: Path) -> None:
    lines = Path("test.jsonl").read_text("utf-8").splitlines()
    Path("test.jsonl").write_text("\n".join(lines[:19]) + "\n", "utf-8")
    with pytest.raises(UserError) as caught:
        plan()
    assert caught.value.code == "split-too-small"
    assert "19 test rows" in caught.value.problem
    # Wald's half width of a share of one half: 1.96 * 0.5 / sqrt(19).
    assert "up to 22% either way" in caught.value.problem


def test_a_plan_writes_nothing_and_says_what_the_rows_can_show(workshop: Path) -> None:
    said = plan()
    assert not Path("out").exists()
    assert said.num_rows == {split: len(codes) for split, codes in facts().items()}
    assert "20 rows can show a difference of" in said.power
    assert any(line.startswith("rag_tuned: ") for line in said.lines)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.max_steps=3", "training settings"),
        ("evaluation.max_new_tokens=5", "evaluation"),
        ("retrieval.k=3", "retrieval"),
        ("decide.instruction=answer", "decide settings"),
    ],
)
def test_another_setting_in_the_same_folder_is_refused_by_name(workshop: Path, override: str, named: str) -> None:
    begin(load())
    with pytest.raises(UserError) as caught:
        begin(load(override))
    assert caught.value.code == "decide-differs"
    assert f"with other {named}" in caught.value.problem


def test_other_rows_in_the_same_folder_are_refused(workshop: Path) -> None:
    begin(load())
    add_rows("validation", LONG)
    with pytest.raises(UserError, match="other validation rows") as caught:
        begin(load())
    assert caught.value.details == ("validation rows: 12 then, 13 now, 12 of them the same",)


def test_budgets_limits_and_arms_may_change_while_a_comparison_goes_on(workshop: Path) -> None:
    begin(load())
    begin(load("decide.budget_minutes=3", "decide.min_gain=0.01", "decide.arms=[prompt, rag]", "decide.models={a: b}"))


def begin(loaded: LoadedRecipe) -> None:
    recipe = located(loaded)
    frozen, _, _ = read_rows(recipe)
    Path("out").mkdir(exist_ok=True)
    require_same(Path("out"), frozen, describe_fixed(recipe))


def test_the_order_of_the_test_rows_is_part_of_what_is_frozen(workshop: Path) -> None:
    frozen, _, _ = read_rows(located(load()))
    lines = Path("test.jsonl").read_text("utf-8").splitlines()
    Path("test.jsonl").write_text("\n".join(lines[::-1]) + "\n", "utf-8")
    again, _, _ = read_rows(located(load()))
    assert again.digest != frozen.digest
    assert replace(again, digest=frozen.digest).template == frozen.template


def test_a_look_counts_once_and_comparisons_beside_each_other_are_counted_together(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    for arm in ("prompt", "rag", "prompt"):
        note_look(one, "rows", "first settings", arm)
    assert len((one / "looks.jsonl").read_text("utf-8").splitlines()) == 2
    assert count_looks(one, "rows") == 1
    note_look(other, "rows", "first settings", "prompt")
    note_look(other, "rows", "second settings", "prompt")
    note_look(other, "other rows", "third settings", "prompt")
    assert count_looks(one, "rows") == count_looks(other, "rows") == 3
