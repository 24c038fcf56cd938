import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from kivnun.errors import CODES

MAX_LINES = 500
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "handler", "misc", "core", "base2", "v1"}
OWN_FOLDERS = (".ci", "bench", "docs", "examples", "recipes", "src", "tests")
# Assembled here, so that this file does not hold what it looks for.
PRIVATE_PLACES = re.compile("|".join(["/opt/" + "pypi", "extra-index" + "-url", "/work" + "/(main|shared|notes)"]))
PRINTERS = {"print", "pprint"}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def test_no_file_is_longer_than_the_ceiling(source_files: list[Path]) -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in source_files}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_modules_are_named_after_what_they_hold(source_files: list[Path]) -> None:
    assert [path for path in source_files if {path.stem, path.parent.name} & BANNED_NAMES] == []


def test_only_the_command_line_prints(source_files: list[Path]) -> None:
    printing = [
        f"{path}:{call.lineno}"
        for path in source_files
        if path.parent.name != "cli"
        for call in ast.walk(parse(path))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in PRINTERS
    ]
    assert printing == []


def test_every_code_that_is_raised_is_listed_and_every_listed_code_is_raised(source_files: list[Path]) -> None:
    raised = {code for path in source_files for code in raised_codes(parse(path))}
    assert raised == set(CODES)


def raised_codes(tree: ast.Module) -> set[str]:
    """Every text in the first argument of a `UserError`; a choice between two codes names both."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    first = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "UserError"]
    return {
        node.value
        for argument in first
        for node in ([argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument])
        if isinstance(node, ast.Constant)
    }


def test_the_floors_hold(root: Path) -> None:
    program = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([program, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_file_names_a_place_that_only_one_machine_has(root: Path) -> None:
    # What a benchmark keeps lies in folders of a leading dot, which git leaves out.
    kept = [path for name in OWN_FOLDERS for path in sorted((root / name).rglob("*")) if path.is_file()]
    folders = [path for path in kept if not any(part.startswith(".") for part in path.relative_to(root).parts[1:])]
    folders = [path for path in folders if "__pycache__" not in path.parts]
    files = [*(path for path in root.iterdir() if path.is_file()), *folders]
    texts = {path: path.read_bytes().decode("utf-8", "replace") for path in files if path.stat().st_size < 2_000_000}
    assert [str(path) for path, text in texts.items() if PRIVATE_PLACES.search(text)] == []


def test_no_two_test_files_have_one_name(root: Path) -> None:
    # Tests stand in no packages: pytest takes the second file of a name for the first.
    names = Counter(path.name for path in (root / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
