"""Tokens become text as they come: whole characters only, never a part of a stop text, each token with its own bytes.

A token is bytes, not text: byte-level tokenizers cut Hebrew letters and emoji in two, and those with byte fallback
spell rare characters byte by byte. So tokens become bytes first, and bytes become text as soon as characters are whole.
"""

import codecs
import json
import re
import threading
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper
from tokenizers import Tokenizer as FastTokenizer

from kivnun.data.encode import Encoder
from kivnun.serving.answers import Token
from kivnun.serving.stops import StopCutter

SPACE_SIGN = "\u2581"
_BYTE_NAME = re.compile("<0x[0-9A-F]{2}>")


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
        backend = encoder.tokenizer.backend_tokenizer
        added = encoder.tokenizer.added_tokens_decoder
        special = {token: one.content for token, one in added.items() if one.special}
        self._special: dict[int, str] = {**special, encoder.end_id: encoder.end}
        longest_first = sorted(set(self._special.values()), key=lambda name: (-len(name), name))
        self._signs = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._bytes = read_token_bytes(backend, [*added, encoder.end_id])
        self.num_tokens = len(self._bytes)
        first = encoder.encode_texts(["a"])[0]
        self.puts_space = bool(first) and self.bytes_of(first[0]).startswith(b" ")
        plain = _PlainTokenizer(backend, encoder.end_id, self._bytes, self._special)
        self.grammar_tokenizer = LLTokenizer(TokenizerWrapper(plain))

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; a special one has those of its name.

        Args:
            token_id: Any of the model's; those that the tokenizer lacks are empty.
        """
        return self._bytes[token_id] if 0 <= token_id < self.num_tokens else b""

    def text_of(self, token_id: int) -> str:
        """A token alone, for people; what is no whole character is the replacement sign.

        Args:
            token_id: Any of the model's.
        """
        return self.bytes_of(token_id).decode("utf-8", "replace")

    def read_prompt(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        """The text of a prompt, and how many of its characters stand before each token.

        Args:
            token_ids: From the beginning of a text.
        """
        answer = AnswerText(self, shown_special=frozenset(self._special), drops_space=True)
        pieces = [answer.push([Token(token) for token in token_ids]), answer.end()]
        starts = [each.start for piece in pieces for each in piece.tokens]
        return "".join(piece.text for piece in pieces), starts

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

    def split_special(self, text: str) -> list[str]:
        """A text cut into special tokens and what stands between them.

        Args:
            text: Such as what a template writes.
        """
        return [part for part in self._signs.split(text) if part]


class _PlainTokenizer:
    """A tokenizer with the fields that llguidance asks for; it holds no `Encoder`, which could then never be freed."""

    def __init__(self, backend: FastTokenizer, end_id: int, tokens: list[bytes], special: Iterable[int]) -> None:
        self.eos_token_id = end_id
        self.bos_token_id = None
        self.tokens = tokens
        self.special_token_ids = list(special)
        self._backend = backend

    def __call__(self, text: str | bytes) -> list[int]:
        read = text.decode() if isinstance(text, bytes) else text
        return self._backend.encode(read, add_special_tokens=False).ids


def read_token_bytes(backend: FastTokenizer, added: Collection[int]) -> list[bytes]:
    """The bytes of each token, by how the tokenizer's decoder writes tokens down.

    GPT-2's kind has a letter for each byte; SentencePiece's kind has a sign for the space, and names such as `<0xD7>`
    for bytes of characters that it does not know.

    Args:
        backend: The tokenizer.
        added: Tokens that stand for their own names.
    """
    decoder: dict[str, Any] = json.loads(backend.to_str())["decoder"] or {"type": "Fuse"}
    parts: dict[str, Any] = {part["type"]: part for part in decoder.get("decoders", [decoder])}
    by_name = backend.get_vocab(with_added_tokens=True)
    tokens = [b""] * (max(by_name.values()) + 1)
    for name, token in by_name.items():
        if token in added:
            tokens[token] = name.encode()
        elif "ByteLevel" in parts:
            tokens[token] = b"".join(_LETTERS.get(letter, letter.encode()) for letter in name)
        elif "ByteFallback" in parts and _BYTE_NAME.fullmatch(name):
            tokens[token] = bytes.fromhex(name[3:5])
        else:
            tokens[token] = name.replace(_space_sign(parts), " ").encode()
    return tokens


def _space_sign(parts: Mapping[str, Any]) -> str:
    if "Metaspace" in parts:
        return str(parts["Metaspace"]["replacement"])
    return str(parts["Replace"]["pattern"].get("String", SPACE_SIGN)) if "Replace" in parts else SPACE_SIGN


def _byte_letters() -> dict[str, bytes]:
    """GPT-2's letter of each byte: printable ones stand for themselves, the others for the next free letters."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): bytes([byte]) for byte in printable}
    return letters | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}


_LETTERS = _byte_letters()
_VOCABULARIES: "weakref.WeakKeyDictionary[object, Vocabulary]" = weakref.WeakKeyDictionary()
_READING = threading.Lock()


def vocabulary_of(encoder: Encoder) -> Vocabulary:
    """The vocabulary of a tokenizer, read once for as long as the tokenizer lives.

    Args:
        encoder: Its tokenizer.
    """
    known = _VOCABULARIES.get(encoder.tokenizer)
    if known is not None:
        # The event loop asks too, and must not wait until another one is read.
        return known
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
