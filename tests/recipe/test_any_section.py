"""Whatever a section of a recipe holds, loading it gives a recipe or says what is wrong, and never anything else."""

from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from kivnun.errors import UserError
from kivnun.recipe.load import load_recipe
from kivnun.recipe.methods import METHOD_SECTIONS
from kivnun.recipe.objectives import OBJECTIVE_SECTIONS
from kivnun.recipe.search import SearchSection
from kivnun.recipe.training import TrainingSection
from kivnun.recipe.values import Section

WORDS = ("auto", "all-linear", "loss", "accuracy", "wsd", "constant", "csv", "margin", "training.learning_rate", "rank")
PLAUSIBLE: list[object] = [1, 2, 0.5, True, "auto", ["q_proj"], ["accuracy"]]
KINDS = tuple(str(section.model_fields["kind"].default) for section in (*METHOD_SECTIONS, *OBJECTIVE_SECTIONS))

plain = (
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.integers()
    | st.floats(0, 1)
    | st.floats()
    | st.sampled_from([*WORDS, *KINDS, "float", "int", "choice", "true", "1e-4", "8", ""])
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain.map(str), inner, max_size=3), max_leaves=5
)


def mostly_right(section: type[Section]) -> st.SearchStrategy[dict[str, object]]:
    """A section with a few fields given, most of them what they could be, so that the rules between fields are met."""
    given = {
        name: st.sampled_from(choices_of(field.annotation) or PLAUSIBLE) | st.sampled_from(PLAUSIBLE)
        for name, field in section.model_fields.items()
        if name != "kind"
    }
    kind = section.model_fields.get("kind")
    needed = {} if kind is None else {"kind": st.just(kind.default)}
    names = st.lists(st.sampled_from(sorted(given)), max_size=3, unique=True) if given else st.just([])
    return names.flatmap(lambda chosen: st.fixed_dictionaries({**needed, **{name: given[name] for name in chosen}}))


def choices_of(annotation: object) -> list[object]:
    """The values of every `Literal` in a type."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in choices_of(part)]


def anyhow(*sections: type[Section]) -> st.SearchStrategy[object]:
    """Groups of fields of some sections, and of none, with any values."""
    names = sorted({name for section in sections for name in section.model_fields})
    group = st.dictionaries(st.sampled_from(names) | plain.map(str), anything, max_size=4)
    kinds = sorted({str(field.default) for section in sections if (field := section.model_fields.get("kind"))})
    named = st.builds(lambda fields, kind: {**fields, "kind": kind}, group, st.sampled_from(["", *kinds]))
    return st.one_of(group, named, anything)


def sections_of(*sections: type[Section]) -> st.SearchStrategy[object]:
    return st.none() | st.one_of([mostly_right(section) for section in sections]) | anyhow(*sections)


def with_objective(training: object, objective: object) -> object:
    return {**training, "objective": objective} if isinstance(training, dict) and objective is not None else training


def with_space(search: object, space: object) -> object:
    return {**search, "space": space} if isinstance(search, dict) else search


trainings = st.builds(with_objective, sections_of(TrainingSection), sections_of(*OBJECTIVE_SECTIONS))
ranges = st.builds(
    lambda fields, kind: {**fields, "type": kind},
    st.dictionaries(st.sampled_from(["low", "high", "step", "log", "values"]), anything, max_size=4),
    st.sampled_from(["float", "int", "choice"]) | anything,
)
right_ranges = st.fixed_dictionaries({"type": st.just("int"), "low": st.integers(0, 4), "high": st.integers(3, 9)})
spaces = st.dictionaries(st.sampled_from(WORDS), st.one_of(right_ranges, ranges, anything), max_size=2) | anything
searches = st.none() | st.builds(with_space, sections_of(SearchSection), spaces)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@given(method=sections_of(*METHOD_SECTIONS), training=trainings, search=searches, validation=st.sampled_from([0, 0.1]))
@example(method={"kind": "lora", "rank": 10**400}, training={"epochs": 10**400}, search=None, validation=0)
@example(
    method={"kind": ["lora"]}, training={"objective": {"kind": {"a": 1}}}, search={"space": {"a": []}}, validation=0
)
@example(method={"kind": "<lora>"}, training={"": {"": 1}}, search={"space": {"": {"type": "<int>"}}}, validation=0)
@example(
    method={"kind": "lora", "rank": 4},
    training={"schedule": "wsd", "decay_ratio": 0.5, "validation_metrics": ["accuracy"], "best_metric": "accuracy"},
    search={"space": {"learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}}},
    validation=0.1,
)
def test_any_method_training_and_search_is_a_recipe_or_is_refused_in_words(
    folder: Path, method: object, training: object, search: object, validation: float
) -> None:
    path = folder / "recipe.yaml"
    sections = {"method": method, "training": training, "search": search}
    value = {
        "base_model": "bundled",
        "data": {"train": "rows.jsonl", "split": {"validation": validation}},
        **{name: section for name, section in sections.items() if section is not None},
    }
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(value, file)
    try:
        load_recipe(path)
    except UserError as error:
        refusal = error
    else:
        return
    assert refusal.code == "recipe-invalid"
    assert refusal.details
    assert [line for line in refusal.details if not line.startswith(f"{path}:")] == []
    # Words of pydantic and Python, which a writer of recipes does not know.
    assert [
        word for word in ("constrained-", "literal[", "tuple", "dictionary", "instance of") if word in str(refusal)
    ] == []
