"""A row as a model sees it: its tokens with what is trained, or the reason why it cannot be trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kivnun.data.chat import Segment, render_conversation, render_untrained, row_texts
from kivnun.data.conversation import Conversation
from kivnun.data.encode import Encoder
from kivnun.data.labels import read_label
from kivnun.data.prepare import PreparedRow
from kivnun.data.template import PromptTemplate, render
from kivnun.data.token_pieces import CUT_SIGN, TokenPiece, count_tokens, cut_pieces
from kivnun.data.tokens import TokenizedRow
from kivnun.errors import UserError
from kivnun.models.types import Tokenizer

DOCUMENT = "text"
MAX_SHOWN_TOKENS = 20_000
# A document may be a whole book; nobody reads more of it here.
MAX_DOCUMENT_TOKENS = 2_000
MAX_DOCUMENT_CHARACTERS = 20 * MAX_DOCUMENT_TOKENS


@dataclass(frozen=True)
class ShownRow:
    """A row as it is shown.

    Attributes:
        where: Its place, `file:line`.
        number: Which one of its split it is, from 1.
        format: What it was read as; "" for a row of a recipe.
        pieces: The whole row; of a preference row, the one with the preferred answer.
        rejected: The other answer of a preference row.
        notes: What to know about it, one line each.
        problem: Why it cannot be trained on, where it cannot be shown either.
    """

    where: str
    number: int
    format: str = ""
    pieces: tuple[TokenPiece, ...] = ()
    rejected: tuple[TokenPiece, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def characters_per_token(self) -> float:
        """Of the row's words; special tokens are left out. 0 where there are none."""
        words = [piece for piece in (*self.pieces, *self.rejected) if not piece.is_special]
        tokens = sum(len(piece.token_ids) for piece in words)
        return sum(len(piece.text) for piece in words) / tokens if tokens else 0.0


def show_prepared(row: PreparedRow, number: int, tokenizer: Tokenizer) -> ShownRow:
    """A row of a recipe, as a run trains on it."""
    pieces = cut_pieces(row.tokens, tokenizer)
    notes = list(_say_weights(row.conversation))
    if row.label is not None and row.conversation.desirable is not None:
        pieces = pieces if row.label else _avoid(pieces)
        notes.append("label: " + ("desirable" if row.label else "undesirable, to be avoided"))
    rejected = [piece for other in row.others for piece in _avoid(cut_pieces(other, tokenizer)) if piece.rejected]
    notes += ["both answers are trained: towards the first one, away from the rejected one"] if rejected else []
    notes += _describe_whole(row, tokenizer) if True not in row.tokens.trained else []
    where = row.conversation.where
    return ShownRow(where, number, pieces=tuple(pieces), rejected=tuple(rejected), notes=tuple(notes))


def _describe_whole(row: PreparedRow, tokenizer: Tokenizer) -> list[str]:
    """What a head learns of a text: its class, or the texts that it is compared with."""
    if not row.others:
        return [f"the whole text is read; its label: {read_label(row.conversation)}"]
    is_unlike = row.label is not None and row.label > 0.5
    names = ("does not belong to it" if is_unlike else "belongs to it", "does not belong to it")
    texts = [str(tokenizer.decode(other.input_ids, skip_special_tokens=True)) for other in row.others]
    return [f"{name}: {text}" for name, text in zip(names, texts, strict=False)]


def _say_weights(conversation: Conversation) -> Iterator[str]:
    """Turns that count less than others."""
    for number, message in enumerate(conversation.messages, start=1):
        if message.trained and message.weight != 1:
            yield f"turn {number} ({message.role}) has weight {message.weight:g}: its tokens count that much"


def _avoid(pieces: Sequence[TokenPiece]) -> list[TokenPiece]:
    """Pieces of an answer that is not wanted."""
    return [replace(piece, trained=False, rejected=piece.trained) for piece in pieces]


def show_conversation(conversation: Conversation, number: int, format_name: str, shown_by: "Shower") -> ShownRow:
    """A row of any data, as it would be trained on; one that cannot be is shown with the reason."""
    row = ShownRow(conversation.where, number, format_name)
    try:
        segments, other = _write_row(_shorten(conversation, format_name), format_name, shown_by.encoder)
    except UserError as error:
        return replace(row, problem=error.problem.removeprefix(f"{conversation.where}: "))
    tokens = shown_by.encoder.encode(segments)
    pieces = shown_by.cut(tokens, is_document=format_name == DOCUMENT)
    if conversation.desirable is False:
        pieces = _avoid(pieces)
    rejected: list[TokenPiece] = []
    if other:
        pieces_of_other = shown_by.cut(shown_by.encoder.encode(other))
        rejected = [piece for piece in _avoid(pieces_of_other) if piece.rejected]
    notes = tuple(_describe_row(conversation, format_name, len(tokens.input_ids), shown_by))
    return replace(row, pieces=tuple(pieces), rejected=tuple(rejected), notes=notes)


@dataclass(frozen=True)
class Shower:
    """What rows are shown with.

    Attributes:
        encoder: The model's tokenizer.
        context: Tokens that the model reads at once; None where it is not known.
    """

    encoder: Encoder
    context: int | None

    def cut(self, tokens: TokenizedRow, *, is_document: bool = False) -> list[TokenPiece]:
        """The pieces of a row, with a mark on those beyond the context; a document goes on in its next window."""
        most = MAX_DOCUMENT_TOKENS if is_document else MAX_SHOWN_TOKENS
        pieces: list[TokenPiece] = []
        stop = 0
        for piece in cut_pieces(TokenizedRow(tokens.input_ids[:most], tokens.trained[:most]), self.encoder.tokenizer):
            stop += len(piece.token_ids)
            fits = is_document or self.context is None or stop <= self.context
            pieces.append(piece if fits else replace(piece, fits=False))
        return pieces


def _write_row(
    conversation: Conversation, format_name: str, encoder: Encoder
) -> tuple[Sequence[Segment], Sequence[Segment]]:
    """The segments of a row, and of a preference row with its other answer."""
    if format_name == DOCUMENT:
        return render(conversation, PromptTemplate("document"), end=encoder.end, render_chat=encoder.render_chat), ()
    if not any(message.trained for message in conversation.messages):
        return [Segment(render_untrained(conversation, encoder.render_chat), trained=False)], ()
    segments = render_conversation(conversation, encoder.render_chat)
    if conversation.rejected is None:
        return segments, ()
    messages = (*conversation.messages[:-1], replace(conversation.rejected, trained=True))
    return segments, render_conversation(replace(conversation, messages=messages), encoder.render_chat)


def _shorten(conversation: Conversation, format_name: str) -> Conversation:
    """A document without what nobody would read; other rows stay whole."""
    (first, *others) = conversation.messages
    if format_name != DOCUMENT or len(first.content) <= MAX_DOCUMENT_CHARACTERS:
        return conversation
    return replace(conversation, messages=(replace(first, content=first.content[:MAX_DOCUMENT_CHARACTERS]), *others))


def _describe_row(conversation: Conversation, format_name: str, num_tokens: int, shown_by: Shower) -> Iterator[str]:
    """What to know about a row."""
    is_document, context = format_name == DOCUMENT, shown_by.context
    is_shortened = is_document and len(conversation.answer) > MAX_DOCUMENT_CHARACTERS
    if context is not None and num_tokens > context:
        tokens = f"{'more than ' * is_shortened}{num_tokens:,} tokens, and the model reads {context:,} at once"
        yield f"{tokens}: {'cut into windows' if is_document else f'{CUT_SIGN} marks where the row would be cut'}"
    most = MAX_DOCUMENT_TOKENS if is_document else MAX_SHOWN_TOKENS
    if num_tokens > most:
        yield f"the first {most:,} tokens are shown"
    if conversation.desirable is not None:
        yield f"label: {'desirable' if conversation.desirable else 'undesirable, to be avoided'}"
    if not any(message.trained for message in conversation.messages):
        yield "no turn is trained" + ("" if conversation.messages[-1].role == "assistant" else ": a prompt only")
    yield from _say_weights(conversation)
    end = shown_by.encoder.end
    for name, text in row_texts(conversation):
        # Running text may hold turns that are written out, but not the sign that ends a document.
        special = [sign for sign in shown_by.encoder.special_texts(text) if not is_document or sign == end]
        if special:
            yield f"{name} holds the special token {', '.join(special)}: training refuses the row"


def describe_count(row: ShownRow) -> str:
    """The line under a row: `12 of 41 tokens are trained, 3.2 characters a token`."""
    trained, total = count_tokens(row.pieces)
    rejected = count_tokens(row.rejected)[1]
    more = f", {rejected} of the rejected answer" if rejected else ""
    return f"{trained} of {total} tokens are trained{more}, {row.characters_per_token:.1f} characters a token"
