"""What can be wrong with data: every check's code, how bad it is, and what to do about it.

Codes are stable: reports, SARIF files and scripts name them. `docs/reference/checks.md` has a section for each, and
`tests/data/checks` has a broken file for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found.

    Attributes:
        code: One of `CHECKS`.
        file: The file, as the user named it.
        line: The line, from 1; 0 for the file as a whole.
        message: What was found, with its value, on one line and without a full stop. Characters that would hide, break
            the line or give orders to a terminal are spelt out, wherever in the data they come from.
    """

    code: str
    file: str
    line: int
    message: str

    def __post_init__(self) -> None:
        if not self.message.isprintable():
            object.__setattr__(self, "message", _spell_out(self.message))

    @property
    def where(self) -> str:
        """`file:line`, or the file alone."""
        return f"{self.file}:{self.line}" if self.line else self.file


def _spell_out(message: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in message
    )


class RowError(Exception):
    """A row that cannot be read or written in a format, with everything that is wrong with it."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(f"{finding.where}: {finding.message}" for finding in findings))
        self.findings = tuple(findings)


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        severity: `error` refuses the data, `warning` refuses it with `--strict`, `note` only informs.
        group: Heading under which it is reported.
        summary: What is wrong, in one sentence.
        hint: One action that mends it.
    """

    severity: Severity
    group: str
    summary: str
    hint: str


def _error(group: str, summary: str, hint: str) -> Check:
    return Check("error", group, summary, hint)


def _warning(group: str, summary: str, hint: str) -> Check:
    return Check("warning", group, summary, hint)


def _note(group: str, summary: str, hint: str) -> Check:
    return Check("note", group, summary, hint)


_FILES = {
    "file-empty": _error("files", "A file holds no rows.", "check that the file is the one you meant"),
    "file-unreadable": _error(
        "files", "A file cannot be opened or unpacked, or ends too early.", "copy or download it again"
    ),
    "file-skipped": _note(
        "files", "A file of the folder is no data file and was not read.", "nothing, if that is right"
    ),
    "encoding-bom": _note(
        "files",
        "A file begins with a byte-order mark, which is skipped.",
        "nothing; some services want it, some refuse it",
    ),
    "encoding-utf16": _error("files", "A file is UTF-16 or UTF-32.", "run `kivnun repair fix-encoding`"),
    "encoding-not-utf8": _error(
        "files", "A file holds bytes that are not UTF-8.", "run `kivnun repair fix-encoding`; it names what it guesses"
    ),
    "json-syntax": _error(
        "syntax",
        "A line is not JSON.",
        "mend the line, each is one JSON object; `kivnun repair close-brackets` writes what is missing at ends",
    ),
    "json-not-object": _error("syntax", "A row is not a JSON object.", 'write each row as {"...": ...}'),
    "json-duplicate-key": _error(
        "syntax", "An object has the same key twice; all but the last value would be lost.", "keep one of them"
    ),
    "json-surrogate": _error(
        "syntax",
        "A string holds half of a surrogate pair, which is no character.",
        "write the whole pair, or the character",
    ),
    "line-blank": _note("syntax", "A file has empty lines between its rows.", "nothing; they are skipped"),
    "csv-cells": _error(
        "syntax", "A row has more or fewer cells than the header.", "quote cells that hold the separator"
    ),
    "csv-quote": _error(
        "syntax", "A quote is opened and never closed, or stands inside a cell.", "double quotes in cells"
    ),
    "csv-header": _error("syntax", "A column name stands twice, or no column has one.", "name every column once"),
    "csv-unnamed-column": _warning(
        "syntax", "A column has no name and is called by its number: column_1, ...", "name it in the first line"
    ),
    "csv-no-header": _note(
        "syntax",
        "The first line looks like a row, so that the columns are named column_1, column_2, ...",
        "add a first line with names, or say --header / --no-header",
    ),
    "columns-unequal": _error(
        "syntax", "Files that go together line by line differ in length.", "line n of every file must belong to row n"
    ),
}
_SCHEMA = {
    "format-detected": _note("format", "What the rows were taken for, and why.", "say --from if that is wrong"),
    "format-unknown": _error(
        "format", "Rows look like no known format.", "name the columns with --prompt and --answer, or convert the file"
    ),
    "format-mixed": _error("format", "A row has another shape than the rows before it.", "keep one format in a file"),
    "format-loss": _error("format", "A format cannot hold what a row has.", "choose another format, or --drop-extra"),
    "field-missing": _error("schema", "A row lacks a field.", "add it"),
    "field-null": _error("schema", "A field is null.", "fill it, or take the row out"),
    "field-empty": _error("schema", "A field is empty.", "fill it, or take the row out"),
    "field-type": _error("schema", "A field has the wrong type.", "write it as the format wants it"),
    "field-unknown": _error(
        "schema", "A message has keys that its format does not know.", "take them out, or check spelling"
    ),
    "field-none-text": _warning(
        "schema", 'A field holds the text "None", "null" or "nan" in place of a value.', "fill it, or take the row out"
    ),
    "messages-empty": _error("schema", "A row has no messages.", "add turns, or take the row out"),
    "message-type": _error("schema", "A message is not an object.", 'write {"role": ..., "content": ...}'),
    "role-unknown": _error(
        "schema", "A message has an unknown role.", "use system, developer, user, assistant or tool"
    ),
    "content-missing": _error("schema", "A message has neither content nor calls.", "write its content"),
    "content-type": _error("schema", "A message's content is no text.", "write text, or a list of parts"),
    "weight-invalid": _error(
        "schema",
        "A weight is not from 0 to 1, or not an assistant's; hosted services take 0 and 1 alone.",
        "write 0, 1 or what lies between at assistant turns",
    ),
    "label-invalid": _error("schema", "A KTO label is not true or false.", "write true or false"),
    "image-on-answer": _error("schema", "An assistant's message holds a picture.", "pictures belong to user messages"),
}
_TURNS = {
    "order-no-user": _warning(
        "turns", "A row has no user turn.", "add what the assistant answers, or take the row out"
    ),
    "order-no-assistant": _error("turns", "A row has no assistant turn: nothing to learn.", "add the answer"),
    "order-last": _error(
        "turns", "The last turn is not the assistant's.", "end with the answer, or drop the last turn"
    ),
    "order-first": _warning(
        "turns", "An assistant's turn comes before any user turn.", "give it weight 0, or leave it out"
    ),
    "order-system": _warning("turns", "A system turn is not the first one, or stands twice.", "keep one, at the start"),
    "order-repeated": _warning("turns", "Two turns of one role follow each other.", "join them"),
    "system-mixed": _warning(
        "turns", "Some rows have a system turn and some have none.", "give every row the one that you will serve with"
    ),
    "tools-invalid": _error("tools", "A declared tool is not well formed.", "write it as OpenAI does"),
    "tool-arguments": _error("tools", "A call's arguments are not JSON text of an object.", "write JSON text"),
    "tool-arguments-schema": _warning("tools", "A call's arguments do not fit the tool's parameters.", "mend the call"),
    "tool-unknown": _error("tools", "A function is called that the row does not declare.", "declare it in tools"),
    "tool-result-missing": _warning("tools", "A call is not answered before the next turn.", "add the tool's turn"),
    "tool-result-orphan": _error("tools", "A tool's turn answers no call.", "mend tool_call_id"),
    "tool-call-id": _error("tools", "Two calls have the same id.", "give every call its own id"),
}
_LEARNING = {
    "nothing-trained": _error("learning", "No turn of a row is trained.", "give an assistant turn weight 1"),
    "answer-empty": _error("learning", "An answer is empty or white space only.", "fill it, or take the row out"),
    "answer-copies-prompt": _warning("learning", "An answer only repeats its prompt.", "write the real answer"),
    "answer-whitespace": _warning("learning", "An answer begins or ends with white space.", "strip it"),
    "answer-disclaimer": _warning(
        "learning", "An answer speaks as another assistant (as an AI language model ...).", "rewrite or drop it"
    ),
    "placeholder-text": _warning("learning", "A placeholder such as {{name}} was never filled in.", "fill it in"),
    "markup-text": _warning(
        "learning", "A text holds another model's turn signs, such as <|im_start|> or [INST].", "take them out"
    ),
    "html-text": _warning("learning", "A text holds HTML entities or tags, such as &amp;.", "decode or strip them"),
    "preference-equal": _error("learning", "Preferred and rejected answer are the same.", "take the row out"),
    "preference-length": _warning(
        "learning", "The preferred answer is nearly always the longer one: length would be learnt.", "balance the pairs"
    ),
    "kto-one-sided": _error("learning", "All KTO labels are the same.", "add answers of the other kind"),
    "reinforcement-reference": _warning(
        "learning", "A reinforcement row has no key for a grader to compare with.", "add one, such as `reference`"
    ),
}
_TEXT = {
    "text-nul": _error("text", "A text holds a NUL character.", "take it out"),
    "text-control": _warning("text", "A text holds control characters.", "take them out"),
    "text-invisible": _warning(
        "text", "A text holds invisible characters: zero width, or direction overrides.", "take them out"
    ),
    "text-replacement": _warning(
        "text", "A text holds U+FFFD: characters were lost when it was decoded.", "go back to the source"
    ),
    "text-mojibake": _warning(
        "text", "A text looks like UTF-8 that was read as another encoding.", "go back to the source"
    ),
    "text-not-normal": _warning("text", "A text is not in Unicode's composed form (NFC).", "normalise it"),
    "text-confusable": _warning("text", "A word mixes letters of two look-alike scripts.", "write it in one script"),
    "hebrew-visual-order": _warning(
        "text", "Hebrew stands in visual order: words begin with final letters.", "store it in reading order"
    ),
    "hebrew-presentation-forms": _warning(
        "text", "Hebrew is written with presentation forms (U+FB1D to U+FB4F).", "normalise it to plain letters"
    ),
}
_PERSONAL = {
    "personal-email": _warning(
        "personal data", "A text holds an e-mail address.", "run `kivnun repair mask-personal-data`"
    ),
    "personal-phone": _warning(
        "personal data", "A text holds a phone number.", "run `kivnun repair mask-personal-data`"
    ),
    "personal-card": _warning(
        "personal data",
        "A text holds a payment card number (Luhn digit fits).",
        "run `kivnun repair mask-personal-data`",
    ),
    "personal-israeli-id": _warning(
        "personal data",
        "A text holds an Israeli ID number (check digit fits).",
        "run `kivnun repair mask-personal-data`",
    ),
    "personal-secret": _warning("personal data", "A text holds a key or token of a service.", "revoke it and mask it"),
}
_ROWS = {
    "duplicate-exact": _warning("rows", "A row stands more than once in a split.", "run `kivnun repair deduplicate`"),
    "duplicate-near": _warning(
        "rows", "Rows of a split are nearly the same.", "run `kivnun repair deduplicate --near`"
    ),
    "duplicate-not-searched": _note("rows", "Near duplicates were not looked for in so many rows.", "say --near on"),
    "conflicting-answers": _warning("rows", "The same input has different answers.", "decide for one of them"),
    "leak-exact": _warning("rows", "Inputs of the test rows stand in the training rows.", "take them out of one"),
    "leak-large": _error(
        "rows", "More than one test row in twenty stands in train: scores on it mean little.", "take them out of train"
    ),
    "leak-validation": _warning(
        "rows", "Inputs of the validation rows stand in the training rows.", "take them out of one"
    ),
    "leak-near": _warning("rows", "Test rows are nearly the same as training rows.", "take them out of one"),
    "label-imbalance": _warning("labels", "Labels are very unequal in number.", "run `kivnun repair balance`"),
    "label-rare": _warning("labels", "A label has very few rows.", "add rows, or join labels"),
    "label-single": _error("labels", "All rows have the same answer.", "add rows with other answers"),
    "label-not-in-train": _error("labels", "A label of the test rows never stands in train.", "add rows, or drop it"),
    "label-variants": _warning("labels", "Labels differ only in case or white space.", "write each in one way"),
    "language-mix": _note("languages", "Which scripts the rows are written in.", "nothing, if that is right"),
    "language-answer": _warning(
        "languages", "Some answers are in another script than their prompts.", "check these rows, unless you translate"
    ),
    "rows-few": _warning("size", "Fewer than 200 rows to train on.", "100 to 200 good rows are the least that helps"),
    "rows-below-minimum": _warning("size", "Fewer than 10 rows: hosted services refuse such files.", "add rows"),
    "length-outlier": _warning("size", "A row is far longer than the others.", "check that it is one row"),
    "split-missing": _note("size", "No test rows: nothing to measure on.", "run `kivnun split`, or let a recipe cut"),
}
_HOSTED = {
    "hosted-format": _error(
        "hosted", "A hosted service does not take this kind of file or rows.", "run `kivnun convert`, to JSONL"
    ),
    "hosted-rows": _error("hosted", "A hosted service refuses a file with so few or many rows.", "add or remove rows"),
    "hosted-size": _error("hosted", "A file is larger than a hosted service takes.", "cut it, or use its upload parts"),
    "hosted-length": _error("hosted", "A row is longer than a hosted service reads.", "shorten the row"),
    "hosted-images": _error(
        "hosted", "A row breaks a hosted service's rules for pictures.", "at most 10 pictures a row"
    ),
    "hosted-field": _error("hosted", "A hosted service refuses keys that it does not know.", "take the keys out"),
}
_TOKENS = {
    "answer-cut": _error(
        "tokens", "A row is longer than the limit: its answer would be cut.", "shorten it or raise the limit"
    ),
    "prompt-too-long": _error("tokens", "A prompt alone fills the limit.", "shorten it or raise the limit"),
    "tokens-per-character": _warning(
        "tokens",
        "The tokenizer needs more than 0.45 tokens for a character: slow, dear, hard to learn.",
        "choose a model whose tokenizer knows the language",
    ),
    "tokens-unknown": _error("tokens", "The tokenizer cannot spell some characters.", "choose another model"),
    "special-token-text": _error("tokens", "A text holds a control token of the model.", "put a space into it"),
    "template-missing": _error("tokens", "The model has no chat template.", "choose a chat model, or use templates"),
    "template-refuses": _error("tokens", "The model's chat template refuses a row.", "order the turns as it expects"),
    "template-differs": _warning(
        "tokens", "The rows' own markup or template differs from the model's.", "train with the model's own template"
    ),
}

CHECKS: dict[str, Check] = {
    **_FILES,
    **_SCHEMA,
    **_TURNS,
    **_LEARNING,
    **_TEXT,
    **_PERSONAL,
    **_ROWS,
    **_HOSTED,
    **_TOKENS,
}
