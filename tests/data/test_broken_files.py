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


@pytest.mark.parametrize(
    "fault", [fault for fault, broken in BROKEN_FILES.items() if CHECKS[broken.code].severity == "warning"]
)
def test_a_warning_counts_where_it_is_asked_to_and_is_the_only_one(fault: str, kivnun_here: Command) -> None:
    broken = BROKEN_FILES[fault]
    others = [word for code in sorted({*TINY, *broken.also}) for word in ("--ignore", code)]
    words = ("check", put(broken), "--strict", *broken.options, *others)
    assert kivnun_here(*words).status == 1
    assert kivnun_here(*words, "--ignore", broken.code).status == 0


# What stops a row from becoming a conversation at all; the other checks ask whether that is worth learning.
READING = {"files", "syntax", "format", "schema"}
# A prompt without a word is no fault of its format.
UNREAD = {
    fault: broken
    for fault, broken in BROKEN_FILES.items()
    if CHECKS[broken.code].severity == "error"
    and CHECKS[broken.code].group in READING
    and not fault.startswith("a prompt")
}


@pytest.mark.parametrize("fault", UNREAD)
def test_convert_writes_nothing_of_a_broken_file_and_names_the_line(fault: str, kivnun_here: Command) -> None:
    broken = BROKEN_FILES[fault]
    target = put(broken)
    before = sorted(path.name for path in Path().iterdir())
    options = broken.options if "--from" in broken.options else ()
    ended = kivnun_here("convert", target, "out.jsonl", "--to", "openai-chat", *options)
    assert ended.status == 2
    assert ended.err.startswith("error[data-") or "\nerror[data-" in ended.err
    assert broken.place in ended.err
    assert sorted(path.name for path in Path().iterdir()) == before


# Each takes a quarter of a second, and a line of five megabytes ten.
SHOWN = [fault for fault, broken in UNREAD.items() if len(broken.content) < 1_000_000][::4]


@pytest.mark.parametrize("fault", SHOWN)
def test_preview_shows_the_other_rows_and_names_the_line(fault: str, kivnun_here: Command) -> None:
    broken = BROKEN_FILES[fault]
    ended = kivnun_here("preview", put(broken), "--rows", "60")
    assert ended.status in (0, 2)
    assert broken.place.removesuffix(": ") in ended.out + ended.err


@pytest.mark.parametrize("fault", [fault for fault in BROKEN_FILES if fault not in UNREAD])
def test_rows_that_can_be_read_are_converted_or_refused_with_their_loss(fault: str, kivnun_here: Command) -> None:
    broken = BROKEN_FILES[fault]
    options = broken.options if "--from" in broken.options else ()
    ended = kivnun_here("convert", put(broken), "out.jsonl", "--to", "columns", *options)
    assert ended.status in (0, 2)
    assert ended.status == 0 or "error[" in ended.err
    assert Path("out.jsonl").exists() == (ended.status == 0)


def test_a_name_that_is_not_utf8_is_told_by_every_command(kivnun_here: Command) -> None:
    name = "caf\udce9.jsonl"
    Path(name).write_bytes(BROKEN_FILES["a comment"].content)
    checked = kivnun_here("check", name, "--json", "--sarif", "log.sarif", "--html", "page.html")
    assert checked.status == 2
    assert json.loads(checked.out)["files"][0]["path"] == name
    assert json.loads(Path("log.sarif").read_bytes())["runs"][0]["results"]
    assert "U+DCE9" in Path("page.html").read_text("utf-8")
    assert json.loads(kivnun_here("preview", name, "--json").out)[0]["where"] == f"{name}:1"
    assert kivnun_here("convert", name, "out.jsonl", "--to", "gemini").status == 2


@pytest.mark.parametrize("command", [("check",), ("preview",), ("convert", "out.jsonl", "--to", "gemini")])
@pytest.mark.parametrize("line", [b"\x1b]0;title\x07", b'{"messages": [{"role": "\\u001b[31m"}], "\\u001b[2J": 1}'])
def test_nothing_in_data_gives_orders_to_the_terminal(
    command: tuple[str, ...], line: bytes, kivnun_here: Command
) -> None:
    Path("rows.jsonl").write_bytes(BROKEN_FILES["a line of spaces"].content + line + b"\n")
    ended = kivnun_here(command[0], "rows.jsonl", *command[1:])
    assert "rows.jsonl:4" in ended.out + ended.err
    assert not set("\x1b\x07") & set(ended.out + ended.err)


@pytest.mark.parametrize("encoding", ["hex", "rot13", "nothing-of-this-name"])
def test_an_encoding_of_no_text_is_refused(encoding: str, kivnun_here: Command) -> None:
    Path("rows.csv").write_bytes(b"question,answer\nWho?,Me\n")
    ended = kivnun_here("convert", "rows.csv", "out.jsonl", "--to", "gemini", "--encoding", encoding)
    assert ended.status == 2
    assert ended.err.startswith("error[data-encoding]: there is no encoding")


@pytest.mark.parametrize("written", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_an_encoding_that_leaves_the_order_of_bytes_open_is_read_as_the_file_says(
    written: str, kivnun_here: Command
) -> None:
    Path("rows.csv").write_bytes("question,answer\nמי שם?,אני כאן\n".encode(written))
    name = written.removesuffix("-le").removesuffix("-be")
    ended = kivnun_here("convert", "rows.csv", "out.jsonl", "--to", "prompt-completion", "--encoding", name)
    assert ended.status == 0, ended.err
    assert json.loads(Path("out.jsonl").read_bytes()) == {"prompt": "מי שם?", "completion": "אני כאן"}
