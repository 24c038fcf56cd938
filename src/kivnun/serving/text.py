"""Tokens become text as they come: whole characters only, never a part of a stop text, each token with its own bytes.

A token is bytes, not text: byte-level tokenizers cut Hebrew letters and emoji in two, and those with byte fallback spell
rare characters byte by byte. So tokens become bytes first, and bytes become text as soon as characters are whole.
"""

import codecs
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llguidance import LLTokenizer

from kivnun.data.encode import Encoder
from kivnun.serving.answers import Token
from kivnun.serving.stops import StopCutter


class Vocabulary:
    """What each token of a tokenizer stands for, in bytes; made once for a tokenizer, from any thread.

    Attributes:
        grammar_tokenizer: The same tokenizer as grammars read it.
        num_tokens: How many tokens it has.
        puts_space: Whether it puts a space, which is no part of the text, before the first word of every text.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Read a tokenizer, which takes up to a second for a large one.

        Args:
            encoder: Its tokenizer.
        """
        # Padding and truncation are settings of a tokenizer that is shared: the copy drops them.
        backend = type(encoder.tokenizer.backend_tokenizer).from_str(encoder.tokenizer.backend_tokenizer.to_str())
        backend.no_padding()
        backend.no_truncation()
        self.grammar_tokenizer = LLTokenizer(backend.to_str(), eos_token=encoder.end_id)
        self.num_tokens = int(self.grammar_tokenizer.vocab_size)
        added = encoder.tokenizer.added_tokens_decoder
        self._special = {token: one.content for token, one in added.items() if one.special}
        self._special[encoder.end_id] = encoder.end
        self._bytes: dict[int, bytes] = {}
        first = encoder.encode_texts(["a"])[0]
        self.puts_space = bool(first) and self.bytes_of(first[0]).startswith(b" ")

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; a special one has those of its name.

        Args:
            token_id: Any of the model's; those that the tokenizer lacks are empty.
        """
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._read(token_id)
        return known

    def text_of(self, token_id: int) -> str:
        """A token alone, for people; what is no whole character is the replacement sign.

        Args:
            token_id: Any of the model's.
        """
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def is_special(self, token_id: int) -> bool:
        """Whether a token is a sign, such as the end of a turn, and not text.

        Args:
            token_id: Any of the model's.
        """
        return token_id in self._special

    def special_id(self, text: str) -> int | None:
        """The special token of a name; None for ordinary text.

        Args:
            text: Such as `<|im_end|>`.
        """
        return next((token for token, name in self._special.items() if name == text), None)

    def _read(self, token_id: int) -> bytes:
        if token_id in self._special:
            return self._special[token_id].encode()
        if not 0 <= token_id < self.num_tokens:
            return b""
        return bytes(self.grammar_tokenizer.decode_bytes([token_id]))


_VOCABULARIES: "weakref.WeakKeyDictionary[object, Vocabulary]" = weakref.WeakKeyDictionary()
_READING = threading.Lock()


def vocabulary_of(encoder: Encoder) -> Vocabulary:
    """The vocabulary of a tokenizer, read once for as long as the tokenizer lives.

    Args:
        encoder: Its tokenizer.
    """
    with _READING:
        known = _VOCABULARIES.get(encoder.tokenizer)
        if known is None:
            known = _VOCABULARIES[encoder.tokenizer] = Vocabulary(encoder)
        return known


@dataclass(frozen=True)
class TextToken:
    """A token of an answer with its place in the text.

    Attributes:
        token: As the model told it.
        start: How many whole characters of the answer stand before its first byte.
    """

    token: Token
    start: int


@dataclass(frozen=True)
class Piece:
    """What of an answer may go out now.

    Attributes:
        text: Whole characters; "" while they are not whole, or may begin a stop text.
        tokens: The tokens that begin in it; all pieces together have every token of what is told, in order.
    """

    text: str
    tokens: tuple[TextToken, ...]


@dataclass
class AnswerText:
    """The text of one answer in the making. All pieces joined do not depend on when they were asked for.

    Attributes:
        vocabulary: Of the model.
        stops: Texts that end the answer; none of them, and nothing behind them, is told.
        shown_special: Special tokens that are told as text, such as those that calls of tools begin with.
        drops_space: Whether the space is dropped that such tokenizers put before the first word of a text.
    """

    vocabulary: Vocabulary
    stops: Sequence[str] = ()
    shown_special: frozenset[int] = frozenset()
    drops_space: bool = False
    _cutter: StopCutter = field(init=False)
    _decoder: codecs.IncrementalDecoder = field(init=False)
    _waiting: deque[TextToken] = field(default_factory=deque[TextToken], init=False)
    _num_read: int = field(default=0, init=False)
    _num_told: int = field(default=0, init=False)
    _first: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self._cutter = StopCutter(self.stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def stopped(self) -> bool:
        """Whether a stop text ended the answer: what comes after is not wanted any more."""
        return self._cutter.found is not None

    def push(self, tokens: Iterable[Token]) -> Piece:
        """What may go out after further tokens.

        Args:
            tokens: What came next.
        """
        text = ""
        for token in tokens:
            if self.stopped:
                break
            self._waiting.append(TextToken(token, self._num_read))
            text += self._cutter.push(self._read(token.token_id))
        return self._tell(text)

    def end(self) -> Piece:
        """The rest, after the last token: what was held back, and the replacement sign for a character that is cut."""
        if self.stopped:
            return self._tell("")
        rest = self._decoder.decode(b"", final=True)
        self._num_read += len(rest)
        text = self._cutter.push(rest) + self._cutter.flush()
        told = self._tell(text)
        if self.stopped:
            return told
        tokens = (*told.tokens, *self._waiting)
        self._waiting.clear()
        return Piece(told.text, tokens)

    def _read(self, token_id: int) -> str:
        hidden = self.vocabulary.is_special(token_id) and token_id not in self.shown_special
        read = b"" if hidden else self.vocabulary.bytes_of(token_id)
        if read and self._first:
            self._first = False
            if self.drops_space and self.vocabulary.puts_space:
                read = read.removeprefix(b" ")
        text = self._decoder.decode(read)
        self._num_read += len(text)
        return text

    def _tell(self, text: str) -> Piece:
        self._num_told += len(text)
        tokens: list[TextToken] = []
        while self._waiting and self._waiting[0].start < self._num_told:
            tokens.append(self._waiting.popleft())
        return Piece(text, tuple(tokens))
