"""A random two-layer Llama with a byte-level BPE tokenizer, made in milliseconds, and its exports, once a session."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kivnun.optimization.forms import Form
from kivnun.optimization.onnx import export_onnx
from kivnun.recipe.optimization import Precision

END = 0
CONTEXT_TOKENS = 96
SENTENCES = (
    "The quick brown fox isn't afraid of the lazy dog, is it?",
    "I am so happy today that I could sing in the street.",
    "שלום עולם, מה שלומך היום?",
    "אני שמח מאוד כי השמש זורחת, ועצוב כשהיא שוקעת.",
)


def write_tiny_llama(folder: Path, *, tie_word_embeddings: bool = True, num_attention_heads: int = 2) -> Path:
    """Save model and tokenizer. The weights are large, so that answers wander instead of repeating one token."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=tie_word_embeddings,
        initializer_range=0.3,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES * 3, trainer)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=end, eos_token=end, pad_token=end).save_pretrained(folder)
    return folder


def load_tiny_llama(folder: Path) -> LlamaForCausalLM:
    """In fp32 and eval mode."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def export_once(model_folder: Path, session_folder: Path, precision: Precision) -> Path:
    """The ONNX folder of this session's model; exported by whichever test folder asks first."""
    folder = session_folder / f"onnx-{precision}"
    if not folder.exists():
        export_onnx(model_folder, folder, Form("fp32") if precision == "fp32" else Form("int4", "k_quant", 32))
    return folder


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp() / "tiny-llama"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(session_folder: Path) -> Path:
    folder = session_folder / "model"
    return folder if folder.exists() else write_tiny_llama(folder)


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> LlamaForCausalLM:
    return load_tiny_llama(tiny_folder)


@pytest.fixture(scope="session")
def fp32_folder(tiny_folder: Path, session_folder: Path) -> Path:
    return export_once(tiny_folder, session_folder, "fp32")


@pytest.fixture(scope="session")
def int4_folder(tiny_folder: Path, session_folder: Path) -> Path:
    return export_once(tiny_folder, session_folder, "int4")


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Of many lengths, in no order; some hold or end with the end token, which is the padding token too."""
    drawn = [[(17 * row + 31 * place * place) % 511 + 1 for place in range(2 + (row * 7) % 23)] for row in range(12)]
    drawn[1][0] = 0
    drawn[4][-1] = 0
    drawn[6][-2:] = [0, 0]
    drawn[8][len(drawn[8]) // 2] = 0
    return drawn
