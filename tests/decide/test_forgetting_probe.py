"""Bits per byte of other texts: the sum that the definition says, of texts that are there or refused."""

import math
from pathlib import Path

import pytest
import torch

from kivnun.data.encode import Encoder
from kivnun.decide.forgetting import bits_per_byte, tabulate
from kivnun.decide.probe import read_probe
from kivnun.errors import UserError
from kivnun.models.load import load_model, load_tokenizer
from kivnun.models.types import Model, Tokenizer

TEXTS = ("The fox is happy today.", "שלום עולם, מה שלומך?", "a")


def test_bits_per_byte_are_the_negative_log_likelihood_over_the_bytes(
    tiny_model: Model, tiny_model_folder: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model_folder)
    nats, num_bytes = 0.0, 0
    for text in TEXTS:
        ids = [tokenizer.eos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
        with torch.no_grad():
            log_p_TV = tiny_model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= sum(float(log_p_TV[place, token]) for place, token in enumerate(ids[1:]))
        num_bytes += len(text.encode())
    fresh = load_model(tiny_model_folder, dtype=torch.float32)
    measured = bits_per_byte(fresh, tiny_model_folder, TEXTS)
    assert measured == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_what_is_longer_than_the_context_is_left_out_with_its_bytes(tiny_tokenizer: Tokenizer) -> None:
    encoder = Encoder(tiny_tokenizer)
    whole = encoder.encode_texts(["hello hello hello"])[0]
    table, num_bytes = tabulate(encoder, ["hello hello hello"], 4)
    assert table.input_ids(0).tolist() == [encoder.end_id, *whole[:3]]
    assert num_bytes == len(encoder.decode(whole[:3]).encode())


def test_the_shipped_texts_are_different_ones_in_english_and_hebrew() -> None:
    texts = read_probe(None).texts
    hebrew = [text for text in texts if any("א" <= letter <= "ת" for letter in text)]
    assert len(texts) == len(set(texts)) == 40
    assert len(hebrew) == 20


def test_a_file_of_ones_own_is_read_by_lines_or_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"text": "one\u2028two"}\n\n{"text": "three"}\n', "utf-8")
    assert read_probe(str(tmp_path / "own.jsonl")).texts == ("one\u2028two", "three")
    (tmp_path / "own.txt").write_text("one\ntwo\r\n\r\nthree\n", "utf-8")
    assert read_probe(str(tmp_path / "own.txt")).texts == ("one\ntwo", "three")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "data-missing"),
        (b"\xff\xfe", "data-encoding"),
        (b'{"txt": "a"}', "data-malformed"),
        (b"\n", "data-empty"),
    ],
)
def test_a_file_that_holds_no_texts_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "own.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_probe(str(path))
    assert caught.value.code == code
