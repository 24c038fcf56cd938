"""`--set`: the same validation as the file, and every value knows where it came from."""

from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.recipe import FullMethod, LoraMethod, load_recipe

TEXT = "base_model: bundled\ndata: {train: a.jsonl}\nmethod: {kind: lora, rank: 4}\ntraining:\n  epochs: 2\n"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(TEXT)
    return path


def test_an_override_wins_and_leaves_its_neighbours(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["training.learning_rate=1e-4", "method.rank=8", "method.rank=9"]).recipe
    assert recipe.training.learning_rate == 0.0001
    assert recipe.training.epochs == 2
    assert recipe.method == LoraMethod(rank=9)


def test_the_value_is_yaml(recipe_file: Path) -> None:
    overrides = [
        "method.target_modules=[q_proj, v_proj]",
        "evaluation={task: generation}",
        "name=a=b".replace("=b", ""),
    ]
    recipe = load_recipe(recipe_file, overrides).recipe
    assert recipe.method == LoraMethod(rank=4, target_modules=("q_proj", "v_proj"))
    assert recipe.evaluation is not None
    assert recipe.name == "a"


def test_only_the_first_equals_sign_divides(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["data.text_template='{a}={b}'"]).recipe
    assert recipe.data.text_template == "{a}={b}"


def test_a_section_is_replaced_as_a_whole(recipe_file: Path) -> None:
    assert load_recipe(recipe_file, ["method={kind: full}"]).recipe.method == FullMethod()


def test_an_absent_section_is_made(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["evaluation.task=generation", "evaluation.seed=3"]).recipe
    assert recipe.evaluation is not None
    assert recipe.evaluation.seed == 3


def test_an_empty_value_takes_a_section_away(recipe_file: Path) -> None:
    recipe_file.write_text(TEXT + "evaluation: {task: generation}\n")
    assert load_recipe(recipe_file, ["evaluation="]).recipe.evaluation is None


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (
            "training.lerning_rate=1",
            "--set training.lerning_rate=1: training.lerning_rate: unknown field; did you mean",
        ),
        ("trainig.seed=1", "--set trainig.seed=1: trainig: unknown field; did you mean `training`?"),
        ("training.epochs=-1", "--set training.epochs=-1: training.epochs: input should be greater than 0 (got -1)"),
        ("method.kind=full", "r.yaml:3: method.rank: unknown field; kind full does not have it"),
        ("evaluation.seed=1", "--set evaluation.seed=1: evaluation.task: this field is required"),
        ("evaluation={task: classification}", "--set evaluation={task: classification}: evaluation.label: is missing"),
        ("base_model.hidden_size=3", "--set: base_model is 'bundled' and has no fields; set base_model as a whole"),
        ("training.epochs", "--set training.epochs: should have the form section.field=value"),
        ("=3", "--set =3: should have the form section.field=value"),
        ("training..seed=3", "--set training..seed=3: should have the form section.field=value"),
        ("training.seed=[3", "--set training.seed=[3: its value is not YAML"),
        ("training={seed: 1, seed: 2}", "--set training={seed: 1, seed: 2}: its value is not YAML: stands twice"),
    ],
)
def test_a_wrong_override_is_named(recipe_file: Path, override: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_file, [override])
    assert caught.value.code == "recipe-invalid"
    assert len(caught.value.details) == 1
    assert caught.value.details[0].replace(f"{recipe_file.parent}/", "").startswith(complaint)


def test_problems_of_the_file_and_of_overrides_come_together(recipe_file: Path) -> None:
    recipe_file.write_text(TEXT + "  sed: 3\n")
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_file, ["method.rank=0"])
    assert ["--set method.rank=0", f"{recipe_file}:6"] == [line.split(": ")[0] for line in caught.value.details]


def test_the_override_that_won_is_the_one_that_is_named(recipe_file: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_file, ["method.rank=0", "method.rank=-1"])
    assert [line.split(": ")[0] for line in caught.value.details] == ["--set method.rank=-1"]


def test_every_value_knows_where_it_came_from(recipe_file: Path) -> None:
    provenance = load_recipe(recipe_file, ["method.rank=8", "evaluation={task: generation}"]).provenance
    assert provenance["base_model"] == "file"
    assert provenance["training.epochs"] == "file"
    assert provenance["method.kind"] == "file"
    assert provenance["method.rank"] == "--set"
    assert provenance["method.alpha"] == "default"
    assert provenance["evaluation.task"] == "--set"
    assert provenance["data.split.test"] == "default"
    assert provenance["optimization"] == "default"
    assert set(provenance.values()) == {"file", "--set", "default"}


def test_a_part_of_a_mapping_that_is_set_marks_the_mapping(recipe_file: Path) -> None:
    loaded = load_recipe(recipe_file, ["data.value_names.label={0: a}"])
    assert loaded.recipe.data.value_names == {"label": {"0": "a"}}
    assert loaded.provenance["data.value_names"] == "--set"
