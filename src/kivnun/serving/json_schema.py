"""Answers that must have a form: a JSON schema, or any grammar, kept by masking the tokens that would break it.

The grammar works on the bytes of the model's own tokens (llguidance), so that a mask takes microseconds and an answer
that ends is always valid. Between the parts of JSON at most one line break or space may stand, since a model that may
write white space without end sometimes does.
"""

import json
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.serving.answers import Constraint
from kivnun.serving.text import Vocabulary

WHITE_SPACE = r"[ ]|\n[ ]{0,16}"
ANY_OBJECT: Mapping[str, object] = {"type": "object"}
MAX_GRAMMAR_BYTES = 256 * 2**10
KEPT_GRAMMARS = 128
# The parser's state and the whole grammar would stand in what a client is told.
_LIMITS = LLParserLimits(verbose_errors=False)


@dataclass(frozen=True)
class Grammar:
    """A form that answers must have, ready to be followed by many of them.

    Attributes:
        matcher: Stands at the beginning; each answer follows a copy.
        name: Shown in errors.
    """

    matcher: LLMatcher
    name: str

    def start(self, stop_ids: frozenset[int], vocabulary_size: int) -> Constraint:
        """The constraint of one answer.

        Args:
            stop_ids: Tokens that end the answer, where the form allows it to end.
            vocabulary_size: How many logits the model has, which may be more than the tokenizer has tokens.
        """
        return _Following(self.matcher.deep_copy(), self.name, stop_ids, vocabulary_size)


@dataclass
class _Following:
    """A grammar on its way through one answer; a `Constraint`."""

    matcher: LLMatcher
    name: str
    stop_ids: frozenset[int]
    vocabulary_size: int
    _ended: bool = field(default=False, init=False)

    def allowed(self) -> NDArray[np.bool_] | None:
        """The tokens that may come next, shape (V,)."""
        allowed_V = np.zeros(self.vocabulary_size, dtype=np.bool_)
        stops = [token for token in self.stop_ids if token < self.vocabulary_size]
        if self._ended or (self.matcher.is_stopped() and not self.matcher.is_error()):
            allowed_V[stops] = True
            return allowed_V
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        self._require_sound()
        num_known = min(len(bits), self.vocabulary_size)
        allowed_V[:num_known] = bits[:num_known]
        allowed_V[stops] = self.matcher.is_accepting()
        if not allowed_V.any():
            raise _unsupported(self.name, "no text has this form")
        return allowed_V

    def take(self, token_id: int) -> None:
        """Go on after a token that was allowed."""
        if token_id in self.stop_ids:
            self._ended = True
            return
        self.matcher.consume_token(token_id)
        self._require_sound()

    def _require_sound(self) -> None:
        if self.matcher.is_error():
            raise _unsupported(self.name, self.matcher.get_error())


@dataclass
class Grammars:
    """The grammars of one tokenizer that were used last. Safe for many threads.

    Attributes:
        tokenizer: As grammars read it.
    """

    tokenizer: LLTokenizer
    _kept: OrderedDict[str, Grammar] = field(default_factory=OrderedDict[str, Grammar], init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def compile(self, source: str, name: str, *, lenient: bool = False) -> Grammar:
        """A grammar from its source, made once; it may take a second, so that no event loop should wait for it.

        Args:
            source: As `json_source` or `lark_source` write it.
            name: What the client calls it; shown in errors.
            lenient: Whether it may hold schemas whose unsupported keywords are left out.

        Raises:
            UserError: schema-unsupported.
        """
        with self._lock:
            if source in self._kept:
                self._kept.move_to_end(source)
                return Grammar(self._kept[source].matcher, name)
        if len(source) > MAX_GRAMMAR_BYTES:
            raise _unsupported(name, f"it is longer than {MAX_GRAMMAR_BYTES} bytes")
        wrong, notes = LLMatcher.validate_grammar_with_warnings(source, self.tokenizer, limits=_LIMITS)
        if wrong:
            raise _unsupported(name, notes[0])
        # A warning tells of a part that would not be kept to: the caller would take the answer for valid.
        if notes and not lenient:
            raise _unsupported(name, notes[0])
        matcher = LLMatcher(self.tokenizer, source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _unsupported(name, matcher.get_error())
        grammar = Grammar(matcher, name)
        with self._lock:
            self._kept[source] = grammar
            while len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
        return grammar


_GRAMMARS: "weakref.WeakKeyDictionary[Vocabulary, Grammars]" = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


def grammars_of(vocabulary: Vocabulary) -> Grammars:
    """The grammars of a tokenizer, kept as long as it is.

    Args:
        vocabulary: Of the tokenizer.
    """
    with _MAKING:
        return _GRAMMARS.setdefault(vocabulary, Grammars(vocabulary.grammar_tokenizer))


def json_source(schema: Mapping[str, object]) -> str:
    """The grammar of JSON texts that a schema allows.

    Args:
        schema: JSON Schema; `$ref` within itself alone.

    Raises:
        UserError: schema-unsupported, for what is no JSON.
    """
    text = schema_text(schema)
    try:
        return LLMatcher.grammar_from_json_schema(text)
    except ValueError as error:
        raise _unsupported("an answer", str(error)) from error


def lark_source(text: str) -> str:
    """The grammar of a text in llguidance's Lark dialect, for calls of tools.

    Args:
        text: With a rule `start`.
    """
    return LLMatcher.grammar_from_lark(text)


def schema_text(schema: Mapping[str, object], *, lenient: bool = False) -> str:
    """A schema as grammars hold it: with bounded white space, whatever the client wrote about that.

    Args:
        schema: JSON Schema.
        lenient: Whether keywords that are not supported are left out instead of refused.

    Raises:
        UserError: schema-unsupported, for one that is nested too deeply.
    """
    options = {"whitespace_pattern": WHITE_SPACE, "lenient": lenient}
    try:
        return json.dumps({**schema, "x-guidance": options}, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise _unsupported("an answer", "it is nested too deeply") from error


def _unsupported(name: str, problem: str) -> UserError:
    return UserError(
        "schema-unsupported",
        f"Invalid schema for {name}: {' '.join(problem.split())[:500]}",
        hint="write it with types, properties, required, items, enum, const, anyOf, $ref and their bounds",
    )
