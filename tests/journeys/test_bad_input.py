"""What a user may get wrong: said with its place, its value and one action; nothing looks finished afterwards."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from journey import KIVNUN, Ended, clean_environment, example_rows, finished_stages, kivnun, leftovers, write_jsonl

from kivnun.runs import open_run

Command = Callable[..., Ended]


@dataclass(frozen=True)
class Mistake:
    """A mistake and what the error must say.

    Attributes:
        name: In words.
        code: Of the error.
        says: Texts that must stand in it.
        rows: Text of the data file instead of the example's.
        settings: Overrides.
        recipe: A text of the recipe, and what stands there instead.
        finished: Stages that are rightly finished before the mistake can be seen.
    """

    name: str
    code: str
    says: Sequence[str]
    rows: str | None = None
    settings: Sequence[str] = ()
    recipe: tuple[str, str] | None = None
    finished: frozenset[str] = frozenset()


def lines(*changes: tuple[int, str]) -> str:
    """The example's rows with some lines (from 1) replaced."""
    texts = [json.dumps(row, ensure_ascii=False) for row in example_rows()]
    for number, text in changes:
        texts[number - 1] = text
    return "\n".join(texts) + "\n"


def row(phrase: object = "A line", tone: object = "joy") -> str:
    return json.dumps({"phrase": phrase, "tone": tone})


NEVER_TRAINED = json.dumps(
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "weight": 0}]}
)
TEMPLATE = 'text_template: "Text: {phrase}\\nTone: {tone}"'
RECIPE_MISTAKES = (
    Mistake(
        "misspelt field",
        "recipe-invalid",
        ["recipe.yaml:10: training.learning_rat: ", "did you mean `learning_rate`"],
        recipe=("learning_rate:", "learning_rat:"),
    ),
    Mistake(
        "wrong type",
        "recipe-invalid",
        ["recipe.yaml:9: training.max_steps: ", "'many'"],
        recipe=("max_steps: 12", "max_steps: many"),
    ),
    Mistake(
        "learning rate that is no number",
        "recipe-invalid",
        ["recipe.yaml:10: training.learning_rate: ", "nan"],
        recipe=("5e-3", ".nan"),
    ),
    Mistake(
        "negative learning rate on the command line",
        "recipe-invalid",
        ["--set training.learning_rate=-1", "training.learning_rate", "greater than 0"],
        settings=["training.learning_rate=-1"],
    ),
    Mistake(
        "label that is not the answer's field",
        "recipe-invalid",
        ["evaluation.label", "`language` is not the field that is answered (tone)"],
        settings=["evaluation.label=language"],
    ),
    Mistake("absent file", "data-missing", ["data.train: nowhere.jsonl"], settings=["data.train=nowhere.jsonl"]),
)
DATA_MISTAKES = (
    Mistake("empty file", "data-empty", ["rows.jsonl: no rows"], rows=""),
    Mistake("file of blank lines", "data-empty", ["rows.jsonl: no rows"], rows="\n\n  \n"),
    Mistake(
        "malformed lines",
        "data-malformed",
        ["2 malformed row(s)", "rows.jsonl:5: ", '{"phrase": "cut of', "rows.jsonl:7: expected an object"],
        rows=lines((5, '{"phrase": "cut of'), (7, '["joy"]')),
    ),
    Mistake(
        "column that is not there",
        "template-field",
        ["rows.jsonl: no column 'mood'", "columns: phrase, tone, language"],
        recipe=("{tone}", "{mood}"),
        settings=["evaluation=null"],
    ),
    Mistake(
        "null and empty fields",
        "data-field",
        ["3 problem(s)", "rows.jsonl:3: field 'tone' is null", "rows.jsonl:4: field 'tone' is empty", "rows.jsonl:6:"],
        rows=lines((3, row(tone=None)), (4, row(tone=" ")), (6, row(phrase=""))),
    ),
    Mistake(
        "fewer rows than the split takes",
        "split-too-small",
        ["3 different row(s)", "validation 8", "test 12"],
        rows="\n".join(row(phrase=text) for text in "abc"),
    ),
    Mistake(
        "answer that would be cut away",
        "answer-cut",
        ["1 row(s)", "data.max_seq_len = 512", "rows.jsonl:9: ", "tokens"],
        rows=lines((9, row(phrase="far too long " * 200))),
    ),
    Mistake(
        "no trained token at all",
        "messages-invalid",
        ["rows.jsonl:1: no assistant turn is trained"],
        rows=(NEVER_TRAINED + "\n") * 40,
        recipe=(TEMPLATE, "messages: messages"),
        settings=["evaluation=null"],
    ),
    Mistake(
        "layers that are not there",
        "target-modules",
        ["method.target_modules: q_projj", "q_proj"],
        settings=["method.target_modules=[q_projj]"],
    ),
    Mistake(
        "label that is only a part of the answer",
        "evaluation-label",
        ["rows.jsonl:", "evaluation.label 'tone'", "the tone is"],
        recipe=(TEMPLATE, 'prompt_template: "{phrase}"\n  answer_template: "the tone is {tone}"'),
        finished=frozenset({"dataset"}),
    ),
    Mistake("absent model folder", "model-missing", ["./nowhere: no such folder"], settings=["base_model=./nowhere"]),
    Mistake("model folder without tokenizer", "model-invalid", ["tokenizer.json"], settings=["base_model=./mute"]),
)


def require_refusal(ended: Ended, mistake: Mistake, folder: Path) -> None:
    problem = ended.err[ended.err.index("error[") :] if "error[" in ended.err else ended.err
    assert ended.status == 2, ended.err
    assert problem.startswith(f"error[{mistake.code}]: "), ended.err
    assert all(text in problem for text in mistake.says), problem
    assert problem.splitlines()[-1].startswith("hint: ")
    assert problem.count("hint: ") == 1
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert finished_stages(folder) == mistake.finished
    assert leftovers(folder) == []


def commit(mistake: Mistake, work: Path, base: Path) -> list[str]:
    """Make the mistake in a workplace; the arguments of the command."""
    if mistake.rows is not None:
        (work / "rows.jsonl").write_text(mistake.rows, "utf-8")
    if mistake.recipe is not None:
        text = (work / "recipe.yaml").read_text("utf-8")
        assert mistake.recipe[0] in text
        (work / "recipe.yaml").write_text(text.replace(*mistake.recipe), "utf-8")
    shutil.copytree(base, work / "mute", ignore=shutil.ignore_patterns("tokenizer*", "*.jinja"))
    return ["run", "recipe.yaml", *(part for setting in mistake.settings for part in ("--set", setting))]


@pytest.mark.parametrize("mistake", [*RECIPE_MISTAKES, *DATA_MISTAKES], ids=lambda mistake: mistake.name)
def test_a_mistake_is_refused_with_its_place_and_one_action(
    mistake: Mistake, tiny_base: Path, work: Path, kivnun_here: Command
) -> None:
    ended = kivnun_here(*commit(mistake, work, tiny_base))
    require_refusal(ended, mistake, work / "runs" / "recipe")


@pytest.mark.parametrize("mistake", RECIPE_MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_in_the_recipe_makes_no_folder(
    mistake: Mistake, tiny_base: Path, work: Path, kivnun_here: Command
) -> None:
    kivnun_here(*commit(mistake, work, tiny_base))
    assert not (work / "runs").exists()


def test_all_mistakes_of_a_recipe_are_said_at_once(work: Path, kivnun_here: Command) -> None:
    text = (work / "recipe.yaml").read_text("utf-8").replace("rank: 4", "rnk: 4").replace("5e-3", "-1")
    (work / "recipe.yaml").write_text(text, "utf-8")
    ended = kivnun_here("run", "recipe.yaml")
    assert ended.status == 2
    assert "2 problems in recipe.yaml" in ended.err
    assert "recipe.yaml:7: method.rnk: unknown field; did you mean `rank`?" in ended.err
    assert "recipe.yaml:10: training.learning_rate: " in ended.err


def test_a_model_that_neither_a_folder_nor_the_hub_has_is_refused_by_the_installed_command(work: Path) -> None:
    ended = kivnun("run", "recipe.yaml", "--set", "base_model=nobody/nothing-of-this-name", work=work)
    mistake = Mistake("unknown id", "model-missing", ["nobody/nothing-of-this-name"])
    require_refusal(ended, mistake, work / "runs" / "recipe")


def test_a_second_process_in_the_same_run_folder_is_refused(work: Path) -> None:
    with open_run(work / "runs" / "recipe"):
        ended = kivnun("run", "recipe.yaml", work=work)
    assert ended.status == 2
    assert f"error[run-locked]: another process (pid {os.getpid()}" in ended.err
    assert "hint: " in ended.err
    assert finished_stages(work / "runs" / "recipe") == set()


def test_a_folder_with_other_things_in_it_is_not_taken_for_a_run(work: Path, kivnun_here: Command) -> None:
    (work / "thesis").mkdir()
    (work / "thesis" / "chapter.txt").write_text("words", "utf-8")
    ended = kivnun_here("run", "recipe.yaml", "--run-dir", "thesis")
    assert ended.status == 2
    assert "error[run-folder-taken]: thesis exists" in ended.err
    assert [path.name for path in (work / "thesis").iterdir()] == ["chapter.txt"]


def test_a_recipe_that_is_not_there_is_an_error_and_no_traceback(work: Path) -> None:
    done = subprocess.run(
        [KIVNUN, "run", "recipes/none.yaml"], cwd=work, env=clean_environment(), capture_output=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode().startswith("error[recipe-missing]: there is no recipe recipes/none.yaml\nhint: ")


def test_an_unknown_option_ends_with_status_2_and_no_traceback(kivnun_here: Command) -> None:
    ended = kivnun_here("run", "recipe.yaml", "--run-dri", "x")
    assert ended.status == 2
    assert "--run-dir" in ended.err


def test_the_bundled_model_that_is_not_installed_is_a_clear_error(
    work: Path, kivnun_here: Command, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kivnun.models.resolve.BUNDLED_FOLDER", tmp_path_factory.mktemp("gone") / "bundled")
    ended = kivnun_here("run", "recipe.yaml", "--set", "base_model=bundled")
    code = "model-missing" if "error[model-missing]" in ended.err else "model-invalid"
    require_refusal(ended, Mistake("bundled", code, ["bundled"]), work / "runs" / "recipe")


def test_good_rows_after_bad_ones_finish_in_the_same_folder(work: Path, kivnun_here: Command) -> None:
    (work / "rows.jsonl").write_text("oops\n", "utf-8")
    settings = ("--set", "evaluation=null", "--set", "optimization=null", "--set", "training.max_steps=1")
    assert kivnun_here("run", "recipe.yaml", *settings).status == 2
    write_jsonl(work / "rows.jsonl", example_rows())
    ended = kivnun_here("run", "recipe.yaml", *settings)
    assert ended.status == 0, ended.err
    assert finished_stages(work / "runs" / "recipe") == {"dataset", "model"}
