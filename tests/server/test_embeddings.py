"""Embeddings through OpenAI's own library: the vectors of the encoder itself, whichever way they are asked for."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from running import RunningServer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from kivnun.assistant import open_headed
from kivnun.models.text_encoder import TextEncoder
from kivnun.server.embeddings.models import EmbeddingModels
from kivnun.serving.answers import BusyError

MAX_TOKENS = 16
DIM = 32
WORDS = ["the", "cat", "dog", "sat", "on", "a", "mat", "and", "ran", "away", "from", "home", "today"]
TEXTS = ["the cat sat on a mat", "dog", "and the dog ran away from home today"]
RECIPE = """\
base_model: {base}
data:
  train: pairs.jsonl
  prompt_template: "{{said}}"
  answer_template: "{{command}}"
  split: {{validation: 2, test: 2, near_duplicates: ignore}}
method: {{kind: full}}
training:
  objective: {{kind: contrastive, temperature: 0.1}}
  max_steps: 1
  batch_size: 4
  precision: fp32
  compile: false
evaluation: {{task: retrieval, resamples: 100}}
"""


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that sentence-transformers would read: its mean, at most 16 tokens, a prefix before passages."""
    folder = tmp_path_factory.mktemp("embedder") / "tiny-embedder"
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP")}
    vocabulary = {piece: number for number, piece in enumerate([*names.values(), *WORDS])}
    words = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    sizes = {"hidden_size": DIM, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocabulary), initializer_range=0.3, max_position_embeddings=64, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    (folder / "modules.json").write_text(json.dumps([{"path": "", "type": "sentence_transformers.models.Transformer"}]))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"document": "today "}}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_TOKENS}))
    return folder


@pytest.fixture(scope="module")
def run_folder(chat_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained an embedding model, for one step."""
    folder = tmp_path_factory.mktemp("contrastive")
    rows = [{"said": f"please turn the light {n}", "command": f"light {n}"} for n in range(12)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(base=chat_model_folder))
    command = [sys.executable, "-m", "kivnun", "run", "recipe.yaml", "--run-dir", "run"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def embedding_server(
    start_server: Callable[..., RunningServer], encoder_folder: Path, run_folder: Path
) -> RunningServer:
    flags = ["--model", f"mine={run_folder}", "--embedding-model", f"dir:{encoder_folder}", "--workers", "0"]
    return start_server(*flags)


@pytest.fixture(scope="module")
def client(embedding_server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=embedding_server.base_url, api_key=embedding_server.key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def encoder(encoder_folder: Path) -> TextEncoder:
    return TextEncoder(encoder_folder)


def vectors_of(reply: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    assert [item.index for item in reply.data] == list(range(len(reply.data)))
    return np.array([item.embedding for item in reply.data], np.float32)


def test_vectors_are_those_of_the_encoder_without_a_prefix(client, encoder):
    reply = client.embeddings.create(model="tiny-embedder", input=TEXTS)
    np.testing.assert_allclose(vectors_of(reply), encoder.encode(TEXTS), atol=1e-6)
    # The special tokens around a text are nobody's.
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(len(text.split()) for text in TEXTS)
    assert (reply.object, reply.model, reply.data[0].object) == ("list", "tiny-embedder", "embedding")


def test_one_text_several_and_their_tokens_give_the_same_vectors(client, encoder):
    rows = [encoder.tokenize(text) for text in TEXTS]
    expected = encoder.encode(TEXTS)
    for given, wanted in ((TEXTS[0], expected[:1]), (rows[0], expected[:1]), (rows, expected)):
        reply = client.embeddings.create(model="tiny-embedder", input=given)
        np.testing.assert_allclose(vectors_of(reply), wanted, atol=1e-6)


def test_base64_holds_the_numbers_that_float_tells(embedding_server):
    asked = {"model": "tiny-embedder", "input": TEXTS}
    replies = {}
    for form in ("float", "base64", None):
        body = asked | ({"encoding_format": form} if form else {})
        url = f"{embedding_server.base_url}/embeddings"
        replies[form] = httpx.post(url, json=body, headers=embedding_server.headers).json()["data"]
    read = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in replies["base64"]]
    assert [row.tolist() for row in read] == [item["embedding"] for item in replies["float"]]
    assert replies[None] == replies["float"]


def test_fewer_dimensions_are_the_first_numbers_at_length_one(client, encoder):
    reply = client.embeddings.create(model="tiny-embedder", input=TEXTS, dimensions=8)
    kept = encoder.encode(TEXTS)[:, :8]
    np.testing.assert_allclose(vectors_of(reply), kept / np.linalg.norm(kept, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="32 numbers") as caught:
        client.embeddings.create(model="tiny-embedder", input="dog", dimensions=DIM + 1)
    assert caught.value.param == "dimensions"


def test_hosted_names_mean_the_server_s_embedder_but_not_their_tokens(client, encoder):
    reply = client.embeddings.create(model="text-embedding-3-small", input=TEXTS)
    np.testing.assert_allclose(vectors_of(reply), encoder.encode(TEXTS), atol=1e-6)
    assert reply.model == "text-embedding-3-small"
    with pytest.raises(openai.BadRequestError, match="stands in"):
        client.embeddings.create(model="text-embedding-3-small", input=[5, 6])


def test_a_contrastive_run_gives_the_vectors_that_it_was_trained_for(client, run_folder):
    model = open_headed(run_folder, "embedding")
    reply = client.embeddings.create(model="mine", input=["turn the light 3", "light 3"])
    np.testing.assert_allclose(vectors_of(reply), model.embed(["turn the light 3", "light 3"]), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "is empty"),
        ([], "1 to 2048 items, and it has 0"),
        (["cat", ""], "text 1 is empty"),
        ([[4], []], "text 1 is empty"),
        ([999], "tokens that are not"),
        ([-1], "tokens that are not"),
        (["cat"] * 2049, "2048"),
        ("cat " * MAX_TOKENS, "maximum context length is 14"),
        ([5] * 2049, "2048"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_the_field_input(client, given, said):
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.embeddings.create(model="tiny-embedder", input=given)
    assert caught.value.param == "input"


@pytest.mark.parametrize("given", [None, 5, {"a": 1}, [True], [1.5], ["a", 5], [[["a"]]]])
def test_what_is_no_text_is_refused_with_a_message(embedding_server, given):
    body = {"model": "tiny-embedder", "input": given}
    reply = httpx.post(f"{embedding_server.base_url}/embeddings", json=body, headers=embedding_server.headers)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_models_that_give_no_vectors_are_told_apart_from_those_that_are_not_there(client, embedding_server):
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="nothing", input="cat")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="tiny-embedder") as caught:
        client.embeddings.create(model=embedding_server.model, input="cat")
    assert caught.value.code == "model_not_supported"
    # A folder is nobody's name for a model.
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="dir:/tmp", input="cat")


def test_many_texts_come_back_in_their_order(client, encoder):
    texts = [" ".join(WORDS[: 1 + number % 13]) + f" {WORDS[number % 7]}" for number in range(300)]
    reply = client.embeddings.create(model="tiny-embedder", input=texts)
    np.testing.assert_allclose(vectors_of(reply), encoder.encode(texts), atol=1e-5)


def test_requests_beyond_the_queue_are_told_to_come_again(encoder_folder):
    async def ask_three() -> list[object]:
        models = EmbeddingModels(max_waiting=2)
        uses = [models.use(f"dir:{encoder_folder}", lambda model: model.dim) for _ in range(3)]
        return await asyncio.gather(*uses, return_exceptions=True)

    first, second, third = asyncio.run(ask_three())
    assert (first, second) == (DIM, DIM)
    assert isinstance(third, BusyError)
