"""`kivnun convert`: the snippets of tutorials, and every shared file, in the formats of today."""

import csv
import gzip
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from journey import Ended, kivnun, leftovers, start_kivnun, wait_until

Command = Callable[..., Ended]

DATA = Path(__file__).parents[3] / "shared" / "data"
CAPITAL, PARIS = "מהי בירת צרפת?", "בירת צרפת היא פריז."
DINNER = "היי! מה תמליץ לארוחת ערב?"
PASTA = "ערב טוב! היום יום מצוין לפסטה קרבונרה, או אם אתה מעדיף משהו קליל, סלט קיסר."
SUPPORT, RESET = "אתה עוזר תמיכת לקוחות ידידותי של חברת IT.", "איך אני יכול לאפס את הסיסמה שלי?"
LINK = "כמובן! כדי לאפס את הסיסמה שלך, אנא עבור לדף הכניסה ולחץ על 'שכחת סיסמה?' מתחת לשדה הקלט."
PALM_TEXT = {"input_text": CAPITAL, "output_text": PARIS}
PALM_CHAT = {"messages": [{"author": "user", "content": DINNER}, {"author": "model", "content": PASTA}]}
OPENAI = {
    "messages": [
        {"role": "system", "content": SUPPORT},
        {"role": "user", "content": RESET},
        {"role": "assistant", "content": LINK},
    ]
}

SHARED = [
    ("llamafactory_demos/alpaca_en_demo.json", "openai-chat"),
    ("llamafactory_demos/identity.json", "openai-chat"),
    ("llamafactory_demos/glaive_toolcall_en_demo.json", "openai-chat"),
    ("llamafactory_demos/dpo_en_demo.json", "openai-preference"),
    ("llamafactory_demos/kto_en_demo.json", "kto"),
    ("openai_ft_samples/*.jsonl", "openai-chat"),
    ("taskmaster4_pref/*.json", "kto"),
    ("super_ni/*.json", "openai-chat"),
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def first_row(path: Path) -> dict[str, object]:
    return json.loads(path.read_text("utf-8").partition("\n")[0])


def test_the_installed_command_turns_a_tutorials_rows_into_gemini_rows_of_today(desk: Path) -> None:
    write(desk / "rows.jsonl", PALM_TEXT, PALM_TEXT)
    ended = kivnun("convert", "rows.jsonl", "out.jsonl", "--to", "gemini", work=desk)
    assert (ended.status, ended.out) == (0, "wrote 2 row(s) as gemini to out.jsonl\n")
    assert "rows.jsonl as palm-text: `input_text` and `output_text` in 2 of 2 rows" in ended.err
    asked, answered = (
        {"role": role, "parts": [{"text": text}]} for role, text in (("user", CAPITAL), ("model", PARIS))
    )
    assert first_row(desk / "out.jsonl") == {"contents": [asked, answered]}


def test_the_authors_of_an_old_chat_become_roles_and_come_back(desk: Path, kivnun_here: Command) -> None:
    write(desk / "chat.jsonl", PALM_CHAT)
    assert kivnun_here("convert", "chat.jsonl", "new.jsonl", "--to", "openai-chat").status == 0
    turns = [{"role": "user", "content": DINNER}, {"role": "assistant", "content": PASTA}]
    assert first_row(desk / "new.jsonl") == {"messages": turns}
    assert kivnun_here("convert", "new.jsonl", "back.jsonl", "--to", "palm-chat").status == 0
    assert first_row(desk / "back.jsonl") == PALM_CHAT


def test_a_support_chat_becomes_rows_for_claude(desk: Path, kivnun_here: Command) -> None:
    write(desk / "chat.jsonl", OPENAI)
    assert kivnun_here("convert", "chat.jsonl", "claude.jsonl", "--to", "bedrock-claude").status == 0
    assert first_row(desk / "claude.jsonl") == {"system": SUPPORT, "messages": OPENAI["messages"][1:]}


def test_what_is_lost_is_refused_by_line_and_nothing_is_left(desk: Path, kivnun_here: Command) -> None:
    write(desk / "mixed.jsonl", {"messages": OPENAI["messages"][1:]}, OPENAI)
    ended = kivnun_here("convert", "mixed.jsonl", "out.jsonl", "--to", "palm-text")
    assert ended.status == 2
    assert ended.err.startswith("error[format-loss]: mixed.jsonl: ")
    assert "  mixed.jsonl:2: turn 1 is a system turn\n" in ended.err
    assert "hint: " in ended.err
    assert not (desk / "out.jsonl").exists()
    assert leftovers(desk) == []


def test_without_a_format_they_are_listed(desk: Path, kivnun_here: Command) -> None:
    write(desk / "rows.jsonl", PALM_TEXT)
    ended = kivnun_here("convert", "rows.jsonl", "out.jsonl")
    assert ended.status == 2
    assert ended.err.startswith("error[data-format]: ")
    assert all(f"  {name} " in ended.err for name in ("openai-chat", "gemini", "alpaca", "columns"))


def test_a_table_with_hebrew_names_goes_to_a_packed_table_with_others(desk: Path, kivnun_here: Command) -> None:
    (desk / "טבלה.csv").write_text(f"ביטוי,טון\n{DINNER},שמחה\n", "utf-8-sig")
    words = ("--to", "columns", "--prompt", "ביטוי", "--answer", "טון")
    ended = kivnun_here("convert", "טבלה.csv", "out.csv.gz", *words)
    assert ended.status == 0, ended.err
    assert "columns `ביטוי` and `טון` were named" in ended.err
    with gzip.open(desk / "out.csv.gz", "rt", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["prompt", "answer"], [DINNER, "שמחה"]]


def test_an_old_windows_file_is_read_with_its_encoding(desk: Path, kivnun_here: Command) -> None:
    (desk / "old.csv").write_bytes(f"question,answer\n{CAPITAL},{PARIS}\n".encode("cp1255"))
    refused = kivnun_here("convert", "old.csv", "out.jsonl", "--to", "palm-text")
    assert refused.status == 2
    assert "error[data-malformed]" in refused.err
    assert "old.csv:2: " in refused.err
    ended = kivnun_here("convert", "old.csv", "out.jsonl", "--to", "palm-text", "--encoding", "cp1255")
    assert ended.status == 0, ended.err
    assert first_row(desk / "out.jsonl") == PALM_TEXT


def test_json_tells_everything_and_a_dry_run_writes_nothing(desk: Path, kivnun_here: Command) -> None:
    write(desk / "rows.jsonl", {**PALM_TEXT, "id": 1})
    words = ("--to", "openai-chat", "--drop-extra", "--dry-run", "--json")
    ended = kivnun_here("convert", "rows.jsonl", "out.jsonl", *words)
    assert ended.status == 0
    told = json.loads(ended.out)
    assert (told["to"], told["dry_run"], told["dropped"]) == ("openai-chat", True, {"id": 1})
    assert told["written"] == [{"file": "out.jsonl", "rows": 1}]
    assert [(each["format"], each["layout"], each["rows"]) for each in told["sources"]] == [("palm-text", "jsonl", 1)]
    assert "warning: `id` was left out in 1 row(s)" in ended.err
    assert [path.name for path in desk.iterdir()] == ["rows.jsonl"]


def test_a_file_that_exists_stays_unless_forced(desk: Path, kivnun_here: Command) -> None:
    write(desk / "rows.jsonl", PALM_TEXT)
    write(desk / "out.jsonl", OPENAI)
    refused = kivnun_here("convert", "rows.jsonl", "out.jsonl", "--to", "gemini")
    assert (refused.status, first_row(desk / "out.jsonl")) == (2, OPENAI)
    assert refused.err.startswith("error[file-exists]: ")
    assert kivnun_here("convert", "rows.jsonl", "out.jsonl", "--to", "gemini", "--force").status == 0
    assert "contents" in first_row(desk / "out.jsonl")


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize(("pattern", "to"), SHARED)
def test_every_shared_file_is_converted_whole(pattern: str, to: str, desk: Path, kivnun_here: Command) -> None:
    files = sorted(DATA.glob(pattern))
    assert files
    for source in files:
        words = ("--to", to, "--drop-extra", "--force", "--json")
        ended = kivnun_here("convert", source, "out.jsonl", *words)
        assert ended.status == 0, ended.err
        told = json.loads(ended.out)
        assert told["written"][0]["rows"] == len((desk / "out.jsonl").read_text("utf-8").splitlines()) > 0
        again = kivnun_here("convert", "out.jsonl", "again.jsonl", *words)
        assert again.status == 0, again.err
        assert (desk / "again.jsonl").read_bytes() == (desk / "out.jsonl").read_bytes()


def test_an_interrupted_conversion_leaves_nothing(desk: Path) -> None:
    write(desk / "rows.jsonl", *[PALM_TEXT] * 300_000)
    process = start_kivnun("convert", "rows.jsonl", "new/out.jsonl", "--to", "gemini", work=desk)
    with process:
        wait_until(lambda: any(path.stat().st_size for path in desk.glob("new/.out.jsonl.*")), process)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    assert [path.name for path in desk.iterdir()] == ["rows.jsonl"]
