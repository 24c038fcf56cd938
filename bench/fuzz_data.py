"""Fuzzes the data layer for minutes: any bytes as files of any kind, through reading, checking and converting.

    bench/fuzz_data.py [--minutes 10] [--engine atheris|hypothesis] [--repeat FILE]

Starts from the table of broken files of the tests, stops at the first crash, writes its input to a file, and says how
to repeat it. Atheris is no dependency of the project: `pip install atheris`. Linux only: atheris is.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS / "data"), str(TESTS / "fuzz")]

MAX_SEED_BYTES = 8_000
HYPOTHESIS_ROUND = 500
# What bytes of data are made of, for a fuzzer that would have to find it letter by letter.
KEYS = """
messages role content user assistant system tool tool_calls function arguments name weight tools prompt completion label
chosen rejected contents parts conversations from value text instruction output input data Instances paragraphs qas
answers context generation reward api response author systemInstruction functionCall image_url url
"""
SIGNS = (
    "\\ud800",
    "\\u0000",
    "1e999",
    '""',
    '","',
    "[[[[[[[[",
    "]]]]]]]]",
    "}, {",
    "null",
    "true",
    "\n",
    "\r\n",
    "\ufeff",
)
DONE = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), default="atheris")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="run one input again")
    parser.add_argument("--crashes", type=Path, default=Path.cwd(), metavar="FOLDER", help="where inputs are written")
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeat is not None:
        return repeat(options.repeat)
    if options.corpus is not None:
        return run_atheris(options.corpus, options.minutes, options.crashes)
    if options.engine == "hypothesis":
        return run_hypothesis(options.minutes, options.crashes)
    return watch_atheris(options.minutes, options.crashes)


def repeat(file: Path) -> int:
    """Run one input, with the traceback of its crash."""
    from data_targets import run_bytes, take_task

    print(f"{take_task(file.read_bytes())[0]}")
    with tempfile.TemporaryDirectory() as folder:
        run_bytes(file.read_bytes(), Path(folder))
    print("no crash")
    return 0


def write_seeds(folder: Path) -> int:
    """The table of broken files as inputs of a fuzzer, each for every action; tells how many."""
    from broken_rows import BROKEN_FILES
    from data_targets import ACTIONS, make_seed

    number = 0
    for broken in BROKEN_FILES.values():
        if len(broken.content) <= MAX_SEED_BYTES:
            for action in dict.fromkeys(ACTIONS):
                (folder / f"seed{number:05}").write_bytes(make_seed(broken.name, broken.content, action))
                number += 1
    return number


def watch_atheris(minutes: float, crashes: Path) -> int:
    """Fuzz in a process of its own, which libFuzzer ends in its own way, and tell how that went."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        sys.exit("atheris is not installed; `pip install atheris`, or use --engine hypothesis")
    with tempfile.TemporaryDirectory() as folder:
        print(f"atheris, {write_seeds(Path(folder))} seeds, {minutes:g} minutes", flush=True)
        words = [sys.executable, __file__, "--corpus", folder, "--minutes", str(minutes), "--crashes", str(crashes)]
        started = time.time()
        ended = subprocess.run(words, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    done = DONE.search(ended.stderr)
    written = re.search(r"Test unit written to (\S+)", ended.stderr)
    if done is not None and written is None:
        print(f"{int(done[1]):,} executions in {time.time() - started:,.0f} s, no crash")
        print(f"coverage: {done[2]} edges of kivnun, {done[3]} features, {done[4]} inputs kept")
        return 0
    print(ended.stderr[-6_000:])
    if written is not None:
        print(f"a crash; its input is {written[1]}; repeat it with: {sys.executable} {__file__} --repeat {written[1]}")
    return 1


def run_atheris(corpus: Path, minutes: float, crashes: Path) -> int:
    """What the process of `watch_atheris` does."""
    import atheris

    with atheris.instrument_imports(include=["kivnun"]):
        from data_targets import run_bytes

    folder = Path(tempfile.mkdtemp())
    inside = folder / "data"
    inside.mkdir()

    def run(data: bytes) -> None:
        run_bytes(data, inside)

    listed = folder / "words"
    listed.write_text("".join(f'"{_spell(word)}"\n' for word in (*(f'"{key}": ' for key in KEYS.split()), *SIGNS)))
    words = [
        f"-dict={listed}",
        f"-max_total_time={round(minutes * 60)}",
        "-max_len=16384",
        "-timeout=60",
        "-rss_limit_mb=4096",
    ]
    atheris.Setup([sys.argv[0], *words, f"-artifact_prefix={crashes}/", str(corpus)], run)
    atheris.Fuzz()
    return 0


def _spell(word: str) -> str:
    """A word as libFuzzer's dictionaries write any bytes."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


def run_hypothesis(minutes: float, crashes: Path) -> int:
    """Rounds of hypothesis over mutants of the broken files, each with a seed of its own."""
    from data_targets import make_seed, run_bytes
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis import strategies as st
    from test_fuzz_data import ACTIONS, mutants

    started, number, last = time.time(), 0, b""

    def run(mutant: tuple[str, bytes], action: str, more: bytes) -> None:
        nonlocal number, last
        data = bytearray(make_seed(*mutant, action))
        data[1:3] = more
        number, last = number + 1, bytes(data)
        run_bytes(last, folder)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        while time.time() < started + minutes * 60:
            given_run = given(mutants(), st.sampled_from(ACTIONS), st.binary(min_size=2, max_size=2))(run)
            chosen = settings(
                max_examples=HYPOTHESIS_ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )
            try:
                seed(number)(chosen(given_run))()
            except Exception:  # noqa: BLE001 - any of them is what is looked for
                traceback.print_exc()
                path = crashes / f"crash-{number}"
                path.write_bytes(last)
                print(f"a crash; its input is {path}; repeat it with: {sys.executable} {__file__} --repeat {path}")
                return 1
    print(f"{number:,} executions in {time.time() - started:,.0f} s, no crash; this engine measures no coverage")
    return 0


if __name__ == "__main__":
    sys.exit(main())
