"""`kivnun search` with real trainings in processes of their own: interrupted, killed, stopped early, failed."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import (
    EVALUATION,
    Ended,
    children_of,
    is_alive,
    kivnun,
    read_events,
    start_kivnun,
    steps_done,
    wait_until,
    write_workplace,
)

from kivnun.models.new import make_model
from kivnun.models.save import save_model
from kivnun.models.types import Tokenizer
from kivnun.recipe.load import load_recipe
from kivnun.recipe.schema import NewModel

RECIPE = """\
base_model: {base}
data:
  train: rows.jsonl
  text_template: "Text: {{phrase}}\\nTone: {{tone}}"
  split: {{validation: 8, test: 12}}
method: {{kind: lora, rank: 4, alpha: 8}}
training: {{epochs: 100, max_steps: 24, validate_every_steps: 6, save_every_steps: 1, precision: fp32, compile: false}}
"""
SEED_FILE = """\
search_strategy:
  type: "random"
  num_trials: 20

search_space:
  learning_rate:
    type: "float"
    low: 1e-6
    high: 1e-3
    log: true

  lora_r:
    type: "int"
    low: 8
    high: 64

  batch_size:
    type: "choice"
    values: [8, 16, 32]
"""
SEARCH = ("search", "recipe.yaml", "--space", "hyperparameter-search.yaml", "--trials", "2", "--json")
RATES = "{space: {learning_rate: {type: choice, values: [1e-2, 1e-9, 1e30]}}, seed: 0, prune_after: 1}"
Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def wide_base(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for adapters of rank 64."""
    shape = NewModel(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4
    )
    folder = tmp_path_factory.mktemp("base") / "wide"
    save_model(make_model(shape, tiny_tokenizer, seed=1), tiny_tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def straight(wide_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The file of the seeds, undisturbed, two trials at a time; never written to by a test."""
    work = tmp_path_factory.mktemp("straight")
    make_workplace(work, wide_base)
    ended = kivnun(*SEARCH, "--set", "search.workers=2", work=work)
    assert ended.status == 0, ended.err
    return work, ended


@pytest.fixture
def place(wide_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh workplace; it is the current folder."""
    make_workplace(tmp_path, wide_base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_workplace(work: Path, base: Path) -> None:
    write_workplace(work, base, recipe=RECIPE, sections=EVALUATION)
    (work / "hyperparameter-search.yaml").write_text(SEED_FILE, "utf-8")


def results(trials: list[dict]) -> list[dict]:
    """What must be equal however often a search was disturbed: all but the time."""
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in trials]


def test_the_seeds_file_is_searched_and_the_best_recipe_is_ready_to_run(
    straight: tuple[Path, Ended], monkeypatch: pytest.MonkeyPatch, kivnun_here: Command
) -> None:
    work, ended = straight
    found = json.loads(ended.out)
    first, second = found["trials"]
    assert first["value"] < second["value"]
    assert {first["state"], second["state"]} == {"complete"}
    monkeypatch.chdir(work)
    best = load_recipe(Path(found["best_recipe"])).recipe
    assert (best.search, best.evaluation is not None) == (None, True)
    assert best.training.learning_rate == first["values"]["training.learning_rate"]
    assert (best.method.rank, best.training.batch_size) == tuple(list(first["values"].values())[1:])
    assert kivnun_here("run", found["best_recipe"], "--dry-run").status == 0
    page = Path(found["page"]).read_text("utf-8")
    assert page.count("<svg") == 4
    assert "://" not in page
    assert "left" in ended.err


def test_the_value_is_the_best_of_the_validations_and_the_test_rows_are_never_scored(
    straight: tuple[Path, Ended],
) -> None:
    work, ended = straight
    for trial in json.loads(ended.out)["trials"]:
        folder = work / "runs" / "recipe-search" / "trials" / f"{trial['number']:04d}"
        events = read_events(folder)
        losses = [event["loss"] for event in events if event["event"] == "validation"]
        assert len(losses) == 4
        assert trial["value"] == min(losses)
        assert "answering" not in {event["event"] for event in events}
        assert (folder / "model" / "artifact.json").exists()
        assert not (folder / "evaluation").exists()


def test_a_search_that_is_interrupted_and_killed_ends_as_the_undisturbed_one(
    straight: tuple[Path, Ended], place: Path, kivnun_here: Command
) -> None:
    trials = place / "runs" / "recipe-search" / "trials"
    searching = start_kivnun(*SEARCH, work=place)
    wait_until(lambda: steps_done(trials / "0001") >= 3, searching)
    searching.send_signal(signal.SIGINT)
    _, err = searching.communicate(timeout=120)
    assert searching.returncode == 130, err
    assert "the same command goes on from here" in err
    assert "interrupted" in {event["event"] for event in read_events(trials / "0001")}

    searching = start_kivnun(*SEARCH, work=place)
    wait_until(lambda: steps_done(trials / "0002") >= 3, searching)
    workers = children_of(searching.pid)
    searching.kill()
    searching.communicate()
    assert len(workers) == 1
    wait_until(lambda: not is_alive(workers[0]))
    assert steps_done(trials / "0002") < 24

    ended = kivnun_here(*SEARCH)
    assert ended.status == 0, ended.err
    assert "1 of 2 trials are there" in ended.err
    assert "trial 1/2" not in ended.err
    for number in ("0001", "0002"):
        assert "resumed" in {event["event"] for event in read_events(trials / number)}
    undisturbed = json.loads(straight[1].out)
    assert results(json.loads(ended.out)["trials"]) == results(undisturbed["trials"])


def test_a_trial_that_falls_behind_is_stopped_and_one_that_breaks_is_told_without_ending_the_search(
    place: Path, kivnun_here: Command
) -> None:
    ended = kivnun_here("search", "recipe.yaml", "--set", f"search={RATES}", "--set", "training.max_steps=60")
    assert ended.status == 0, ended.err
    rows = json.loads((place / "runs" / "recipe-search" / "results.json").read_text("utf-8"))["trials"]
    by_rate = {trial["values"]["training.learning_rate"]: trial for trial in rows}
    assert {rate: trial["state"] for rate, trial in by_rate.items()} == {
        1e-2: "complete",
        1e-9: "pruned",
        1e30: "failed",
    }
    assert by_rate[1e-9]["steps"] < 60
    assert "loss-not-finite" in by_rate[1e30]["reason"]
    assert "3 combinations, fewer than the 20 trials asked for" in ended.err
    assert "1 came to their end, 1 were stopped early, 1 failed" in ended.out
    trials = place / "runs" / "recipe-search" / "trials"
    assert not list(trials.glob("*/checkpoints"))


def test_what_every_trial_would_meet_ends_the_search_at_once(place: Path, kivnun_here: Command) -> None:
    (place / "rows.jsonl").write_text("no json\n", "utf-8")
    ended = kivnun_here(*SEARCH)
    assert ended.status == 2
    assert ended.err.count("trial ") == 1
    assert "error[data-" in ended.err


def test_a_dry_run_says_what_would_be_done_and_does_nothing(place: Path, kivnun_here: Command) -> None:
    ended = kivnun_here("search", "recipe.yaml", "--space", "hyperparameter-search.yaml", "--dry-run")
    assert ended.status == 0, ended.err
    assert "training.learning_rate: 1e-06 to 0.001, logarithm drawn evenly" in ended.out
    assert "20 trials, chosen by random" in ended.out
    assert "the lowest loss of the validation rows; the test rows are never scored" in ended.out
    assert not (place / "runs").exists()
