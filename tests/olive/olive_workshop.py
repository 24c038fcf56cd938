"""What the tests of Olive's commands share: tiny models, rows, the command in this process, and one finished tuning."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Phi3Config, Phi3ForCausalLM

from kivnun.cli.app import main
from kivnun.models.new import make_model
from kivnun.models.save import save_model
from kivnun.models.types import Tokenizer
from kivnun.recipe.schema import NewModel

TONES = ("joy", "anger", "fear", "sadness", "surprise")
PLACES = ("street", "kitchen", "train", "garden", "office", "school", "forest", "harbour")
TEMPLATE = "Text: {phrase}\\nTone: {tone}"


@dataclass(frozen=True)
class Ended:
    """What a command left: its status and what it said."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


def call(*words: str | Path) -> Ended:
    """The entry point of the installed command in this process: the same words without seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["kivnun", *map(str, words)], out, err
    status: object = 0
    try:
        main()
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    assert isinstance(status, int), status
    return Ended(status, out.getvalue(), err.getvalue())


def phrases(number: int) -> list[dict[str, str]]:
    """Rows with a phrase and its tone."""
    return [
        {"phrase": f"{number} steps in the {PLACES[number % 8]} at {number * 7 % 24}", "tone": TONES[number % 5]}
        for number in range(number)
    ]


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return path


@dataclass(frozen=True)
class Workshop:
    """Tiny models, and one tuning with the seed's flags; never written to by a test."""

    folder: Path

    @property
    def llama(self) -> Path:
        return self.folder / "llama"

    @property
    def gpt2(self) -> Path:
        return self.folder / "gpt2"

    @property
    def phi3(self) -> Path:
        return self.folder / "phi3"

    @property
    def rows(self) -> Path:
        return self.folder / "rows.json"

    @property
    def tuned(self) -> Path:
        """What `kivnun finetune -o` made; its run lies in it too."""
        return self.folder / "tuned"


@pytest.fixture(scope="session")
def workshop(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("olive")
    # As many key heads as heads: the rank of 64 that Olive takes needs matrices of 64 by 64.
    shape = NewModel(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4
    )
    save_model(make_model(shape, tiny_tokenizer, seed=1), tiny_tokenizer, folder / "llama")
    torch.manual_seed(1)
    end = tiny_tokenizer.eos_token_id
    size = {"vocab_size": len(tiny_tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=512, **size))
    save_model(gpt2, tiny_tokenizer, folder / "gpt2")
    phi3 = Phi3ForCausalLM(
        Phi3Config(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
            original_max_position_embeddings=512,
            **size,
        )
    )
    save_model(phi3, tiny_tokenizer, folder / "phi3")
    write_rows(folder / "rows.json", phrases(12))
    ended = call(
        *("finetune", "-m", folder / "llama", "-d", folder / "rows.json", "--text_template", TEMPLATE),
        *("--max_steps", "2", "--torch_dtype", "float32", "--learning_rate", "5e-3", "-o", folder / "tuned"),
    )
    assert ended.status == 0, ended.err
    return Workshop(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    return tmp_path
