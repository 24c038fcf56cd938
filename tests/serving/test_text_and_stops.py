"""Tokens become text in pieces: joined they are the text, whole characters each, and never a part of a stop text."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE

from kivnun.data.encode import Encoder
from kivnun.models.new import train_tokenizer
from kivnun.models.types import Tokenizer
from kivnun.serving.answers import Token
from kivnun.serving.stops import StopCutter
from kivnun.serving.text import AnswerText, Piece, Vocabulary, vocabulary_of

TEXTS = (
    "Hello there, how are you?",
    "שלום עולם, מה שלומך היום?",
    "צחוק 😀👩‍👩‍👧 ועוד",
    "a  b\n\n\tc  ",
    "naïve café — 日本語",
)
LETTERS = "abאב😀 "


def byte_level() -> Encoder:
    return Encoder(train_tokenizer(["Hello there", "שלום עולם"] * 3, 300))


def sentencepiece() -> Encoder:
    """As Llama 2's: bytes of unknown characters are ordinary tokens, so that the trained vocabulary is taken over."""
    unknown, begin, end = special = ["<unk>", "<s>", "</s>"]
    trained = FastTokenizer(BPE(unk_token=unknown))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=names, show_progress=False)
    trained.train_from_iterator(["Hello there how are you", "שלום עולם"] * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    made = FastTokenizer(BPE(model["vocab"], merges, unk_token=unknown, byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return Encoder(Tokenizer(tokenizer_object=made, unk_token=unknown, bos_token=begin, eos_token=end))


ENCODERS = {"byte level": byte_level(), "sentencepiece": sentencepiece()}


@pytest.fixture(scope="module", params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return ENCODERS[request.param]


def tell(vocabulary: Vocabulary, ids: list[int], stops: tuple[str, ...] = (), *, drops_space: bool = True):
    answer = AnswerText(vocabulary, stops, drops_space=drops_space)
    pieces = [answer.push([Token(token)]) for token in ids]
    return [*pieces, answer.end()]


def joined(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_of_a_stream_are_the_text_and_hold_whole_characters(encoder: Encoder, text: str) -> None:
    ids = encoder.tokenizer.encode(text, add_special_tokens=False)
    pieces = tell(vocabulary_of(encoder), ids)
    assert joined(pieces) == text == encoder.decode(ids)
    assert "\N{REPLACEMENT CHARACTER}" not in joined(pieces)
    assert [each.token.token_id for piece in pieces for each in piece.tokens] == ids


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_all_tokens_are_the_bytes_of_the_text(encoder: Encoder, text: str) -> None:
    vocabulary = vocabulary_of(encoder)
    ids = encoder.tokenizer.encode(text, add_special_tokens=False)
    told = b"".join(vocabulary.bytes_of(token) for token in ids)
    assert told.decode().removeprefix(" " * vocabulary.puts_space) == text


def test_a_space_that_belongs_to_the_text_stays(encoder: Encoder) -> None:
    ids = encoder.tokenizer.encode("there", add_special_tokens=False)
    told = joined(tell(vocabulary_of(encoder), ids, drops_space=False))
    assert told == ("there" if encoder is ENCODERS["byte level"] else " there")


def test_an_emoji_that_is_cut_becomes_one_replacement_sign_at_the_end() -> None:
    encoder = ENCODERS["byte level"]
    ids = encoder.tokenizer.encode("x😀", add_special_tokens=False)
    pieces = tell(vocabulary_of(encoder), ids[:-1])
    assert [piece.text for piece in pieces] == ["x", *[""] * (len(ids) - 2), "\N{REPLACEMENT CHARACTER}"]


def test_special_tokens_are_no_text_unless_they_are_asked_for() -> None:
    encoder = ENCODERS["byte level"]
    vocabulary = vocabulary_of(encoder)
    sign = vocabulary.special_id("<|im_end|>")
    assert sign is not None
    ids = [*encoder.encode_prompt("a"), sign, *encoder.encode_prompt("b")]
    assert joined(tell(vocabulary, ids)) == "ab"
    shown = AnswerText(vocabulary, shown_special=frozenset({sign}))
    assert shown.push([Token(token) for token in ids]).text == "a<|im_end|>b"


def test_a_token_that_the_tokenizer_lacks_is_no_text(encoder: Encoder) -> None:
    vocabulary = vocabulary_of(encoder)
    assert vocabulary.bytes_of(vocabulary.num_tokens + 7) == b""


def test_tokens_tell_where_they_begin() -> None:
    encoder = ENCODERS["byte level"]
    vocabulary = vocabulary_of(encoder)
    ids = [vocabulary_ids for letter in "xש😀y" for vocabulary_ids in encoder.tokenizer.encode(letter)]
    starts = [each.start for piece in tell(vocabulary, ids) for each in piece.tokens]
    of_letters = [len(encoder.tokenizer.encode(letter)) for letter in "xש😀y"]
    assert starts == [place for place, count in enumerate(of_letters) for _ in range(count)]


def test_a_stop_text_across_tokens_is_cut_and_never_told() -> None:
    encoder = ENCODERS["byte level"]
    ids = encoder.tokenizer.encode("Hello there END of it", add_special_tokens=False)
    pieces = tell(vocabulary_of(encoder), ids, ("END",))
    assert joined(pieces) == "Hello there "
    told = [each.token.token_id for piece in pieces for each in piece.tokens]
    assert told == ids[: len(told)]
    assert encoder.decode(told).startswith("Hello there ")


def test_what_was_held_for_a_stop_text_that_never_came_is_told_at_the_end() -> None:
    encoder = ENCODERS["byte level"]
    ids = encoder.tokenizer.encode("wait EN", add_special_tokens=False)
    pieces = tell(vocabulary_of(encoder), ids, ("END",))
    assert joined(pieces[:-1]) == "wait "
    assert joined(pieces) == "wait EN"
    assert [each.token.token_id for piece in pieces for each in piece.tokens] == ids


def by_letter(text: str, stops: list[str]) -> str:
    """The definition: letter by letter, the text before the first stop text that is complete."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - len(max(found, key=len))]
    return text


@given(
    st.text(LETTERS, max_size=14),
    st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=4),
    st.lists(st.integers(1, 5), min_size=14, max_size=14),
)
def test_how_a_text_is_cut_into_pieces_changes_no_stop(text: str, stops: list[str], sizes: list[int]) -> None:
    cutter = StopCutter(stops)
    told, rest = "", text
    for size in sizes:
        told += cutter.push(rest[:size])
        rest = rest[size:]
        # What is out is never taken back: it is a beginning of what the definition tells.
        assert by_letter(text, stops).startswith(told)
    assert told + cutter.flush() == by_letter(text, stops)


@given(st.text(LETTERS, max_size=14), st.lists(st.text(LETTERS, min_size=1, max_size=3), max_size=3))
def test_no_more_is_held_back_than_may_begin_a_stop_text(text: str, stops: list[str]) -> None:
    cutter = StopCutter(stops)
    told = "".join(cutter.push(letter) for letter in text)
    held = cutter.flush()
    assert cutter.found or told + held == text
    assert not held or any(stop.startswith(held) for stop in stops)


def test_a_vocabulary_is_read_once_for_a_tokenizer(encoder: Encoder) -> None:
    assert vocabulary_of(encoder) is vocabulary_of(Encoder(encoder.tokenizer))


def test_reading_a_vocabulary_leaves_the_tokenizer_as_it_was(tmp_path: Path) -> None:
    encoder = byte_level()
    encoder.tokenizer.backend_tokenizer.enable_truncation(3)
    vocabulary_of(encoder)
    assert encoder.tokenizer.backend_tokenizer.truncation["max_length"] == 3


def test_text_needs_no_transformers_of_its_own() -> None:
    assert "llguidance.hf" not in sys.modules
