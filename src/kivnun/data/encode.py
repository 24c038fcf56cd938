"""Segments of text become token ids, such that a prompt gives the same ids alone as at the start of its row."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from kivnun.data.template import Segment
from kivnun.data.tokens import TokenizedRow
from kivnun.errors import UserError
from kivnun.models.types import Tokenizer

_PROBE = ("### A:\n", "joy")
_ANCHORS = ("\u263a", "\n", "|")


@dataclass(frozen=True)
class Encoder:
    """A tokenizer as the data floor uses it.

    Segments are encoded one by one, since then the prompt's ids cannot depend on the answer. Tokenizers that put a
    space before every text they are given (SentencePiece's dummy prefix) would put one into the answer too; for them
    a segment that continues a text is encoded behind an anchor, which takes the space and is cut off again.

    Attributes:
        tokenizer: The tokenizer.
    """

    tokenizer: Tokenizer
    _adds_space: bool = field(init=False)
    _special: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        """Find out whether segments can be encoded one by one, and which texts are tokens of their own."""
        ids = [token for text in _PROBE for token in self.tokenizer.encode(text, add_special_tokens=False)]
        decoded = str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        object.__setattr__(self, "_adds_space", decoded.lstrip(" ") != "".join(_PROBE))
        added = self.tokenizer.added_tokens_decoder.values()
        special = {self.end, *(token.content for token in added if token.special)}
        # Of two that begin alike the longer one is the token.
        longest_first = sorted(special, key=lambda text: (-len(text), text))
        object.__setattr__(self, "_special", re.compile("|".join(map(re.escape, longest_first))))

    @property
    def end_id(self) -> int:
        """The end-of-text token."""
        return cast("int", self.tokenizer.eos_token_id)

    @property
    def end(self) -> str:
        """Text of the end-of-text token."""
        return str(self.tokenizer.eos_token)

    def encode(self, segments: Sequence[Segment]) -> TokenizedRow:
        """Ids of a whole row and which of them are trained."""
        ids: list[int] = list(self._prefix(segments))
        trained = [False] * len(ids)
        for index, segment in enumerate(segments):
            tokens = self._continue(segment.text) if index and self._adds_space else self._begin(segment.text)
            ids += tokens
            trained += [segment.trained] * len(tokens)
        return TokenizedRow(ids, trained)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt that an answer will follow."""
        return self.encode([Segment(text, trained=False)]).input_ids

    def special_texts(self, text: str) -> list[str]:
        """The special tokens that a text would turn into, each once: words of the data could end answers or open turns.

        Tokens that were added to the vocabulary without being special, such as runs of spaces, are ordinary text.
        """
        return list(dict.fromkeys(self._special.findall(text)))

    def require_plain(self, text: str) -> None:
        """Refuse what a user typed if it holds a special token.

        Raises:
            UserError: `prompt-invalid`.
        """
        found = self.special_texts(text)
        if found:
            raise UserError(
                "prompt-invalid",
                f"the text holds {', '.join(found)}, which the model reads as a sign and not as text",
                hint="take it out, or put a space into it",
            )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids; special tokens are left out."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def render_chat(self, messages: Sequence[Mapping[str, str]], open_turn: bool) -> str:  # noqa: FBT001
        """The chat template's text of some turns, with a new assistant turn opened or not."""
        turns = [dict(message) for message in messages]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_turn))

    def _prefix(self, segments: Sequence[Segment]) -> list[int]:
        """The begin-of-text token where this tokenizer adds one and the text does not bring it."""
        bos = self.tokenizer.bos_token
        adds = bos is not None and self.tokenizer.encode("a")[:1] == [self.tokenizer.bos_token_id]
        return [cast("int", self.tokenizer.bos_token_id)] if adds and not segments[0].text.startswith(str(bos)) else []

    def _begin(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _continue(self, text: str) -> list[int]:
        """Ids of a text that follows another one: without the space that would begin it."""
        for anchor in _ANCHORS:
            encoded = self.tokenizer(anchor + text, add_special_tokens=False, return_offsets_mapping=True)
            ids, spans = encoded["input_ids"], encoded["offset_mapping"]
            behind = [token for token, (_, stop) in zip(ids, spans, strict=True) if stop > len(anchor)]
            # A token that holds the anchor and a part of the text would lose that part.
            if not any(start < len(anchor) < stop for start, stop in spans):
                return behind
        return self._begin(text)
