"""A recipe to start from: every field with its meaning, generated from the schema so that no comment can drift."""

import textwrap
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from kivnun.errors import UserError
from kivnun.recipe.dump import dump_value
from kivnun.recipe.explain import FieldDoc, describe_fields
from kivnun.recipe.fields import walk_fields
from kivnun.recipe.methods import METHOD_SECTIONS, FullMethod, Method, PartialMethod
from kivnun.recipe.optimization import OptimizationSection
from kivnun.recipe.schema import DataSection, EvaluationSection, Recipe, SplitSection
from kivnun.recipe.training import TrainingSection

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "full": FullMethod(),
        "partial": PartialMethod(last_layers=2),
        **{section().kind: section() for section in METHOD_SECTIONS if section not in (FullMethod, PartialMethod)},
    }
)
_FULL_LEARNING_RATE, _ADAPTER_LEARNING_RATE = 2e-4, 2e-3
_WIDTH = 110


def starter_recipe(method: str = "lora") -> Recipe:
    """The shipped example: the tone of a phrase, with the bundled model.

    Raises:
        UserError: `recipe-invalid` when there is no such method.
    """
    if method not in METHODS:
        hint = f"the methods are {', '.join(METHODS)}"
        raise UserError("recipe-invalid", f"there is no method `{method}`", hint=hint)
    return Recipe(
        base_model="bundled",
        data=DataSection(
            train="examples/tone/phrases.jsonl",
            text_template="### Text: {phrase}\n### The tone is:\n{tone}",
            split=SplitSection(validation=0.1, test=0.2, stratify_by="tone"),
        ),
        method=METHODS[method],
        training=TrainingSection(
            learning_rate=_FULL_LEARNING_RATE if method in ("full", "partial") else _ADAPTER_LEARNING_RATE
        ),
        evaluation=EvaluationSection(task="classification", label="tone"),
        optimization=OptimizationSection(),
    )


def annotated_recipe(recipe: Recipe) -> str:
    """A recipe as YAML with the meaning of every field above it; fields without a value stand as comments."""
    values = {".".join(path): value for path, value in walk_fields(recipe)}
    chosen = {recipe.method.kind, recipe.training.objective.kind}
    return "\n".join(["# `kivnun recipe check` checks this file.", *_lines(values, chosen)]) + "\n"


def _lines(values: Mapping[str, object], chosen: set[str]) -> Iterator[str]:
    docs = [doc for doc in describe_fields() if not doc.kinds or chosen & set(doc.kinds)]
    for doc in docs:
        depth = doc.path.count(".")
        indent = "  " * depth
        is_group = any(path.startswith(f"{doc.path}.") for path in values)
        if not is_group and doc.path not in values:
            continue  # a field of a form that was not chosen, such as the shape of a new model
        if depth == 0:
            yield ""
        yield from textwrap.wrap(_comment(doc), _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        name = doc.path.rpartition(".")[2]
        if is_group:
            yield f"{indent}{name}:"
        elif values[doc.path] is None:
            yield f"{indent}# {name}:"
        else:
            yield f"{indent}{name}: {dump_value(values[doc.path])}"


def _comment(doc: FieldDoc) -> str:
    return doc.meaning if doc.type == "fields" else f"{doc.meaning} ({doc.type.replace('`', '')})"
