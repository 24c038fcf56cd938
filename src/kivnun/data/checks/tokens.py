"""What a model's tokenizer and chat template make of rows: too long, dear, unspeakable, or not what they seem.

This is the one group of checks that needs a model's tokenizer; it runs where a model is named. Rows come in batches,
which the tokenizer encodes with all cores, and what is kept of them does not grow with their number.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from jinja2 import TemplateError

from kivnun.data.chat import Segment, render_conversation, render_untrained, row_texts
from kivnun.data.checks.scripts import main_script
from kivnun.data.checks.token_statistics import TokenStatistics
from kivnun.data.conversation import Conversation, Message
from kivnun.data.encode import Encoder
from kivnun.data.findings import Finding
from kivnun.data.template import PromptTemplate, render
from kivnun.errors import UserError

MAX_TOKENS_PER_CHARACTER = 0.45
# A character of these scripts is a syllable or a word, and no tokenizer gives less than half a token to it.
DENSE_SCRIPTS = {"Han", "Hiragana", "Katakana", "Hangul", "Bopomofo"}
MAX_TOKENS_PER_DENSE_CHARACTER = 1.2
# Fewer characters say nothing about a language.
LEAST_CHARACTERS = 200
MEASURED_TEXTS, MEASURED_CHARACTERS = 128, 2000
TURN_SIGNS = ("<|im_start|>", "[INST]", "<start_of_turn>", "<|start_header_id|>", "<|user|>", "<|assistant|>")
TURN_HEADINGS = (
    "### Instruction:",
    "### Response:",
    "### Human:",
    "### Assistant:",
    "\n\nHuman:",
    "\n\nAssistant:",
    "\nUSER:",
    "\nASSISTANT:",
)


@dataclass(frozen=True)
class TokenLimits:
    """What rows are measured against.

    Attributes:
        max_seq_len: Tokens that a row may have.
        template: How rows are written.
    """

    max_seq_len: int
    template: PromptTemplate = field(default_factory=lambda: PromptTemplate("chat"))

    def template_of(self, conversation: Conversation) -> PromptTemplate:
        """How a row is written: an answer to nothing is running text, whatever stands around it in the data."""
        is_document = [message.role for message in conversation.messages] == ["assistant"]
        return PromptTemplate("document") if is_document else self.template


@dataclass(frozen=True)
class _WrittenRow:
    """A row as the model reads it; `is_rejected` where it ends with the answer that is not wanted."""

    conversation: Conversation
    line: int
    segments: Sequence[Segment]
    kind: str
    is_rejected: bool

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


def check_tokens(
    conversations: Sequence[Conversation], lines: Sequence[int], file: str, encoder: Encoder, limits: TokenLimits
) -> tuple[list[Finding], TokenStatistics]:
    """Check some rows of a file; some hundred at a time are encoded fastest.

    Args:
        conversations: The rows.
        lines: The line of each.
        file: The file, as findings name it.
        encoder: The model's tokenizer.
        limits: What rows are measured against.

    Returns:
        What was found, by line, and the figures of these rows.
    """
    statistics = TokenStatistics()
    findings: list[Finding] = []
    rows: list[_WrittenRow] = []
    for conversation, line in zip(conversations, lines, strict=True):
        try:
            rows += _write_rows(conversation, line, encoder, limits)
        except UserError as error:
            statistics.refused_rows += 1
            words = error.problem.removeprefix(f"{conversation.where}: ")
            findings.append(Finding("template-refuses", file, line, words))
    counted = encoder.count_batch([row.segments for row in rows])
    statistics.rows.add([sum(counts) for counts in counted])
    for row, counts in zip(rows, counted, strict=True):
        findings += [Finding(code, file, row.line, words) for code, words in _judge_length(row, counts, limits)]
        _count_row(row, counts, statistics, limits)
        findings += [Finding("template-differs", file, row.line, words) for words in _find_differences(row)]
    findings += _find_words(conversations, lines, file, encoder, limits)
    _measure_scripts(conversations, encoder, statistics)
    findings.sort(key=lambda finding: finding.line)
    return findings, statistics


def judge_tokens(statistics: TokenStatistics, name: str, encoder: Encoder) -> Iterator[Finding]:
    """What only all rows together show, for the data set of a name."""
    problem = _find_template_fault(encoder)
    if problem:
        yield Finding("template-missing", name, 0, problem)
    elif statistics.system_rows and _moves_system(encoder):
        rows = f"{statistics.system_rows:,} row(s) have a system turn"
        yield Finding("template-differs", name, 0, f"{rows}, which the model's chat template writes into the user's")
    for script, ratio in statistics.tokens_per_character.items():
        characters = statistics.script_characters[script]
        limit = MAX_TOKENS_PER_DENSE_CHARACTER if script in DENSE_SCRIPTS else MAX_TOKENS_PER_CHARACTER
        if characters >= LEAST_CHARACTERS and ratio > limit:
            words = f"{script or 'text without letters'}: {ratio:.2f} tokens per character over {characters:,} measured"
            yield Finding("tokens-per-character", name, 0, f"{words} (more than {limit})")


def _write_rows(conversation: Conversation, line: int, encoder: Encoder, limits: TokenLimits) -> Iterator[_WrittenRow]:
    """A row as the model reads it, and a row of preferences with its other answer as well."""
    template = limits.template_of(conversation)
    if template.kind == "chat" and not any(message.trained for message in conversation.messages):
        text = render_untrained(conversation, encoder.render_chat)
        yield _WrittenRow(conversation, line, [Segment(text, trained=False)], template.kind, is_rejected=False)
        return
    segments = render(conversation, template, end=encoder.end, render_chat=encoder.render_chat)
    yield _WrittenRow(conversation, line, segments, template.kind, is_rejected=False)
    if conversation.rejected is not None:
        other = (*conversation.messages[:-1], replace(conversation.rejected, trained=True))
        rejected = render_conversation(replace(conversation, messages=other), encoder.render_chat)
        yield _WrittenRow(conversation, line, rejected, template.kind, is_rejected=True)


def _judge_length(row: _WrittenRow, counts: Sequence[int], limits: TokenLimits) -> Iterator[tuple[str, str]]:
    """Code and words for a row that is too long or holds nothing to learn."""
    places = [place for place, segment in enumerate(row.segments) if segment.trained]
    if places and not _count_trained(row, counts):
        yield (
            "nothing-trained",
            "no token of the row is trained: the model's chat template writes nothing of the answer",
        )
    total, limit = sum(counts), limits.max_seq_len
    if total <= limit or row.kind == "document":
        return
    what = "the rejected answer" if row.is_rejected else "the answer"
    prompt = sum(counts[: places[-1]]) if places else total
    if prompt >= limit:
        yield "prompt-too-long", f"the prompt has {prompt:,} tokens and {limit:,} fit: no room for {what}"
    else:
        yield "answer-cut", f"{total:,} tokens and {limit:,} fit: {what} would lose its end"


def _count_trained(row: _WrittenRow, counts: Sequence[int]) -> int:
    """Trained tokens; the first token of a row is predicted by nothing, so that it does not count."""
    trained = [segment.trained for segment, count in zip(row.segments, counts, strict=True) for _ in range(count)]
    return sum(trained[1:])


def _count_row(row: _WrittenRow, counts: Sequence[int], statistics: TokenStatistics, limits: TokenLimits) -> None:
    trained = 0 if row.is_rejected else _count_trained(row, counts)
    statistics.trained_tokens += trained
    statistics.characters += sum(len(segment.text) for segment in row.segments)
    statistics.too_long_rows += sum(counts) > limits.max_seq_len and row.kind != "document"
    if not row.is_rejected:
        statistics.untrained_rows += not trained
        statistics.system_rows += any(message.role == "system" for message in row.conversation.messages)


def _find_differences(row: _WrittenRow) -> Iterator[str]:
    """What of a row the template leaves out without refusing the row."""
    if row.kind != "chat" or row.is_rejected:
        return
    messages = row.conversation.messages
    # What stands behind the last answer that is trained is not part of the text.
    is_trained = any(message.trained for message in messages)
    read = messages[: row.conversation.answer_turn + 1] if is_trained else messages
    text = row.text
    for number, message in enumerate(read, start=1):
        if message.role == "system" and message.content.strip() not in text:
            yield f"turn {number} (system) is left out by the model's chat template"
        if message.name and message.name not in text:
            yield f"the name {message.name!r} of turn {number} is left out by the model's chat template"


def _find_words(
    conversations: Sequence[Conversation], lines: Sequence[int], file: str, encoder: Encoder, limits: TokenLimits
) -> Iterator[Finding]:
    """What the rows' own words hold: control tokens, signs of another template, characters that no token spells."""
    texts = [list(row_texts(conversation)) for conversation in conversations]
    unknown = _find_unknown((text for row in texts for _, text in row), encoder)
    for conversation, row, line in zip(conversations, texts, lines, strict=True):
        kind = limits.template_of(conversation).kind
        is_document, signs = kind == "document", TURN_SIGNS + TURN_HEADINGS if kind == "chat" else TURN_SIGNS
        whole = "\n\n".join(text for _, text in row)
        # Running text may hold turns that are written out, but not the sign that ends a document.
        special = [token for token in encoder.special_texts(whole) if not is_document or token == encoder.end]
        if special:
            yield Finding("special-token-text", file, line, _describe_special(row, special))
        foreign = [sign.strip() for sign in signs if sign in whole and sign not in special]
        if foreign and not is_document:
            words = f"the row's own text marks turns with {', '.join(foreign)}; the model's chat template does not"
            yield Finding("template-differs", file, line, words)
        if unknown and not unknown.isdisjoint(whole):
            yield Finding("tokens-unknown", file, line, _describe_unknown(sorted(unknown.intersection(whole))))


def _describe_special(texts: Sequence[tuple[str, str]], special: Sequence[str]) -> str:
    places = [name for name, text in texts if any(token in text for token in special)]
    return f"{places[0] if places else 'the row'} holds the special token {', '.join(special)}"


def _describe_unknown(characters: Sequence[str]) -> str:
    shown = ", ".join(f"{character} (U+{ord(character):04X})" for character in characters[:3])
    more = f" and {len(characters) - 3} more" if len(characters) > 3 else ""
    return f"the tokenizer has no token for {shown}{more}"


def _find_unknown(texts: Iterable[str], encoder: Encoder) -> set[str]:
    """Characters that become the unknown token, or nothing at all."""
    characters = sorted(
        character for character in set(chain.from_iterable(texts)) if unicodedata.category(character)[0] not in "CZ"
    )
    tokenizer = encoder.tokenizer
    spelled = zip(characters, encoder.encode_texts(characters), strict=True)
    return {
        character
        for character, ids in spelled
        if tokenizer.unk_token_id in ids or not str(tokenizer.decode(ids)).strip()
    }


def _measure_scripts(conversations: Sequence[Conversation], encoder: Encoder, statistics: TokenStatistics) -> None:
    """Tokens and characters by script, of turns drawn evenly from these rows."""
    contents = [message.content for conversation in conversations for message in conversation.messages]
    step = max(1, len(contents) // MEASURED_TEXTS)
    drawn = [content[:MEASURED_CHARACTERS] for content in contents[::step] if content]
    for content, ids in zip(drawn, encoder.encode_texts(drawn), strict=True):
        script = main_script(content)
        statistics.script_tokens[script] += len(ids)
        statistics.script_characters[script] += len(content)


def _find_template_fault(encoder: Encoder) -> str:
    """Why the chat template cannot teach where an answer ends; "" where it can."""
    if encoder.tokenizer.chat_template is None:
        return "the model has no chat template"
    try:
        segments = render_conversation(_PROBE, encoder.render_chat)
    except UserError as error:
        return f"the model's chat template does not write a question and its answer: {error.problem}"
    row = encoder.encode(segments)
    trained = [token for token, is_trained in zip(row.input_ids, row.trained, strict=True) if is_trained]
    if trained and trained[-1] in encoder.tokenizer.added_tokens_decoder:
        return ""
    end = encoder.tokenizer.decode(trained[-1:])
    return f"the model has no chat template of its own: turns end with {end!r}, which is no token that it could learn"


def _moves_system(encoder: Encoder) -> bool:
    """Whether a system turn begins where the user's would, as templates do that know two roles only."""
    question, system = {"role": "user", "content": _QUESTION}, {"role": "system", "content": _SYSTEM}
    try:
        alone = encoder.render_chat([question], open_turn=True)
        together = encoder.render_chat([system, question], open_turn=True)
    except (TemplateError, TypeError, ValueError):
        return False
    return _SYSTEM in together and together.partition(_SYSTEM)[0].startswith(alone.partition(_QUESTION)[0])


_QUESTION, _SYSTEM = "Which way?", "Be brief."
_PROBE = Conversation(
    (Message("user", _QUESTION, trained=False), Message("assistant", "Left", trained=True)), {}, "a short chat"
)
