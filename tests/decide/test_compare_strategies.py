"""The whole comparison with a tiny model: trained arms beside others, resumed after any end, within a budget."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from decide_workshop import COUNTS, write_workshop

from kivnun.data.folder import read_dataset
from kivnun.decide.compare import compare_strategies
from kivnun.decide.results import Arm, Strategies
from kivnun.errors import UserError
from kivnun.recipe.load import load_recipe

ARMS = "decide.arms=[prompt, tuned, rag_tuned]"
TIMES = ("latency", "cost", "freshness")


class StoppedError(Exception):
    """The end of a command, at a place that a test chooses."""


def compare(folder: Path, *overrides: str, stop_at: str = "") -> Strategies:
    """Compare in `out`, ended at an event such as `training tuned`."""

    def log(event: str, fields: Mapping[str, object]) -> None:
        if stop_at == f"{event} {fields.get('arm', fields.get('step', ''))}":
            raise StoppedError(stop_at)

    return compare_strategies(load_recipe(folder / "recipe.yaml", [ARMS, *overrides]), folder / "out", log=log)


def arms_of(strategies: Strategies) -> dict[str, Arm]:
    return {arm.name: arm for arm in strategies.arms}


def without_times(strategies: Strategies) -> dict[str, object]:
    """All that does not depend on how fast this machine is."""
    values = strategies.to_json()
    values["created"] = ""
    for arm in values["arms"]:
        arm.update(dict.fromkeys(TIMES))
    values["decision"] = {name: values["decision"][name] for name in ("chosen", "is_decided", "rows_needed")}
    return values


def make_place(folder: Path, base: Path) -> Path:
    folder.mkdir()
    write_workshop(folder, base)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tuple[Path, Strategies]:
    """A comparison that was never interrupted; only its log grows afterwards."""
    place = make_place(tmp_path_factory.mktemp("decide") / "whole", tiny_model_folder)
    before = Path.cwd()
    os.chdir(place)
    try:
        return place, compare(place)
    finally:
        os.chdir(before)


@pytest.fixture
def place(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = make_place(tmp_path / "whole", tiny_model_folder)
    monkeypatch.chdir(made)
    return made


def test_trained_arms_are_measured_like_the_others(done: tuple[Path, Strategies]) -> None:
    _, strategies = done
    arms = arms_of(strategies)
    assert {name for name, arm in arms.items() if arm.state == "measured"} == {
        *("prompt", "tuned", "rag_tuned", "closed_book", "oracle")
    }
    for name in ("tuned", "rag_tuned"):
        arm = arms[name]
        assert arm.cost is not None
        assert arm.cost.training_minutes > 0
        assert arm.latency is not None
        assert arm.latency.num_requests == 2
        assert len(arm.scores) == len(arm.answers) == COUNTS["test"]
        assert arm.p_value is not None
    assert len(arms["rag_tuned"].sources) == COUNTS["test"]
    assert arms["rag_tuned"].settings == {"k": 2, "distractors": 1, "without_gold": 0.2}
    assert arms["rag"].reason == "not asked for in decide.arms"
    assert strategies.looks == 1


def test_the_learning_curve_has_the_part_and_the_whole(done: tuple[Path, Strategies]) -> None:
    _, strategies = done
    assert [(point.share, point.num_rows) for point in strategies.curve] == [(0.5, 12), (1.0, 24)]
    assert strategies.curve[1].score == arms_of(strategies)["tuned"].pilot


def test_a_part_of_the_training_rows_may_lack_a_rare_label(done: tuple[Path, Strategies]) -> None:
    folder, _ = done
    assert "label-not-in-train" in load_recipe(folder / "out" / "curve-50.yaml").recipe.data.ignore_checks
    assert "label-not-in-train" not in load_recipe(folder / "out" / "tuned.yaml").recipe.data.ignore_checks


def test_forgetting_is_told_for_every_trained_arm(done: tuple[Path, Strategies]) -> None:
    _, strategies = done
    assert [each.arm for each in strategies.forgetting] == ["tuned", "rag_tuned"]
    assert all(each.before > 0 and each.after > 0 and each.num_texts == 40 for each in strategies.forgetting)


def test_a_tuned_arm_stays_stale_and_one_that_reads_is_indexed_again(done: tuple[Path, Strategies]) -> None:
    arms = arms_of(done[1])
    tuned, rag_tuned = arms["tuned"].freshness, arms["rag_tuned"].freshness
    assert tuned is not None
    assert rag_tuned is not None
    assert arms["tuned"].cost is not None
    assert tuned.seconds == pytest.approx(60 * arms["tuned"].cost.training_minutes)
    assert "before the next training" in tuned.note
    assert "indexed again" in rag_tuned.note


def test_the_training_read_the_frozen_rows_and_no_test_row(done: tuple[Path, Strategies]) -> None:
    folder, _ = done
    frozen = orjson.loads((folder / "out" / "frozen.json").read_bytes())
    trained = {split: {row.id for row in read_dataset(folder / "out/tuned/dataset").rows(split)} for split in COUNTS}
    assert {split: set(frozen[f"{split} rows"]) for split in COUNTS} == trained
    part = {row.id for row in read_dataset(folder / "out/curve-50/dataset").rows("train")}
    assert part < trained["train"]


def test_rows_with_passages_were_trained_on(done: tuple[Path, Strategies]) -> None:
    folder, _ = done
    rows = read_dataset(folder / "out/rag_tuned/dataset").rows("train")
    assert len(rows) == COUNTS["train"]
    assert all(row.prompt.startswith("[1] ") and "[2] " in row.prompt for row in rows)


def test_the_same_command_gives_the_same_comparison(
    done: tuple[Path, Strategies], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, strategies = done
    monkeypatch.chdir(folder)
    again = compare(folder)
    assert {**again.to_json(), "created": ""} == {**strategies.to_json(), "created": ""}


@pytest.mark.parametrize("stop_at", ["step 1", "arm_finished tuned"])
def test_a_comparison_that_ended_anywhere_goes_on_to_the_same_end(
    done: tuple[Path, Strategies], place: Path, stop_at: str
) -> None:
    with pytest.raises(StoppedError):
        compare(place, stop_at=stop_at)
    expected, found = without_times(done[1]), without_times(compare(place))
    for arm in (*expected["arms"], *found["arms"]):  # type: ignore[misc]
        arm["model"] = arm["model"].rpartition("/")[2]
    assert found == expected


@pytest.mark.slow
def test_a_killed_comparison_keeps_what_was_measured(place: Path) -> None:
    words = "import sys; from pathlib import Path; from kivnun.decide.compare import compare_strategies as go; "
    words += "from kivnun.recipe.load import load_recipe as load; "
    words += "say = lambda event, fields: print(event, fields.get('arm', ''), flush=True); "
    words += "go(load(Path('recipe.yaml'), sys.argv[1:]), Path('out'), log=say)"
    process = subprocess.Popen([sys.executable, "-c", words, ARMS], stdout=subprocess.PIPE, text=True, cwd=place)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("arm_finished prompt"):
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    kept = (place / "out" / "arms" / "prompt.json").read_bytes()
    arms = arms_of(compare(place, "decide.arms=[prompt]"))
    assert (place / "out" / "arms" / "prompt.json").read_bytes() == kept
    assert arms["prompt"].state == "measured"


def test_an_arm_that_does_not_fit_the_minutes_is_not_run_and_more_minutes_run_it(place: Path) -> None:
    arms = arms_of(compare(place, "decide.arms=[prompt]", "decide.budget_minutes=0.0000001"))
    assert arms["prompt"].state == "not run"
    assert "of decide.budget_minutes = 1e-07 are used" in arms["prompt"].reason
    assert not (place / "out" / "looks.jsonl").exists()
    assert arms_of(compare(place, "decide.arms=[prompt]", "decide.budget_minutes=60"))["prompt"].state == "measured"


@pytest.mark.slow
def test_a_training_that_does_not_fit_the_minutes_is_not_begun(place: Path) -> None:
    minutes = "decide.budget_minutes=60"
    compare(place, "decide.arms=[prompt]", minutes)
    spent = orjson.loads((place / "out" / "spent.json").read_bytes())["seconds"] / 60
    arms = arms_of(compare(place, "decide.arms=[prompt, tuned]", f"decide.budget_minutes={spent + 1e-4}"))
    assert arms["tuned"].state == "not run"
    assert arms["tuned"].reason.startswith("over budget: about ")
    assert not (place / "out" / "tuned").exists()


def test_every_seed_is_trained_and_told(place: Path) -> None:
    arms = arms_of(
        compare(place, "decide.arms=[tuned]", "decide.num_seeds=2", "decide.learning_curve=[1.0]", "retrieval=null")
    )
    tuned = arms["tuned"]
    assert len(tuned.seed_scores) == 2
    assert tuned.seed_scores[0] == pytest.approx(sum(tuned.scores) / len(tuned.scores))
    assert (place / "out" / "tuned-seed-1" / "model").is_dir()


def test_answers_that_no_arm_could_give_whole_are_refused(place: Path) -> None:
    with pytest.raises(UserError) as caught:
        compare(place, "evaluation.max_new_tokens=1")
    assert caught.value.code == "answer-too-long"


def test_documents_that_cannot_be_indexed_leave_the_arms_that_need_them_unrun(place: Path) -> None:
    shutil.rmtree(place / "documents")
    arms = arms_of(compare(place, "decide.arms=[prompt, rag]"))
    assert arms["prompt"].state == "measured"
    assert arms["rag"].state == arms["oracle"].state == "not run"
    assert arms["rag"].reason.startswith("document-unreadable: ")


def test_chats_are_compared_too(place: Path) -> None:
    for split in COUNTS:
        rows = [orjson.loads(line) for line in (place / f"{split}.jsonl").read_bytes().splitlines()]
        turns = [
            {
                "messages": [
                    {"role": "user", "content": row["asked"]},
                    {"role": "assistant", "content": row["said"]},
                ],
                "document": row["document"],
            }
            for row in rows
        ]
        (place / f"{split}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in turns))
    data = "data={train: train.jsonl, validation: validation.jsonl, test: test.jsonl, messages: messages}"
    arms = arms_of(compare(place, data, "evaluation.max_new_tokens=6"))
    assert {name for name, arm in arms.items() if arm.state == "measured"} >= {"prompt", "tuned", "rag_tuned"}
    rows = read_dataset(place / "out/rag_tuned/dataset").rows("train")
    assert all("[1] " in row.prompt and "[2] " in row.prompt for row in rows)
