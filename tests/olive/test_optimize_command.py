"""`kivnun optimize RUN`: forms of a finished run, made anew within limits; nothing is trained, nothing is lost."""

import json
import shutil
from pathlib import Path

import pytest
from olive_workshop import Workshop, call

from kivnun.errors import UserError
from kivnun.olive.flags import read_flags
from kivnun.olive.ship_commands import OPTIMIZE, SHIP_FLAGS, translate_choice
from kivnun.optimization.certificate import read_certificate
from kivnun.recipe.optimization import OptimizationSection
from kivnun.recipe.schema import Recipe
from kivnun.runs.overview import read_overview
from kivnun.shipping import ask_otherwise


def choice(*words: str) -> dict[str, object]:
    given = read_flags(OPTIMIZE, ["RUN", *words], SHIP_FLAGS, argument="RUN")
    assert given.argument == "RUN"
    return dict(translate_choice(given).recipe["optimization"])  # type: ignore[call-overload]


def test_candidates_are_measured_unless_a_precision_is_given() -> None:
    assert choice() == {"precision": "auto"}
    assert choice("--precision", "int4", "--target", "cuda") == {"precision": "int4", "target": "cuda"}


def test_the_limits_of_the_issue_are_read() -> None:
    words = ("--target", "auto", "--max-size", "2GiB", "--min-accuracy", "0.98x", "--max-latency", "50ms")
    assert choice(*words, "--min-tokens-per-second", "5", "--max-memory", "4GiB") == {
        "precision": "auto",
        "target": "auto",
        "max_size": "2GiB",
        "max_memory": "4GiB",
        "min_score": "0.98x",
        "min_tokens_per_second": 5.0,
        "max_latency_ms": 50.0,
    }


@pytest.mark.parametrize("words", [["-o", "out"], ["-d", "rows.json"], ["-a", "adapter"], ["--text_template", "x"]])
def test_flags_of_a_model_folder_are_refused_beside_a_run(words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        choice(*words)
    assert "belongs to a model that is given with -m, not to a run" in caught.value.details[0]


def recipe_with(**optimization: object) -> Recipe:
    return Recipe.model_validate(
        {"base_model": "m", "data": {"train": "r.json"}, "optimization": {"precision": "int4", **optimization}}
    )


def test_limits_of_the_recipe_stay_and_its_form_goes() -> None:
    recipe = recipe_with(block_size=16, algorithm="rtn", min_agreement=0.5, max_size="1GiB", tie_tolerance=0.01)
    asked = ask_otherwise(recipe, {"precision": "auto", "max_size": "2GiB"}).optimization
    expected = {"precision": "auto", "max_size": "2GiB", "min_agreement": 0.5, "tie_tolerance": 0.01}
    assert asked == OptimizationSection.model_validate(expected)
    # What has no effect on floating point would be refused.
    plain = ask_otherwise(recipe, {"precision": "fp32"}).optimization
    assert plain == OptimizationSection(precision="fp32", max_size="1GiB", tie_tolerance=0.01)


def test_a_limit_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        ask_otherwise(recipe_with(), {"precision": "auto", "max_size": "big"})
    assert caught.value.code == "recipe-invalid"


def test_a_run_that_is_not_there_is_named(here: Path) -> None:
    ended = call("optimize", "nowhere", "--precision", "int4")
    assert ended.status == 2
    assert "error[run-missing]: there is no run `nowhere`" in ended.err


def test_a_run_and_a_model_are_one_too_many(here: Path) -> None:
    ended = call("optimize", "run", "-m", "model")
    assert ended.status == 2
    assert "a run (run) and a model (-m) are given; keep one of them" in ended.err


def test_a_dry_run_lists_the_candidates_of_each_target(workshop: Workshop, here: Path) -> None:
    run = workshop.tuned / "run"
    ended = call("optimize", run, "--dry-run", "--max-memory", "4GiB")
    assert ended.status == 0, ended.err
    built = [line for line in ended.out.splitlines() if line.startswith("build: ")]
    assert {"build: fp32 ONNX", "build: int4 k_quant/32 ONNX", "build: int4 gptq/32 ONNX"} <= set(built)
    assert "limits: max_memory 4GiB" in ended.out
    ended = call("optimize", run, "--dry-run", "--target", "directml")
    assert "build: fp16 ONNX for directml" in ended.out
    ended = call("optimize", run, "--dry-run", "--target", "directml", "--json")
    assert "build: fp16 ONNX for directml" in json.loads(ended.out)["plan"]
    assert not (run / "optimized").exists()


def times(folder: Path) -> dict[str, int]:
    """When each file was written; the model card tells of what is shipped, and is written anew."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"]
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_forms_are_made_anew_and_nothing_is_trained_or_lost(workshop: Workshop, here: Path) -> None:
    run = here / "run"
    shutil.copytree(workshop.tuned / "run", run)
    trained = times(run / "model") | times(run / "dataset")
    ended = call("optimize", run, "--precision", "fp32", "--json")
    assert ended.status == 0, ended.err
    told = json.loads(ended.out)
    certificate = read_certificate(run / "optimized")
    assert told["shipped"] == str(run / "optimized" / certificate.shipped)
    assert told["front"] == ["fp32 ONNX"]
    assert read_overview(run).state == "finished"
    assert "fp32 ONNX" in (run / "optimized" / certificate.shipped / "README.md").read_text("utf-8")
    # The run folder says what was asked, as if its recipe had said so from the start.
    assert json.loads((run / "run.lock.json").read_bytes())["recipe"]["optimization"]["precision"] == "fp32"
    again = call("run", run / "recipe.yaml", "--run-dir", run)
    assert again.status == 0, again.err
    for stage in ("dataset", "model", "optimized"):
        assert f"[{stage}] unchanged, not repeated" in again.err
    # A limit that nothing keeps leaves what is there.
    refused = call("optimize", run, "--precision", "fp32", "--max-size", "1KiB")
    assert refused.status == 2
    assert "error[limits-unmet]" in refused.err
    assert read_overview(run).state == "failed"
    assert read_certificate(run / "optimized") == certificate
    # What is asked for otherwise takes its place, and the earlier one is kept.
    other = call("optimize", run, "--precision", "fp32", "--max-size", "1GiB")
    assert other.status == 0, other.err
    assert read_certificate(run / "earlier" / "optimized") == certificate
    assert read_certificate(run / "optimized").created > certificate.created
    assert "shipped: " in other.out
    assert times(run / "model") | times(run / "dataset") == trained
    assert not [path.name for path in run.iterdir() if path.name.startswith(".") and path.name != ".lock"]
