"""What a command loads is what it costs to start; modules are counted, not seconds."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "sklearn", "onnxruntime_genai", "onnx", "matplotlib")


def loaded_modules(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code."""
    report = "import sys; sys.stderr.write('\\n' + ' '.join(sys.modules))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(result.stderr.splitlines()[-1].split())


HELP = """
import sys
from kivnun.cli.app import main
sys.argv = ["kivnun", *{words}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_modules("import kivnun").isdisjoint({*HEAVY, "pydantic", "typer", "rich"})


def test_help_loads_neither_models_nor_pydantic() -> None:
    assert loaded_modules(HELP.format(words=["--help"])).isdisjoint({*HEAVY, "pydantic"})


# typer itself loads pydantic to read a verb's options, so that here only our own use of it can be refused.
@pytest.mark.parametrize("words", [["run", "--help"], ["recipe", "check", "--help"], ["--version"]], ids=" ".join)
def test_the_help_of_a_verb_loads_neither_models_nor_the_schema(words: list[str]) -> None:
    assert loaded_modules(HELP.format(words=words)).isdisjoint({*HEAVY, "kivnun.recipe.schema"})


@pytest.mark.parametrize("floor", ["errors", "recipe", "runs"])
def test_the_light_floors_load_no_arrays_and_no_models(floor: str) -> None:
    assert loaded_modules(f"import kivnun.{floor}").isdisjoint(HEAVY)
