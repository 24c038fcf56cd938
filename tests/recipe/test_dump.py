"""Dumping: whatever a recipe says, its text says it again."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kivnun.recipe import (
    DataSection,
    EvaluationSection,
    FullMethod,
    LoraMethod,
    NewModel,
    OptimizationSection,
    Recipe,
    SplitSection,
    TrainingSection,
    dump_recipe,
    load_recipe,
)
from kivnun.recipe.dump import dump_value
from kivnun.recipe.objectives import SupervisedObjective, TextObjective

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
tricky = st.sampled_from(
    ["no", "1e-4", "~", "null", "- a", "a: b", " x ", "#", "\n", "'", '"', "{", "0x1f", "שלום", "\u2028"]
)
texts = words | tricky
numbers = st.floats(1e-12, 1e6, allow_nan=False)
shares = st.floats(0, 0.9)
sizes = st.integers(0, 10**6) | st.floats(0, 0.4)


@st.composite
def data_sections(draw: st.DrawFn, *, is_running_text: bool) -> DataSection:
    names = draw(st.lists(texts, min_size=1, max_size=3, unique=True))
    train = draw(st.sampled_from([names[0], tuple(names), {f"c{n}": name for n, name in enumerate(names)}]))
    literal = draw(texts).replace("{", "{{").replace("}", "}}")
    template = None
    if isinstance(train, dict) and not is_running_text:
        template = draw(st.none() | st.just(f"{literal}{{c0}}{literal}"))
    return DataSection(
        train=train,
        text_template=template,
        messages=None if template or is_running_text or isinstance(train, dict) else draw(st.none() | texts),
        value_names={}
        if template
        else draw(st.dictionaries(texts, st.dictionaries(texts, texts, min_size=1), max_size=2)),
        repeat=draw(st.dictionaries(texts, st.integers(1, 99), max_size=2)) if is_running_text else {},
        split=draw(st.builds(SplitSection, validation=sizes, test=sizes, seed=st.integers(0, 2**32 - 1))),
        on_too_long=draw(st.sampled_from(["refuse", "drop"])),
    )


methods = st.builds(FullMethod) | st.builds(
    LoraMethod,
    rank=st.integers(1, 512),
    alpha=numbers,
    dropout=shares,
    target_modules=st.just("all-linear") | st.lists(texts, min_size=1, max_size=3).map(tuple),
)
trainings = st.builds(
    TrainingSection,
    objective=st.sampled_from([SupervisedObjective(), TextObjective()]),
    epochs=numbers,
    max_steps=st.none() | st.integers(1, 10**9),
    learning_rate=numbers,
    betas=st.tuples(shares, shares),
    compile=st.sampled_from(["auto", True, False]),
    schedule=st.sampled_from(["cosine", "linear"]),
    final_learning_rate_ratio=st.floats(0, 1),
)
new_models = st.builds(
    NewModel,
    hidden_size=st.just(64),
    intermediate_size=st.integers(1, 999),
    num_hidden_layers=st.integers(1, 9),
    num_attention_heads=st.just(4),
    num_key_value_heads=st.sampled_from([1, 2, 4]),
    tie_word_embeddings=st.booleans(),
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    base_model = draw(texts | new_models)
    training = draw(trainings)
    return Recipe(
        name=draw(st.none() | st.sampled_from(["tone", "1e5", "007", "no", "גוון"])),
        base_model=base_model,
        data=draw(data_sections(is_running_text=training.objective.kind == "text")),
        method=draw(methods) if isinstance(base_model, str) else FullMethod(),
        training=training,
        optimization=draw(st.none() | st.builds(OptimizationSection, tie_tolerance=st.floats(0, 10))),
    )


@settings(deadline=None, max_examples=150)
@given(recipes(), st.booleans())
def test_a_dumped_recipe_loads_back_equal(recipe: Recipe, with_defaults: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(dump_recipe(recipe, with_defaults=with_defaults), encoding="utf-8")
        assert load_recipe(path).recipe == recipe


def test_a_short_dump_holds_only_what_differs() -> None:
    recipe = Recipe(
        base_model="bundled",
        data=DataSection(train="a.jsonl"),
        method=LoraMethod(rank=16),
        evaluation=EvaluationSection(task="generation"),
        optimization=OptimizationSection(),
    )
    text = dump_recipe(recipe, with_defaults=False)
    assert text == "base_model: bundled\ndata:\n  train: a.jsonl\nevaluation:\n  task: generation\noptimization: {}\n"


def test_a_long_dump_spells_out_the_defaults_so_that_they_may_change() -> None:
    text = dump_recipe(Recipe(base_model="bundled", data=DataSection(train="a.jsonl")))
    assert "learning_rate: 0.0002\n" in text
    assert "kind: lora\n" in text
    assert "rank: 16\n" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (0.1, "0.1"), ("a b", '"a b"'), ((1, "no"), '[1, "no"]'), ({"a": True}, "{a: true}")],
)
def test_one_value_fits_on_one_line(value: object, text: str) -> None:
    assert dump_value(value) == text
