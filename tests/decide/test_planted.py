"""Planted tasks: `kivnun decide` must find what was put there, with the reader model that comes with Kivnun."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import planted
import pytest

BASE = "bundled-reader"
DECIDED = pytest.mark.slow


def decide(folder: Path, plant: Callable[[Path, str], Path]) -> subprocess.CompletedProcess[str]:
    """Plant a task and let the command decide; the whole comparison is in `out`."""
    recipe = plant(folder, BASE)
    command = [sys.executable, "-m", "kivnun", "decide", recipe.name, "--out", "out"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def verdict(folder: Path, plant: Callable[[Path, str], Path]) -> dict[str, Any]:
    """The comparison of a planted task as JSON."""
    ended = decide(folder, plant)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return orjson.loads((folder / "out" / "strategies.json").read_bytes())


def scores(strategies: dict[str, Any]) -> dict[str, float]:
    """Main metric of every arm that was measured."""
    metric = strategies["metric"]
    return {arm["name"]: arm["metrics"][metric]["value"] for arm in strategies["arms"] if arm["state"] == "measured"}


@DECIDED
def test_facts_that_stand_in_documents_only_make_retrieval_win(tmp_path: Path) -> None:
    found = verdict(tmp_path, planted.plant_knowledge)
    assert found["decision"]["chosen"] == "rag"
    assert found["decision"]["is_decided"]
    reached = scores(found)
    assert reached["rag"] > 0.95
    assert max(reached["prompt"], reached["tuned"]) < 0.1
    # The gap is one of knowledge, and the passage is all that was missing.
    assert found["gaps"]["knowledge"] > 0.9
    assert found["gaps"]["behaviour"] < 0.05
    rag = next(arm for arm in found["arms"] if arm["name"] == "rag")
    assert rag["freshness"]["right_after"] == 1.0
    assert rag["freshness"]["stale_after"] == 0.0


@DECIDED
def test_a_private_format_makes_tuning_win(tmp_path: Path) -> None:
    found = verdict(tmp_path, planted.plant_format)
    assert found["decision"]["chosen"] == "tuned"
    reached = scores(found)
    assert reached["tuned"] > max(reached[name] for name in ("prompt", "rag")) + 0.1


@DECIDED
def test_facts_of_documents_in_a_private_format_make_retrieval_and_tuning_win(tmp_path: Path) -> None:
    found = verdict(tmp_path, planted.plant_both)
    assert found["decision"]["chosen"] == "rag_tuned"
    assert found["decision"]["is_decided"]
    reached = scores(found)
    assert reached["rag_tuned"] > 0.8
    assert max(score for name, score in reached.items() if name != "rag_tuned" and name in ARMS) < 0.2


@DECIDED
def test_where_nothing_can_be_better_the_cheapest_is_taken(tmp_path: Path) -> None:
    found = verdict(tmp_path, planted.plant_nothing)
    assert found["decision"]["chosen"] == "prompt"


def test_a_split_that_leaks_is_refused(tmp_path: Path) -> None:
    ended = decide(tmp_path, planted.plant_leak)
    assert ended.returncode == 2
    assert "error[test-leaked]: 5 of 80 test rows" in ended.stderr
    assert not (tmp_path / "out" / "strategies.json").exists()


ARMS = ("prompt", "few_shot", "few_shot_nearest", "rag", "tuned", "rag_tuned")
