"""Real parts, small, made once a session: a byte-level BPE tokenizer, a random two-layer Llama, and a token table."""

import os

# Before torch starts its threads: one thread gives the same sums each time, and passive waiting leaves the cores free.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from postgres_server import postgres_server, postgres_url  # noqa: F401 - fixtures

from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.models.load import load_model
from kivnun.models.new import make_model, train_tokenizer
from kivnun.models.save import save_model
from kivnun.models.types import Model, Tokenizer
from kivnun.recipe.schema import NewModel

SENTENCES = (
    "The quick brown fox isn't afraid of the lazy dog, is it?",
    "I am so happy today that I could sing in the street.",
    "She was angry because the train came late, and he was sad.",
    "שלום עולם, מה שלומך היום?",
    "אני שמח מאוד כי השמש זורחת, ועצוב כשהיא שוקעת.",
    "היא כעסה כי הרכבת איחרה, והוא היה עצוב.",
)

torch.set_num_threads(1)
settings.register_profile("kivnun", deadline=None)
settings.load_profile("kivnun")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    return train_tokenizer(SENTENCES, 400)


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as `make_model` draws them, saved with their tokenizer; never written to by a test."""
    shape = NewModel(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    folder = tmp_path_factory.mktemp("base") / "tiny"
    save_model(make_model(shape, tiny_tokenizer, seed=1), tiny_tokenizer, folder)
    return folder


@pytest.fixture
def tiny_model(tiny_model_folder: Path) -> Model:
    """A fresh copy in fp32, in evaluation mode, that a test may change."""
    return load_model(tiny_model_folder, dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_table() -> TokenTable:
    """Rows of many lengths; the first third of each is a prompt that is not trained."""
    return random_table(num_rows=24, seed=3)


@pytest.fixture(scope="session")
def tiny_validation_table() -> TokenTable:
    return random_table(num_rows=7, seed=4)


@pytest.fixture(scope="session")
def unrelated_table() -> TokenTable:
    """Rows that have nothing to do with those of `tiny_table`: what is learnt there does not help here."""
    return random_table(num_rows=5, seed=99)


def random_table(*, num_rows: int, seed: int) -> TokenTable:
    """Rows of 4 to 20 tokens that follow a pattern, so that there is something to learn."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        length, first = int(random.integers(4, 21)), int(random.integers(3, 390))
        ids = [(first + 7 * place) % 390 for place in range(length)]
        rows.append(TokenizedRow(ids, [place >= length // 3 for place in range(length)]))
    return make_table(rows)
