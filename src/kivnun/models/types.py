"""The two foreign types that other floors name, so that they need not import transformers."""

from transformers import PreTrainedModel as Model
from transformers import PreTrainedTokenizerFast as Tokenizer

__all__ = ["Model", "Tokenizer"]
