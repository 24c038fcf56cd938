"""Every key of Olive's files is used, renamed, what Kivnun does anyway, or an error; none is ignored."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from olive_files import OLIVE_JSON, refusal, translate

from kivnun.errors import UserError
from kivnun.olive import engine_keys, export_keys, facts, model_keys, search_keys, source_keys
from kivnun.olive.data_keys import CONFIG_RULES, read_configs
from kivnun.olive.examples import EXAMPLES, Example, small_file, write_example
from kivnun.olive.groups import Group
from kivnun.olive.method_keys import METHODS, REFUSED_METHODS, method_rules
from kivnun.olive.text_keys import text_rules
from kivnun.olive.training_arguments import RULES, Surroundings, translate_argument
from kivnun.olive.translate import translate_config
from kivnun.olive.translation import Draft, Meaning, Translation
from kivnun.recipe.schema import Recipe

ALL = [example for part in EXAMPLES.values() for example in part]


def draft() -> Draft:
    return Draft("a test", lambda key: f"olive.json:{key}")


def outcome(file: dict[str, object]) -> Translation | UserError:
    try:
        return translate_config(file, draft())
    except UserError as error:
        return error


def named(example: Example) -> str:
    return f"{example.key}={json.dumps(example.value)[:30]}"


@pytest.mark.parametrize("example", ALL, ids=[f"{number}-{named(each)}" for number, each in enumerate(ALL)])
def test_a_key_is_told_of_or_refused_by_name(example: Example) -> None:
    result = outcome(write_example(example))
    if isinstance(result, UserError):
        (detail,) = result.details
        _, key, reason = detail.split(": ", 2)
        assert key == example.key or key.startswith(f"{example.key}.")
        assert len(reason) > 10
        return
    lines = [line for line in result.lines if line.key == example.key or line.key.startswith(f"{example.key}.")]
    assert lines
    assert all(line.outcome in ("used", "renamed", "same", "default") for line in lines)
    Recipe.model_validate(result.recipe)


def test_the_small_file_is_a_recipe() -> None:
    result = outcome(small_file())
    assert isinstance(result, Translation)
    defaults = {line.key.rpartition(".")[2]: line.target for line in result.lines if line.outcome == "default"}
    assert defaults["r"] == "method.rank: 64"
    assert defaults["alpha"] == "method.alpha: 16"
    assert defaults["lora_dropout"] == "method.dropout: 0.05"
    assert defaults["max_seq_len"] == "data.max_seq_len: 1024"
    assert defaults["per_device_train_batch_size"] == "training.batch_tokens: 8192"
    assert defaults["learning_rate"] == "training.learning_rate: 0.0002"
    assert defaults["seed"] == "training.seed: 42"
    assert defaults["lr_scheduler_type"] == "training.schedule: constant, training.warmup_ratio: 0.0"


def rule_tables() -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every table of rules, with what the names in it are keys of."""
    known = facts.Facts()
    empty = Group(draft(), "x", {})
    (config,) = read_configs(draft(), [{"name": "rows"}]).values()
    yield "training_args", RULES
    yield "input_model", model_keys.model_rules(known, empty, None)
    yield "hf_config", model_keys.hf_rules(known, empty, empty)
    yield "load_kwargs", model_keys.LOADING_RULES
    yield "data_configs.0", CONFIG_RULES
    yield "load_dataset_config", source_keys.LoadKeys(config, known, "data.train").rules()
    yield "config", source_keys.STORE_RULES
    yield "pre_process_data_config", text_rules(empty)
    yield "lora", method_rules("qlora")
    yield "builder", export_keys.builder_rules(export_keys.Export(), empty)
    yield "onnx", export_keys.CONVERSION_RULES
    yield "gptq", export_keys.quantiser_rules(export_keys.Export(), empty, "gptq", "rows")
    yield "engine", engine_keys.engine_rules(empty, {}, known, has_space=False)
    yield "here", engine_keys.LOCAL_RULES
    yield "aml", engine_keys.AZURE_RULES
    yield "aml_docker_config", engine_keys.DOCKER_RULES
    yield "search_strategy", search_keys.STRATEGY_RULES


# Groups that have lines of their own, and a type that every example has.
_GROUPS = {"hf_config", "load_dataset_config", "pre_process_data_config", "aml_docker_config", "config", "type"}
_GROUPS |= {*model_keys.LOADING_GROUPS}


def test_every_rule_has_an_example() -> None:
    shown = {tuple(example.key.rsplit(".", 1)) for example in ALL if "." in example.key}
    shown = {(group.rpartition(".")[2] if group != "data_configs.0" else group, name) for group, name in shown}
    missing = [(part, name) for part, table in rule_tables() for name in table if (part, name) not in shown]
    assert [each for each in missing if each[1] not in _GROUPS] == []


def test_every_type_of_pass_is_known_by_one_list() -> None:
    types = [*METHODS, *REFUSED_METHODS, *export_keys.EXPORT_PASSES, *export_keys.REFUSED_PASSES]
    assert len(types) == len(set(types))


@pytest.mark.parametrize("kind", list(export_keys.REFUSED_PASSES))
def test_a_pass_without_a_counterpart_is_refused_with_another(kind: str) -> None:
    result = outcome(write_example(Example("passes.other", {"type": kind})))
    assert isinstance(result, UserError)
    assert export_keys.REFUSED_PASSES[kind] in result.details[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"passes.lora.lora_r": 8}, {"passes.lora.r": 8}),
        ({"passes.lora.config": {"lora_alpha": 8}}, {"passes.lora.alpha": 8}),
        (
            {"input_model": {"type": "PyTorchModel", "config": {"hf_config": {"model_name": "org/model"}}}},
            {"input_model": {"type": "HfModel", "model_path": "org/model"}},
        ),
        (
            {"data_configs.0.pre_process_data_config.source_max_len": 64},
            {"data_configs.0.pre_process_data_config.max_seq_len": 64},
        ),
        (
            {"data_configs.0.pre_process_data_config.corpus_strategy": "line-by-line"},
            {"data_configs.0.pre_process_data_config.strategy": "line-by-line"},
        ),
        (
            {"data_configs.0.load_dataset_config": {"params": {"data_name": "json", "data_files": "rows.json"}}},
            {"data_configs.0.load_dataset_config": {"data_files": "rows.json"}},
        ),
        (
            {"passes.lora.eval_dataset_size": 0.2, "passes.lora.training_args.evaluation_strategy": "steps"},
            {"passes.lora.eval_dataset_size": 0.2, "passes.lora.training_args.eval_strategy": "steps"},
        ),
        ({"training_config": {"weight_decay": 0.1}}, {"passes.lora.weight_decay": 0.1}),
        ({"engine": {"output_dir": "out"}}, {"output_dir": "out"}),
    ],
    ids=str,
)
def test_old_and_new_spellings_are_the_same_recipe(old: dict[str, object], new: dict[str, object]) -> None:
    first, second = (
        outcome(write_example(Example(next(reversed(each)), next(reversed(each.values())), each)))
        for each in (old, new)
    )
    assert isinstance(first, Translation)
    assert isinstance(second, Translation)
    assert (first.recipe, first.output_dir) == (second.recipe, second.output_dir)


@pytest.mark.parametrize(
    "both",
    [
        {"passes.lora.r": 8, "passes.lora.lora_r": 8},
        {"passes.lora.r": 8, "passes.lora.config": {"r": 8}},
        {"passes.lora.weight_decay": 0.1, "training_config": {"weight_decay": 0.1}},
        {"passes.lora.training_args": {"seed": 1}, "training_config": {"seed": 1}},
        {"passes.lora.training_args": {"warmup_ratio": 0.1, "warmup_steps": 5}},
        {"passes.lora.training_args": {"bf16": True, "fp16": True}},
        {"passes.lora.training_args": {"lr_scheduler_type": "constant", "warmup_ratio": 0.1}},
        {"passes.lora.training_args": {"bf16": True}, "passes.lora.torch_dtype": "float32"},
        {"engine": {"output_dir": "a"}, "output_dir": "a"},
        {"model": {"type": "HfModel", "model_path": "org/model"}},
        {"passes.second": {"type": "LoRA"}},
        {"passes.lora.eval_dataset_size": 0.1, "passes.lora.eval_data_config": "rows"},
        {
            "passes.half": {"type": "OnnxFloatToFloat16"},
            "passes.builder": {"type": "ModelBuilder", "precision": "int4"},
        },
    ],
    ids=str,
)
def test_what_is_said_twice_is_refused(both: dict[str, object]) -> None:
    assert isinstance(
        outcome(write_example(Example(next(reversed(both)), next(reversed(both.values())), both))), UserError
    )


@pytest.mark.parametrize(
    ("train", "held", "recipe"),
    [
        ("train[:4096]", "train[4096:4224]", {"train_rows": ":4096", "validation_rows": "4096:4224"}),
        ("train[:80%]", "train[80%:]", {"train_rows": ":80%", "validation_rows": "80%:"}),
    ],
)
def test_slices_of_one_source_become_row_ranges(train: str, held: str, recipe: dict[str, str]) -> None:
    result = outcome(two_sources("org/rows", train, "org/rows", held))
    assert isinstance(result, Translation)
    data: Any = result.recipe["data"]
    assert {name: data[name] for name in recipe} == recipe
    assert "validation" not in data


def two_sources(train: str, train_split: str, held: str, held_split: str) -> dict[str, object]:
    file = small_file()
    file["data_configs"] = [
        {"name": name, "load_dataset_config": {"data_name": source, "split": split}, "pre_process_data_config": text}
        for (name, source, split) in (("rows", train, train_split), ("held", held, held_split))
        for text in [{"text_template": "{a} {b}"}]
    ]
    file["passes"] = {"lora": {"type": "LoRA", "train_data_config": "rows", "eval_data_config": "held"}}
    return file


def test_validation_rows_of_their_own_are_named() -> None:
    result = outcome(two_sources("org/rows", "train", "org/held", "train[:10]"))
    assert isinstance(result, Translation)
    data: Any = result.recipe["data"]
    assert (data["validation"], data["validation_rows"]) == ("org/held", ":10")


@pytest.mark.parametrize(
    ("train", "held"), [("train", "train"), ("train", "train[:10]"), ("train[:10]", "train"), ("train", "test")]
)
def test_rows_that_train_do_not_validate(train: str, held: str) -> None:
    assert isinstance(outcome(two_sources("org/rows", train, "org/rows", held)), UserError)


def test_the_data_sets_own_validation_rows_are_taken_whole_and_never_none() -> None:
    result = outcome(two_sources("org/rows", "train", "org/rows", "validation"))
    assert isinstance(result, Translation)
    data: Any = result.recipe["data"]
    # Without the key, rows are split off where the data set has none of its own.
    assert "validation" not in data
    assert "validation" not in data["split"]
    sliced = outcome(two_sources("org/rows", "train", "org/rows", "validation[:10]"))
    assert isinstance(sliced, UserError)
    assert "taken whole" in sliced.details[0]


def test_files_of_another_split_than_the_one_that_is_read_are_refused() -> None:
    file = small_file()
    _files(file)["data_files"] = {"train": "a.json", "validation": "b.json"}
    result = outcome(file)
    assert isinstance(result, UserError)
    assert "'validation' has no effect" in result.details[0]


def _files(file: dict[str, object]) -> dict[str, object]:
    configs: Any = file["data_configs"]
    return configs[0]["load_dataset_config"]


def arguments(**values: object) -> Translation | UserError:
    return outcome(write_example(Example("passes.lora.training_args", values)))


def test_warm_up_steps_are_not_a_share_of_steps_that_may_not_come() -> None:
    both = arguments(warmup_steps=100, max_steps=10000, num_train_epochs=3)
    assert isinstance(both, UserError)
    assert "num_train_epochs may cut short" in both.details[0]
    alone: Any = arguments(warmup_steps=100, max_steps=10000)
    assert alone.recipe["training"]["warmup_ratio"] == 0.01


def test_a_schedule_with_a_warm_up_takes_olives_own_where_none_is_given() -> None:
    cosine: Any = arguments(lr_scheduler_type="cosine")
    assert cosine.recipe["training"]["warmup_ratio"] == 0.03
    constant: Any = arguments(lr_scheduler_type="constant")
    assert constant.recipe["training"]["warmup_ratio"] == 0.0


def test_two_keys_may_say_the_same_number_format() -> None:
    file = Example("passes.lora.torch_dtype", "bfloat16", {"passes.lora.training_args": {"bf16": True}})
    result: Any = outcome(write_example(file))
    assert result.recipe["training"]["precision"] == "bf16"


def test_evaluation_while_training_needs_rows_to_evaluate_on() -> None:
    assert isinstance(arguments(do_eval=True), UserError)
    assert isinstance(arguments(do_eval=False), Translation)


def test_a_data_configuration_that_nothing_names_has_no_effect() -> None:
    file = two_sources("org/rows", "train", "org/held", "train")
    file["passes"] = {"lora": {"type": "LoRA", "train_data_config": "rows"}}
    result = outcome(file)
    assert isinstance(result, UserError)
    assert "data_configs.1: has no effect: no pass names 'held'" in result.details[0]


def test_an_export_before_the_training_is_refused() -> None:
    file = small_file()
    file["passes"] = {"builder": {"type": "ModelBuilder", "precision": "int4"}, "lora": {"type": "LoRA"}}
    result = outcome(file)
    assert isinstance(result, UserError)
    assert "stands before lora" in result.details[0]


_WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12).map(lambda word: f"x_{word}")
_VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
_PLACES = st.sampled_from(
    (
        (),
        ("input_model",),
        ("input_model", "config"),
        ("input_model", "config", "hf_config"),
        ("input_model", "config", "hf_config", "model_loading_args"),
        ("data_configs", 0),
        ("data_configs", 0, "load_dataset_config"),
        ("data_configs", 0, "load_dataset_config", "params"),
        ("data_configs", 0, "pre_process_data_config", "params"),
        ("passes", "lora"),
        ("passes", "lora", "config"),
        ("passes", "lora", "config", "training_args"),
        ("passes", "merge_adapter_weights"),
        ("passes", "builder", "config"),
        ("engine",),
    )
)


@settings(max_examples=50)
@given(place=_PLACES, word=_WORDS, value=_VALUES)
def test_a_key_that_nobody_knows_is_refused_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str | int, ...], word: str, value: object
) -> None:
    file: Any = json.loads(OLIVE_JSON)
    group = file
    for part in place:
        group = group[part]
    group[word] = value
    path = tmp_path_factory.mktemp("olive") / "olive.json"
    path.write_text(json.dumps(file, indent=2), "utf-8")
    line = path.read_text("utf-8").split(f'"{word}"')[0].count("\n") + 1
    error = refusal(path)
    assert error.code == "olive-invalid"
    key = ".".join(map(str, (*place, word)))
    assert [detail for detail in error.details if detail.startswith(f"{path}:{line}: {key}: ")]


@given(name=st.sampled_from(sorted(RULES)), value=_VALUES | st.floats(allow_nan=False))
def test_any_value_of_an_argument_is_taken_or_refused(name: str, value: object) -> None:
    meaning = translate_argument(name, value, Surroundings(given={name: value}))
    assert isinstance(meaning, Meaning)
    assert meaning.fields or meaning.note


@given(example=st.sampled_from(ALL), value=_VALUES | st.dictionaries(st.sampled_from(["type", "a"]), _VALUES))
def test_any_value_of_any_key_makes_a_recipe_or_an_error(example: Example, value: object) -> None:
    outcome(write_example(Example(example.key, value, example.beside)))


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(sorted(RULES)), _VALUES, max_size=6))
def test_any_arguments_make_a_recipe_or_an_error(arguments: dict[str, object]) -> None:
    result = outcome(write_example(Example("passes.lora.training_args", arguments)))
    if isinstance(result, Translation):
        lines = {line.key.rpartition(".")[2] for line in result.lines if line.outcome != "default"}
        assert set(arguments) <= lines


def test_the_seeds_file_has_lines_for_all_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "olive.json"
    path.write_text(OLIVE_JSON, "utf-8")
    told = {line.key for line in translate(path).lines}
    assert set(leaves(json.loads(OLIVE_JSON), "")) <= told


def leaves(value: object, key: str) -> Iterator[str]:
    """The dotted keys of all values that are no groups."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from leaves(item, f"{key}.{number}")
    else:
        yield key
