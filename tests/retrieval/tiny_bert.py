"""A random two-layer BERT with a WordPiece tokenizer that knows English words, made in milliseconds."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

ENGLISH = (
    "cats sleep all day long and they eat fish in the evening",
    "the capital of france is paris and the river is the seine",
    "trains leave the station every hour and the ticket is cheap",
    "what do cats eat and where is the station of the capital",
)
HIDDEN = 32
SPECIAL = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP")}


def write_tiny_bert(folder: Path, *, classes: int | None = None, max_tokens: int = 64, seed: int = 3) -> Path:
    """Save model and tokenizer; the tokenizer's file cuts at 8 tokens and pads, as published ones do.

    Hebrew letters are in its vocabulary one by one, as in English models; other letters are unknown.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.backend_tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_tokens,
        initializer_range=0.3,
        num_labels=classes or 2,
    )
    model = BertModel(config, add_pooling_layer=False) if classes is None else BertForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece with lower case: the words of `ENGLISH`, and Latin and Hebrew letters one by one.

    Nothing is trained: the trainer breaks ties in another order each time, and vectors would be others in each run.
    """
    letters = [chr(code) for first, last in ((0x61, 0x7B), (0x5D0, 0x5EB)) for code in range(first, last)]
    known = sorted({word for sentence in ENGLISH for word in sentence.split()} - set(letters))
    pieces = [*SPECIAL.values(), *letters, *(f"##{letter}" for letter in letters), *known]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    words = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unk_token"]))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(SPECIAL[name], vocabulary[SPECIAL[name]]) for name in ("sep_token", "cls_token")]
    words.post_processor = processors.BertProcessing(*ends)
    words.enable_truncation(8)
    words.enable_padding(length=8)
    return PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL)


def write_sentence_settings(folder: Path, *, pooling: str = "mean", prompts: dict | None = None) -> None:
    """The files beside the weights by which sentence-transformers knows how to embed."""
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    chosen = {field: name == pooling for name, field in modes.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": HIDDEN, **chosen}))
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
