"""Olive's traps, one test each (reference/olive.md, 3b and 3c): none ends well without its result.

Traps 10 and 11, of several adapters on one exported base, stand with the block of the seed that makes it, in
`test_seed_blocks.py`.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from olive_workshop import TEMPLATE, TONES, Ended, Workshop, call, phrases, write_rows
from safetensors.torch import load_file, save_file

WEIGHTS = "adapter_model.safetensors"
STEPS = ("--max_steps", "2", "--torch_dtype", "float32", "--lora_r", "4", "-o", "out")


def finetune(model: Path | str, *words: str | Path) -> Ended:
    return call("finetune", "-m", model, *words, *STEPS)


def tune(workshop: Workshop, data: Path | str, *words: str) -> Ended:
    return finetune(workshop.llama, "-d", data, "--text_template", TEMPLATE, *words)


def require_refused(ended: Ended, code: str, *said: str) -> None:
    """One error with its code and words, no traceback, and no adapter."""
    assert ended.status == 2, ended.err
    assert f"error[{code}]: " in ended.err
    assert [each for each in said if each not in ended.err] == []
    assert "Traceback" not in ended.err
    assert ended.err.count("error[") == 1
    assert not Path("out/adapter").exists()


def olive_file(workshop: Workshop, **lora: object) -> dict[str, object]:
    """A configuration in Olive's own spelling."""
    text = {"text_template": "Text: {phrase}\nTone: {tone}", "max_seq_len": 64}
    rows = {"data_name": "json", "data_files": str(workshop.rows), "split": "train"}
    return {
        "input_model": {"type": "HfModel", "model_path": str(workshop.llama)},
        "data_configs": [
            {
                "name": "rows",
                "type": "HuggingfaceContainer",
                "load_dataset_config": rows,
                "pre_process_data_config": text,
            }
        ],
        "passes": {"lora": {"type": "LoRA", "train_data_config": "rows", "training_args": {"max_steps": 1}, **lora}},
    }


def run_file(value: object, *words: str) -> Ended:
    Path("olive.json").write_text(json.dumps(value, indent=2), "utf-8")
    return call("run", "olive.json", *words)


# 3b: what Olive does without a word


def test_trap_1_a_key_that_a_pass_does_not_have_is_an_error_and_old_names_are_read(
    here: Path, workshop: Workshop
) -> None:
    ended = run_file(olive_file(workshop, lora_rank=8), "--dry-run")
    require_refused(ended, "olive-invalid", "olive.json:", "passes.lora.lora_rank: unknown key")
    value = olive_file(workshop, lora_r=8, lora_alpha=8)
    text = value["data_configs"][0]["pre_process_data_config"]  # type: ignore[index]
    text["source_max_len"] = text.pop("max_seq_len")
    ended = run_file(value, "--dry-run")
    assert ended.status == 0, ended.err
    for became in ("method.rank: 8", "method.alpha: 8", "data.max_seq_len: 64"):
        assert became in ended.err


def test_trap_2_an_export_that_fails_does_not_end_well(here: Path, workshop: Workshop) -> None:
    shutil.copytree(workshop.llama, "odd")
    config = json.loads(Path("odd/config.json").read_bytes())
    Path("odd/config.json").write_text(json.dumps({**config, "architectures": ["OddForCausalLM"]}), "utf-8")
    ended = call("auto-opt", "-m", "odd", "--precision", "int4", "-o", "onnx")
    require_refused(ended, "export-failed", "does not know the architecture OddForCausalLM")
    assert not Path("onnx").exists()


def test_trap_3_data_that_changed_in_place_is_read_and_trained_anew(here: Path, workshop: Workshop) -> None:
    write_rows(here / "rows.json", phrases(12))
    assert tune(workshop, "rows.json").status == 0
    before = Path("out/adapter", WEIGHTS).read_bytes()
    write_rows(here / "rows.json", phrases(14))
    ended = tune(workshop, "rows.json")
    assert ended.status == 0, ended.err
    assert "rows: 14 train" in ended.err
    assert Path("out/adapter", WEIGHTS).read_bytes() != before
    assert "[model] unchanged" not in ended.err


def test_trap_4_a_base_with_one_nan_weight_trains_nothing(here: Path, workshop: Workshop) -> None:
    shutil.copytree(workshop.llama, "broken")
    weights = load_file("broken/model.safetensors")
    name = next(each for each in weights if "q_proj" in each)
    weights[name][0, 0] = float("nan")
    save_file(weights, "broken/model.safetensors", metadata={"format": "pt"})
    ended = finetune("broken", "-d", workshop.rows, "--text_template", TEMPLATE)
    assert ended.status == 2
    assert "error[loss-not-finite]" in ended.err or "error[model-invalid]" in ended.err
    assert not Path("out/adapter").exists()


def test_trap_5_a_shortened_flag_is_refused_and_the_whole_one_named(here: Path, workshop: Workshop) -> None:
    ended = tune(workshop, workshop.rows, "--max_step", "5")
    require_refused(ended, "olive-invalid", "--max_step: unknown flag; did you mean --max_steps?")


def test_trap_6_less_perplexity_is_better_and_cannot_be_turned_round(here: Path, workshop: Workshop) -> None:
    recipe = {
        "base_model": str(workshop.llama),
        "data": {"train": str(workshop.rows), "text_template": "{phrase}{tone}"},
        "search": {"space": {"method.rank": {"type": "int", "low": 4, "high": 8}}, "num_trials": 2},
    }
    Path("recipe.yaml").write_text(json.dumps(recipe), "utf-8")
    ended = call("search", "recipe.yaml", "--dry-run")
    assert ended.status == 0, ended.err
    assert "searching the lowest loss" in ended.out
    words = ("--metric_for_best_model", "loss", "--greater_is_better", "true")
    require_refused(tune(workshop, workshop.rows, *words), "olive-invalid", "--greater_is_better: of loss, less is")


def test_trap_7_a_seed_decides_the_first_weights_of_an_adapter_too(here: Path, workshop: Workshop) -> None:
    weights = []
    for number, seed in enumerate(("0", "0", "1")):
        words = ("-m", workshop.llama, "-d", workshop.rows, "--text_template", TEMPLATE, *STEPS[:-1], f"out{number}")
        ended = call("finetune", *words, "--seed", seed, "--data_seed", seed)
        assert ended.status == 0, ended.err
        weights.append(Path(f"out{number}", "adapter", WEIGHTS).read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_trap_8_false_is_false_and_no_flag_is_lost(here: Path, workshop: Workshop) -> None:
    ended = tune(workshop, workshop.rows, "--add_special_tokens", "False", "--dry_run")
    assert ended.status == 0, ended.err
    assert "--add_special_tokens False -> same" in ended.err
    require_refused(tune(workshop, workshop.rows, "--add_special_tokens", "True"), "olive-invalid", "the end of")
    require_refused(tune(workshop, workshop.rows, "--eval_subset", "other"), "olive-invalid", "--eval_subset")


def test_trap_9_only_answers_and_their_end_are_learnt_no_row_is_cut_and_nulls_are_refused(
    here: Path, workshop: Workshop
) -> None:
    summary = json.loads((workshop.tuned / "run/dataset/summary.json").read_bytes())
    counts = summary["splits"]["train"]
    assert counts["rows"] == len(json.loads(workshop.rows.read_bytes()))
    # Each answer with its end is learnt, and no prompt: a tone has far fewer tokens than its phrase.
    assert counts["rows"] * 2 <= counts["trained_tokens"] < counts["tokens"] / 2
    write_rows(here / "rows.json", [*phrases(8), {"phrase": None, "tone": TONES[0]}])  # type: ignore[dict-item]
    require_refused(tune(workshop, "rows.json"), "data-field", "rows.json", "field 'phrase' is null")


def test_trap_12_time_to_the_first_token_needs_no_settings_and_a_list_of_rates_is_searched(
    here: Path, workshop: Workshop
) -> None:
    Path("recipe.yaml").write_text(
        json.dumps(
            {
                "base_model": str(workshop.llama),
                "data": {"train": str(workshop.rows), "text_template": "{phrase}{tone}"},
                "search": {"space": {"training.learning_rate": {"type": "choice", "values": [1e-4, 1e-3]}}},
            }
        ),
        "utf-8",
    )
    ended = call("search", "recipe.yaml", "--dry-run")
    assert ended.status == 0, ended.err
    assert "training.learning_rate: one of 0.0001, 0.001" in ended.out
    ended = call("optimize", workshop.tuned / "run", "--max-latency", "50ms", "--dry-run")
    assert ended.status == 0, ended.err
    assert "limits: max_latency_ms 50.0" in ended.out


# 3c: what is wrong with the input


def test_a_wrong_column_in_the_template_is_named_with_those_that_are_there(here: Path, workshop: Workshop) -> None:
    ended = finetune(workshop.llama, "-d", workshop.rows, "--text_template", "{phraze}\\n{tone}")
    require_refused(ended, "template-field", "no column 'phraze'", "columns: phrase, tone")


def test_rows_without_a_template_are_read_by_their_columns_aloud_or_refused(here: Path, workshop: Workshop) -> None:
    ended = finetune(workshop.llama, "-d", workshop.rows, "--dry_run")
    assert ended.status == 0, ended.err
    assert "columns: the columns `phrase` and `tone` in 12 of 12 rows" in ended.out
    write_rows(here / "rows.json", [{"x": str(number), "y": "1", "z": "2"} for number in range(6)])
    require_refused(finetune(workshop.llama, "-d", "rows.json"), "data-format", "rows.json")


def test_malformed_json_is_refused_with_its_file_and_line(here: Path, workshop: Workshop) -> None:
    Path("rows.json").write_text('[\n{"phrase": "a", "tone": "joy"},\n{"phrase": "b" "tone": "joy"}\n]', "utf-8")
    require_refused(tune(workshop, "rows.json"), "data-malformed", "rows.json:3")


def test_a_missing_file_is_named(here: Path, workshop: Workshop) -> None:
    require_refused(tune(workshop, "no.json"), "data-missing", "no.json")


@pytest.mark.parametrize("text", ["[]", ""], ids=["empty-list", "no-bytes"])
def test_a_file_without_rows_is_refused(text: str, here: Path, workshop: Workshop) -> None:
    Path("rows.json").write_text(text, "utf-8")
    require_refused(tune(workshop, "rows.json"), "data-empty", "rows.json")


def test_five_rows_are_trained_whatever_the_longest_row_may_be(here: Path, workshop: Workshop) -> None:
    write_rows(here / "rows.json", phrases(5))
    ended = tune(workshop, "rows.json")
    assert ended.status == 0, ended.err
    assert "rows: 5 train" in ended.err
    assert Path("out/adapter", WEIGHTS).is_file()


def test_an_unknown_split_is_named(here: Path, workshop: Workshop) -> None:
    require_refused(tune(workshop, workshop.rows, "--train_split", "test"), "olive-invalid", "'test' is no split")


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("nan", "--learning_rate: should be a number (got 'nan')"),
        ("-1", "--learning_rate: input should be greater than 0 (got -1)"),
    ],
)
def test_a_learning_rate_that_is_none_is_refused_before_anything_is_loaded(
    rate: str, said: str, here: Path, workshop: Workshop
) -> None:
    require_refused(tune(workshop, workshop.rows, "--learning_rate", rate), "olive-invalid", said)
    assert not Path("out").exists()


def test_a_learning_rate_without_measure_ends_with_an_error(here: Path, workshop: Workshop) -> None:
    ended = tune(workshop, workshop.rows, "--learning_rate", "1e30")
    require_refused(ended, "loss-not-finite", "learning")


def test_a_rank_of_zero_is_refused(here: Path, workshop: Workshop) -> None:
    words = ("-m", workshop.llama, "-d", workshop.rows, "--lora_r", "0", "-o", "out")
    require_refused(call("finetune", *words), "olive-invalid", "--lora_r: input should be greater than 0 (got 0)")


def test_a_target_that_matches_no_layer_is_refused_with_those_that_are_there(here: Path, workshop: Workshop) -> None:
    ended = tune(workshop, workshop.rows, "--target_modules", "q_prj,v_proj")
    require_refused(ended, "target-modules", "q_prj", "q_proj")


def test_a_model_folder_that_is_missing_is_called_missing(here: Path, workshop: Workshop) -> None:
    ended = finetune("./no/model", "-d", workshop.rows, "--text_template", TEMPLATE)
    require_refused(ended, "model-missing", "no/model: no such folder")


def test_a_configuration_that_is_no_json_is_refused_with_its_file_and_line(here: Path, workshop: Workshop) -> None:
    Path("olive.json").write_text('{"input_model": {"type": "HfModel"},\n "passes": {"lora": }}\n]', "utf-8")
    ended = call("run", "--config", "olive.json")
    assert ended.status == 2
    assert "olive.json:" in ended.err
    assert "Traceback" not in ended.err
    require_refused(call("run", "--config", "no.json"), "recipe-missing", "no.json")


def test_an_unknown_pass_is_refused_with_the_one_that_was_meant(here: Path, workshop: Workshop) -> None:
    value = olive_file(workshop)
    value["passes"]["lora"]["type"] = "lorra"  # type: ignore[index]
    require_refused(run_file(value), "olive-invalid", "lorra", "did you mean")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own in memory; where it cannot be mounted the test is skipped, and says so."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_no_half_adapter(here: Path, workshop: Workshop, small_disk: Path) -> None:
    out = small_disk / "out"
    words = ("-m", workshop.llama, "-d", workshop.rows, "--text_template", TEMPLATE, "--max_steps", "2", "-o", out)
    ended = call("finetune", *words)
    require_refused(ended, "disk-full", "hint: free some space")
    names = [path.name for path in out.rglob("*")]
    assert [name for name in names if "adapter" in name or name.endswith(".partial")] == []


def test_a_run_that_failed_is_mended_and_given_again(here: Path, workshop: Workshop) -> None:
    Path("rows.json").write_text("[]", "utf-8")
    require_refused(tune(workshop, "rows.json"), "data-empty")
    write_rows(here / "rows.json", phrases(6))
    ended = tune(workshop, "rows.json")
    assert ended.status == 0, ended.err
    weights = load_file(Path("out/adapter", WEIGHTS))
    assert all(torch.isfinite(value).all() for value in weights.values())
