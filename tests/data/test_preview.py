"""The preview says the truth about every token, on any terminal and in any direction."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import train_sentencepiece
from typer.testing import CliRunner, Result

from kivnun.cli.preview import preview
from kivnun.data.conversation import Conversation
from kivnun.data.encode import Encoder
from kivnun.data.prepare import PreparedRow
from kivnun.data.preview import TokenPiece, count_tokens, describe_count, plain_text, preview_page, preview_rows
from kivnun.data.template import Segment
from kivnun.errors import UserError
from kivnun.models.new import make_model
from kivnun.models.save import save_model
from kivnun.models.types import Tokenizer
from kivnun.recipe.schema import NewModel

RECIPE = """
base_model: model
data:
  train: train.jsonl
  text_template: "Text: {text}\\nTone: {tone}"
"""


def prepared(prompt: str, answer: str, tokenizer: Tokenizer) -> PreparedRow:
    segments = [Segment(prompt, trained=False), Segment(f"{answer}{tokenizer.eos_token}", trained=True)]
    return PreparedRow(Conversation((), {}, "a:1"), Encoder(tokenizer).encode(segments))


def pieces_of(prompt: str, answer: str, tokenizer: Tokenizer) -> list[TokenPiece]:
    return preview_rows([prepared(prompt, answer, tokenizer)], tokenizer)[0]


texts = st.text(st.sampled_from("ab <.\nשלוםé😀👩\u200d\u05b0"), max_size=15)


@settings(max_examples=50, deadline=None)
@given(prompt=texts, answer=texts)
def test_pieces_are_whole_characters_and_together_the_row(prompt: str, answer: str, tokenizer: Tokenizer) -> None:
    row = prepared(prompt, answer, tokenizer)
    (pieces,) = preview_rows([row], tokenizer)
    assert "".join(piece.text for piece in pieces if not piece.trained) == prompt
    assert "".join(piece.text for piece in pieces if piece.trained) == f"{answer}<|endoftext|>"
    assert [token for piece in pieces for token in piece.token_ids] == row.tokens.input_ids
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert [piece.text for piece in pieces if piece.is_special] == ["<|endoftext|>"]


def test_tokens_that_share_a_character_are_one_piece(tokenizer: Tokenizer) -> None:
    pieces = pieces_of("a😀b", "ק", tokenizer)
    assert [piece.text for piece in pieces] == ["a", "😀", "b", "ק", "<|endoftext|>"]
    assert [len(piece.token_ids) for piece in pieces] == [1, 4, 1, len(tokenizer.encode("ק")), 1]


def test_spaces_of_a_spacing_tokenizer_are_shown() -> None:
    tokenizer = train_sentencepiece(by_normalizer=False)
    pieces = pieces_of("I am glad. Tone: ", "joy today", tokenizer)
    assert "".join(piece.text for piece in pieces) == "I am glad. Tone: joy today</s>"


def test_tokens_are_counted_not_pieces(tokenizer: Tokenizer) -> None:
    pieces = pieces_of("a😀", "joy", tokenizer)
    trained, total = count_tokens(pieces)
    assert (trained, total) == (len(tokenizer.encode("joy")) + 1, len(tokenizer.encode("joy")) + 6)
    assert describe_count(pieces) == f"{trained} of {total} tokens are trained"


def test_without_colour_brackets_say_what_is_trained(tokenizer: Tokenizer) -> None:
    text = plain_text(pieces_of("Text: שלום\nTone: ", "joy\nmore", tokenizer))
    assert text == "\u2068Text: שלום⏎\u2069\n\u2068Tone: ⟦joy⏎⟧\u2069\n\u2068⟦more<|endoftext|>⟧\u2069"


def test_control_characters_of_the_data_do_nothing(tokenizer: Tokenizer) -> None:
    text = plain_text(pieces_of("a\x1b[31mb\r\u202ec\u2069", "\x07", tokenizer))
    assert text == "\u2068a␛[31mb␍<U+202E>c<U+2069>⟦␇<|endoftext|>⟧\u2069"


def test_the_page_is_self_contained_and_escapes_the_data(tokenizer: Tokenizer) -> None:
    rows = [pieces_of("<script>alert(1)</script> שלום\n", "joy & more", tokenizer)]
    page = preview_page(rows, ["<a>.jsonl:1"], "train rows of {recipe}")
    assert "<script" not in page
    assert "http" not in page
    assert "&lt;a&gt;.jsonl:1" in page
    assert page.count('<div dir="auto">') == 2
    assert "<title>train rows of {recipe}</title>" in page
    (trained,) = page.split("<section>")[1].split("<ins>")[1:]
    assert re.sub("<.*?>", "", trained.split("</ins>")[0]) == "joy &amp; more&lt;|endoftext|&gt;"


@pytest.fixture(scope="session")
def model_folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    new = NewModel(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
    )
    save_model(make_model(new, tokenizer, seed=0), tokenizer, folder)
    return folder


@pytest.fixture
def project(here: Path, model_folder: Path) -> Path:
    (here / "model").symlink_to(model_folder)
    rows = [{"text": f"שורה {number}", "tone": "joy"} for number in range(20)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (here / "train.jsonl").write_text(lines, "utf-8")
    (here / "tone.yaml").write_text(RECIPE, "utf-8")
    return here


def run(*arguments: str, **environment: str) -> Result:
    app = typer.Typer()
    app.command()(preview)
    return CliRunner().invoke(app, list(arguments), env=environment, catch_exceptions=False)


def test_rows_are_shown_with_their_place_and_count(project: Path) -> None:
    result = run("tone.yaml", "--rows", "2")
    assert result.exit_code == 0
    blocks = result.stdout.strip().split("\n\n")
    assert len(blocks) == 2
    for block in blocks:
        place, text, answer, count = block.split("\n")
        assert place.startswith("train.jsonl:")
        assert text.startswith("\u2068Text: שורה ")
        assert answer == "\u2068Tone: ⟦joy<|endoftext|>⟧\u2069"
        assert count.endswith("tokens are trained")
    assert "\x1b" not in result.stdout


def test_a_terminal_gets_colour_unless_it_asks_for_none(project: Path) -> None:
    coloured = run("tone.yaml", FORCE_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[1;4;32mjo\x1b[0m" in coloured
    assert "\x1b[1;4;7;32m<|endoftext|>\x1b[0m" in coloured
    assert "⟦" not in coloured
    assert "⏎" in coloured
    plain = run("tone.yaml", FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1").stdout
    assert plain == run("tone.yaml").stdout


def test_json_gives_every_piece(project: Path) -> None:
    (row,) = json.loads(run("tone.yaml", "--rows", "1", "--split", "test", "--json").stdout)
    assert row["where"].startswith("train.jsonl:")
    assert row["tokens"] == sum(len(piece["token_ids"]) for piece in row["pieces"])
    assert "".join(piece["text"] for piece in row["pieces"] if piece["trained"]) == "joy<|endoftext|>"


def test_a_page_is_written_but_never_over_something_else(project: Path) -> None:
    for _ in range(2):
        result = run("tone.yaml", "--html", "out/page.html")
        assert result.stdout == ""
    page = (project / "out" / "page.html").read_text("utf-8")
    assert "Text: שורה" in re.sub("<.*?>", "", page)
    with pytest.raises(UserError) as caught:
        run("tone.yaml", "--html", "train.jsonl")
    assert caught.value.code == "file-exists"
    assert (project / "train.jsonl").read_text("utf-8").count("\n") == 20


def test_a_page_that_cannot_be_written_is_refused(project: Path) -> None:
    for place in ("train.jsonl/page.html", "/proc/nope/page.html", "model"):
        with pytest.raises(UserError) as caught:
            run("tone.yaml", "--html", place)
        assert caught.value.code == "file-unwritable"


def test_rows_are_read_on_where_the_first_ones_are_dropped(project: Path) -> None:
    rows = [{"text": "long " * 99 * (number < 13) + str(number), "tone": "joy"} for number in range(16)]
    (project / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    whole = ["--set", "data.split={validation: 0, test: 0}", "--set", "data.max_seq_len=60"]
    dropped = run("tone.yaml", *whole, "--set", "data.on_too_long=drop").stdout
    assert [line for line in dropped.splitlines() if line.startswith("train.jsonl:")] == [
        "train.jsonl:14", "train.jsonl:15", "train.jsonl:16"
    ]  # fmt: skip
    with pytest.raises(UserError) as caught:
        run("tone.yaml", *whole)
    assert caught.value.code == "answer-cut"


def test_data_beside_the_recipe_is_found_from_elsewhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "else").mkdir()
    monkeypatch.chdir(project / "else")
    assert "⟦joy" in run("../tone.yaml", "--set", "base_model=../model").stdout


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["--set", "base_model={hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
          "num_key_value_heads: 1}", "--set", "method={kind: full}"], "stage-unsupported"),
        (["--set", "data.split.test=0", "--split", "test"], "split-too-small"),
        (["--set", "data.text_template='{text} {mood}'"], "template-field"),
        (["--set", "base_model=./nowhere"], "model-missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_says_why(project: Path, overrides: list[str], code: str) -> None:
    with pytest.raises(UserError) as caught:
        run("tone.yaml", *overrides)
    assert caught.value.code == code


def test_the_command_is_imported_without_torch() -> None:
    code = "import sys, kivnun.cli.preview; print({'torch', 'transformers', 'numpy', 'rich'} & {*sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "torch" not in loaded
    assert "transformers" not in loaded
