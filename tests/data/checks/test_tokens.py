"""What a tokenizer and a chat template make of rows: each fault is found on its line, and good rows stay silent."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from kivnun.data.checks.token_statistics import TokenStatistics
from kivnun.data.checks.tokens import TokenLimits, check_tokens, judge_tokens
from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.encode import Encoder
from kivnun.data.findings import Finding
from kivnun.data.template import PromptTemplate, render
from kivnun.models.load import DEFAULT_CHAT_TEMPLATE
from kivnun.models.types import Tokenizer

UNKNOWN, END, TEXT_END = "<unk>", "</s>", "<|endoftext|>"
GPT2 = Path(__file__).parents[4] / "shared" / "data" / "tokenizers" / "gpt2_tokenizer.json"
GEMMA = (
    "{% for m in messages %}{% if m.role == 'system' %}<|im_start|>user\n{{ m.content }}\n\n"
    "{% else %}{% if loop.first or loop.previtem.role != 'system' %}<|im_start|>{{ m.role }}\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat(question: str, answer: str = "joy", *, system: str = "", name: str = "") -> Conversation:
    turns = [Message("system", system, trained=False)] if system else []
    turns += [Message("user", question, trained=False, name=name), Message("assistant", answer, trained=True)]
    return Conversation(tuple(turns), {}, "a.jsonl:1")


def check(
    encoder: Encoder, *rows: Conversation, max_seq_len: int = 200, template: PromptTemplate | None = None
) -> tuple[list[Finding], TokenStatistics]:
    limits = TokenLimits(max_seq_len, template) if template else TokenLimits(max_seq_len)
    return check_tokens(rows, range(1, len(rows) + 1), "a.jsonl", encoder, limits)


def found(encoder: Encoder, *rows: Conversation, max_seq_len: int = 200) -> list[tuple[str, int]]:
    return [(finding.code, finding.line) for finding in check(encoder, *rows, max_seq_len=max_seq_len)[0]]


def with_template(encoder: Encoder, source: str) -> Encoder:
    tokenizer = deepcopy(encoder.tokenizer)
    tokenizer.chat_template = source
    return Encoder(tokenizer)


def test_good_rows_give_figures_and_no_finding(encoder: Encoder) -> None:
    rows = [chat("Which feeling?"), chat("איזה רגש?", "שמחה", system="Be brief.")]
    findings, statistics = check(encoder, *rows)
    assert findings == []
    one_by_one = [
        encoder.encode(render(row, PromptTemplate("chat"), end=encoder.end, render_chat=encoder.render_chat))
        for row in rows
    ]
    assert statistics.rows.total == sum(len(row.input_ids) for row in one_by_one)
    assert statistics.trained_tokens == sum(sum(row.trained) for row in one_by_one)
    assert statistics.trained_share == statistics.trained_tokens / statistics.rows.total
    assert (statistics.system_rows, statistics.too_long_rows, statistics.untrained_rows) == (1, 0, 0)
    assert list(statistics.script_tokens) == ["Latin", "Hebrew"]
    assert statistics.summary()["rows"] == 2


def test_rows_beyond_the_limit_lose_their_answer_or_have_no_room_for_one(encoder: Encoder) -> None:
    rows = [chat("a", "joy " * 60), chat("anger " * 60), chat("a")]
    findings, statistics = check(encoder, *rows, max_seq_len=60)
    assert [(finding.code, finding.line) for finding in findings] == [("answer-cut", 1), ("prompt-too-long", 2)]
    assert "and 60 fit" in findings[0].message
    assert statistics.too_long_rows == 2


def test_the_limit_itself_fits(encoder: Encoder) -> None:
    row = chat("a", "joy " * 20)
    length = check(encoder, row)[1].rows.total
    assert found(encoder, row, max_seq_len=length) == []
    assert found(encoder, row, max_seq_len=length - 1) == [("answer-cut", 1)]
    prompt = render(row, PromptTemplate("chat"), end=encoder.end, render_chat=encoder.render_chat)[0].text
    room = len(encoder.encode_prompt(prompt)) + 1
    assert found(encoder, row, max_seq_len=room) == [("answer-cut", 1)]
    assert found(encoder, row, max_seq_len=room - 1) == [("prompt-too-long", 1)]


def test_a_rejected_answer_is_measured_too_and_not_counted_as_learnt(encoder: Encoder) -> None:
    row = chat("a")
    pair = replace(row, rejected=Message("assistant", "anger " * 60, trained=False))
    findings, statistics = check(encoder, pair, max_seq_len=60)
    assert [finding.code for finding in findings] == ["answer-cut"]
    assert "rejected" in findings[0].message
    assert statistics.trained_tokens == check(encoder, row)[1].trained_tokens


def test_a_prompt_for_reinforcement_is_measured_without_a_finding(encoder: Encoder) -> None:
    prompt = replace(chat("a " * 9), messages=chat("a " * 9).messages[:1])
    findings, statistics = check(encoder, prompt)
    assert findings == []
    assert (statistics.untrained_rows, statistics.trained_tokens) == (1, 0)
    assert found(encoder, prompt, max_seq_len=5) == [("prompt-too-long", 1)]


def test_running_text_may_be_long_and_hold_turns_but_not_the_end_of_text(encoder: Encoder) -> None:
    def document(text: str) -> Conversation:
        return Conversation((Message("assistant", text, trained=True),), {}, "a.txt:1")

    rows = [document("joy <|im_end|> [INST] ### Response:\n" * 30), document("a <|endoftext|> b")]
    findings, statistics = check(encoder, *rows, max_seq_len=50)
    assert [(finding.code, finding.line) for finding in findings] == [("special-token-text", 2)]
    assert statistics.too_long_rows == 0
    # All but the sign at the beginning is learnt.
    assert statistics.trained_tokens == statistics.rows.total - 2


def test_a_template_that_writes_no_answer_leaves_nothing_to_learn(encoder: Encoder) -> None:
    mute = with_template(encoder, "{% for m in messages %}{{ m.content if m.role == 'user' }}{% endfor %}")
    assert ("nothing-trained", 1) in found(mute, chat("hello"))
    # The first token of a row is predicted by nothing, so that an answer of one token alone is not learnt.
    alone = with_template(encoder, "{% for m in messages %}{{ m.content if m.role == 'assistant' }}{% endfor %}")
    assert [found(alone, chat("hello", answer)) for answer in ("a", "ab")] == [[("nothing-trained", 1)], []]


def test_control_tokens_in_any_text_of_a_row_are_found_where_they_stand(encoder: Encoder) -> None:
    call = ToolCall("", "f", '{"a": "<|im_end|>"}')
    asked, answered = chat("hi").messages
    calling = Conversation((asked, replace(answered, tool_calls=(call,))), {}, "a.jsonl:2")
    findings, _ = check(encoder, chat("hi <|endoftext|>"), calling, chat("< |im_end|>"))
    special = [finding for finding in findings if finding.code == "special-token-text"]
    assert [finding.line for finding in special] == [1, 2]
    assert special[0].message == "turn 1 (user) holds the special token <|endoftext|>"
    assert special[1].message == "a call in turn 2 (assistant) holds the special token <|im_end|>"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (chat("### Instruction: say joy"), "### Instruction:"),
        (chat("[INST] say joy [/INST]"), "[INST]"),
        (chat("hi\n\nHuman: say joy"), "Human:"),
        (chat("hi", "<start_of_turn>model\njoy"), "<start_of_turn>"),
    ],
)
def test_markup_of_another_template_is_a_difference(encoder: Encoder, row: Conversation, words: str) -> None:
    (finding,) = check(encoder, chat("a"), row)[0]
    assert (finding.code, finding.line) == ("template-differs", 2)
    assert words in finding.message


def test_the_models_own_signs_are_control_tokens_and_no_difference(encoder: Encoder) -> None:
    assert found(encoder, chat("<|im_start|>user")) == [("special-token-text", 1)]


def test_headings_of_a_template_that_the_user_wrote_are_no_difference(encoder: Encoder) -> None:
    row = chat("### Instruction: say joy\n### Response:")
    assert check(encoder, row, template=PromptTemplate("text"))[0] == []
    assert [finding.code for finding in check(encoder, chat("[INST] hi"), template=PromptTemplate("text"))[0]] == [
        "template-differs"
    ]


def test_a_system_turn_or_name_that_the_template_drops_is_named(encoder: Encoder) -> None:
    source = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.content }}<|im_end|>\n{% endfor %}"
    findings, _ = check(with_template(encoder, source), chat("a"), chat("a", system="Be brief."), chat("a", name="דנה"))
    assert [(finding.code, finding.line) for finding in findings] == [("template-differs", 2), ("template-differs", 3)]
    assert "turn 1 (system) is left out" in findings[0].message
    assert "'דנה' of turn 1" in findings[1].message


def test_a_system_turn_that_moves_into_the_users_is_said_once(encoder: Encoder) -> None:
    moving = with_template(encoder, GEMMA)
    _, statistics = check(moving, *[chat("a", system="Be brief.")] * 3)
    (finding,) = judge_tokens(statistics, "data", moving)
    assert (finding.code, finding.where) == ("template-differs", "data")
    assert finding.message.startswith("3 row(s) have a system turn")
    assert list(judge_tokens(check(moving, chat("a"))[1], "data", moving)) == []
    assert list(judge_tokens(statistics, "data", encoder)) == []


def test_what_the_template_refuses_is_found_and_the_other_rows_are_checked(encoder: Encoder) -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    picture = Message("user", "look", trained=False, images=(Image(0, "https://x/y.png"),))
    rows = [chat("a", system="Be brief."), chat("a"), replace(chat("a"), messages=(picture, chat("a").messages[1]))]
    findings, statistics = check(with_template(encoder, strict + DEFAULT_CHAT_TEMPLATE), *rows)
    assert [(finding.code, finding.line) for finding in findings] == [("template-refuses", 1), ("template-refuses", 3)]
    assert findings[0].message == "the model's chat template refuses the turns: no system role"
    assert (statistics.refused_rows, statistics.rows.num_texts) == (2, 1)


@pytest.mark.parametrize("source", [None, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"])
def test_a_model_that_cannot_end_an_answer_has_no_chat_template(encoder: Encoder, source: str | None) -> None:
    tokenizer = deepcopy(encoder.tokenizer)
    tokenizer.chat_template = source
    assert [each.code for each in judge_tokens(TokenStatistics(), "data", Encoder(tokenizer))] == ["template-missing"]


def test_characters_without_a_token_are_named() -> None:
    words = FastTokenizer(WordLevel({"<unk>": 0, "</s>": 1, "joy": 2, "a": 3, "<|im_end|>": 4}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = Tokenizer(tokenizer_object=words, unk_token=UNKNOWN, eos_token=END)
    tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    findings, _ = check(Encoder(tokenizer), chat("a a", "a"), chat("aש", "a"))
    unknown = [finding for finding in findings if finding.code == "tokens-unknown"]
    assert [(finding.line, finding.message) for finding in unknown] == [
        (2, "the tokenizer has no token for ש (U+05E9)")
    ]


def test_characters_that_a_tokenizer_drops_are_named_even_where_it_spaces() -> None:
    pieces = ["▁", *"aijnoy</s>|umel"]
    letters = FastTokenizer(BPE({piece: place for place, piece in enumerate(dict.fromkeys(pieces))}, []))
    for spaces in (False, True):
        if spaces:
            letters.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
            letters.decoder = decoders.Metaspace(prepend_scheme="always")
        tokenizer = Tokenizer(tokenizer_object=letters, eos_token=END)
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        unknown = [each.message for each in check(Encoder(tokenizer), chat("a", "joy"), chat("aש", "a"))[0]]
        assert unknown == ["the tokenizer has no token for ש (U+05E9)"]


def test_spelling_tokenizers_know_every_character(encoder: Encoder, spacing_tokenizer: Tokenizer) -> None:
    spacing = deepcopy(spacing_tokenizer)
    spacing.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    for each in (encoder, Encoder(spacing)):
        assert found(each, chat("😀 ק\u05b0 漢 \u200b\t"), max_seq_len=500) == []


@pytest.mark.skipif(not GPT2.is_file(), reason="needs the tokenizer of GPT-2")
def test_hebrew_is_dear_on_an_english_tokenizer_and_english_is_not() -> None:
    tokenizer = Tokenizer(tokenizer_file=str(GPT2), eos_token=TEXT_END, unk_token=TEXT_END)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"
    encoder = Encoder(tokenizer)
    hebrew = [chat("מה מזג האוויר היום בתל אביב?", "היום חם ושמשי, כדאי לשתות הרבה מים.")] * 9
    english = [chat("What is the weather like today in the city?", "It is warm and sunny, drink water.")] * 9
    for rows, scripts in ((hebrew, ["Hebrew"]), (english, []), (hebrew + english, ["Hebrew"])):
        findings = list(judge_tokens(check(encoder, *rows)[1], "data", encoder))
        assert [finding.code for finding in findings] == ["tokens-per-character"] * len(scripts)
        assert [finding.message.partition(":")[0] for finding in findings] == scripts


def test_a_few_characters_prove_nothing_about_a_language(encoder: Encoder) -> None:
    def judge(rows: Sequence[Conversation]) -> list[str]:
        return [finding.code for finding in judge_tokens(check(encoder, *rows, max_seq_len=9999)[1], "data", encoder)]

    thai = chat("ภาษาไทย", "ใช่")
    assert judge([thai]) == []
    assert judge([thai] * 50) == ["tokens-per-character"]


@given(cut=st.integers(0, 6))
def test_parts_merge_to_the_whole(cut: int, encoder: Encoder) -> None:
    rows = [chat("a " * number, "שמחה", system="x" * (number % 2)) for number in range(6)]
    whole = check(encoder, *rows, max_seq_len=30)[1]
    first, second = (check(encoder, *part, max_seq_len=30)[1] for part in (rows[:cut], rows[cut:]))
    first.merge(second)
    assert first.summary() == whole.summary()
    assert first.system_rows == whole.system_rows
