"""Continued prompts as the API writes them: text_completion, whole or in pieces, with tokens and where they stand."""

from dataclasses import dataclass, field
from typing import Any

from kivnun.server.chat.answering import Delta, Finish, FinishReason
from kivnun.server.chat.objects import floor_logprob
from kivnun.serving.answers import Token
from kivnun.serving.text import TextToken, Vocabulary


@dataclass(frozen=True)
class TextHead:
    """What all parts of one answer have in common.

    Attributes:
        id: Of the answer.
        created: When it was asked for, in seconds since 1970.
        model: As the client called it.
        fingerprint: Of the very weights.
        vocabulary: Of the model.
        num_top: How many of the likeliest tokens to tell; None for no log-probabilities.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    vocabulary: Vocabulary
    num_top: int | None


@dataclass(frozen=True)
class Echoed:
    """What of a prompt goes back to the client.

    Attributes:
        text: The prompt; "" if it was not asked for.
        num_hidden: Tokens in front that the client did not send.
        wanted: Whether it was asked for.
    """

    text: str
    num_hidden: int
    wanted: bool


@dataclass(frozen=True)
class TextPiece:
    """A part of an answer, or all of it.

    Attributes:
        text: With the prompt, if that was asked for.
        tokens: With where they begin in the whole text.
        reason: Why the answer ended, in its last piece.
    """

    text: str
    tokens: tuple[TextToken, ...]
    reason: FinishReason | None


@dataclass
class TextParts:
    """One answer, as it comes.

    Attributes:
        echoed: Of its prompt.
        finish: Its end.
    """

    echoed: Echoed
    finish: Finish | None = field(default=None, init=False)
    _texts: list[str] = field(default_factory=list[str], init=False)
    _tokens: list[TextToken] = field(default_factory=list[TextToken], init=False)
    _prompt: list[Token] = field(default_factory=list[Token], init=False)
    _any_told: bool = field(default=False, init=False)
    _texts_told: int = field(default=0, init=False)
    _tokens_told: int = field(default=0, init=False)

    def take(self, told: Delta | Finish) -> None:
        """Keep what came.

        Args:
            told: Of this answer.
        """
        if isinstance(told, Finish):
            self.finish = told
            return
        if told.text:
            self._texts.append(told.text)
        for each in told.tokens:
            if each.token.of_prompt:
                self._prompt.append(each.token)
            else:
                self._tokens.append(TextToken(each.token, len(self.echoed.text) + each.start))

    def whole(self) -> TextPiece:
        """All of it, after its end."""
        text = self.echoed.text + "".join(self._texts)
        return TextPiece(text, (*self._prompt_tokens(), *self._tokens), self._reason)

    def next_piece(self) -> TextPiece | None:
        """What was not told yet; None if there is nothing, and while the prompt is still coming."""
        if not self._texts and not self._tokens and self.finish is None:
            return None
        text, tokens = "".join(self._texts[self._texts_told :]), self._tokens[self._tokens_told :]
        if not self._any_told:
            text, tokens = self.echoed.text + text, [*self._prompt_tokens(), *tokens]
        self._any_told, self._texts_told, self._tokens_told = True, len(self._texts), len(self._tokens)
        return TextPiece(text, tuple(tokens), self._reason)

    @property
    def mean_logprob(self) -> float:
        """Of the answer's tokens; an answer without one is certain."""
        logprobs = [floor_logprob(each.token.logprob) for each in self._tokens]
        return sum(logprobs) / len(logprobs) if logprobs else 0.0

    @property
    def _reason(self) -> FinishReason | None:
        return None if self.finish is None else self.finish.reason

    def _prompt_tokens(self) -> list[TextToken]:
        """The prompt's tokens that the client sent; where they begin is found with their texts, when they are told."""
        return [TextToken(token, -1) for token in self._prompt[self.echoed.num_hidden :]]


def head_object(head: TextHead) -> dict[str, Any]:
    """The fields that all parts have.

    Args:
        head: Of the answer.
    """
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
    }


def choice_object(head: TextHead, index: int, piece: TextPiece) -> dict[str, Any]:
    """An answer, or a piece of one.

    Args:
        head: Of the answer.
        index: Of the choice.
        piece: What it says.
    """
    return {
        "index": index,
        "text": piece.text,
        "logprobs": _logprobs(head, piece.tokens),
        "finish_reason": piece.reason,
    }


def _logprobs(head: TextHead, tokens: tuple[TextToken, ...]) -> dict[str, Any] | None:
    """Tokens with theirs, in the older form: lists side by side, and texts that may stand for several tokens."""
    if head.num_top is None:
        return None
    starts = _starts(head.vocabulary, tokens)
    return {
        "tokens": [_name(head.vocabulary, each.token.token_id) for each in tokens],
        # Nothing comes before the first token of a prompt that could make it likely.
        "token_logprobs": [
            None if each.token.of_prompt and each.token.logprob is None else floor_logprob(each.token.logprob)
            for each in tokens
        ],
        "top_logprobs": [_top(head, each.token) for each in tokens] if head.num_top else None,
        "text_offset": starts,
    }


def _starts(vocabulary: Vocabulary, tokens: tuple[TextToken, ...]) -> list[int]:
    prompt = [each.token.token_id for each in tokens if each.token.of_prompt]
    of_prompt = iter(vocabulary.read_prompt(prompt)[1])
    return [next(of_prompt) if each.token.of_prompt else each.start for each in tokens]


def _top(head: TextHead, token: Token) -> dict[str, float] | None:
    if token.of_prompt and token.logprob is None:
        return None
    likeliest = {_name(head.vocabulary, other): floor_logprob(logprob) for other, logprob in token.top}
    # The chosen token is always among them, as the API has it.
    return {**likeliest, _name(head.vocabulary, token.token_id): floor_logprob(token.logprob)}


def _name(vocabulary: Vocabulary, token_id: int) -> str:
    """A token's text; one that is no text alone by its bytes, as the hosted API writes it."""
    read = vocabulary.bytes_of(token_id)
    try:
        return read.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in read)
