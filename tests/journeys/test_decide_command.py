"""`kivnun decide` through the command line, on a tiny model: plan, comparison, page, what is not done twice, limits."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import Ended, read_events, start_kivnun, wait_until, write_workplace

DECIDE = """\
evaluation: {{task: classification, label: tone, max_new_tokens: 8, resamples: 100}}
decide: {{arms: [{arms}], shots: [1], pilot_rows: 6, timed_requests: 2, learning_curve: [0.5]{more}}}
"""
Command = Callable[..., Ended]


def workplace(folder: Path, base: Path, arms: str = "prompt, few_shot", more: str = "") -> Path:
    write_workplace(folder, base, sections=DECIDE.format(arms=arms, more=more))
    recipe = folder / "recipe.yaml"
    # Fewer than twenty test rows can decide nothing, and are refused.
    recipe.write_text(recipe.read_text("utf-8").replace("test: 12", "test: 24"), "utf-8")
    return folder


@pytest.fixture
def place(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return workplace(tmp_path, tiny_base)


def test_the_plan_names_every_way_and_measures_nothing(place: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("decide", "recipe.yaml", "--dry-run")
    assert ended.status == 0, ended.err
    for arm in ("prompt", "few_shot", "rag", "tuned", "rag_tuned"):
        assert arm in ended.out
    assert not (place / "runs" / "recipe-decide" / "arms").exists()
    plan = kivnun_here("decide", "recipe.yaml", "--dry-run", "--json")
    assert json.loads(plan.out)


def test_a_comparison_is_shown_kept_and_not_measured_again(place: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("decide", "recipe.yaml")
    assert ended.status == 0, ended.err
    folder = place / "runs" / "recipe-decide"
    page, figures = (folder / name for name in ("report.html", "strategies.json"))
    assert f"page: {page.relative_to(place)}" in ended.out
    kept = json.loads(figures.read_text("utf-8"))
    assert {arm["name"]: arm["state"] for arm in kept["arms"]}["tuned"] == "not run"
    assert "not run: tuned (not run): not asked for" in ended.out
    assert kept["decision"]["sentence"] in page.read_text("utf-8")
    assert "few_shot" in ended.err

    events = len(read_events(folder))
    again = kivnun_here("decide", "recipe.yaml", "--json")
    assert again.status == 0, again.err
    told = json.loads(again.out)
    assert told["decision"] == kept["decision"]
    assert [arm["answers"] for arm in told["arms"]] == [arm["answers"] for arm in kept["arms"]]
    assert "asked" not in [event["event"] for event in read_events(folder)[events:]]


def test_limits_that_nothing_keeps_end_with_status_two_and_the_figures_are_kept(
    place: Path, kivnun_here: Command
) -> None:
    ended = kivnun_here("decide", "recipe.yaml", "--out", "here", "--set", "decide.max_latency_ms=0.001")
    assert ended.status == 2
    assert "error[limits-unmet]: No verdict: no measured arm keeps the limits" in ended.err
    assert "p95 latency" in ended.out
    assert (place / "here" / "report.html").exists()


def test_a_recipe_without_the_section_is_refused(place: Path, tiny_base: Path, kivnun_here: Command) -> None:
    write_workplace(place, tiny_base)
    ended = kivnun_here("decide", "recipe.yaml")
    assert ended.status == 2
    assert "error[" in ended.err
    assert "decide" in ended.err


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(place: Path, kivnun_here: Command) -> None:
    process = start_kivnun("decide", "recipe.yaml", work=place)
    folder = place / "runs" / "recipe-decide"
    wait_until(lambda: any(event["event"] == "arm_started" for event in read_events(folder)), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in err
    ended = kivnun_here("decide", "recipe.yaml")
    assert ended.status == 0, ended.err
