"""Loading: the file says it, the recipe is it; every problem is named with its line."""

from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.recipe import LoraMethod, NewModel, load_recipe
from kivnun.recipe.load import require_data_files

README_RECIPE = r"""base_model: bundled
data:
  train: examples/tone/phrases.jsonl
  text_template: "### Text: {phrase}\n### The tone is:\n{tone}"
  split: {validation: 0.1, test: 0.2, stratify_by: tone, seed: 0}
method: {kind: lora, rank: 16, alpha: 32, target_modules: all-linear}
training: {epochs: 3, learning_rate: 2e-3, batch_tokens: 8192}
evaluation: {task: classification, label: tone}
optimization: {precision: int4}
"""
HEAD = "base_model: bundled\ndata: {train: rows.jsonl}\n"
NEW_MODEL = (
    "base_model: {hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, "
    "num_key_value_heads: 2}\ndata: {train: rows.jsonl}\nmethod: {kind: full}\n"
)


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str) -> Path:
        path = tmp_path / "bad.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def complaints(path: Path, *overrides: str) -> list[str]:
    """The details of the refusal, without the folder."""
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    assert caught.value.code == "recipe-invalid"
    assert str(len(caught.value.details)) in caught.value.problem
    return [detail.replace(f"{path.parent}/", "") for detail in caught.value.details]


def test_the_recipe_of_the_readme_loads_as_written(write) -> None:
    recipe = load_recipe(write(README_RECIPE)).recipe
    assert recipe.base_model == "bundled"
    assert recipe.data.text_template == "### Text: {phrase}\n### The tone is:\n{tone}"
    assert (recipe.data.split.validation, recipe.data.split.test) == (0.1, 0.2)
    assert recipe.data.split.stratify_by == "tone"
    assert recipe.method == LoraMethod(rank=16, alpha=32)
    assert recipe.training.learning_rate == 0.002
    assert recipe.training.epochs == 3
    assert recipe.evaluation is not None
    assert recipe.evaluation.label == "tone"
    assert recipe.optimization is not None
    assert recipe.optimization.precision == "int4"


def test_an_absent_section_is_a_stage_that_is_not_run(write) -> None:
    recipe = load_recipe(write(HEAD)).recipe
    assert recipe.evaluation is None
    assert recipe.optimization is None


def test_every_problem_is_reported_at_once_at_its_own_line(write) -> None:
    text = """base_model: bundled
data:
  train: [x.jsonl, 3]
  max_sequence_len: 5
method:
  kind: lora
  rnk: 3
  alpha: -1
training:
  epochs: "3"
  learning_rate: .nan
evaluation: {task: classification}
naem: 3
"""
    assert complaints(write(text)) == [
        "bad.yaml:3: data.train.1: input should be a valid string (got 3); put it in quotes",
        "bad.yaml:4: data.max_sequence_len: unknown field; did you mean `max_seq_len`?",
        "bad.yaml:7: method.rnk: unknown field; did you mean `rank`?",
        "bad.yaml:8: method.alpha: input should be greater than 0 (got -1)",
        "bad.yaml:10: training.epochs: input should be a valid number (got '3'); write it without quotes",
        "bad.yaml:11: training.learning_rate: input should be a finite number (got nan)",
        "bad.yaml:12: evaluation.label: is missing; a classification needs the column of the label",
        "bad.yaml:13: naem: unknown field; did you mean `name`?",
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "method: {kind: lorra}",
            "method.kind: input should be full or partial or lora or qlora or adapter or ia3 or",
        ),
        ("method: {rank: 8}", "method.kind: this field is required: full or partial or lora or qlora or adapter"),
        ("method: lora", "method: input should be a group of fields such as {kind: lora} (got 'lora')"),
        ("method: full", "method: input should be a group of fields such as {kind: full} (got 'full')"),
        ("method: {kind: full, rank: 8}", "method.rank: unknown field; kind full does not have it"),
        ("method: {kind: lora, r: 8}", "method.r: unknown field; did you mean `rank`?"),
        ("method: {kind: lora, lora: {rank: 8}}", "method.lora: unknown field; known here: kind, rank, alpha, "),
        ("method: {kind: lora, rank: 0}", "method.rank: input should be greater than 0 (got 0)"),
        ("method: {kind: lora, rank: 8.5}", "method.rank: input should be a valid integer"),
        ("method: {kind: lora, rank: true}", "method.rank: input should be a valid integer (got true)"),
        ("method: {kind: lora, dropout: 1.0}", "method.dropout: input should be less than 1 (got 1.0)"),
        ("method: {kind: lora, target_modules: []}", "method.target_modules: input should have at least 1 item"),
        ("method: {kind: lora, target_modules: 3}", "method.target_modules: input should be all-linear or a list"),
        ("learning_rate: 1e-4", "learning_rate: unknown field; did you mean `training.learning_rate`?"),
        ("training: {lr: 1e-4}", "training.lr: unknown field; did you mean `learning_rate`?"),
        ("training: {rank: 8}", "training.rank: unknown field; did you mean `method.rank`?"),
        ("training: {learning_rate: 0}", "training.learning_rate: input should be greater than 0 (got 0)"),
        ("training: {learning_rate: -1e-4}", "training.learning_rate: input should be greater than 0 (got -0.0001)"),
        ("training: {learning_rate: .inf}", "training.learning_rate: input should be a finite number (got inf)"),
        ("training: {learning_rate: 1e999}", "training.learning_rate: input should be a finite number (got inf)"),
        ("training: {epochs: true}", "training.epochs: input should be a valid number (got true)"),
        ("training: {compile: 1}", "training.compile: input should be auto, true or false (got 1)"),
        ("training: {warmup_ratio: 1}", "training.warmup_ratio: input should be less than 1 (got 1)"),
        ("training: {seed: -1}", "training.seed: input should be greater than or equal to 0 (got -1)"),
        ("training: {betas: [0.9]}", "training.betas.1: this field is required"),
        ("training:", "training: input should be a group of fields (got nothing)"),
        ("training: {schedule: constant, final_learning_rate_ratio: 0.1}", "training.final_learning_rate_ratio: 0.1"),
        ("name: a/b", "name: string should match pattern"),
        ("evaluation: {label: tone}", "evaluation.task: this field is required"),
        ("evaluation: {task: generation, label: tone}", "evaluation.label: `tone` has no effect"),
        ("optimization: {precision: fp32, min_agreement: 0.9}", "optimization.min_agreement: has no effect"),
        ("optimization: {block_size: 33}", "optimization.block_size: input should be 16, 32, 64, 128 or 256 (got 33)"),
        ("training: {objective: text}\nevaluation: {task: generation}", "evaluation: needs a prompt and an answer"),
        (
            "training:\n  validation_metrics: [accuracy]\n  objective: text",
            "training.validation_metrics: need a prompt and an answer",
        ),
    ],
)
def test_a_wrong_section_is_refused_in_plain_words(write, line: str, complaint: str) -> None:
    found = complaints(write(f"{HEAD}{line}\n"))
    assert len(found) == 1
    text = found[0]
    assert text.startswith(f"bad.yaml:{4 if 'objective' in line else 3}: {complaint}")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ("{}", "data.train: this field is required"),
        ("{train: {}}", "data.train: input should have at least 1 item"),
        ("{train: ''}", "data.train: string should have at least 1 character"),
        ("{train: 3}", "data.train: input should be a file, a list of files, or a mapping of columns to files (got 3)"),
        ("{train: [a, b, a]}", "data.train: `a` is given twice"),
        ("{train: a, test: [b, a]}", "data.test: `a` is also in train"),
        ("{train: {x: a, y: b}, test: {x: c}}", "data.test: its columns (x) differ from those of train (x, y)"),
        ("{train: a, text_template: 'q {x} {y}', messages: m}", "data.messages: cannot stand beside text_template"),
        (
            "{train: a, text_template: 'q {x} {y}', prompt_template: '{x}', answer_template: '{y}'}",
            "data.prompt_template: cannot stand beside text_template",
        ),
        ("{train: a, prompt_template: '{x}'}", "data.prompt_template: goes with answer_template, which is missing"),
        ("{train: a, answer_template: '{x}'}", "data.answer_template: goes with prompt_template, which is missing"),
        ("{train: a, text_template: 'no field'}", "data.text_template: has no field in braces"),
        ("{train: a, text_template: '{x} {y'}", "data.text_template: braces do not match"),
        ("{train: a, text_template: '{x} {}'}", "data.text_template: {} names no field"),
        ("{train: a, text_template: '{\"x\": 1} {y}'}", 'data.text_template: {"x"} is not a plain field name'),
        ("{train: a, text_template: '{y} {x} {y}'}", "data.text_template: the answer {y} also stands in the prompt"),
        (
            "{train: {phrase: a, label: b}, text_template: '{phrase} {lable}'}",
            "data.text_template: `lable` is not a column of train; did you mean `label`?",
        ),
        (
            "{train: {phrase: a, label: b}, split: {stratify_by: tone}}",
            "data.split.stratify_by: `tone` is not a column of train",
        ),
        (
            "{train: a, text_template: '{x} {y}', value_names: {z: {0: no}}}",
            "data.value_names.z: no template has a field `z`",
        ),
        ("{train: a, value_names: {z: {0: 1}}}", "data.value_names.z.0: input should be a valid string (got 1)"),
        (
            "{train: a, validation: b, test: c, split: {stratify_by: x}}",
            "data.split.stratify_by: has no effect, since validation and test files are both given",
        ),
        (
            "{train: a, validation: b, test: c, split: {near_duplicates: together}}",
            "data.split.near_duplicates: has no effect, since validation and test files are both given",
        ),
        (
            "{train: {phrase: a, label: b}, split: {group_by: who}}",
            "data.split.group_by: `who` is not a column of train",
        ),
        ("{train: {phrase: a, label: b}, split: {time_by: day}}", "data.split.time_by: `day` is not a column of train"),
        (
            "{train: a, split: {time_by: day, stratify_by: label}}",
            "data.split.stratify_by: cannot stand beside time_by, which alone decides where a row goes",
        ),
        (
            "{train: a, split: {near_duplicates: apart}}",
            "data.split.near_duplicates: input should be 'together' or 'ignore' (got 'apart')",
        ),
        ("{train: a, text_template: '{x} {y}', format: alpaca}", "data.format: cannot stand beside text_template"),
        ("{train: a, messages: m, format: alpaca}", "data.format: cannot stand beside messages"),
        ("{train: a, format: alpacca}", "data.format: input should be 'openai-chat', "),
        ("{train: a, header: 1}", "data.header: input should be a valid boolean (got 1)"),
        (
            "{train: a, ignore_checks: leak-large}",
            "data.ignore_checks: input should be a list (got 'leak-large'); write [leak-large]",
        ),
        ("{train: a, split: {test: 1.0}}", "data.split.test: a fraction should be at least 0 and below 1 (got 1.0)"),
        ("{train: a, split: {test: -3}}", "data.split.test: a number of rows should be 0 or more (got -3)"),
        ("{train: a, split: {test: yes}}", "data.split.test: input should be a fraction below 1 or a whole number"),
        ("{train: a, split: {test: 0.5, validation: 0.5}}", "data.split.test: 0.5 and validation (0.5) leave no rows"),
        ("{train: a, max_seq_len: 1}", "data.max_seq_len: input should be greater than or equal to 8 (got 1)"),
    ],
)
def test_a_wrong_data_section_is_refused_in_plain_words(write, data: str, complaint: str) -> None:
    found = complaints(write(f"base_model: bundled\ndata: {data}\n"))
    assert len(found) == 1
    assert found[0].startswith(f"bad.yaml:2: {complaint}")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("split: {test: 0}", "data.split.test: is 0, but the evaluation needs test rows"),
        ("text_template: '{tone} is {phrase}'", "evaluation.label: `tone` is not the field that is answered (phrase)"),
        ("text_template: '{phrase} {tome}'", "evaluation.label: `tone` is not the field that is answered (tome); did"),
    ],
)
def test_the_evaluation_must_fit_the_data(write, line: str, complaint: str) -> None:
    head = "base_model: bundled\nevaluation: {task: classification, label: tone}\ndata:\n  train: a\n"
    found = complaints(write(f"{head}  {line}\n"))
    assert len(found) == 1
    assert found[0].split(": ", 1)[1].startswith(complaint)
    assert found[0].startswith("bad.yaml:5:" if complaint.startswith("data") else "bad.yaml:2:")


@pytest.mark.parametrize("setting", ["validate_every_steps", "early_stopping_patience"])
def test_validation_settings_need_validation_rows(write, setting: str) -> None:
    text = f"base_model: b\ndata: {{train: a, split: {{validation: 0}}}}\ntraining: {{{setting}: 3}}\n"
    assert complaints(write(text)) == [
        f"bad.yaml:3: training.{setting}: needs validation rows, but data.split.validation is 0"
    ]


def test_groups_that_are_no_column_stand_beside_parallel_files(write) -> None:
    text = "base_model: b\ndata: {train: {phrase: a, label: b}, split: {group_by: document}}\n"
    assert load_recipe(write(text)).recipe.data.split.group_by == "document"


@pytest.mark.parametrize(
    "setting",
    ["text_template: '{a}{b}'", "prompt_template: '{a}', answer_template: '{b}'", "messages: m", "format: alpaca"],
)
def test_running_text_has_no_prompt(write, setting: str) -> None:
    found = complaints(write(f"base_model: b\ndata: {{train: a, {setting}}}\ntraining: {{objective: text}}\n"))
    assert len(found) == sum(setting.count(name) for name in ("_template:", "messages:", "format:"))
    assert all("has no effect on the objective text" in line and line.startswith("bad.yaml:2") for line in found)


def test_running_text_cannot_be_evaluated_with_a_template_either(write) -> None:
    sections = "training: {objective: text}\nevaluation: {task: generation}\n"
    found = complaints(write(f"base_model: b\ndata: {{train: a, text_template: '{{a}} {{b}}'}}\n{sections}"))
    assert [line.split(": ")[1] for line in found] == ["data.text_template", "evaluation"]


def test_only_running_text_is_repeated(write) -> None:
    repeat = "base_model: b\ndata: {train: a.txt, repeat: {a: 2}}\n"
    (found,) = complaints(write(repeat))
    assert found.startswith("bad.yaml:2: data.repeat: has no effect on the objective supervised")
    assert load_recipe(write(f"{repeat}training: {{objective: text}}\n")).recipe.data.repeat == {"a": 2}


def test_a_new_model_is_a_group_of_fields(write) -> None:
    model = load_recipe(write(NEW_MODEL)).recipe.base_model
    assert isinstance(model, NewModel)
    assert (model.hidden_size, model.max_position_embeddings, model.tie_word_embeddings) == (64, 1024, True)
    assert model.tokenizer.vocab_size == 8192


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "hidden_size: 64",
            "hidden_size: 66",
            "base_model.hidden_size: 66 is not a multiple of num_attention_heads (4)",
        ),
        ("hidden_size: 64", "hidden_size: 12", "base_model.hidden_size: 12 / num_attention_heads (4) = 3; rotary"),
        (
            "value_heads: 2",
            "value_heads: 3",
            "base_model.num_key_value_heads: 3 does not divide num_attention_heads (4)",
        ),
        (
            "value_heads: 2}",
            "value_heads: 2, hiden: 2}",
            "base_model.hiden: unknown field; did you mean `hidden_size`?",
        ),
        ("hidden_size: 64, ", "", "base_model.hidden_size: this field is required"),
        ("kind: full", "kind: lora", "method.kind: lora would leave the random weights of a new model untrained"),
        (
            "rows.jsonl}",
            "rows.jsonl, max_seq_len: 2048}",
            "data.max_seq_len: 2048 exceeds max_position_embeddings (1024)",
        ),
    ],
)
def test_the_shape_of_a_new_model_must_fit(write, old: str, new: str, complaint: str) -> None:
    found = complaints(write(NEW_MODEL.replace(old, new)))
    assert len(found) == 1
    assert found[0].split(": ", 1)[1].startswith(complaint)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "bad.yaml:1: the file is empty"),
        ("# nothing\n", "bad.yaml:1: the file is empty"),
        ("- a\n", "bad.yaml:1: input should be a group of fields"),
        (f"{HEAD}name: a\nname: b\n", "bad.yaml:4: name: stands twice; the first is on line 3"),
        ("base_model: b\ndata:\n  train: [a\nname: b\n", "bad.yaml:4: while parsing a flow sequence"),
        ("base_model: b\n\tdata: c\n", "bad.yaml:2: "),
        ("base_model: b\ndata: *there\n", "bad.yaml:2: found undefined alias"),
        (f"{HEAD}name: !!python/name:os.system x\n", "bad.yaml:3: name: a tag"),
        (f"{HEAD}? [a]\n: b\n", "bad.yaml:3: a field name should be plain text"),
        (f"{HEAD}name: a\x07b\n", "bad.yaml:3: a control character"),
        (f"base_model: b\nname: {'[' * 2000}{']' * 2000}\n", "bad.yaml:1: the values are nested too deeply"),
        ("a: &a [*a]\n", "bad.yaml:1: the values are nested too deeply or are too many"),
    ],
)
def test_text_that_is_no_recipe_is_refused_with_its_line(write, text: str, complaint: str) -> None:
    assert any(line.startswith(complaint) for line in complaints(write(text)))


def test_a_bomb_of_aliases_is_refused(write) -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12))
    assert "too many" in complaints(write(f"l0: &l0 [x]\n{levels}\n"))[0]


def test_yaml_one_point_two_is_read(write) -> None:
    text = "base_model: no\ndata: {train: 2024-01-01, value_names: {label: {0: no, 1: yes, true: on}}}\n"
    recipe = load_recipe(write(text)).recipe
    assert recipe.base_model == "no"
    assert recipe.data.train == "2024-01-01"
    assert recipe.data.value_names == {"label": {"0": "no", "1": "yes", "true": "on"}}


def test_a_recipe_in_hebrew_with_a_byte_order_mark_loads(tmp_path: Path) -> None:
    path = tmp_path / "גוון.yaml"
    path.write_text(
        "base_model: b\ndata: {train: משפטים.jsonl, text_template: 'משפט: {משפט}\n\n{גוון}'}\n", "utf-8-sig"
    )
    assert load_recipe(path).recipe.data.train == "משפטים.jsonl"


@pytest.mark.parametrize("name", ["absent.yaml", "file/absent.yaml", ""])
def test_a_missing_recipe_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"there is no recipe|cannot read") as caught:
        load_recipe(tmp_path / name)
    assert caught.value.code == "recipe-missing"


def test_a_recipe_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"base_model: \xff\n")
    with pytest.raises(UserError, match="UTF-8"):
        load_recipe(tmp_path / "bad.yaml")


def test_the_text_is_kept_as_written(write) -> None:
    text = "# why\n" + HEAD
    assert load_recipe(write(text), ["training.seed=3"]).text == text


def test_data_files_are_looked_for_here_and_then_beside_the_recipe(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    for place in ("here/both", "there/both", "there/one"):
        (tmp_path / place).touch()
    recipe = tmp_path / "there" / "recipe.yaml"
    recipe.write_text(HEAD)
    monkeypatch.chdir(tmp_path / "here")
    loaded = load_recipe(recipe)
    assert loaded.locate("both").resolve() == tmp_path / "here" / "both"
    assert loaded.locate("one").resolve() == tmp_path / "there" / "one"
    assert loaded.locate("none") == Path("none")


@pytest.mark.parametrize(
    ("train", "is_missing"),
    [
        ("rows.jsonl", True),
        ("data/rows.jsonl", True),
        ("folder", False),
        ("folder/rows.csv.gz", True),
        ("owner/name", False),
        ("owner/name-v1.0:default", False),
        ("folder/name", True),
        ("owner/rows.parquet", True),
        ("a/b/c", True),
        ("no such name", True),
    ],
)
def test_files_and_folders_must_be_there_and_hub_ids_are_left_to_whoever_fetches_them(
    tmp_path: Path, monkeypatch, train: str, is_missing: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "r.yaml").write_text(f"base_model: b\ndata: {{train: '{train}'}}\n", "utf-8")
    loaded = load_recipe(Path("r.yaml"))
    if is_missing:
        with pytest.raises(UserError) as caught:
            require_data_files(loaded)
        assert caught.value.code == "data-missing"
        assert caught.value.details == (f"data.train: {train}",)
    else:
        require_data_files(loaded)
