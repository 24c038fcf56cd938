"""Ids and masks: the answer and its end are trained, nothing else is, and a prompt has the same ids alone."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import refusal, train_sentencepiece

from kivnun.data.conversation import Conversation, Message
from kivnun.data.encode import Encoder
from kivnun.data.prepare import PreparedRow
from kivnun.data.template import PromptTemplate, Segment, render
from kivnun.models.types import Tokenizer

CHAT = PromptTemplate("chat")
characters = st.one_of(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E),
    st.characters(min_codepoint=0x5B0, max_codepoint=0x5EA),
    st.sampled_from(["😀", "👩\u200d👩\u200d👧", "\u00e9", "\n", "\u200f", "שלום"]),
)
words = st.lists(characters, min_size=1, max_size=20).map("".join).filter(lambda text: text.strip() and "<" not in text)
# Where a text begins with spaces, the same text cut elsewhere may have other tokens.
stripped = words.map(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    turns: list[Message] = []
    if draw(st.booleans()):
        turns.append(Message("system", draw(stripped), trained=False))
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Message("user", draw(stripped), trained=False))
        turns.append(Message("assistant", draw(stripped), trained=draw(st.booleans())))
    last = Message("assistant", draw(stripped), trained=True)
    return Conversation((*turns[:-1], last), {}, "a.jsonl:1")


def encode(conversation: Conversation, encoder: Encoder, template: PromptTemplate = CHAT) -> PreparedRow:
    segments = render(conversation, template, end=encoder.end, render_chat=encoder.render_chat)
    return PreparedRow(conversation, encoder.encode(segments))


def trained_texts(row: PreparedRow, tokenizer: Tokenizer) -> list[str]:
    """Texts of the stretches of trained tokens, special tokens included."""
    texts: list[str] = []
    stretch: list[int] = []
    for token, trained in zip([*row.tokens.input_ids, 0], [*row.tokens.trained, False], strict=True):
        if trained:
            stretch.append(token)
        elif stretch:
            texts.append(str(tokenizer.decode(stretch, skip_special_tokens=False)))
            stretch = []
    return texts


@settings(max_examples=50, deadline=None)
@given(conversation=conversations())
def test_exactly_the_trained_turns_and_their_ends_are_trained(conversation: Conversation, encoder: Encoder) -> None:
    row = encode(conversation, encoder)
    expected = [f"{message.content}<|im_end|>" for message in conversation.messages if message.trained]
    assert trained_texts(row, encoder.tokenizer) == expected


@settings(max_examples=50, deadline=None)
@given(conversation=conversations())
def test_a_row_is_the_text_of_its_conversation(conversation: Conversation, encoder: Encoder) -> None:
    turns = [{"role": message.role, "content": message.content} for message in conversation.messages]
    text = encoder.tokenizer.decode(encode(conversation, encoder).tokens.input_ids, skip_special_tokens=False)
    assert text == encoder.render_chat(turns, open_turn=False)


@settings(max_examples=50, deadline=None)
@given(conversation=conversations())
def test_the_prompt_alone_has_the_ids_that_begin_its_row(conversation: Conversation, encoder: Encoder) -> None:
    row = encode(conversation, encoder)
    turns = [{"role": turn.role, "content": turn.content} for turn in conversation.messages[:-1]]
    alone = encoder.encode_prompt(encoder.render_chat(turns, open_turn=True))
    assert row.prompt_ids == alone
    assert row.tokens.input_ids[: len(alone)] == alone
    assert not any(row.tokens.trained[: len(turns)])


@settings(max_examples=50, deadline=None)
@given(prompt=words, answer=words)
def test_a_text_row_is_its_prompt_then_its_answer_then_the_end(prompt: str, answer: str, encoder: Encoder) -> None:
    turns = (Message("user", prompt, trained=False), Message("assistant", answer, trained=True))
    row = encode(Conversation(turns, {}, "a:1"), encoder, PromptTemplate("text"))
    alone = encoder.encode_prompt(prompt)
    assert row.prompt_ids == alone
    assert row.tokens.trained == [False] * len(alone) + [True] * (len(row.tokens.input_ids) - len(alone))
    assert trained_texts(row, encoder.tokenizer) == [answer + "<|endoftext|>"]
    assert row.tokens.input_ids[-1] == encoder.end_id
    assert encoder.decode(row.tokens.input_ids[len(alone) :]) == answer


def test_special_tokens_in_a_text_are_found_and_refused(encoder: Encoder) -> None:
    text = "a <|im_end|><|im_start|>b<|im_end|>"
    assert encoder.special_texts(text) == ["<|im_end|>", "<|im_start|>"]
    assert encoder.special_texts("plain < | endoftext|> שלום") == []
    error = refusal(lambda: encoder.require_plain("hi <|endoftext|>"))
    assert error.code == "prompt-invalid"
    assert "<|endoftext|>" in error.problem
    encoder.require_plain("hi")


def segments_of(*texts: str) -> list[Segment]:
    return [Segment(text, trained=bool(index % 2)) for index, text in enumerate(texts)]


def test_a_spacing_tokenizer_is_one(spacing_tokenizer: Tokenizer) -> None:
    ids = spacing_tokenizer.encode("joy", add_special_tokens=False)
    assert "".join(spacing_tokenizer.convert_ids_to_tokens(ids)) == "▁joy"


def test_no_stray_space_is_trained_by_a_tokenizer_that_spaces(spacing_tokenizer: Tokenizer) -> None:
    encoder = Encoder(spacing_tokenizer)
    row = encoder.encode(segments_of("Tone:\n", "joy</s>", "More: ", "שמחה 😀\nיותר</s>"))
    pieces = spacing_tokenizer.convert_ids_to_tokens(row.input_ids)
    trained = [piece for piece, is_trained in zip(pieces, row.trained, strict=True) if is_trained]
    assert "".join(trained).startswith("joy</s>שמחה▁<0x")
    assert spacing_tokenizer.decode(row.input_ids) == "Tone:\njoy</s>More: שמחה 😀\nיותר</s>"


@given(prompt=words, answer=words)
@settings(max_examples=50, deadline=None)
def test_tokenizers_that_space_keep_text_and_prompt(prompt: str, answer: str) -> None:
    for tokenizer in SPACING:
        encoder = Encoder(tokenizer)
        row = encoder.encode(segments_of(prompt, answer + "</s>"))
        alone = encoder.encode_prompt(prompt)
        assert row.input_ids[: len(alone)] == alone
        assert row.trained == [False] * len(alone) + [True] * (len(row.input_ids) - len(alone))
        # A decoder drops the space that the tokenizer put before the whole text, and would drop it before an answer.
        assert tokenizer.decode(row.input_ids) == prompt + answer + "</s>"


SPACING = [train_sentencepiece(by_normalizer=by_normalizer) for by_normalizer in (False, True)]


def test_a_begin_token_stands_once(spacing_tokenizer: Tokenizer) -> None:
    from copy import deepcopy

    from tokenizers.processors import TemplateProcessing

    tokenizer = deepcopy(spacing_tokenizer)
    begin = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    encoder = Encoder(tokenizer)
    for text in ("joy", "<s>joy"):
        row = encoder.encode([Segment(text, trained=False), Segment("glad</s>", trained=True)])
        assert row.input_ids.count(begin) == 1
        assert row.input_ids[0] == begin
        assert not row.trained[0]
    assert begin not in Encoder(spacing_tokenizer).encode_prompt("joy")


def test_an_empty_segment_has_no_tokens(encoder: Encoder, spacing_tokenizer: Tokenizer) -> None:
    for each in (encoder, Encoder(spacing_tokenizer)):
        empty = each.encode(segments_of("joy", "", "glad"))
        assert not any(empty.trained)
        assert empty.input_ids == each.encode([Segment("joy", trained=False), Segment("glad", trained=False)]).input_ids


@given(rows=st.lists(st.lists(words, min_size=1, max_size=4), max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_batch_gives_the_tokens_of_its_rows(rows: list[list[str]], encoder: Encoder) -> None:
    segments = [segments_of(*row) for row in rows]
    for each in (encoder, *map(Encoder, SPACING)):
        one_by_one = [each.encode(row) for row in segments]
        assert each.encode_batch(segments) == one_by_one
        counted = each.count_batch(segments)
        assert [sum(counts) for counts in counted] == [len(row.input_ids) for row in one_by_one]
        assert [sum(counts[1::2]) for counts in counted] == [sum(row.trained) for row in one_by_one]


def test_a_batch_holds_rows_without_a_text(encoder: Encoder) -> None:
    assert encoder.encode_batch([[], segments_of("joy")])[0].input_ids == []
    assert encoder.count_batch([[]]) == [[]]
