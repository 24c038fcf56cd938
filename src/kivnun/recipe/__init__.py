"""What to do: the recipe's schema, loading with overrides, and its documentation."""

from kivnun.recipe.dump import dump_recipe
from kivnun.recipe.load import LoadedRecipe, load_recipe
from kivnun.recipe.methods import FullMethod, LoraMethod, Method
from kivnun.recipe.optimization import OptimizationSection
from kivnun.recipe.schema import (
    DataSection,
    EvaluationSection,
    NewModel,
    NewTokenizer,
    Recipe,
    SplitSection,
)
from kivnun.recipe.templates import template_fields
from kivnun.recipe.training import TrainingSection

__all__ = [
    "DataSection",
    "EvaluationSection",
    "FullMethod",
    "LoadedRecipe",
    "LoraMethod",
    "Method",
    "NewModel",
    "NewTokenizer",
    "OptimizationSection",
    "Recipe",
    "SplitSection",
    "TrainingSection",
    "dump_recipe",
    "load_recipe",
    "template_fields",
]
