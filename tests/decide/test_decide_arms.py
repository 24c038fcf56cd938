"""Arms: which there are, why some cannot be run, what they are shown, and what pilot and budget leave of them."""

import re
import time
from pathlib import Path

import pytest
from decide_workshop import COUNTS, facts, write_workshop
from stand_in_service import Failure, Service, asked_text

from kivnun.decide.arms import plan_arms, plan_diagnostics
from kivnun.decide.budget import open_budget
from kivnun.decide.compare import compare_strategies
from kivnun.decide.context import located, read_rows
from kivnun.decide.plan import plan_strategies
from kivnun.decide.results import Arm, Strategies
from kivnun.decide.shots import NearestExamples, choose_static
from kivnun.errors import UserError
from kivnun.recipe.load import load_recipe
from kivnun.recipe.schema import Recipe

UNTRAINED = ["prompt", "few_shot", "few_shot_nearest", "rag"]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(request: dict) -> str:
    """A reader: it knows nothing, and copies the code of the name that is asked for where it is shown."""
    text = asked_text(request)
    name = text.split(" has the code")[-2].split()[-1]
    found = re.search(rf"{name} has the code (\d+)\.", text)
    return found.group(1) if found else "000"


def recipe_of(*overrides: str) -> Recipe:
    return located(load_recipe(Path("recipe.yaml"), overrides))


def planned(*overrides: str) -> dict[str, str]:
    recipe = recipe_of(*overrides)
    assert recipe.decide is not None
    return {arm.name: arm.why_not for arm in plan_arms(recipe, recipe.decide)}


def compare(*overrides: str) -> Strategies:
    return compare_strategies(load_recipe(Path("recipe.yaml"), overrides), Path("out"), log=lambda _e, _f: None)


def arms_of(strategies: Strategies) -> dict[str, Arm]:
    return {arm.name: arm for arm in strategies.arms}


def test_arms_stand_from_the_cheapest_to_the_dearest_with_further_models_beside_their_way(workshop: Path) -> None:
    write_workshop(workshop, Path("base"))
    names = list(planned("decide.models={claude: 'anthropic:tiny'}"))
    assert names == [
        *("prompt", "prompt:claude", "few_shot", "few_shot:claude", "few_shot_nearest", "few_shot_nearest:claude"),
        *("rag", "rag:claude", "tuned", "rag_tuned"),
    ]


def test_an_arm_that_cannot_be_run_says_why(workshop: Path) -> None:
    write_workshop(workshop, Path("base"), retrieval=None)
    reasons = planned("decide.arms=[prompt, rag, rag_tuned]")
    assert reasons["prompt"] == ""
    assert reasons["rag"] == reasons["rag_tuned"] == "the recipe has no `retrieval` section"
    assert reasons["tuned"] == reasons["few_shot"] == "not asked for in decide.arms"
    assert {arm.why_not for arm in plan_diagnostics(recipe_of())} == {"the recipe has no `retrieval` section"}


def test_a_model_behind_an_address_is_not_trained_and_its_address_is_not_told(workshop: Path) -> None:
    write_workshop(workshop, Path("base"))
    reasons = planned("base_model='openai:tiny?base_url=http://here/v1&key_variable=X'")
    assert reasons["tuned"] == "openai:tiny answers behind an address: it is not trained here"


def test_a_recipe_without_the_section_is_refused(workshop: Path) -> None:
    write_workshop(workshop, Path("base"), decide=None)
    with pytest.raises(UserError, match="the recipe has no `decide` section"):
        plan_strategies(load_recipe(Path("recipe.yaml")), Path("out"))


def test_fewer_static_examples_are_the_first_of_more_and_labels_take_turns(workshop: Path) -> None:
    write_workshop(workshop, Path("base"))
    _, rows, _ = read_rows(recipe_of())
    for by_label in (False, True):
        eight = choose_static(rows["train"], 8, by_label=by_label, seed=1)
        assert choose_static(rows["train"], 3, by_label=by_label, seed=1) == eight[:3]
    labels = [each.answer for each in choose_static(rows["train"], 24, by_label=True, seed=1)]
    assert len(set(labels[: len(set(labels))])) == len(set(labels))


def test_the_nearest_example_stands_last(workshop: Path) -> None:
    write_workshop(workshop, Path("base"))
    _, rows, _ = read_rows(recipe_of())
    nearest = NearestExamples(rows["train"])
    for row in rows["train"][:5]:
        found = nearest.find(f"{row.query} and more", 3)
        assert len(found) == 3
        assert found[-1] == row.conversation
    assert len(nearest.find("zzz", 100)) == COUNTS["train"]


def test_facts_that_stand_in_documents_only_are_answered_by_reading_them(workshop: Path, service: Service) -> None:
    service.reply = read
    write_workshop(workshop, Path("base"))
    strategies = compare(f"base_model='{service.openai}'", "decide.budget_minutes=60")
    arms = arms_of(strategies)
    assert {name for name, arm in arms.items() if arm.state == "not run"} == {"tuned", "rag_tuned"}
    assert [sum(arms[name].scores) for name in ("prompt", "few_shot", "rag", "oracle")] == [0, 0, 20, 20]
    assert arms["closed_book"].scores == arms["prompt"].scores
    assert (strategies.gaps.knowledge, strategies.gaps.behaviour, strategies.gaps.retrieval) == (1, 0, 0)
    assert strategies.decision.chosen == "rag"
    assert arms["rag"].retrieval == {"recall_at_2": 1, "mrr": 1, "ndcg_at_2": 1, "answerable_at_2": 1}
    assert arms["rag"].citations == 1
    assert arms["rag"].difference is not None
    assert arms["rag"].difference.value == 1
    assert (arms["rag"].p_value or 1) < 1e-4
    document, start, end = arms["rag"].sources[0][0]
    text = (workshop / "documents" / document).read_text("utf-8")
    assert strategies.flips == () or strategies.flips[0].scores["rag"] == 1
    assert facts()["test"][document.removesuffix(".md")] in text[start:end]


def test_changed_documents_reach_the_arm_that_reads_them_and_no_other(workshop: Path, service: Service) -> None:
    service.reply = read
    write_workshop(workshop, Path("base"))
    before = {path.name: path.read_bytes() for path in (workshop / "documents").iterdir()}
    arms = arms_of(compare(f"base_model='{service.openai}'", "decide.arms=[prompt, rag]"))
    rag, prompt = arms["rag"].freshness, arms["prompt"].freshness
    assert rag is not None
    assert prompt is not None
    assert (rag.num_documents, rag.right_after, rag.stale_after) == (2, 1, 0)
    assert rag.seconds is not None
    assert (prompt.right_after, prompt.stale_after, prompt.seconds) == (0, 0, None)
    assert {path.name: path.read_bytes() for path in (workshop / "documents").iterdir()} == before


def test_the_number_of_examples_is_the_one_that_is_best_on_validation_rows(workshop: Path, service: Service) -> None:
    right = {name: code for codes in facts().values() for name, code in codes.items()}
    write_workshop(workshop, Path("base"), retrieval=None)
    # Two examples are two turns each, before the question.
    service.reply = lambda asked: right[asked_text(asked).split()[0]] if len(asked["messages"]) == 5 else "000"
    arms = arms_of(compare(f"base_model='{service.openai}'", "decide.arms=[prompt, few_shot]"))
    assert arms["few_shot"].settings == {"num_shots": 2}
    assert sum(arms["few_shot"].scores) == COUNTS["test"]
    assert arms["few_shot"].pilot is not None
    assert arms["few_shot"].pilot.value == 1


def test_an_arm_whose_best_case_is_below_the_least_gain_never_sees_the_test_rows(
    workshop: Path, service: Service
) -> None:
    right = {name: code for codes in facts().values() for name, code in codes.items()}
    write_workshop(workshop, Path("base"), retrieval=None, decide={"pilot_rows": 40})
    lines = Path("train.jsonl").read_text("utf-8").splitlines()
    Path("train.jsonl").write_text("\n".join(lines[:4]) + "\n", "utf-8")
    with Path("validation.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines[4:]) + "\n")
    service.reply = lambda asked: right[asked_text(asked).split()[0]] if len(asked["messages"]) == 1 else "000"
    strategies = compare(f"base_model='{service.openai}'", "decide.arms=[prompt, few_shot]")
    few_shot = arms_of(strategies)["few_shot"]
    assert few_shot.state == "pruned"
    assert "on 32 validation rows it scores 0.000 and prompt 1.000" in few_shot.reason
    assert not few_shot.scores
    assert "below decide.min_gain = 0.03" in few_shot.reason


def test_with_few_pilot_rows_nothing_is_pruned_and_that_is_said(workshop: Path, service: Service) -> None:
    right = {name: code for codes in facts().values() for name, code in codes.items()}
    write_workshop(workshop, Path("base"), retrieval=None)
    service.reply = lambda asked: right[asked_text(asked).split()[0]] if len(asked["messages"]) == 1 else "000"
    strategies = compare(f"base_model='{service.openai}'", "decide.arms=[prompt, few_shot]")
    assert arms_of(strategies)["few_shot"].state == "measured"
    assert any(note.startswith("nothing was pruned: 6 pilot rows") for note in strategies.notes)
    assert len(strategies.flips) == 10
    assert all(flip.scores == {"prompt": 1, "few_shot": 0} for flip in strategies.flips)


def test_a_service_that_fails_leaves_its_arms_unrun_and_the_same_command_goes_on(
    workshop: Path, service: Service
) -> None:
    write_workshop(workshop, Path("base"))
    service.refuse = lambda _request: Failure(401, {}, {"message": "no", "type": "x"})
    spec = f"base_model='{service.openai}'"
    arms = arms_of(compare(spec, "decide.arms=[prompt]"))
    assert arms["prompt"].state == "not run"
    assert arms["prompt"].reason.startswith("endpoint-failed: ")
    assert "sk-very-secret" not in arms["prompt"].reason
    service.refuse = lambda _request: None
    assert arms_of(compare(spec, "decide.arms=[prompt]"))["prompt"].state == "measured"


def test_nothing_that_was_answered_is_asked_again(workshop: Path, service: Service) -> None:
    service.reply = read
    write_workshop(workshop, Path("base"))
    first = compare(f"base_model='{service.openai}'", "decide.arms=[prompt, rag]").to_json()
    asked = len(service.requests)
    again = compare(f"base_model='{service.openai}'", "decide.arms=[prompt, rag]").to_json()
    assert len(service.requests) == asked
    assert {**first, "created": ""} == {**again, "created": ""}


def test_dollars_that_cannot_be_counted_are_not_spent(workshop: Path, service: Service) -> None:
    write_workshop(workshop, Path("base"))
    arms = arms_of(compare(f"base_model='{service.openai}'", "decide.arms=[prompt]", "decide.budget_dollars=1"))
    assert arms["prompt"].reason == "decide.budget_dollars cannot be kept: the price table has no tiny"
    assert service.requests == []


def test_what_does_not_fit_the_dollars_is_not_asked(workshop: Path, service: Service) -> None:
    write_workshop(workshop, Path("base"))
    spec = service.openai.replace("openai:tiny", "openai:gpt-4.1")
    arms = arms_of(compare(f"base_model='{spec}'", "decide.arms=[prompt]", "decide.budget_dollars=0.000001"))
    assert re.search(
        r"over budget: up to \$0\.\d+ more, where \$0\.00 of decide\.budget_dollars", arms["prompt"].reason
    )
    assert service.requests == []
    arms = arms_of(compare(f"base_model='{spec}'", "decide.arms=[prompt]", "decide.budget_dollars=5"))
    assert arms["prompt"].state == "measured"


def test_a_payment_that_is_noted_twice_is_paid_once(tmp_path: Path) -> None:
    for _ in range(2):
        budget = open_budget(tmp_path, minutes=None, dollars=1.0)
        budget.pay("prompt on the test rows", 0.6)
        budget.pay("rag on the test rows", 0.3)
    assert open_budget(tmp_path, minutes=None, dollars=1.0).used_dollars == pytest.approx(0.9)
    assert budget.why_not(seconds=0, dollars=0.1) == ""
    assert "over budget: up to $0.11 more" in budget.why_not(seconds=0, dollars=0.11)


def test_the_minutes_of_earlier_commands_count(tmp_path: Path) -> None:
    with open_budget(tmp_path, minutes=1, dollars=None).timed():
        time.sleep(0.01)
    budget = open_budget(tmp_path, minutes=1, dollars=None)
    assert 0.01 <= budget.used_seconds < 1
    assert budget.why_not(seconds=59, dollars=0) == ""
    assert "about 1.0 minutes more" in budget.why_not(seconds=60, dollars=0)
