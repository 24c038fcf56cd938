"""Plans of searches, without data or model: planning needs neither."""

from pathlib import Path

import pytest
from search_recipe import RECIPE, MakePlan

from kivnun.search.plan import SearchPlan, plan_search
from kivnun.search.space_file import load_search


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, "utf-8")
    return path


@pytest.fixture
def make_plan(recipe: Path) -> MakePlan:
    """The plan of a search section that is given as YAML, with overrides of the recipe."""

    def make(search: str, *overrides: str, space: Path | None = None, trials: int | None = None) -> SearchPlan:
        recipe.write_text(RECIPE + (f"search: {search}\n" if search else ""), "utf-8")
        return plan_search(load_search(recipe, overrides, space=space, num_trials=trials))

    return make
