"""The README's commands are run as they stand, on the bundled model and the shipped data."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kivnun.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
# The tests cannot run themselves.
NOT_RUN = {"make test"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and line not in NOT_RUN]


def steps_of(command: str) -> list[str]:
    """A make target's own commands; setting up is what made the environment that runs this test."""
    if not command.startswith("make "):
        return [command]
    listed = subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", "setup", "-o", ".venv/.ready", command.split()[1]],
        cwd=ROOT,
        # Under `make test` the outer make's own flags would be taken over.
        env={name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))},
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.strip().splitlines()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("recipes", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "kivnun").symlink_to(Path(sys.executable).parent / "kivnun")
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    if words[0].removeprefix(".venv/bin/") == "kivnun":
        words[0] = str(folder / ".venv" / "bin" / "kivnun")
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=900)


@pytest.mark.timeout(1800)
def test_every_command_of_the_readme_works(workshop: Path):
    found = commands()
    assert "make demo" in found
    for command in found:
        for step in steps_of(command):
            done = run(step, workshop)
            assert done.returncode == 0, f"{step}\n{done.stdout}\n{done.stderr}"
            assert done.stdout.strip(), f"{step} said nothing"
    assert (workshop / "runs" / "tone" / "report.html").is_file()


def test_the_recipe_in_the_readme_is_valid(tmp_path: Path):
    (recipe,) = blocks("yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe, "utf-8")
    assert load_recipe(path).recipe.base_model == "bundled"


def test_both_promised_make_targets_exist_and_set_up_first():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in ("demo", "test", "check"):
        assert re.search(rf"^{target}: setup\b", makefile, flags=re.MULTILINE)


def test_every_path_that_the_readme_links_to_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target
