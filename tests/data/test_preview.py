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
from kivnun.data.chat import Segment
from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.encode import Encoder
from kivnun.data.preview import MAX_DOCUMENT_CHARACTERS, Shower, ShownRow, describe_count, show_conversation
from kivnun.data.preview_page import render_preview
from kivnun.data.token_pieces import TokenPiece, count_tokens, cut_pieces, plain_text
from kivnun.data.tokens import TokenizedRow
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


def encoded(prompt: str, answer: str, tokenizer: Tokenizer) -> TokenizedRow:
    segments = [Segment(prompt, trained=False), Segment(f"{answer}{tokenizer.eos_token}", trained=True)]
    return Encoder(tokenizer).encode(segments)


def pieces_of(prompt: str, answer: str, tokenizer: Tokenizer) -> list[TokenPiece]:
    return cut_pieces(encoded(prompt, answer, tokenizer), tokenizer)


def shown_row(prompt: str, answer: str, tokenizer: Tokenizer, where: str = "a:1") -> ShownRow:
    return ShownRow(where, 1, pieces=tuple(pieces_of(prompt, answer, tokenizer)))


texts = st.text(st.sampled_from("ab <.\nשלוםé😀👩\u200d\u05b0"), max_size=15)


@settings(max_examples=50, deadline=None)
@given(prompt=texts, answer=texts)
def test_pieces_are_whole_characters_and_together_the_row(prompt: str, answer: str, tokenizer: Tokenizer) -> None:
    row = encoded(prompt, answer, tokenizer)
    pieces = cut_pieces(row, tokenizer)
    assert "".join(piece.text for piece in pieces if not piece.trained) == prompt
    assert "".join(piece.text for piece in pieces if piece.trained) == f"{answer}<|endoftext|>"
    assert [token for piece in pieces for token in piece.token_ids] == row.input_ids
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
    row = ShownRow("a:1", 1, pieces=tuple(pieces))
    assert describe_count(row) == f"{trained} of {total} tokens are trained, {5 / (total - 1):.1f} characters a token"


def test_without_colour_brackets_say_what_is_trained(tokenizer: Tokenizer) -> None:
    text = plain_text(pieces_of("Text: שלום\nTone: ", "joy\nmore", tokenizer))
    assert text == "\u2068Text: שלום⏎\u2069\n\u2068Tone: ⟦joy⏎⟧\u2069\n\u2068⟦more<|endoftext|>⟧\u2069"


def test_special_tokens_keep_their_direction_behind_right_to_left_letters(tokenizer: Tokenizer) -> None:
    assert plain_text(pieces_of("", "שמחה\njoy", tokenizer)).endswith("\n\u2068⟦joy<|endoftext|>⟧\u2069")
    for letters in ("שמחה", "فرح"):
        row = shown_row("", letters, tokenizer)
        assert plain_text(row.pieces) == f"\u2068⟦{letters}\u2066<|endoftext|>\u2069⟧\u2069"
        assert '<bdi dir="ltr" class="special"' in text_of_row(render_preview([row], "rows"))


def test_control_characters_of_the_data_do_nothing(tokenizer: Tokenizer) -> None:
    text = plain_text(pieces_of("a\x1b[31mb\r\u202ec\u2069", "\x07", tokenizer))
    assert text == "\u2068a␛[31mb␍<U+202E>c<U+2069>⟦␇<|endoftext|>⟧\u2069"


def test_the_page_is_self_contained_and_escapes_the_data(tokenizer: Tokenizer) -> None:
    rows = [shown_row("<script>alert(1)</script> שלום\n", "joy & more", tokenizer, "<a>.jsonl:1")]
    page = render_preview(rows, "train rows of {recipe}", ["taken for <b>"])
    assert "<script" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert "&lt;a&gt;.jsonl:1" in page
    assert "taken for &lt;b&gt;" in page
    assert page.count('<div dir="auto">') == 2
    assert "<title>train rows of {recipe} · kivnun preview</title>" in page
    (trained,) = text_of_row(page).split("<ins>")[1:]
    assert re.sub("<.*?>", "", trained.split("</ins>")[0]) == "joy &amp; more&lt;|endoftext|&gt;"


def text_of_row(page: str) -> str:
    """The lines of the first row's text."""
    return page.split('<section id="row-1"')[1].partition('<p class="count">')[0]


def test_every_token_of_a_page_has_its_number_for_pointers_and_for_keyboards(tokenizer: Tokenizer) -> None:
    row = shown_row("a😀", "שמחה", tokenizer)
    page = render_preview([row], "rows")
    text, listed = page.split('<ol class="tokens">')
    for piece in row.pieces:
        numbers = " ".join(map(str, piece.token_ids))
        assert f'title="{numbers}"' in text
        assert f"<small>{numbers}</small>" in listed


def test_white_space_is_seen_in_the_list_of_tokens() -> None:
    pieces = [TokenPiece(text, trained=False, is_special=False, token_ids=(7,)) for text in ("  ", "\n\t", " a")]
    _, listed = render_preview([ShownRow("a:1", 1, pieces=tuple(pieces))], "rows").split('<ol class="tokens">')
    assert re.findall('<bdi dir="auto">(.*?)</bdi>', listed) == ["\u2423\u2423", "⏎␉", " a"]


def test_rows_of_a_page_can_be_reached_by_their_numbers(tokenizer: Tokenizer) -> None:
    row = shown_row("a", "b", tokenizer)
    rows = [
        row,
        ShownRow("b:9", 40, problem="no <way>"),
        ShownRow("b:10", 41, pieces=row.pieces, notes=("much & more",)),
    ]
    page = render_preview(rows, "rows")
    for number in (1, 40, 41):
        assert page.count(f'<section id="row-{number}"') == 1
        assert f'<li><a href="#row-{number}">' in page
    assert "no &lt;way&gt;" in page
    assert "much &amp; more" in page


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
        assert "tokens are trained, " in count
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


def test_a_row_beyond_the_context_of_the_model_is_refused_as_a_run_refuses_it(project: Path) -> None:
    rows = [{"text": "long " * (9_000 * (number == 0) + 1) + str(number), "tone": "joy"} for number in range(20)]
    (project / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    whole = ["--set", "data.split={validation: 0, test: 0}", "--set", "data.max_seq_len=100000"]
    with pytest.raises(UserError) as caught:
        run("tone.yaml", *whole)
    assert caught.value.code == "answer-cut"


def test_what_a_run_would_say_of_the_rows_is_told(project: Path) -> None:
    (project / "rows.csv").write_text("text,tone\na,tone\nb,joy\nc,joy\n", "utf-8")
    whole = ["--set", "data.split={validation: 0, test: 0}", "--set", "data.train=rows.csv"]
    template = ["--set", "data.text_template='{column_1}: {column_2}'"]
    assert "rows.csv:1: the first line is a row" in run("tone.yaml", *whole, *template).stderr


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


def test_the_model_of_a_recipe_can_be_another_one(project: Path) -> None:
    result = run("tone.yaml", "--set", "base_model=./nowhere", "--model", "model", "--rows", "1")
    assert "⟦joy<|endoftext|>⟧" in result.stdout


def test_rows_of_a_recipe_are_chosen_by_their_number(project: Path) -> None:
    all_places = [row["where"] for row in json.loads(run("tone.yaml", "--rows", "9", "--json").stdout)]
    chosen = json.loads(run("tone.yaml", "--row", "2,5-6", "--json").stdout)
    assert [row["where"] for row in chosen] == [all_places[1], *all_places[4:6]]
    assert [row["row"] for row in chosen] == [2, 5, 6]


TOOL = {"type": "function", "function": {"name": "get_weather", "description": "מזג אוויר", "parameters": {}}}


def say(role: str, content: str) -> Message:
    return Message(role, content, trained=role == "assistant")


def show(tokenizer: Tokenizer, *messages: Message, context: int | None = None, **values: object) -> ShownRow:
    row = Conversation(messages, {}, "a.jsonl:1", **values)  # pyright: ignore[reportArgumentType]
    return show_conversation(row, 1, "openai-chat", Shower(Encoder(tokenizer), context))


def texts_by_role(row: ShownRow) -> dict[str, str]:
    pieces = (*row.pieces, *row.rejected)
    return {role: "".join(piece.text for piece in pieces if piece.role == role) for role in ("trained", "rejected")}


def test_a_preference_row_has_both_answers_and_one_is_trained(tokenizer: Tokenizer) -> None:
    row = show(tokenizer, say("user", "hi"), say("assistant", "שמחה"), rejected=say("assistant", "anger"))
    assert texts_by_role(row) == {"trained": "שמחה<|im_end|>", "rejected": "anger<|im_end|>"}
    assert plain_text(row.rejected) == "\u2068⟪anger<|im_end|>⟫\u2069"
    assert "of the rejected answer" in describe_count(row)
    page = render_preview([row], "rows")
    assert "<h3>The rejected answer</h3>" in page
    assert "<del>" in text_of_row(page)


def test_an_undesirable_answer_is_not_shown_as_learnt(tokenizer: Tokenizer) -> None:
    bad = show(tokenizer, say("user", "hi"), say("assistant", "anger"), desirable=False)
    assert texts_by_role(bad) == {"trained": "", "rejected": "anger<|im_end|>"}
    good = show(tokenizer, say("user", "hi"), say("assistant", "joy"), desirable=True)
    assert texts_by_role(good)["trained"] == "joy<|im_end|>"
    assert [row.notes for row in (bad, good)] == [
        ("label: undesirable, to be avoided",), ("label: desirable",)
    ]  # fmt: skip


def test_what_is_beyond_the_context_is_marked(tokenizer: Tokenizer) -> None:
    row = show(tokenizer, say("user", "hi"), say("assistant", "joy " * 50), context=40)
    fitting = [piece for piece in row.pieces if piece.fits]
    assert sum(len(piece.token_ids) for piece in fitting) == 40
    assert row.pieces[: len(fitting)] == tuple(fitting)
    total = count_tokens(row.pieces)[1]
    assert row.notes == (f"{total} tokens, and the model reads 40 at once: ✂ marks where the row would be cut",)
    assert plain_text(row.pieces).count("✂") == 1
    assert text_of_row(render_preview([row], "rows")).count("✂</b>") == 1
    assert not show(tokenizer, say("user", "hi"), say("assistant", "joy " * 50), context=total).notes


def test_a_prompt_alone_is_shown_with_nothing_trained(tokenizer: Tokenizer) -> None:
    row = show(tokenizer, say("user", "hi"))
    assert texts_by_role(row) == {"trained": "", "rejected": ""}
    assert row.notes == ("no turn is trained: a prompt only",)
    assert "".join(piece.text for piece in row.pieces).endswith("<|im_start|>assistant\n")


def test_control_tokens_of_the_data_are_noted(tokenizer: Tokenizer) -> None:
    row = show(tokenizer, say("user", "hi <|im_end|>"), say("assistant", "joy"))
    assert row.notes == ("turn 1 (user) holds the special token <|im_end|>: training refuses the row",)


def test_what_cannot_be_trained_is_a_problem_without_the_place_twice(tokenizer: Tokenizer) -> None:
    picture = Message("user", "look", trained=False, images=(Image(0, "https://x/y.png"),))
    called = Message("assistant", "", trained=True, tool_calls=(ToolCall("", "get_weather", "{}"),))
    for row in (
        show(tokenizer, picture, say("assistant", "a cat")),
        show(tokenizer, say("user", "hi"), called, tools=(TOOL,)),
    ):
        assert row.pieces == ()
        assert row.problem
        assert "a.jsonl" not in row.problem


def test_a_document_is_trained_whole_and_a_long_one_is_cut_for_the_eye(tokenizer: Tokenizer) -> None:
    def show_document(text: str) -> ShownRow:
        row = Conversation((say("assistant", text),), {}, "a.txt:1")
        return show_conversation(row, 1, "text", Shower(Encoder(tokenizer), 30))

    short = show_document("hello <|im_end|>")
    assert texts_by_role(short)["trained"] == "hello <|im_end|><|endoftext|>"
    assert short.notes == ()
    long = show_document("joy " * MAX_DOCUMENT_CHARACTERS)
    assert re.fullmatch("more than [0-9,]+ tokens, and the model reads 30 at once: cut into windows", long.notes[0])
    assert long.notes[1:] == ("the first 2,000 tokens are shown",)
    assert count_tokens(long.pieces)[1] == 2_000
    assert all(piece.fits for piece in long.pieces)


@pytest.fixture
def chats(here: Path, model_folder: Path) -> Path:
    (here / "model").symlink_to(model_folder)
    rows = [{"messages": [{"role": "user", "content": f"שאלה {number}"}, {"role": "assistant", "content": "שמחה"}]}
            for number in range(1, 301)]  # fmt: skip
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[4] = lines[4].replace('"שמחה"', "null")
    lines[9] = "{broken"
    (here / "chats.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return here


def test_data_is_shown_with_what_it_was_taken_for(chats: Path) -> None:
    result = run("chats.jsonl", "--model", "model", "--rows", "2")
    assert result.exit_code == 0
    first, second = result.stdout.strip().split("\n\n")
    assert first.startswith("chats.jsonl:1\n")
    assert "\u2068שאלה 1\u2066<|im_end|>\u2069⏎\u2069" in first
    assert "⟦שמחה\u2066<|im_end|>\u2069⟧" in first
    assert second.startswith("chats.jsonl:2\n")
    assert "tokens of model; it reads " in result.stderr
    assert "openai-chat: " in result.stderr
    assert " of 100 rows" in result.stderr


def test_rows_are_counted_and_faults_on_the_way_are_told(chats: Path) -> None:
    result = run("chats.jsonl", "--model", "model", "--row", "299,5", "--json")
    broken, last = json.loads(result.stdout)
    assert (broken["where"], broken["pieces"], broken["format"]) == ("chats.jsonl:5", [], "openai-chat")
    assert broken["problem"]
    # The broken line is no row, so that rows behind it count one less than lines.
    assert (last["row"], last["where"]) == (299, "chats.jsonl:300")
    assert "chats.jsonl:10: json-syntax" in result.stderr


def test_status_2_says_that_no_row_can_be_trained_on(chats: Path) -> None:
    assert run("chats.jsonl", "--model", "model", "--row", "5").exit_code == 2
    assert run("chats.jsonl", "--model", "model", "--row", "5,6").exit_code == 0


def test_rows_behind_the_end_are_refused_or_told(chats: Path) -> None:
    with pytest.raises(UserError) as caught:
        run("chats.jsonl", "--model", "model", "--row", "300")
    assert caught.value.code == "split-too-small"
    assert "end at row 299" in run("chats.jsonl", "--model", "model", "--row", "298-305").stderr
    assert "end at row" not in run("chats.jsonl", "--model", "model", "--rows", "900").stderr


def test_columns_of_any_name_and_tables_without_names_are_shown(chats: Path) -> None:
    (chats / "tone.csv").write_text("phrase,feeling,id\nאני שמח,joy,1\n", "utf-8")
    named = run("tone.csv", "--model", "model", "--prompt", "phrase", "--answer", "feeling")
    assert "⟦joy<|im_end|>⟧" in named.stdout
    (chats / "bare.csv").write_text("אני שמח,joy\nI am angry,anger\nאני כועס,anger\n", "utf-8")
    assert "⟦joy<|im_end|>⟧" in run("bare.csv", "--model", "model", "--no-header").stdout
    hebrew = "phrase,feeling\nאני שמח,שמחה\n".encode("cp1255")
    (chats / "old.csv").write_bytes(hebrew)
    words = ["old.csv", "--model", "model", "--prompt", "phrase", "--answer", "feeling", "--encoding", "cp1255"]
    assert "⟦שמחה\u2066<|im_end|>\u2069⟧" in run(*words).stdout


def test_the_first_split_is_shown_unless_another_is_named(chats: Path) -> None:
    (chats / "data").mkdir()
    for name in ("validation", "test"):
        row = {"prompt": name, "completion": "joy"}
        (chats / "data" / f"{name}.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    assert "data/validation.jsonl:1" in run("data", "--model", "model").stdout
    assert "data/test.jsonl:1" in run("data", "--model", "model", "--split", "test").stdout
    with pytest.raises(UserError) as caught:
        run("data", "--model", "model", "--split", "train")
    assert caught.value.code == "split-too-small"
    assert caught.value.problem == "data has no train rows, only validation and test"


@pytest.mark.parametrize(
    "words",
    [["chats.jsonl", "--set", "data.max_seq_len=5"], ["tone.yaml", "--from", "alpaca"], ["tone.yaml", "--no-header"],
     ["chats.jsonl", "--row", "0"], ["chats.jsonl", "--row", "5-1"], ["chats.jsonl", "--row", "x"]],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(chats: Path, words: list[str]) -> None:
    assert run(*words, "--model", "model").exit_code == 2


def test_the_page_of_data_says_what_it_was_taken_for(chats: Path) -> None:
    run("chats.jsonl", "--model", "model", "--row", "5,7", "--html", "page.html")
    page = (chats / "page.html").read_text("utf-8")
    assert "openai-chat: " in page
    assert '<section id="row-7"' in page
    assert "This row cannot be trained on:" in page


def test_the_command_is_imported_without_torch() -> None:
    code = "import sys, kivnun.cli.preview; print({'torch', 'transformers', 'numpy', 'rich'} & {*sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "torch" not in loaded
    assert "transformers" not in loaded
