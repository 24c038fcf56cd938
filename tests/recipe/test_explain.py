"""What the schema tells: nothing undocumented, nothing that the loader would refuse."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from kivnun.errors import UserError
from kivnun.recipe import Recipe, load_recipe, methods, objectives, schema, search, training
from kivnun.recipe.complaints import OTHER_NAMES
from kivnun.recipe.explain import describe_fields, recipe_json_schema, reference_page
from kivnun.recipe.fields import Difference, diff_recipes
from kivnun.recipe.starter import METHODS, annotated_recipe, starter_recipe
from kivnun.recipe.values import Section

MODULES = (schema, methods, objectives, training, search)
SECTIONS = {
    value
    for module in MODULES
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, Section) and value is not Section
}


@pytest.mark.parametrize("section", sorted(SECTIONS, key=lambda section: section.__name__))
def test_every_field_is_documented(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        assert (field.description or "").endswith("."), f"{section.__name__}.{name}"


def test_every_field_of_every_section_is_in_the_reference() -> None:
    docs = describe_fields()
    told = [(doc.path, kind) for doc in docs for kind in doc.kinds or ("",)]
    assert len(told) == len(set(told))
    names = {doc.path.rpartition(".")[2] for doc in docs}
    for section in SECTIONS:
        assert set(section.model_fields) <= names


def test_a_line_of_the_reference_says_type_default_and_meaning() -> None:
    page = reference_page(describe_fields())
    assert "| `training.learning_rate` | number above 0 | `0.0002` | Peak learning rate. |" in page
    assert (
        "| `method.rank` | whole number above 0 | `16` | (kind: lora or qlora) Rank of the adapter matrices. |" in page
    )
    assert "| **`data.train`** | text or list of text or mapping to text |  | The training rows" in page
    assert "| `training.compile` | `auto` or true or false | `auto` |" in page


def test_explaining_a_section_leaves_out_the_others() -> None:
    assert {doc.path.split(".")[0] for doc in describe_fields("method")} == {"method"}
    assert [doc.path for doc in describe_fields("training.seed")] == ["training.seed"]


@pytest.mark.parametrize(("field", "meant"), [("learning_rate", "training.learning_rate"), ("trainig", "training")])
def test_an_unknown_field_is_not_explained(field: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        describe_fields(field)
    assert caught.value.hint == f"did you mean `{meant}`?"


def test_names_of_other_tools_lead_to_fields_that_exist() -> None:
    paths = {doc.path for doc in describe_fields()}
    assert set(OTHER_NAMES.values()) <= paths
    assert not set(OTHER_NAMES) & {path.rpartition(".")[2] for path in paths}


def test_the_json_schema_is_closed_and_tells_the_methods_apart() -> None:
    found = recipe_json_schema()
    definitions = found["$defs"]
    assert isinstance(definitions, dict)
    assert found["additionalProperties"] is False
    assert found["required"] == ["base_model", "data"]
    assert all(section["additionalProperties"] is False for section in definitions.values())
    assert definitions["LoraMethod"]["required"] == ["kind"]
    assert definitions["LoraMethod"]["properties"]["kind"]["const"] == "lora"
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("method", METHODS)
def test_the_annotated_recipe_loads_as_what_it_was_made_from(tmp_path: Path, method: str) -> None:
    recipe = starter_recipe(method)
    path = tmp_path / "recipe.yaml"
    path.write_text(annotated_recipe(recipe))
    assert load_recipe(path).recipe == recipe
    assert recipe.method.kind == method


def test_the_annotated_recipe_explains_every_field_that_can_stand_there() -> None:
    lines = [line.strip().removeprefix("# ") for line in annotated_recipe(starter_recipe()).splitlines()]
    for doc in describe_fields():
        has_it = not doc.kinds or {"lora", "supervised"} & set(doc.kinds)
        if has_it and not doc.path.startswith(("base_model.", "retrieval.", "decide.", "search.", "where.")):
            name = doc.path.rpartition(".")[2]
            assert any(line.startswith(f"{name}:") for line in lines), doc.path


def test_there_is_no_starter_for_an_unknown_method() -> None:
    with pytest.raises(UserError, match="there is no method `lorra`"):
        starter_recipe("lorra")


def test_a_recipe_does_not_differ_from_itself() -> None:
    assert diff_recipes(starter_recipe(), starter_recipe()) == []


def test_recipes_differ_in_the_fields_that_were_changed() -> None:
    left = starter_recipe()
    right = Recipe.model_validate({**dict(left), "evaluation": None, "name": "x"})
    differences = diff_recipes(left, right)
    assert Difference("name", None, "x") in differences
    assert Difference("evaluation.task", "classification", None) in differences
    assert all(item.path == "name" or item.path.startswith("evaluation.") for item in differences)
