"""Segments of text become token ids, such that a prompt gives the same ids alone as at the start of its row."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from kivnun.data.chat import Segment, Turn
from kivnun.data.tokens import TokenizedRow
from kivnun.errors import UserError

if TYPE_CHECKING:
    # Named alone: who only reads rows should not wait for transformers.
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

    tokenizer: "Tokenizer"
    _adds_space: bool = field(init=False)
    _adds_begin: bool = field(init=False)
    _special: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        """Find out how texts begin, whether segments can be encoded one by one, and which texts are tokens."""
        begins = self.tokenizer.bos_token is not None and self.tokenizer.encode("a")[:1] == [
            self.tokenizer.bos_token_id
        ]
        object.__setattr__(self, "_adds_begin", begins)
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
    def pad_id(self) -> int:
        """What shorter texts of a batch are padded with: the padding token, or the end-of-text token without one."""
        pad = self.tokenizer.pad_token_id
        return self.end_id if pad is None else cast("int", pad)

    @property
    def end(self) -> str:
        """Text of the end-of-text token."""
        return str(self.tokenizer.eos_token)

    def encode(self, segments: Sequence[Segment]) -> TokenizedRow:
        """Ids of a whole row and which of them are trained."""
        ids: list[int] = list(self._prefix(segments))
        trained = [False] * len(ids)
        lengths: list[int] = []
        for index, segment in enumerate(segments):
            tokens = self._continue(segment.text) if index and self._adds_space else self._begin(segment.text)
            ids += tokens
            trained += [segment.trained] * len(tokens)
            lengths.append(len(tokens))
        return TokenizedRow(ids, trained, _weigh_tokens(segments, lengths, len(ids)))

    def encode_batch(self, rows: Sequence[Sequence[Segment]]) -> list[TokenizedRow]:
        """What `encode` gives for each row, with all cores."""
        encoded = self._encode_texts(rows)
        made: list[TokenizedRow] = []
        for row in rows:
            ids = self._prefix(row)
            trained = [False] * len(ids)
            lengths: list[int] = []
            for segment in row:
                tokens = next(encoded)
                ids += tokens
                trained += [segment.trained] * len(tokens)
                lengths.append(len(tokens))
            made.append(TokenizedRow(ids, trained, _weigh_tokens(row, lengths, len(ids))))
        return made

    def count_batch(self, rows: Sequence[Sequence[Segment]]) -> list[list[int]]:
        """The number of tokens of each segment of each row; a begin-of-text token counts to the first one."""
        encoded = self._encode_texts(rows)
        counts: list[list[int]] = []
        for row in rows:
            counts.append([len(next(encoded)) for _ in row])
            if row:
                counts[-1][0] += len(self._prefix(row))
        return counts

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that stand alone, with all cores."""
        encoded = self.tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [each.ids for each in encoded]

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

    def render_chat(self, messages: Sequence[Turn], open_turn: bool, tools: Sequence[Turn] = ()) -> str:  # noqa: FBT001
        """The chat template's text of some turns and tools, with a new assistant turn opened or not."""
        # transformers types turns as texts only and tools as dicts of anything.
        turns = cast("list[dict[str, str]]", [dict(message) for message in messages])
        given = cast("list[Any]", [dict(tool) for tool in tools]) or None
        apply = self.tokenizer.apply_chat_template
        return str(apply(turns, tools=given, tokenize=False, add_generation_prompt=open_turn))

    def _prefix(self, segments: Sequence[Segment]) -> list[int]:
        """The begin-of-text token where this tokenizer adds one and the text does not bring it."""
        brings = bool(segments) and segments[0].text.startswith(str(self.tokenizer.bos_token))
        return [cast("int", self.tokenizer.bos_token_id)] if self._adds_begin and not brings else []

    def _encode_texts(self, rows: Sequence[Sequence[Segment]]) -> Iterator[list[int]]:
        """Ids of every segment, in order; each different text is encoded once."""
        spaced = self._adds_space
        texts = [(bool(index) and spaced, segment.text) for row in rows for index, segment in enumerate(row)]
        alone = list(dict.fromkeys(text for continues, text in texts if not continues))
        known = {(False, text): ids for text, ids in zip(alone, self.encode_texts(alone), strict=True)}
        behind = list(dict.fromkeys(text for continues, text in texts if continues))
        known |= {(True, text): ids for text, ids in zip(behind, self._continue_texts(behind), strict=True)}
        return iter([known[text] for text in texts])

    def _continue_texts(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """What `_continue` gives for each text; nearly all of them stand the first anchor."""
        anchor = _ANCHORS[0]
        encoded = self.tokenizer.backend_tokenizer.encode_batch(
            [anchor + text for text in texts], add_special_tokens=False
        )
        for text, each in zip(texts, encoded, strict=True):
            stands = not any(start < len(anchor) < stop for start, stop in each.offsets)
            behind = (token for token, (_, stop) in zip(each.ids, each.offsets, strict=True) if stop > len(anchor))
            yield list(behind) if stands else self._continue(text)

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


def _weigh_tokens(segments: Sequence[Segment], lengths: Sequence[int], num_tokens: int) -> list[float] | None:
    """How much each token counts; None where all that are trained count 1. What stands before the segments counts 1."""
    if all(segment.weight == 1 or not segment.trained for segment in segments):
        return None
    weights = [segment.weight for segment, length in zip(segments, lengths, strict=True) for _ in range(length)]
    return [1.0] * (num_tokens - len(weights)) + weights
