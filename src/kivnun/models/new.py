"""Models and tokenizers made from nothing: for pre-training a base model and for tests."""

from collections.abc import Iterable
from typing import cast

import torch
from tokenizers import AddedToken, decoders, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM

from kivnun.models.types import Model, Tokenizer
from kivnun.recipe.schema import NewModel

END_OF_TEXT = "<|endoftext|>"
# Chat turns need markers of their own; they are in the vocabulary from the start so that tuning need not resize it.
TURN_TOKENS = ("<|im_start|>", "<|im_end|>")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer (GPT-2's splitting rule), trained on texts; no text is unknown to it.

    Args:
        texts: Training texts.
        vocab_size: Size including the 256 bytes and the special tokens.
    """
    tokenizer = FastTokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(text, special=True) for text in (END_OF_TEXT, *TURN_TOKENS)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Tokenizer(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)


def make_model(new: NewModel, tokenizer: Tokenizer, *, seed: int) -> Model:
    """A Llama with random weights: normal(0, 0.02), output projections scaled by 1/sqrt(2 layers) as in GPT-2."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=new.hidden_size,
        intermediate_size=new.intermediate_size,
        num_hidden_layers=new.num_hidden_layers,
        num_attention_heads=new.num_attention_heads,
        num_key_value_heads=new.num_key_value_heads,
        max_position_embeddings=new.max_position_embeddings,
        tie_word_embeddings=new.tie_word_embeddings,
        bos_token_id=cast("int", tokenizer.bos_token_id),
        eos_token_id=cast("int", tokenizer.eos_token_id),
        # Padding is the end of text, and transformers gives the padding token's input embedding no gradient.
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        scale = (2 * new.num_hidden_layers) ** -0.5
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.mul_(scale)
    return model
