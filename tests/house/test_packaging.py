import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kivnun import __version__
from kivnun.recipe import load_recipe

LOWER, UPPER = {">=", ">", "==", "~="}, {"<", "<=", "==", "~="}
LOCKED_LINE = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)$")
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def requirements(project: dict) -> list[Requirement]:
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


@pytest.fixture(scope="module")
def locked(root: Path) -> dict[str, str]:
    lines = (root / "requirements.lock").read_text("utf-8").splitlines()
    found = [LOCKED_LINE.match(line) for line in lines if line and not line.startswith("#")]
    assert all(found), "a line of requirements.lock is no name==version"
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def test_the_newest_change_is_this_version(root: Path, project: dict) -> None:
    headings = re.findall(r"^## \[?(\d[^\]\s]*)", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == project["version"] == __version__


def test_every_dependency_is_bounded_below_and_above(requirements: list[Requirement]) -> None:
    bounds = {each.name: {part.operator for part in each.specifier} for each in requirements}
    assert [name for name, found in bounds.items() if not (found & LOWER and found & UPPER)] == []


def test_every_dependency_is_locked_to_a_version_that_it_allows(
    requirements: list[Requirement], locked: dict[str, str]
) -> None:
    # Those that take onnxruntime-genai's own place on other machines are never installed beside it.
    here = [each for each in requirements if not each.name.startswith("onnxruntime-genai-")]
    assert [each.name for each in here if canonicalize_name(each.name) not in locked] == []
    wrong = [each for each in here if not each.specifier.contains(locked[canonicalize_name(each.name)])]
    assert [str(each) for each in wrong] == []


def test_the_makefile_installs_the_torch_that_is_locked(root: Path, locked: dict[str, str]) -> None:
    assert re.findall(r"torch==(\S+)", (root / "Makefile").read_text("utf-8")) == [locked["torch"]]


def test_recipes_are_shipped() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path: Path) -> None:
    assert load_recipe(path).recipe.data.train
