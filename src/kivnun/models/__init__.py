"""Base models and tokenizers: the only floor that imports transformers."""
