"""The fixtures of `tiny_data`."""

from tiny_data import encoder, here, spacing_tokenizer, tokenizer

__all__ = ["encoder", "here", "spacing_tokenizer", "tokenizer"]
