"""`kivnun auto-opt` and `quantize`: each flag is used or refused by name, and what comes out is proved or not there."""

import json
from pathlib import Path

import pytest
from olive_workshop import TEMPLATE, Ended, Workshop, call

from kivnun.errors import UserError
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.olive.flags import read_flags
from kivnun.olive.ship_commands import SHIP_FLAGS, Shipment, translate_shipment
from kivnun.optimization.certificate import read_certificate


def translate(command: str, *words: str) -> Shipment:
    return translate_shipment(read_flags(command, ["-m", "base", *words], SHIP_FLAGS))


def refusal(command: str, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        translate(command, *words)
    assert caught.value.code == "olive-invalid"
    return "\n".join(caught.value.details)


@pytest.mark.parametrize(
    ("words", "target"),
    [
        (["--device", "cpu"], "cpu"),
        (["--provider", "CPUExecutionProvider"], "cpu"),
        (["--device", "gpu"], "cuda"),
        (["--device", "gpu", "--provider", "CUDAExecutionProvider"], "cuda"),
        (["--device", "gpu", "--provider", "DmlExecutionProvider"], "directml"),
        (["--target", "directml"], "directml"),
        ([], "auto"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_device_provider_and_target_are_words_for_one_thing(words: list[str], target: str) -> None:
    assert translate("auto-opt", "--precision", "int4", *words).settings.target == target


@pytest.mark.parametrize(
    ("command", "words", "precision"),
    [
        ("auto-opt", [], "fp32"),
        ("auto-opt", ["--device", "gpu"], "fp16"),
        ("optimize", ["--provider", "DmlExecutionProvider"], "fp16"),
        ("quantize", [], "int8"),
    ],
)
def test_a_precision_that_is_not_given_is_olives_own(command: str, words: list[str], precision: str) -> None:
    shipment = translate(command, *words)
    assert shipment.settings.precision == precision
    (line,) = (line for line in shipment.translation.lines if line.key == "--precision")
    assert line.outcome == "default"


def test_limits_and_form_go_into_the_section_that_recipes_have() -> None:
    words = ["--precision", "int4", "--algorithm", "kquant", "--block_size", "64", "--max_size", "2GiB"]
    more = ["--max_latency", "0.05s", "--min_accuracy", "0.9", "--min_tokens_per_second", "5", "--gguf", "q4_0"]
    settings = translate("optimize", *words, *more).settings
    assert (settings.algorithm, settings.block_size, settings.max_size) == ("k_quant", 64, "2GiB")
    assert (settings.max_latency_ms, settings.min_score, settings.min_tokens_per_second) == (50.0, 0.9, 5.0)
    assert settings.gguf == "q4_0"


@pytest.mark.parametrize(
    ("command", "words", "is_told"),
    [("quantize", [], True), ("auto-opt", ["--precision", "int4"], True), ("auto-opt", [], False)],
    ids=["quantize", "int4", "fp32"],
)
def test_an_algorithm_that_is_not_olives_own_is_told(command: str, words: list[str], is_told: bool) -> None:
    shipment = translate(command, *words)
    told = [line.target for line in shipment.translation.lines if (line.key, line.outcome) == ("--algorithm", "own")]
    assert told == (["optimization.algorithm: k_quant"] if is_told else [])
    assert shipment.settings.algorithm == "k_quant"


def test_the_current_folder_is_no_place_for_a_model(workshop: Workshop, here: Path) -> None:
    for name in (".", str(here)):
        ended = call("quantize", "-m", workshop.llama, "-o", name)
        assert (ended.status, "is the current folder" in ended.err) == (2, True)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("command", ["auto-opt", "quantize", "optimize"])
def test_a_plan_is_json_where_asked(command: str, workshop: Workshop, here: Path) -> None:
    ended = call(command, "-m", workshop.llama, "--dry-run", "--json")
    assert ended.status == 0, ended.err
    assert any(line.startswith("build: ") for line in json.loads(ended.out)["plan"])


def test_memory_is_counted_as_each_command_counts_it() -> None:
    assert translate("auto-opt", "--memory", "4294967296").settings.max_memory == "4194304KiB"
    assert translate("optimize", "--memory", "4096").settings.max_memory == "4194304KiB"
    assert translate("auto-opt", "--memory", "4GiB").settings.max_memory == "4GiB"


def test_what_kivnun_does_anyway_is_said_to_be_the_same() -> None:
    words = ["--use_ort_genai", "--use_model_builder", "--exporter", "model_builder", "--modality", "text"]
    lines = translate("optimize", *words).translation.lines
    same = {line.key for line in lines if line.outcome == "same"}
    assert {"--use_ort_genai", "--use_model_builder", "--exporter", "--modality"} <= same


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "npu"], "what runs on NPUs is not built here"),
        (["--provider", "QNNExecutionProvider"], "not for 'QNNExecutionProvider'"),
        (["--provider", "OpenVINOExecutionProvider"], "CPUExecutionProvider, CUDAExecutionProvider"),
        (["--device", "cpu", "--provider", "CUDAExecutionProvider"], "is for cuda, but --device is for cpu"),
        (["--target", "tpu"], "'tpu' is no target"),
        (["--precision", "nf4"], "the nearest is int4"),
        (["--precision", "int3"], "write auto, fp32, fp16, int8, int4"),
        (["--precision", "auto"], "looks at rows of yours"),
        (["--block_size", "-1"], "one scale a row, which is not built"),
        (["--act_precision", "int8"], "quantises activations"),
        (["--num_split", "2"], "cuts a model into parts"),
        (["--cost-model", "x.csv"], "cuts a model into parts"),
        (["--exporter", "dynamo_exporter"], "models are built with model_builder"),
        (["--use_dynamo_exporter"], "write --use_model_builder"),
        (["--use_qdq_format"], "runtimes other than onnxruntime-genai"),
        (["--dim_param", "batch"], "fixes shapes"),
        (["--dynamic-to-fixed-shape-dim-value", "1"], "fixes shapes"),
        (["--mixed-precision-overrides-config", "a"], "for all of them"),
        (["--surgeries", "a"], "rewrites the graph"),
        (["--enable_aot"], "compiles for NPUs"),
        (["--extra_mb_options", "a=b"], "follow from --precision"),
        (["--text_template", "{a}{b}"], "has no effect without rows; add -d FILE"),
        (["--test"], "makes a random model of two layers"),
        (["--max_latency", "soon"], "'soon' is no time"),
        (["--log_level", "9"], "should be 0 to 4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_flag_without_a_meaning_is_refused_by_name(words: list[str], said: str) -> None:
    assert said in refusal("optimize", *words)
    assert f"--{words[0].lstrip('-').replace('-', '_')}" in refusal("auto-opt", *words)


@pytest.mark.parametrize(
    ("algorithm", "near"),
    [("hqq", "kquant"), ("spinquant", "awq"), ("quarot", "awq"), ("adaround", "gptq"), ("lpbq", "kquant")],
)
def test_an_algorithm_that_is_not_here_is_refused_with_the_nearest(algorithm: str, near: str) -> None:
    assert f"the nearest is {near}" in refusal("quantize", "--algorithm", algorithm)


@pytest.mark.parametrize("algorithm", ["gptq", "awq"])
def test_calibration_needs_rows_and_fetches_none(algorithm: str) -> None:
    assert "add -d FILE with the rows" in refusal("quantize", "--algorithm", algorithm, "--precision", "int4")


def test_rules_between_flags_name_the_flag() -> None:
    assert "--precision: fp16 is not computed on CPUs" in refusal("optimize", "--precision", "fp16", "--device", "cpu")
    words = ["--precision", "int8", "--algorithm", "gptq", "-d", "rows.json"]
    assert "--algorithm: gptq makes int4 weights" in refusal("quantize", *words)


@pytest.mark.parametrize(
    "verb",
    [
        *("capture-onnx-graph", "run-pass", "convert-adapters", "extract-adapters", "tune-session-params", "init"),
        *("benchmark", "shared-cache", "diffusion-lora", "generate-cost-model", "configure-qualcomm-sdk"),
        "generate-model-package",
    ],
)
def test_a_command_of_olives_that_is_not_here_says_what_is(verb: str) -> None:
    ended = call(verb, "-m", "model", "--any_flag")
    assert ended.status == 2
    assert ended.err.startswith(f"error[olive-invalid]: `{verb}` is a command of Olive's")
    assert "hint: " in ended.err
    assert f"\n  {verb} " not in call("--help").out


def plan(model: Path, *words: str | Path) -> str:
    ended = call("auto-opt", "-m", model, *words, "--dry_run", "-o", "never")
    assert ended.status == 0, ended.err
    assert not Path("never").exists()
    return ended.out


def test_what_is_asked_was_fixed_at_training_or_stands_in_rows_or_is_said_to_be_a_few_sentences(
    here: Path, workshop: Workshop
) -> None:
    tuned = ("-a", workshop.tuned / "adapter")
    assert "asked: 8 prompts: the prompts that were fixed at training" in plan(workshop.tuned / "model", *tuned)
    rows = ("-d", workshop.rows, "--text_template", TEMPLATE, "--max_samples", "5")
    assert "asked: 5 prompts: the rows that were named" in plan(workshop.llama, *rows)
    assert "asked: 8 prompts: a few sentences in English and Hebrew" in plan(workshop.llama)


def quantize(workshop: Workshop, adapter: Path, out: Path | str) -> Ended:
    rows = ("-d", workshop.rows, "--max_samples", "6")
    form = ("--algorithm", "gptq", "--precision", "int4", "--log_level", "2")
    return call("quantize", "-m", workshop.llama, "-a", adapter, *rows, *form, "-o", out)


def test_an_adapter_of_qlora_is_merged_into_the_full_base_and_rounded_by_rows(here: Path, workshop: Workshop) -> None:
    words = ("-m", workshop.llama, "-d", workshop.rows, "--text_template", TEMPLATE, "--method", "qlora")
    assert call("finetune", *words, "--max_steps", "1", "-o", "q").status == 0
    ended = quantize(workshop, Path("q/adapter"), "onnx")
    assert ended.status == 0, ended.err
    certificate = read_certificate(Path("onnx"))
    (shipped,) = (row for row in certificate.rows if row.folder == certificate.shipped)
    assert shipped.name == "int4 gptq/32 ONNX"
    assert {row.name: row.different for row in certificate.rows if row.precision == "fp32"} == {
        "tuned": 0,
        "merged": 0,
        "fp32 ONNX": 0,
    }
    names = {path.name for path in Path("onnx").iterdir()}
    assert {"model.onnx", "genai_config.json", "tokenizer.json", "golden.json", "parity.json"} <= names
    assert not [name for name in names if name.startswith(".")]
    (answer,) = OnnxEngine(Path("onnx")).generate([[5, 6]], max_new_tokens=2, stop_ids=frozenset())
    assert len(answer.token_ids) == 2
    made = Path("onnx/model.onnx").stat().st_mtime_ns
    again = quantize(workshop, Path("q/adapter"), "onnx")
    assert again.status == 0, again.err
    assert Path("onnx/model.onnx").stat().st_mtime_ns == made


def test_a_folder_that_holds_something_else_is_not_replaced(here: Path, workshop: Workshop) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear", "utf-8")
    ended = call("auto-opt", "-m", workshop.llama, "-o", "mine")
    assert ended.status == 2
    assert "error[file-exists]: mine exists and is no exported model" in ended.err
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]


def test_a_folder_without_an_adapter_is_refused(here: Path, workshop: Workshop) -> None:
    for folder in (workshop.llama, Path("none")):
        ended = call("auto-opt", "-m", workshop.llama, "-a", folder, "-o", "out")
        assert ended.status == 2
        assert f"error[adapter-invalid]: {folder}" in ended.err
    assert not Path("out").exists()


def test_without_a_model_the_flag_is_named(here: Path) -> None:
    ended = call("auto-opt", "--precision", "int4")
    assert ended.status == 2
    assert "--model_name_or_path: is missing; write -m FOLDER" in ended.err


def test_help_lists_every_flag() -> None:
    for command in ("auto-opt", "optimize", "quantize"):
        ended = call(command, "--help")
        assert ended.status == 0
        assert [flag.name for flag in SHIP_FLAGS if f"--{flag.name} " not in ended.out] == []
