"""Answers that are Python: whether they parse, and whether they pass a row's tests in a process of their own.

The process has limits of time, memory and file size, an empty environment and folder, and may open no connection and
start no program. That stops accidents and not an attacker: run what you do not trust in a container.
"""

import ast
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import orjson

from kivnun.errors import UserError

_FENCED = re.compile(r"```([^\n`]*)\n(.*?)\n?```", flags=re.DOTALL)
_PYTHON = ("", "python", "py", "python3")

# Runs in the other process. A program that ends early, by sys.exit(0) or os._exit(0), never comes to the last line; the
# word that it writes there is drawn anew for each run.
_RUNNER = """
import json, os, sys
try:
    import resource
except ImportError:
    sys.exit(3)
job = json.load(sys.stdin)
passed = os.dup(1)
nothing = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(nothing, number)
for name, limit in job["limits"].items():
    try:
        resource.setrlimit(getattr(resource, name), (limit, limit))
    except (AttributeError, ValueError, OSError):
        pass
FORBIDDEN = ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec",
             "os.fork", "os.forkpty", "os.posix_spawn", "os.kill", "os.killpg", "ctypes.dlopen")
def refuse(event, _arguments):
    if event in FORBIDDEN:
        raise PermissionError(event + " is not allowed here")
word = job.pop("word").encode()
program, tests = job["program"], job["tests"]
import unittest, asyncio
sys.addaudithook(refuse)
names = {"__name__": "__main__"}
exec(compile(program, "answer", "exec"), names)
exec(compile(tests, "tests", "exec"), names)
os.write(passed, word)
"""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: Longest time, on the clock.
        memory_bytes: Most address space.
        file_bytes: Largest file that it may write.
    """

    seconds: float = 10.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 24


LIMITS = Limits()


def find_program(answer: str) -> str:
    """The program in an answer: the first block of Python between fences of Markdown, or all of it.

    Blocks of other languages are passed over, and a common indent is taken off.

    Args:
        answer: What was answered.
    """
    blocks = (each[2] for each in _FENCED.finditer(answer) if each[1].strip().lower() in _PYTHON)
    # Answers often begin with the space that parts them from the prompt.
    return textwrap.dedent(next(blocks, answer)).strip()


def syntax_valid(answer: str) -> float:
    """1 where the program in an answer is Python that can be parsed, else 0.

    Args:
        answer: What was answered.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(find_program(answer))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0
    return float(bool(find_program(answer)))


def passes(answer: str, tests: str, limits: Limits = LIMITS) -> bool:
    """Whether the program in an answer runs, and then the tests.

    Args:
        answer: What was answered.
        tests: Python with asserts, which sees what the program defines.
        limits: What both may use.

    Raises:
        UserError: `stage-unsupported` on systems that set no limits to a process.
    """
    if sys.platform == "win32":
        raise UserError(
            "stage-unsupported",
            "answers of the task code are not run on Windows, which sets no limits to a process",
            hint="set evaluation.run_code: false, or run it in WSL or a container",
        )
    word = secrets.token_hex(16)
    bounds = {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CPU": int(limits.seconds) + 1,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_CORE": 0,
    }
    job = orjson.dumps({"program": find_program(answer), "tests": tests, "word": word, "limits": bounds})
    with tempfile.TemporaryDirectory(prefix="kivnun-code-") as folder:
        process = subprocess.Popen(  # noqa: S603 - running it is what was asked for, and allowed by run_code
            [sys.executable, "-I", "-X", "utf8", "-c", _RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PYTHONDONTWRITEBYTECODE": "1", "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(job, timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(process)
    return said == word.encode()


def run_all(programs: Sequence[tuple[str, str]], limits: Limits = LIMITS) -> list[bool]:
    """Whether each answer passes its tests; as many at once as there are cores.

    Args:
        programs: Answers with their tests.
        limits: What each may use.

    Raises:
        UserError: `stage-unsupported` on systems that set no limits to a process.
    """
    pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    try:
        return list(pool.map(lambda each: passes(each[0], each[1], limits), programs))
    finally:
        # After Ctrl-C those that wait are not begun.
        pool.shutdown(cancel_futures=True)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started, and wait for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
