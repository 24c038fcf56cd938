"""`kivnun finetune`: every flag is translated, printed and run, or refused by name; nothing is ignored."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from olive_workshop import TEMPLATE, Ended, Workshop, call, phrases, write_rows
from safetensors.torch import load_file

from kivnun.errors import UserError
from kivnun.methods import load_tuned
from kivnun.olive.commands import FINETUNE_FLAGS, translate_finetune
from kivnun.olive.flags import read_flags, unescape
from kivnun.olive.translation import Tree

NEEDED = ("-m", "base", "-d", "rows.json")


def translate(*words: str) -> Tree:
    return translate_finetune(read_flags("finetune", [*NEEDED, *words], FINETUNE_FLAGS)).recipe


def refusal(*words: str) -> UserError:
    with pytest.raises(UserError) as caught:
        translate(*words)
    assert caught.value.code == "olive-invalid"
    return caught.value


def test_both_spellings_of_a_flag_are_one_flag() -> None:
    assert translate("--max_steps", "7", "--lora_r", "8") == translate("--max-steps=7", "--lora-r=8")


def test_olives_defaults_are_written_out() -> None:
    recipe = translate()
    kind = {"kind": "lora", "rank": 64, "alpha": 16, "dropout": 0.05}
    assert recipe["method"] == {**kind, "target_modules": "all-linear"}
    # Olive quantises no scales, where a recipe does so unless told otherwise.
    assert translate("--method", "qlora")["method"]["double_quant"] is False  # type: ignore[index]
    assert recipe["training"] == {
        "learning_rate": 2e-4,
        "epochs": 3.0,
        "batch_tokens": 8192,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "precision": "auto",
        "seed": 42,
    }


def test_line_ends_of_a_template_are_spelled_by_two_letters() -> None:
    assert unescape(r"a\n{b}\t{c}\\n") == "a\n{b}\t{c}\\n"
    assert translate("--text_template", r"Q: {a}\nA: {b}")["data"] == {
        "train": "rows.json",
        "text_template": "Q: {a}\nA: {b}",
        "split": {"validation": 0, "test": 0},
    }


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["--train_split", "train[:4096]"], {"train_rows": ":4096"}),
        (["--max_samples", "5"], {"train_rows": ":5"}),
        (["--train_split", "train"], {}),
    ],
    ids=["slice", "samples", "all"],
)
def test_rows_that_train_are_a_slice(words: list[str], rows: dict[str, str]) -> None:
    expected = {"train": "rows.json", **rows, "split": {"validation": 0, "test": 0}}
    assert translate(*words)["data"] == expected


def test_rows_that_validate_are_a_slice_of_the_same_file() -> None:
    recipe = translate("--train_split", "train[:6]", "--eval_split", "train[6:9]")
    assert recipe["data"] == {
        "train": "rows.json",
        "train_rows": ":6",
        "validation_rows": "6:9",
        "split": {"test": 0},
    }


def test_flags_that_need_validation_rows_keep_some_apart() -> None:
    assert translate("--eval_steps", "50")["data"] == {"train": "rows.json", "split": {"validation": 0.1, "test": 0}}
    for words in (["--do_eval", "false"], ["--eval_strategy", "no"]):
        assert translate(*words)["data"]["split"] == {"validation": 0, "test": 0}  # type: ignore[index]


def test_a_data_sets_own_validation_rows_are_asked_and_a_file_has_none(here: Path) -> None:
    # Not 0, with which a data set without any would be validated on nothing.
    assert translate("--eval_split", "validation", "--eval_steps", "5")["data"]["split"] == {"test": 0}  # type: ignore[index]
    write_rows(here / "rows.json", phrases(4))
    (problem,) = refusal("--eval_split", "validation").details
    assert "'validation' is not in a file" in problem


def test_a_chat_template_is_for_the_column_of_messages(workshop: Workshop, here: Path) -> None:
    assert translate("--use_chat_template")["data"]["messages"] == "messages"  # type: ignore[index]
    words = ("-m", workshop.llama, "-d", workshop.rows, "--use_chat_template", "--dry_run")
    assert call("finetune", *words).status == 2


def test_a_model_of_the_users_own_is_not_replaced(workshop: Workshop, here: Path) -> None:
    shutil.copytree(workshop.gpt2, here / "out" / "model")
    ended = finetune(workshop, here / "out")
    assert (ended.status, "error[file-exists]" in ended.err) == (2, True)
    assert json.loads((here / "out/model/config.json").read_bytes())["model_type"] == "gpt2"
    assert not (here / "out" / "adapter").exists()


def test_the_plan_and_the_results_are_json_where_asked(workshop: Workshop, here: Path) -> None:
    plan = finetune(workshop, here / "out", "--dry_run", "--json")
    assert any(line.startswith("steps: 1") for line in json.loads(plan.out)["plan"])
    told = json.loads(finetune(workshop, here / "out", "--json").out)
    assert [Path(told[name]).is_dir() for name in ("adapter", "model", "run")] == [True] * 3
    assert told["results"]


def test_a_truth_is_a_word() -> None:
    for word, value in (("true", True), ("True", True), ("yes", True), ("false", False), ("No", False), ("0", False)):
        assert read_flags("finetune", ["--dry_run", word], FINETUNE_FLAGS).is_true("dry_run") is value
    assert read_flags("finetune", ["--dry_run", "--trust_remote_code"], FINETUNE_FLAGS).is_true("dry_run")
    assert translate("--gradient_checkpointing", "true")["training"]["gradient_checkpointing"] is True  # type: ignore[index]
    assert translate("--gradient_checkpointing")["training"]["gradient_checkpointing"] is True  # type: ignore[index]
    assert translate("--gradient_checkpointing", "False")["training"]["gradient_checkpointing"] is False  # type: ignore[index]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max_step", "5"], "--max_step: unknown flag; did you mean --max_steps?"),
        (["--learnin_rate", "1"], "--learnin_rate: unknown flag; did you mean --learning_rate?"),
        (["--lora_r"], "--lora_r: has no value"),
        (["--lora_r", "1", "--lora-r", "2"], "--lora-r: is given twice"),
        (["--lora_r", "1.5"], "should be a whole number (got '1.5')"),
        (["--learning_rate", "nan"], "--learning_rate: should be a number (got 'nan')"),
        (["loose"], "'loose' belongs to no flag"),
        (["--method", "dora"], "'dora' is not of finetune; write lora or qlora"),
        (["--torch_dtype", "float16"], "write bfloat16 or float32"),
        (["--batch_size", "4"], "write --per_device_train_batch_size"),
        (["--input_cols", "a,b"], "write them into --text_template in braces"),
        (["--model_script", "x.py"], "save the model as a folder"),
        (["--account_name", "x"], "a cache in Azure"),
        (["--train_split", "test"], "'test' is no split to train on"),
        (["--train_split", "train[a]"], "'train[a]' is no split"),
        (["--eval_split", "train"], "would validate on the rows that are trained"),
        (["--eval_subset", "other"], "write --train_subset the same"),
        (["--logging_dir", "logs"], "has no effect without TensorBoard; add --report_to tensorboard"),
        (["--text_field", "phrase"], "running text is read from the column `text`"),
        (["--text_field", "text", "--use_chat_template"], "cannot stand beside --text_field"),
        (["--data_files", "other.json"], "names files beside the data set rows.json"),
        (["--max_samples", "5", "--train_split", "train[:9]"], "which counts rows too; keep one"),
        (["--task", "image-classification"], "Kivnun ships models that generate text"),
        (["--dataloader_num_workers", "4"], "rows are tokenised once"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_flag_without_a_meaning_is_refused_by_name(words: list[str], said: str) -> None:
    assert said in "\n".join(refusal(*words).details)


def test_without_model_and_data_one_error_names_both(here: Path) -> None:
    ended = call(
        "finetune", "--method", "lora", "--task_name", "classification", "--output_path", "adapters/classifier"
    )
    assert ended.status == 2
    assert ended.err.startswith("error[olive-invalid]: 2 problems")
    assert "--model_name_or_path: is missing; write -m FOLDER" in ended.err
    assert "--data_name: is missing; write -d FILE" in ended.err
    assert not Path("adapters").exists()


def test_a_loader_names_no_rows_but_goes_with_files() -> None:
    words = ["-m", "base", "-d", "json", "--data_files", "a.json,b.json"]
    given = read_flags("finetune", words, FINETUNE_FLAGS)
    assert translate_finetune(given).recipe["data"]["train"] == ["a.json", "b.json"]  # type: ignore[index]
    with pytest.raises(UserError) as caught:
        translate_finetune(read_flags("finetune", ["-m", "base", "-d", "json"], FINETUNE_FLAGS))
    assert "add --data_files FILE" in caught.value.details[0]


def test_help_lists_every_flag() -> None:
    ended = call("finetune", "--help")
    assert ended.status == 0
    assert [flag.name for flag in FINETUNE_FLAGS if f"--{flag.name} " not in ended.out] == []


def test_the_result_lies_where_olive_lays_it(workshop: Workshop) -> None:
    model, adapter = workshop.tuned / "model", workshop.tuned / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_bytes())["r"] == 64
    tuned = load_tuned(model, adapter, dtype=torch.float32)
    assert any("lora" in name.lower() for name, _ in tuned.named_parameters())
    # The base model's files have a second name and take no room.
    assert (model / "model.safetensors").samefile(workshop.llama / "model.safetensors")
    assert "# --max_steps" in (workshop.tuned / "run" / "recipe.yaml").read_text("utf-8")


def finetune(workshop: Workshop, out: Path, *more: str) -> Ended:
    needed = ("-m", workshop.llama, "-d", workshop.rows, "--text_template", TEMPLATE, "--lora_r", "4")
    return call("finetune", *needed, "--max_steps", "1", "--torch_dtype", "float32", "-o", out, *more)


def test_the_same_command_again_repeats_nothing(workshop: Workshop, here: Path) -> None:
    assert finetune(workshop, here / "out").status == 0
    before = (here / "out" / "adapter" / "adapter_model.safetensors").stat()
    ended = finetune(workshop, here / "out")
    assert ended.status == 0
    assert "[model] unchanged, not repeated" in ended.err
    after = (here / "out" / "adapter" / "adapter_model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_every_flag_is_printed_with_what_it_became(workshop: Workshop, here: Path) -> None:
    ended = finetune(workshop, here / "out", "--dry_run", "--task_name", "tones", "--trust_remote_code")
    assert ended.status == 0
    assert "--lora_r 4 -> method.rank: 4" in ended.err
    assert "--lora_alpha 16 -> method.alpha: 16 (Olive's default)" in ended.err
    assert "--target_modules all-linear -> method.target_modules: all-linear (Kivnun's own); every" in ended.err
    assert "--max_samples all (Kivnun's own); every row; Olive takes 256 blocks" in ended.err
    assert "--task_name tones -> name: tones; names the run, and chooses no task\n" in ended.err
    scored = finetune(workshop, here / "out", "--dry_run", "--task_name", "classification").err
    assert "for scores of labels, write `evaluation: {task: classification, label: COLUMN}`" in scored
    assert "--trust_remote_code True -> same; the model's own code is never run" in ended.err
    assert "steps: 1 of up to 8,192 tokens, method lora" in ended.out
    assert not (here / "out").exists()


def test_the_level_of_words_is_what_log_level_says(workshop: Workshop, here: Path) -> None:
    assert finetune(workshop, here / "out", "--log_level", "3").err == ""


def test_a_model_that_needs_its_own_code_is_refused(workshop: Workshop, here: Path) -> None:
    shutil.copytree(workshop.llama, "own")
    config = json.loads(Path("own/config.json").read_bytes())
    for model_type, status in (("llama", 0), ("its_own", 2)):
        written = {**config, "model_type": model_type, "auto_map": {"AutoModelForCausalLM": "modeling.Own"}}
        Path("own/config.json").write_text(json.dumps(written), "utf-8")
        words = ("-m", "own", "-d", workshop.rows, "--text_template", TEMPLATE, "--trust_remote_code", "--dry_run")
        ended = call("finetune", *words)
        assert ended.status == status, ended.err
        said = "its own code is not run" if status == 0 else "error[model-invalid]: own needs code of its own"
        assert said in ended.err


def test_logging_dir_shows_the_files_of_tensorboard(workshop: Workshop, here: Path) -> None:
    more = ("--logging_dir", "logs", "--report_to", "tensorboard", "--logging_steps", "10")
    ended = finetune(workshop, here / "out", *more)
    assert ended.status == 0, ended.err
    assert [path.name for path in Path("logs").iterdir()] == ["events.out.tfevents.000001.kivnun"]
    assert finetune(workshop, here / "out", *more).status == 0


def test_qlora_trains_on_the_base_in_four_bits(workshop: Workshop, here: Path) -> None:
    ended = finetune(workshop, here / "out", "--method", "qlora")
    assert ended.status == 0, ended.err
    weights = load_file(here / "out" / "adapter" / "adapter_model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_problem_of_the_recipe_names_the_flag(workshop: Workshop, here: Path) -> None:
    words = ("-m", workshop.llama, "-d", workshop.rows, "--learning_rate", "-1", "--lora_r", "0")
    ended = call("finetune", *words)
    assert ended.status == 2
    assert "--learning_rate: input should be greater than 0 (got -1" in ended.err
    assert "--lora_r: input should be greater than 0 (got 0)" in ended.err


def test_one_column_of_running_text_is_learnt_whole(workshop: Workshop, here: Path) -> None:
    write_rows(here / "texts.json", [{"text": row["phrase"]} for row in phrases(12)])
    words = ("-m", workshop.llama, "-d", "texts.json", "--text_field", "text", "--dry_run")
    ended = call("finetune", *words)
    assert ended.status == 0, ended.err
    assert "rows: 12 train" in ended.out
