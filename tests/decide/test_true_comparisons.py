"""What would make a comparison silently wrong: stale scores, uncounted dollars and times, passages that are none."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from decide_workshop import facts, write_lines, write_workshop
from stand_in_service import Service, asked_text

from kivnun.asking.kept import KeptAnswers
from kivnun.asking.open import open_model
from kivnun.decide.budget import SPENT_NAME
from kivnun.decide.compare import compare_strategies, find_passages
from kivnun.decide.context import Context, located, open_context
from kivnun.decide.freshness import change_documents, choose_changes, copy_documents
from kivnun.decide.measure import time_requests, write_with_passages
from kivnun.decide.passages import Passages, index_folder
from kivnun.decide.plan import plan_strategies
from kivnun.decide.results import Arm, Strategies
from kivnun.errors import UserError
from kivnun.recipe.load import load_recipe
from kivnun.recipe.retrieval import RetrievalSection


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_workshop(tmp_path, Path("base"))
    return tmp_path


def compare(*overrides: str) -> Strategies:
    return compare_strategies(load_recipe(Path("recipe.yaml"), overrides), Path("out"), log=lambda _e, _f: None)


def arms_of(strategies: Strategies) -> dict[str, Arm]:
    return {arm.name: arm for arm in strategies.arms}


def prepare(*overrides: str) -> tuple[Context, Passages]:
    recipe = located(load_recipe(Path("recipe.yaml"), overrides))
    Path("out").mkdir(exist_ok=True)
    context = open_context(recipe, Path("out"), kept=KeptAnswers.in_memory(), log=lambda _event, _fields: None)
    find_passages(context)
    assert context.passages is not None, context.why_no_passages
    return context, context.passages


def write_test_rows(**columns: str) -> None:
    codes = facts()["test"].items()
    rows = [
        {"asked": f"{name} has the code", "said": code, "document": f"{name}.md", **columns} for name, code in codes
    ]
    write_lines(Path("test.jsonl"), rows)


def test_other_right_answers_are_other_scores(workshop: Path, service: Service) -> None:
    service.reply = lambda _request: "000"
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in Path(f"{split}.jsonl").read_text("utf-8").splitlines()]
        write_lines(Path(f"{split}.jsonl"), [{**row, "also": "[]"} for row in rows])
    overrides = (f"base_model='{service.openai}'", "decide.arms=[prompt]", "evaluation.references=also")
    write_test_rows(also="[]")
    assert sum(arms_of(compare(*overrides))["prompt"].scores) == 0
    asked = len(service.requests)
    write_test_rows(also='["000"]')
    assert sum(arms_of(compare(*overrides))["prompt"].scores) == 20
    assert len(service.requests) == asked


def test_another_model_under_the_same_name_is_asked_about_changed_documents_too(
    workshop: Path, service: Service
) -> None:
    def reply(request: dict) -> str:
        found = re.search(r"code (\d+)\.", asked_text(request))
        return found.group(1) if found and request["model"] == "tiny" else "000"

    service.reply = reply

    def right_after(model: str) -> float | None:
        spec = service.openai.replace("openai:tiny", f"openai:{model}")
        overrides = ("decide.arms=[rag]", "retrieval.k=1", f"decide.models={{other: '{spec}'}}")
        freshness = arms_of(compare(f"base_model='{service.openai}'", *overrides))["rag:other"].freshness
        assert freshness is not None
        return freshness.right_after

    assert (right_after("tiny"), right_after("big")) == (1, 0)


def test_questions_about_changed_documents_are_paid_for(workshop: Path, service: Service) -> None:
    spec = service.openai.replace("openai:tiny", "openai:gpt-4.1")
    compare(f"base_model='{spec}'", "decide.arms=[rag]")
    payments = json.loads((Path("out") / SPENT_NAME).read_text("utf-8"))["payments"]
    assert payments["rag on changed documents, gpt-4.1"] > 0


def test_the_bound_of_the_dollars_is_of_all_rows_and_not_of_the_first(workshop: Path, service: Service) -> None:
    rows = [json.loads(line) for line in Path("validation.jsonl").read_text("utf-8").splitlines()]
    long = [{**row, "asked": f"{'שלום ' * 4000}{row['asked']}"} for row in rows[2:]]
    write_lines(Path("validation.jsonl"), [*rows[:2], *long])
    spec = service.openai.replace("openai:tiny", "openai:gpt-4.1")
    settings = ("decide.arms=[prompt]", "decide.pilot_rows=12", "decide.budget_dollars=0.2")
    assert "over budget" in arms_of(compare(f"base_model='{spec}'", *settings))["prompt"].reason
    assert service.requests == []


def test_the_password_of_a_store_is_never_written(workshop: Path, service: Service) -> None:
    store = "postgresql://me:hunter2@127.0.0.1:1/none"
    with pytest.raises(UserError) as caught:
        compare(f"base_model='{service.openai}'", "decide.arms=[prompt]", f"retrieval.store='{store}'")
    assert caught.value.code == "store-failed"
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert (Path("out") / "frozen.json") in files
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []


def test_the_time_of_a_search_is_part_of_the_answer_s_time(workshop: Path, service: Service) -> None:
    context, passages = prepare()
    model = open_model(service.openai)
    write = write_with_passages(context.prompter(model), passages)
    without, _ = time_requests(context, model, write, purpose="timed")
    searched, seconds = time_requests(context, model, write, purpose="timed", searched=passages)
    assert without is not None
    assert searched is not None
    assert searched.p50_ms > without.p50_ms
    assert (searched.first_token_p50_ms or 0) > (without.first_token_p50_ms or 0)
    assert seconds == pytest.approx(searched.p50_ms / 1000, rel=0.5)


def test_as_many_passages_are_shown_as_are_asked_for(workshop: Path) -> None:
    context, passages = prepare("retrieval.k=25")
    assert len(passages.shown(context.test[0])) == 25


def test_the_name_of_a_document_that_is_not_there_is_no_passage(workshop: Path) -> None:
    context, passages = prepare()
    row = context.test[0]
    assert passages.gold(row) is not None
    assert passages.gold(replace(row, gold="code", scored=replace(row.scored, row_id="other"))) is None
    whole = "Of all that is known of it: " + passages.by_document[row.gold][0].text
    gold = passages.gold(replace(row, gold=whole, scored=replace(row.scored, row_id="third")))
    assert gold is not None
    assert gold.document == row.gold


def test_documents_in_an_old_encoding_are_not_changed_and_stop_nothing(workshop: Path) -> None:
    old, new = list(facts()["test"].items())[:1], list(facts()["test"].items())[1:3]
    for name, code in facts()["test"].items():
        (workshop / "documents" / f"{name}.md").write_bytes(f"שלום: {name} has the code {code}.\n".encode("cp1255"))
    for name, code in new:
        (workshop / "documents" / f"{name}.md").write_text(f"שלום: {name} has the code {code}.\n", "utf-8")
    context, passages = prepare("decide.freshness_documents=20")
    changes = choose_changes(context, passages)
    assert {change.document for change in changes} == {f"{name}.md" for name, _ in new}
    assert f"{old[0][0]}.md" in passages.by_document
    Path("copy").mkdir()
    change_documents(copy_documents(passages.settings, Path("copy")), changes)


def test_two_comparisons_on_one_server_have_an_index_each() -> None:
    server = RetrievalSection(documents="docs", store="postgresql://127.0.0.1/db")
    assert index_folder(Path("a"), server).name != index_folder(Path("b"), server).name
    assert index_folder(Path("a"), RetrievalSection(documents="docs")) == Path("a/index")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("retrieval.min_score=1.5", "above 1"),
        ("decide.budget_dollars=1", "none of them charges"),
        ("decide.max_dollars_per_1000=1", "machine_dollars_per_hour"),
        ("decide.max_stale_minutes=1", "freshness_documents above 0"),
    ],
)
def test_limits_that_limit_nothing_are_refused(workshop: Path, override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(Path("recipe.yaml"), (override, "decide.freshness_documents=0"))
    assert caught.value.code == "recipe-invalid"
    assert said in " ".join((caught.value.problem, *caught.value.details))


@pytest.mark.parametrize(
    ("model", "said"),
    [("gpt-4.1", "at most about $0."), ("tiny", "not known, the price table has no")],
)
def test_a_plan_says_what_a_service_may_charge(workshop: Path, service: Service, model: str, said: str) -> None:
    spec = service.openai.replace("openai:tiny", f"openai:{model}")
    plan = plan_strategies(load_recipe(Path("recipe.yaml"), (f"base_model='{spec}'",)), Path("out"))
    assert plan.lines[-1].startswith(f"dollars: {said}")
    dollars = {work.name: work.most_dollars or 0 for work in plan.arms}
    assert dollars["tuned"] == 0
    if model == "gpt-4.1":
        assert 0 < dollars["prompt"] < dollars["few_shot"] < dollars["rag"]


def test_a_plan_of_models_that_run_here_says_what_is_not_known(workshop: Path) -> None:
    plan = plan_strategies(load_recipe(Path("recipe.yaml"), ()), Path("out"))
    assert plan.lines[-2].startswith("minutes: not known before the first training")
    assert plan.lines[-1] == "dollars: none, everything runs here"
