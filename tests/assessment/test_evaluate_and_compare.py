"""`kivnun evaluate` and `kivnun compare` with real parts: a tiny model, a service on loopback, folders on disk."""

import json
import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kivnun.asking.open import quiet
from kivnun.assessment.compare import compare_models
from kivnun.assessment.compare_page import render_comparison, write_comparison
from kivnun.assessment.evaluate import default_folder, evaluate, limit_rows
from kivnun.assessment.folder import Evaluated, read_evaluation
from kivnun.assessment.leaks import settle_leaks
from kivnun.assessment.page import render_evaluation
from kivnun.assessment.questions import Questions, with_trained_labels
from kivnun.assessment.sides import read_sides
from kivnun.assessment.spending import price_usage
from kivnun.assessment.wanted import Wanted, plan_wanted
from kivnun.cli.app import main
from kivnun.data.conversation import Conversation, Message
from kivnun.data.folder import SUMMARY_NAME
from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.evaluation.slices import BY_ITSELF, slice_scores

TEXT = "Q: {question}\nA: {answer}"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", range(12))
    return tmp_path


def write_rows(path: Path, numbers: range) -> None:
    rows = [
        {
            "question": f"{'What is' if number % 2 else 'כמה זה'} {number}?",
            "answer": str(number % 3),
            "kind": "odd" if number % 2 else "even",
        }
        for number in numbers
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def wanted_of(data: str = "rows.jsonl", task: str = "generation", **more: object) -> Wanted:
    return Wanted(data, None, {"text_template": TEXT}, {"task": task, "max_new_tokens": 4, **more})


def run(spec: str | Path, wanted: Wanted, *, force: bool = False) -> Evaluated:
    return evaluate(plan_wanted(str(spec), wanted), force=force, log=quiet)


def test_an_evaluation_writes_everything_that_it_measured(work: Path, tiny_model_folder: Path) -> None:
    evaluated = run(tiny_model_folder, wanted_of(slices=("kind",)))
    folder = work / "evaluations" / "tiny-rows"
    assert {path.name for path in folder.iterdir()} >= {
        "answers.sqlite",
        "evaluation.json",
        "report.html",
        "rows.jsonl",
        "scores.json",
    }
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text("utf-8").splitlines()]
    assert [line["references"][0] for line in lines] == [str(number % 3) for number in range(12)]
    assert lines[1]["prompt"] == "What is 1?"
    assert set(evaluated.metrics) >= {"exact_match", "perplexity", "bits_per_byte"}
    assert {(part.by, part.value, part.num_rows) for part in evaluated.slices} >= {("kind", "odd", 6)}
    read = read_evaluation(folder)
    assert read.metrics == evaluated.metrics
    assert list(read.rows) == list(evaluated.rows)
    assert "כמה" in (folder / "report.html").read_text("utf-8")


def test_bits_per_byte_are_the_likelihood_of_all_answers_over_their_bytes(work: Path, tiny_model_folder: Path) -> None:
    evaluated = run(tiny_model_folder, wanted_of())
    perplexity, bits = evaluated.metrics["perplexity"].value, evaluated.metrics["bits_per_byte"].value
    # Each answer is one digit, which is one byte and one token, and the sign that ends it is one token more.
    assert bits == pytest.approx(2 * math.log2(perplexity))


def test_the_same_command_asks_nothing_again_and_another_one_is_refused(work: Path, tiny_model_folder: Path) -> None:
    first = run(tiny_model_folder, wanted_of())
    kept = count_kept(work / "evaluations" / "tiny-rows")
    second = run(tiny_model_folder, wanted_of())
    assert count_kept(work / "evaluations" / "tiny-rows") == kept == 12
    assert first.metrics == second.metrics
    with pytest.raises(UserError, match="another settings") as refused:
        run(tiny_model_folder, wanted_of(max_new_tokens=5))
    assert refused.value.code == "file-exists"
    assert run(tiny_model_folder, wanted_of(max_new_tokens=5), force=True).about["settings"]["max_new_tokens"] == 5


def count_kept(folder: Path) -> int:
    with sqlite3.connect(folder / "answers.sqlite") as database:
        (count,) = database.execute("SELECT COUNT(*) FROM replies").fetchone()
    database.close()
    return count


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (Wanted("rows.jsonl", None, {"text_template": TEXT}), "evaluation-invalid"),
        (Wanted(), "evaluation-invalid"),
        (
            Wanted("rows.jsonl", None, {"text_template": TEXT}, {"task": "generation", "label": "kind"}),
            "evaluation-invalid",
        ),
        (Wanted("rows.jsonl", None, {"text_template": TEXT}, {"label": "kind"}), "evaluation-label"),
        (
            Wanted("rows.jsonl", None, {"text_template": TEXT}, {"task": "generation", "slices": ("no",)}),
            "evaluation-invalid",
        ),
        (
            Wanted("rows.jsonl", None, {"text_template": TEXT}, {"task": "generation", "metrics": ("no",)}),
            "metric-invalid",
        ),
        (
            Wanted("rows.jsonl", None, {"text_template": TEXT}, {"task": "generation"}, leave_out_leaked=True),
            "evaluation-invalid",
        ),
        (Wanted("rows.jsonl", None, {"text_template": "{answer}{none}"}, {"task": "generation"}), "template-field"),
        (Wanted("none.jsonl", None, {}, {"task": "generation"}), "data-missing"),
    ],
    ids=range(9),
)
def test_what_cannot_be_evaluated_is_refused_before_a_model_is_loaded(work: Path, wanted: Wanted, code: str) -> None:
    with pytest.raises(UserError) as refused:
        plan_wanted("/no/such/model", wanted)
    assert refused.value.code == code


def test_rows_without_an_answer_are_refused(work: Path) -> None:
    (work / "rows.jsonl").write_text('{"question": "a", "answer": ""}\n')
    with pytest.raises(UserError, match="answer"):
        plan_wanted("/no/such/model", wanted_of())


def test_a_limit_draws_rows_and_says_so(work: Path) -> None:
    plan = plan_wanted("/no/such/model", replace(wanted_of(), limit=5))
    assert len(plan.rows) == 5
    assert [row.where for row in plan.rows] == sorted((row.where for row in plan.rows), key=lambda w: int(w[11:]))
    assert plan.questions.left_out == {"not among the 5 that the seed 0 drew": 7}


def test_rows_that_are_the_same_have_names_of_their_own() -> None:
    turns = (Message("user", "a", trained=False), Message("assistant", "b", trained=True))
    questions = Questions((Conversation(turns, {}, "f:1"), Conversation(turns, {}, "f:2")), PromptTemplate("chat"), "f")
    from kivnun.assessment.questions import score_rows_of
    from kivnun.recipe.schema import EvaluationSection

    first, second = score_rows_of(questions, EvaluationSection(task="generation"))
    assert second.row_id == f"{first.row_id}-2"
    assert limit_rows(questions, 2, seed=0) is questions


@pytest.mark.parametrize(
    ("spec", "source", "folder"),
    [
        ("bundled", "data/rows.jsonl", "bundled-rows"),
        ("openai:gpt-5?base_url=http://u:p@h/v1", "rows.jsonl", "openai-gpt-5-rows"),
        ("org/name#text", "rows.csv.gz", "name-text-rows.csv"),
    ],
)
def test_a_default_folder_names_model_and_rows_and_no_secret(spec: str, source: str, folder: str) -> None:
    assert default_folder(spec, source) == Path("evaluations") / folder


def test_tokens_kept_ready_cost_what_the_price_table_says() -> None:
    from kivnun.assessment.folder import Usage
    from kivnun.prices import find_price, load_prices

    table, _ = load_prices()
    name = next(model.model for service in table.services for model in service.models if model.training is None)
    price = find_price(table, name)
    assert price is not None
    usage = price_usage(Usage(1_000_000, 100_000, cached_tokens=600_000, written_tokens=100_000), name)
    expected = 0.3 * price.input + 0.6 * price.cached_input + 0.1 * price.cache_write + 0.1 * price.output
    assert usage.dollars == pytest.approx(expected)
    assert price_usage(Usage(), "no-such-model").dollars is None


@pytest.fixture
def two(work: Path, tiny_model_folder: Path) -> tuple[Path, Path]:
    """An evaluation, and a second one in which some answers are other ones."""
    run(tiny_model_folder, wanted_of())
    first = work / "evaluations" / "tiny-rows"
    lines = [json.loads(line) for line in (first / "rows.jsonl").read_text("utf-8").splitlines()]
    return first, copy_with(first, work / "other", {line["row_id"]: line["references"][0] for line in lines[:8]})


def copy_with(first: Path, folder: Path, answers: dict[str, str]) -> Path:
    folder.mkdir()
    for path in first.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    lines = [json.loads(line) for line in (first / "rows.jsonl").read_text("utf-8").splitlines()]
    for line in lines:
        if line["row_id"] in answers:
            line["answer"] = answers[line["row_id"]]
            line["scores"]["exact_match"] = float(line["answer"] in line["references"])
    # The other way round, since rows are found by their names and not by their places.
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)), "utf-8")
    return folder


def test_a_comparison_counts_wins_and_lists_regressions_with_both_answers(two: tuple[Path, Path]) -> None:
    first, second = two
    forth = compare_models(read_sides([str(first), str(second)])).pairs[0]
    assert (forth.main.comparison.wins, forth.main.comparison.losses) == (8, 0)
    assert forth.main.verdict == "better"
    assert forth.main.comparison.p_value == pytest.approx(2 / 2**8)
    back = compare_models(read_sides([str(second), str(first)])).pairs[0]
    assert len(back.regressions) == 8
    assert back.main.comparison.difference.value == -forth.main.comparison.difference.value
    assert all(each.before.row == each.after.row for each in (*back.regressions, *forth.fixes))
    change = back.regressions[0].to_json()
    assert change["baseline_answer"] in change["references"]  # type: ignore[operator]
    assert change["candidate_answer"] not in change["references"]  # type: ignore[operator]


def test_several_models_have_their_p_values_corrected(two: tuple[Path, Path], work: Path) -> None:
    first, second = two
    third = copy_with(first, work / "third", {})
    pairs = compare_models(read_sides([str(first), str(second), str(third)])).pairs
    assert pairs[0].main.corrected_p == pytest.approx(2 * pairs[0].main.comparison.p_value)
    assert pairs[1].main.verdict == "unclear"
    assert "can show" in pairs[1].power


def test_models_that_answered_other_rows_are_not_compared(two: tuple[Path, Path], tiny_model_folder: Path) -> None:
    write_rows(Path("more.jsonl"), range(1, 13))
    run(tiny_model_folder, wanted_of("more.jsonl"))
    with pytest.raises(UserError, match="11 of them are the same") as refused:
        compare_models(read_sides([str(two[0]), "evaluations/tiny-more"]))
    assert refused.value.code == "rows-differ"
    assert any("only" in line for line in refused.value.details)


def test_what_is_no_finished_evaluation_is_refused(two: tuple[Path, Path]) -> None:
    (two[1] / "scores.json").unlink()
    for names in ([str(two[0]), str(two[1])], [str(two[0])], [str(two[0]), "nothing"], [str(two[0]), str(two[0])]):
        with pytest.raises(UserError) as refused:
            read_sides(names)
        assert refused.value.code == "evaluation-invalid"


def test_pages_escape_what_models_and_rows_say(two: tuple[Path, Path], work: Path) -> None:
    evil = "<script>alert(1)</script>"
    lines = [json.loads(line) for line in (two[0] / "rows.jsonl").read_text("utf-8").splitlines()]
    third = copy_with(two[0], work / "third", {lines[0]["row_id"]: evil, lines[3]["row_id"]: lines[3]["references"][0]})
    comparison = compare_models(read_sides([str(third), str(two[1])]))
    write_comparison(comparison, work / "out")
    for page in (render_comparison(comparison), render_evaluation(read_evaluation(third))):
        assert evil not in page
        assert "&lt;script&gt;" in page
        assert 'dir="auto"' in page
        assert "</style>" in page
    assert json.loads((work / "out" / "compare.json").read_text())["pairs"][0]["verdict"] in ("better", "unclear")


def test_verdicts_of_people_stand_in_the_comparison(two: tuple[Path, Path]) -> None:
    from kivnun.assessment.pairs import comparison_folder, read_pairs

    pairs = read_pairs(*two)
    folder = comparison_folder(*two)
    folder.mkdir(parents=True)
    lines = [
        {"row_id": pair.row_id, "digest": pair.digest, "choice": "b", "left": "a", "seed": 0, "time": "2026-01-01"}
        for pair in pairs.different
    ]
    (folder / "ratings-dana.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    comparison = compare_models(read_sides([str(each) for each in two]))
    verdicts = comparison.pairs[0].verdicts
    assert verdicts is not None
    assert verdicts.together is not None
    assert verdicts.together.b == len(pairs.different)
    assert "dana" in render_comparison(comparison)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["kivnun", *words])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_the_commands_print_tables_and_json(
    two: tuple[Path, Path], command: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, err = command("compare", str(two[0]), str(two[1]), "--json")
    assert (status, json.loads(out)["pairs"][0]["metrics"][0]["wins"]) == (0, 8)
    status, out, err = command("compare", str(two[1]), str(two[0]))
    assert status == 0
    assert "is worse than" in out
    assert out.index("regression") < out.index("exact match  ")
    assert "compare.html" in err


def test_a_dry_run_tells_tokens_and_dollars_and_asks_nothing(
    work: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    words = ("evaluate", "openai:gpt-4o?key_variable=NOT_SET", "--data", "rows.jsonl", "--task", "generation")
    status, out, _ = command(*words, "--text-template", TEXT, "--instruction", "Answer.", "--dry-run", "--json")
    plan = json.loads(out)
    assert status == 0
    assert plan["num_rows"] == 12
    assert plan["most_completion_tokens"] == 12 * 32
    assert plan["first"]["messages"] == [["system", "Answer."], ["user", "Q: כמה זה 0?\nA: "]]
    assert not (work / "evaluations").exists()


def test_options_without_effect_are_refused(
    two: tuple[Path, Path], command: Callable[..., tuple[int, str, str]]
) -> None:
    status, _, err = command("compare", str(two[0]), str(two[1]), "--limit", "3")
    assert status == 2
    assert "no effect" in err
    status, _, err = command("evaluate", "bundled", "--recipe", "r.yaml", "--text-template", TEXT)
    assert status == 2
    assert "evaluation-invalid" in err


def test_parts_that_are_too_small_to_compare_are_counted(two: tuple[Path, Path]) -> None:
    comparison = compare_models(read_sides(list(map(str, two))))
    rows = [row.row for row in comparison.sides[0].evaluated.rows]
    shown = {(part.by, part.value) for part in comparison.pairs[0].slices}
    parts = {by: slice_scores(rows, [0.0] * len(rows), by) for by in BY_ITSELF}
    left_out = sum((by, part.value) not in shown for by, found in parts.items() if len(found) > 1 for part in found)
    assert left_out > 0
    assert any(note.startswith("parts") and note.endswith(f": {left_out}") for note in comparison.notes)


def test_scores_by_another_schema_are_told_of(two: tuple[Path, Path]) -> None:
    path = two[1] / "evaluation.json"
    about = json.loads(path.read_text("utf-8"))
    assert not any("differs" in note for note in compare_models(read_sides(list(map(str, two)))).notes)
    about["settings"] |= {"json_schema": {"type": "object"}, "metric mine": {"source": "abc"}}
    path.write_text(json.dumps(about), "utf-8")
    notes = "\n".join(compare_models(read_sides(list(map(str, two)))).notes)
    assert "the JSON Schema differs" in notes
    assert "the source of the metric mine differs" in notes


def test_another_evaluation_in_the_way_of_a_comparison_has_a_hint_that_helps(
    work: Path, tiny_model_folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    run(tiny_model_folder, wanted_of())
    words = ("compare", str(tiny_model_folder), "bundled", "--data", "rows.jsonl", "--text-template", TEXT)
    status, _, err = command(*words, "--task", "question_answering")
    assert status == 2
    assert "evaluate apart" in err


def test_labels_that_a_run_was_trained_on_are_labels_though_a_file_lacks_them(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    PromptTemplate("chat").save(folder)
    (folder / SUMMARY_NAME).write_text(json.dumps({"stop_ids": [], "dropped": {}}))
    row = {"id": "1", "where": "x:1", "fields": {}, "prompt": "a", "answer": "third", "prompt_ids": []}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    questions = Questions((), PromptTemplate("chat"), "rows", labels=("first", "second"))
    assert with_trained_labels(questions, tmp_path).labels == ("first", "second", "third")
    assert with_trained_labels(questions, tmp_path / "none") == questions


def test_a_run_without_its_data_set_is_said_to_be_unchecked(tmp_path: Path) -> None:
    row = Conversation((Message("user", "a?", trained=False), Message("assistant", "b", trained=True)), {}, "x:1")
    questions = Questions((row,), PromptTemplate("chat"), "rows")
    assert "nobody knows" in settle_leaks(questions, tmp_path, leave_out=False).notes[0]


def test_evaluations_are_compared_without_what_makes_models(two: tuple[Path, Path]) -> None:
    program = (
        "import atexit, os, sys\n"
        "atexit.register(lambda: os._exit(7) if {'torch', 'transformers'} & sys.modules.keys() else None)\n"
        "from kivnun.cli.app import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program, "compare", *map(str, two)], check=False, capture_output=True)
    assert done.returncode == 0
    assert b"is better" in done.stdout
