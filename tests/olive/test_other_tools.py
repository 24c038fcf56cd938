"""Files and commands of AutoTrain and TRL are refused with what a recipe has for each of their keys."""

from pathlib import Path

import pytest
from olive_files import run_kivnun, write_olive
from olive_workshop import call

from kivnun.cli.olive_verbs import OTHERS
from kivnun.errors import UserError
from kivnun.olive.files import read_olive_file
from kivnun.olive.other_tools import VERBS

AUTOTRAIN = """\
task: llm-dpo
base_model: org/name
project_name: tone
log: tensorboard
data:
  path: rows.jsonl
  valid_split: null
  column_mapping:
    text_column: messages
params:
  block_size: 2048
  lr: 1e-5
  epochs: 2
  batch_size: 4
  gradient_accumulation: 8
  peft: true
  quantization: int4
  optimizer: paged_adamw_8bit
  mixed_precision: bf16
hub:
  token: hf_secret
"""
TRL = """\
model_name_or_path: org/name
dataset_name: org/rows
learning_rate: 2.0e-4
max_length: 1024
use_peft: false
lora_r: 32
unheard_of: 1
"""


def refused(path: Path) -> dict[str, str]:
    """What the error says of each key."""
    with pytest.raises(UserError) as caught:
        read_olive_file(path)
    assert caught.value.code == "other-tool"
    return dict(detail.partition(": ")[2].split(" -> ") for detail in caught.value.details)


def test_a_file_of_autotrain_says_what_a_recipe_has_for_each_key(tmp_path: Path) -> None:
    said = refused(write_olive(tmp_path, AUTOTRAIN, name="autotrain.yml"))
    expected = {
        "task": "training.objective: dpo",
        "base_model": "base_model: org/name",
        "data.path": "data.train: rows.jsonl",
        "data.valid_split": "nothing: a recipe does not say it",
        "params.block_size": "data.max_seq_len: 2048",
        "params.lr": "training.learning_rate: 1e-05",
        "params.epochs": "training.epochs: 2",
        "params.gradient_accumulation": "training.gradient_accumulation_steps: 8",
        "params.quantization": "method: {kind: qlora}, in place of lora",
        "params.mixed_precision": "training.precision: bf16",
    }
    assert {key: said[key] for key in expected} == expected
    assert said["params.optimizer"].startswith("training.optimizer: adamw_8bit")
    assert "hf_secret" not in "".join(said.values())


def test_a_file_of_trl_says_what_a_recipe_has_for_each_key(tmp_path: Path) -> None:
    assert refused(write_olive(tmp_path, TRL, name="trl.yaml")) == {
        "model_name_or_path": "base_model: org/name",
        "dataset_name": "data.train: org/rows",
        "learning_rate": "training.learning_rate: 0.0002",
        "max_length": "data.max_seq_len: 1024",
        "use_peft": "method: {kind: full}",
        "lora_r": "method.rank: 32",
        "unheard_of": "a recipe has no such field; `kivnun recipe explain` lists what it has",
    }


@pytest.mark.parametrize("command", [("run",), ("run", "--config"), ("recipe", "import"), ("recipe", "check")])
def test_every_command_that_takes_a_file_says_it_with_the_line(command: tuple[str, ...], tmp_path: Path) -> None:
    path = write_olive(tmp_path, AUTOTRAIN, name="autotrain.yml")
    ended = call(*command, path)
    assert ended.status == 2
    assert f"error[other-tool]: {path} is a file of AutoTrain, and no recipe" in ended.err
    assert f"{path}:12: params.lr -> training.learning_rate: 1e-05" in ended.err


@pytest.mark.parametrize(
    "text", [TRL.replace("dataset_name", "other"), AUTOTRAIN.replace("llm-dpo", "text-regression")]
)
def test_files_that_are_no_such_are_left_to_others(text: str, tmp_path: Path) -> None:
    assert read_olive_file(write_olive(tmp_path, text, name="other.yaml")) is None


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ("autotrain", "llm", "--train", "--model", "org/name", "--data-path", "rows", "--lr", "2e-4", "--token=x"),
            ("--model -> base_model: org/name", "--lr -> training.learning_rate: 0.0002", "--data-path -> data.train"),
        ),
        (("trl", "sft", "--max_length", "9"), ("sft -> training.objective: supervised", "data.max_seq_len: 9")),
        (("trl", "grpo"), ("grpo -> there is no 'grpo'; `training.objective` is one of supervised",)),
        (("sft", "--help"), ("sft -> training.objective: supervised",)),
        (("dpo",), ("dpo -> training.objective: dpo",)),
    ],
)
def test_commands_of_other_programs_say_what_a_recipe_has(words: tuple[str, ...], lines: tuple[str, ...]) -> None:
    ended = call(*words)
    assert ended.status == 2
    assert "error[other-tool]: " in ended.err
    assert all(line in ended.err for line in lines)
    assert "--help ->" not in ended.err


def test_the_verbs_of_the_page_are_those_that_are_refused() -> None:
    assert set(OTHERS) == set(VERBS)


def test_a_loss_that_is_not_installed_is_noticed_by_the_check_and_names_the_built_in_one(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', "utf-8")
    text = f"base_model: bundled\ndata: {{train: {tmp_path}/rows.jsonl}}\ntraining: {{objective: OBJECTIVE}}\n"
    own = "{kind: custom, name: 'custom_loss:CustomContrastiveLoss'}"
    path = write_olive(tmp_path, text, name="recipe.yaml", OBJECTIVE=own)
    for command in (("recipe", "check"), ("run", "--dry-run")):
        ended = call(*command, path)
        assert ended.status == 2
        assert "error[objective-invalid]" in ended.err
        assert "write `objective: {kind: contrastive, loss: margin}`" in ended.err
    path = write_olive(tmp_path, text, name="other.yaml", OBJECTIVE="{kind: custom, name: focal}")
    assert "install the package that brings it" in call("recipe", "check", path).err
    path = write_olive(tmp_path, text, name="built-in.yaml", OBJECTIVE="{kind: contrastive, loss: margin}")
    assert run_kivnun("recipe", "check", path)[0] == 0
