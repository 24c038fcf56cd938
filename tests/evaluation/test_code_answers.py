"""Answers that are programs: run in a process of their own, with limits, and found out where they cheat."""

import time
from pathlib import Path

import pytest

from kivnun.evaluation.code_answers import Limits, find_program, passes, run_all, syntax_valid

TESTS = "assert double(2) == 4\nassert double(0) == 0"
RIGHT = "def double(x):\n    return 2 * x"
QUICK = Limits(seconds=3.0)


def test_a_right_program_passes_and_a_wrong_one_does_not():
    assert run_all([(RIGHT, TESTS), ("def double(x):\n    return x", TESTS), ("", TESTS)], QUICK) == [
        True,
        False,
        False,
    ]


def test_the_first_block_of_python_counts_whatever_stands_before_it():
    answer = f"Install:\n```bash\npip install double\n```\nThen:\n```Python3\n{RIGHT}\n```\n```python\nother\n```"
    assert find_program(answer) == RIGHT


def test_a_program_between_fences_is_found():
    answer = f"Here it is:\n```python\n{RIGHT}\n```\nIt doubles."
    assert find_program(answer) == RIGHT
    assert passes(answer, TESTS, QUICK)
    assert syntax_valid(answer) == 1


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "x = bytearray(8 << 30)\n" + RIGHT,
        "import socket; socket.create_connection(('127.0.0.1', 9))\n" + RIGHT,
        "import subprocess; subprocess.run(['true'])\n" + RIGHT,
        "import os; os.fork()\n" + RIGHT,
        "open('large', 'wb').write(bytes(1 << 26))\n" + RIGHT,
        "nonsense",
        "\0",
    ],
)
def test_ending_early_and_breaking_a_limit_are_no_ways_to_pass(program):
    assert not passes(program, TESTS, QUICK)


def test_a_program_that_does_not_end_is_ended():
    started = time.monotonic()
    assert not passes("while True:\n    pass", TESTS, Limits(seconds=0.5))
    assert time.monotonic() - started < 3


def test_a_program_sees_no_environment_and_leaves_no_file(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "hush")
    before = set(Path.cwd().iterdir())
    program = f"import os\nassert 'SECRET_KEY' not in os.environ and 'PATH' not in os.environ\nopen('x', 'w')\n{RIGHT}"
    assert passes(program, TESTS, QUICK)
    assert set(Path.cwd().iterdir()) == before


@pytest.mark.parametrize(
    ("answer", "valid"), [("x = 1", 1), ("x = ", 0), ("", 0), ("\0", 0), ("'\\d'", 1), ("(" * 500, 0), ("print 'x'", 0)]
)
def test_syntax_is_that_of_this_python(answer, valid):
    assert syntax_valid(answer) == valid
