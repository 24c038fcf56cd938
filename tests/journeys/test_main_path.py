"""From a recipe to a model that answers, and what happens when the same command is given again."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import (
    ADAPTER,
    Ended,
    FinishedRun,
    example_rows,
    file_times,
    finished_stages,
    hash_of,
    kivnun,
    leftovers,
    read_events,
    write_jsonl,
)

STAGES = {"dataset", "model", "evaluation", "optimized"}
# What a page would fetch: a source, a link or a style from elsewhere.
FETCHED = re.compile(r"""<(?:link|iframe|object|embed)\b|\bsrc\s*=\s*["'](?!data:)|url\(\s*["']?(?!#|data:)|@import""")

Command = Callable[..., Ended]


@pytest.fixture
def copied_run(finished_run: FinishedRun, work: Path) -> Path:
    """The finished run in a fresh workplace, with the times of its files."""
    return Path(shutil.copytree(finished_run.folder, work / "runs" / "recipe"))


def events_of_last_command(folder: Path, before: int) -> dict[str, list[object]]:
    """Stages by what became of them in the events behind the first `before` ones."""
    found: dict[str, list[object]] = {"stage_skipped": [], "stage_started": [], "stage_finished": []}
    for event in read_events(folder)[before:]:
        if event["event"] in found:
            found[str(event["event"])].append(event["stage"])
    return found


def test_one_command_makes_every_stage_whole(finished_run: FinishedRun) -> None:
    assert finished_stages(finished_run.folder) == STAGES
    assert leftovers(finished_run.folder) == []
    for name in STAGES:
        manifest = json.loads((finished_run.folder / name / "artifact.json").read_text("utf-8"))
        for file, record in manifest["files"].items():
            assert hash_of(finished_run.folder / name / file) == record["sha256"], file


def test_standard_output_is_one_json_document_and_progress_goes_to_standard_error(finished_run: FinishedRun) -> None:
    results = json.loads(finished_run.ended.out)
    assert {each["name"] for each in results["evaluation"]["scores"]} >= {"base", "tuned"}
    assert [row["name"] for row in results["parity"]] == [
        "tuned",
        "merged",
        "fp32 ONNX",
        "int4 k_quant/32 ONNX",
    ]
    for words in ("[dataset]", "[model]", "step 12/12", "[evaluation]", "[optimized]", "int4 k_quant/32 ONNX"):
        assert words in finished_run.ended.err
    assert "Traceback" not in finished_run.ended.err
    assert "Warning" not in finished_run.ended.err


def test_every_form_but_int4_answers_as_the_tuned_model_does(finished_run: FinishedRun) -> None:
    for row in json.loads((finished_run.folder / "optimized" / "parity.json").read_text("utf-8"))["rows"]:
        assert row["identical"] + row["ties"] + row["different"] == row["num_prompts"] == 12
        if row["precision"] == "fp32":
            assert row["different"] == 0, row


def test_training_lowers_the_loss_on_rows_that_it_never_saw(finished_run: FinishedRun) -> None:
    losses = [float(str(each["loss"])) for each in read_events(finished_run.folder) if each["event"] == "validation"]
    assert losses[-1] < losses[0]
    scores = {each["name"]: each["metrics"] for each in json.loads(finished_run.ended.out)["evaluation"]["scores"]}
    assert scores["tuned"]["perplexity"]["value"] < scores["base"]["perplexity"]["value"]


def test_the_report_is_one_page_that_fetches_nothing(finished_run: FinishedRun) -> None:
    page = (finished_run.folder / "report.html").read_text("utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert FETCHED.findall(page) == []
    assert "<svg" in page
    assert "int4 k_quant/32 ONNX" in page
    assert re.search("[\N{HEBREW LETTER ALEF}-\N{HEBREW LETTER TAV}]", page)


def test_the_lock_names_all_that_the_results_came_from(finished_run: FinishedRun) -> None:
    lock = json.loads((finished_run.folder / "run.lock.json").read_text("utf-8"))
    assert hash_of(finished_run.work / "rows.jsonl") in lock["data"].values()
    assert lock["base_model"]["content_hash"]
    assert lock["recipe"]["training"]["max_steps"] == 12
    assert lock["recipe"]["training"]["seed"] == lock["seed"] == 0
    versions = json.dumps(lock)
    assert all(name in versions for name in ("torch", "transformers", "onnxruntime-genai", "python"))


def test_the_same_command_again_repeats_and_rewrites_nothing(copied_run: Path, kivnun_here: Command) -> None:
    before, known = file_times(copied_run), len(read_events(copied_run))
    ended = kivnun_here("run", "recipe.yaml")
    assert ended.status == 0, ended.err
    assert file_times(copied_run) == before
    happened = events_of_last_command(copied_run, known)
    assert set(happened["stage_skipped"]) == STAGES
    assert happened["stage_started"] == []
    assert ended.err.count("unchanged, not repeated") == len(STAGES)
    assert "report:" in ended.out


def test_a_changed_row_makes_everything_that_depends_on_it_anew(work: Path, kivnun_here: Command) -> None:
    recipe = (work / "recipe.yaml").read_text("utf-8").partition("optimization")[0]
    (work / "recipe.yaml").write_text(recipe, "utf-8")
    folder = work / "runs" / "recipe"
    assert kivnun_here("run", "recipe.yaml").status == 0
    first, known = hash_of(folder / ADAPTER), len(read_events(folder))
    rows = example_rows()
    answers = {row["tone"] for row in rows}
    for row in rows[:8]:
        row["tone"] = sorted(answers - {row["tone"]})[0]
    write_jsonl(work / "rows.jsonl", rows)
    assert kivnun_here("run", "recipe.yaml").status == 0
    happened = events_of_last_command(folder, known)
    assert happened["stage_finished"] == ["dataset", "model", "evaluation"]
    assert hash_of(folder / ADAPTER) != first
    assert "resumed" not in [each["event"] for each in read_events(folder)]


def test_changing_the_optimization_makes_only_the_export_anew(copied_run: Path, kivnun_here: Command) -> None:
    before, known = file_times(copied_run), len(read_events(copied_run))
    ended = kivnun_here("run", "recipe.yaml", "--set", "optimization.precision=fp32", "--json")
    assert ended.status == 0, ended.err
    happened = events_of_last_command(copied_run, known)
    assert happened["stage_started"] == ["optimized"]
    assert set(happened["stage_skipped"]) == STAGES - {"optimized"}
    # The model's card tells of the forms that it is shipped in.
    told = ("optimized", "model/README.md")
    kept = {name: when for name, when in before.items() if not name.startswith(told)}
    assert kept.items() <= file_times(copied_run).items()
    assert [row["name"] for row in json.loads(ended.out)["parity"]] == ["tuned", "merged", "fp32 ONNX"]


def test_changing_the_evaluation_does_not_train_again(copied_run: Path, kivnun_here: Command) -> None:
    known = len(read_events(copied_run))
    recipe = Path("recipe.yaml").read_text("utf-8").partition("optimization")[0]
    Path("recipe.yaml").write_text(recipe, "utf-8")
    assert kivnun_here("run", "recipe.yaml", "--set", "evaluation.resamples=200").status == 0
    happened = events_of_last_command(copied_run, known)
    assert happened["stage_started"] == ["evaluation"]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(work: Path, kivnun_here: Command) -> None:
    before = sorted(work.rglob("*"))
    ended = kivnun_here("run", "recipe.yaml", "--dry-run")
    assert ended.status == 0
    assert "52 train, 8 validation, 12 test" in ended.out
    assert "steps: 12" in ended.out
    assert sorted(work.rglob("*")) == before


def test_generate_answers_with_the_int4_model_and_with_what_was_trained(
    finished_run: FinishedRun, kivnun_here: Command
) -> None:
    phrase = "אני שמח מאוד"
    shown = kivnun("generate", "recipe", phrase, "--max-new-tokens", "8", work=finished_run.work)
    assert shown.status == 0, shown.err
    assert shown.err == ""
    int4 = json.loads(kivnun_here("generate", finished_run.folder, phrase, "--max-new-tokens", "8", "--json").out)
    trained = kivnun_here("generate", finished_run.folder, phrase, "--engine", "torch", "--json")
    assert int4["answer"] + "\n" == shown.out
    assert int4["engine"] == "onnx"
    assert json.loads(trained.out)["engine"] == "torch"
    assert json.loads(trained.out)["prompt"] == int4["prompt"] == f"Text: {phrase}\nTone: "


def test_chat_reads_lines_and_ends_at_an_empty_one(finished_run: FinishedRun, kivnun_here: Command) -> None:
    ended = kivnun_here("chat", finished_run.folder, "--max-new-tokens", "4", stdin="Hello there\nשלום\n\nnever read\n")
    assert ended.status == 0
    assert "phrase" in ended.err
    alone = kivnun_here("generate", finished_run.folder, "Hello there", "--max-new-tokens", "4")
    assert ended.out.startswith(alone.out)


def test_a_finished_run_answers_the_same_after_it_was_moved(
    finished_run: FinishedRun, copied_run: Path, tmp_path_factory: pytest.TempPathFactory, kivnun_here: Command
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mine"
    copied_run.rename(elsewhere)
    for engine in ("onnx", "torch"):
        asked = ("Where is my bag?", "--max-new-tokens", "6", "--engine", engine, "--json")
        moved = kivnun_here("generate", elsewhere, *asked)
        assert moved.status == 0, moved.err
        assert moved.out == kivnun_here("generate", finished_run.folder, *asked).out


def test_a_run_on_a_base_model_named_by_a_relative_path_answers_from_any_folder(
    tiny_base: Path, copied_run: Path, kivnun_here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_base, "tiny")
    ended = kivnun_here("run", "recipe.yaml", "--set", "base_model=tiny")
    assert ended.err.count("unchanged, not repeated") == len(STAGES)
    (copied_run.parent / "inner").mkdir()
    monkeypatch.chdir(copied_run.parent / "inner")
    ended = kivnun_here("generate", "../recipe", "Hello", "--engine", "torch", "--max-new-tokens", "2")
    assert ended.status == 0, ended.err


def test_a_run_that_does_not_exist_is_an_error_that_names_those_that_do(copied_run: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("generate", "recipy", "hello")
    assert ended.status == 2
    assert ended.err.startswith("error[run-missing]: there is no run `recipy`")
    assert "did you mean `recipe`?" in ended.err
