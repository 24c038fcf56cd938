"""A table of broken files, one fault each: every one is named with its line, by every command, and nothing crashes."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from broken_files import BrokenFile
from broken_rows import BROKEN_FILES

from kivnun.cli.app import main
from kivnun.data.findings import CHECKS

# Of tiny files this is always true.
TINY = {"rows-below-minimum", "rows-few"}


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def kivnun_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The entry point of the installed command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["kivnun", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        capsys.readouterr()
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        else:
            status = 0
        captured = capsys.readouterr()
        assert isinstance(status, int), status
        assert "Traceback" not in captured.out + captured.err
        return Ended(status, captured.out, captured.err)

    return call


def put(broken: BrokenFile) -> str:
    """Write the data set into the current folder."""
    for name, content in {broken.name: broken.content, **broken.beside}.items():
        Path(name).write_bytes(content)
    return broken.target


def test_the_table_is_long_enough() -> None:
    assert len(BROKEN_FILES) >= 100


@pytest.mark.parametrize("fault", BROKEN_FILES)
def test_check_names_the_fault_and_its_line(fault: str, kivnun_here: Command) -> None:
    broken = BROKEN_FILES[fault]
    ended = kivnun_here("check", put(broken), "--json", *broken.options)
    found = {each["code"]: each for each in json.loads(ended.out)["found"]}
    assert ended.err == ""
    places = [(example["file"], example["line"]) for example in found.get(broken.code, {"examples": []})["examples"]]
    assert (broken.name, broken.line) in places, [
        f"{code} {example['file']}:{example['line']} {example['message']}"
        for code, each in found.items()
        for example in each["examples"]
    ]
    grave = {code for code in found if CHECKS[code].severity != "note"}
    assert grave - TINY - {broken.code, *broken.also} == set()
    assert ended.status == (2 if any(CHECKS[code].severity == "error" for code in found) else 0)
