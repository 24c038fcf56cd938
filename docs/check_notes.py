"""What the page of checks says beyond `kivnun.data.findings.CHECKS`: why each matters, and a real example of it.

An example is made by checking a tiny broken file, in an empty folder, with the code that `kivnun check` runs; the words
of a finding are never copied by hand. Checks that no tiny file fails have no example.
"""

import contextlib
import gzip
import json
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from kivnun.data.checks.stream import CheckOptions, check_data
from kivnun.data.checks.token_pass import TokenPass
from kivnun.data.checks.tokens import TokenLimits
from kivnun.data.encode import Encoder
from kivnun.data.files.find import find_data
from kivnun.data.findings import Finding
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import resolve_model

# Longest line of an example that is shown whole.
SHOWN_CHARACTERS = 240
MAX_SEQ_LEN = 64
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


@dataclass(frozen=True)
class CheckNote:
    """What the page says of one check.

    Attributes:
        why: Why it matters, in one or two sentences.
        files: A broken data set by file name; none where no tiny one fails.
        options: What `check_data` is asked for.
        needs: The tokenizer that reads the rows: "" for none, "bundled", or one with another template.
    """

    why: str
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    needs: str = ""

    def find(self, code: str) -> tuple[Finding, str] | None:
        """The first finding of a code in the files, and the line that it names."""
        if not self.files:
            return None
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for name, content in self.files.items():
                Path(name).write_bytes(content)
            tokens = TokenPass(_encoder(self.needs), TokenLimits(MAX_SEQ_LEN)) if self.needs else None
            name = next(iter(self.files)) if len(self.files) == 1 else "."
            report = check_data(find_data(name), CheckOptions(**self.options, tokens=tokens, num_workers=1))
        examples = [example for found in report.found for example in found.examples if example.code == code]
        if not examples:
            raise RuntimeError(f"{code} is not found in its example, but {[found.code for found in report.found]}")
        return examples[0], self._read_line(examples[0])

    def _read_line(self, finding: Finding) -> str:
        """A line as it stands in the file, with what cannot be seen spelt out; "" for whole and unreadable files."""
        lines = self.files.get(finding.file, b"").decode("utf-8", errors="backslashreplace").splitlines()
        if not 0 < finding.line <= len(lines) or "\0" in lines[0]:
            return ""
        shown = (letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in lines[finding.line - 1])
        line = "".join(shown)
        return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + " …"


@cache
def _encoder(needs: str) -> Encoder:
    tokenizer = deepcopy(load_tokenizer(resolve_model("bundled").folder))
    if needs == "no template":
        tokenizer.chat_template = None
    elif needs == "no system":
        tokenizer.chat_template = NO_SYSTEM + str(tokenizer.chat_template)
    return Encoder(tokenizer)


def _lines(*rows: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def _pair(prompt: str, completion: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "completion": completion, **more}


def _chat(*turns: object, **more: object) -> dict[str, object]:
    messages = [{"role": turn[0], "content": turn[1]} if isinstance(turn, tuple) else turn for turn in turns]
    return {"messages": messages, **more}


PAIRS = (_pair("Where is the key?", "Under the mat."), _pair("מתי נפתחת החנות?", "בתשע בבוקר."))
CHATS = tuple(_chat(("user", pair["prompt"]), ("assistant", pair["completion"])) for pair in PAIRS)


def _raw(content: bytes | str, name: str = "rows.jsonl") -> dict[str, bytes]:
    return {name: content if isinstance(content, bytes) else content.encode()}


def _said(text: str) -> dict[str, bytes]:
    return _raw(_lines(*PAIRS, _pair(text, "Thank you.")))


def _answered(text: str) -> dict[str, bytes]:
    return _raw(_lines(*PAIRS, _pair("What do you think of it?", text)))


def _talked(*turns: object, **more: object) -> dict[str, bytes]:
    return _raw(_lines(*CHATS, _chat(*turns, **more)))


def _turn(role: str, **more: object) -> dict[str, object]:
    return {"role": role, **more}


_QUESTIONS = ("apple", "river", "candle", "window", "garden", "letter", "mountain", "silver", "basket", "thunder")


def _labelled(counts: Mapping[str, int], start: int = 0) -> bytes:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return _lines(*({"text": _text(start + n), "label": label} for n, label in enumerate(labels)))


def _text(number: int) -> str:
    """Texts of which no two are nearly the same."""
    return f"{_QUESTIONS[number % 10]} {number * 7919}"


_CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"city": "חיפה"}'}}
_TOOL = {"type": "function", "function": {"name": "find", "parameters": {"properties": {"city": {"type": "string"}}}}}
_RESULT = _turn("tool", tool_call_id="call_1", content="12")
_PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}


def _called(*rest: object, tools: object = (_TOOL,), number: int = 1, **changes: object) -> dict[str, bytes]:
    call = {**_CALL, "function": {**_CALL["function"], **changes}}
    turns = (("user", "Where?"), _turn("assistant", tool_calls=[call] * number), *rest)
    return _talked(*turns, tools=list(tools))


_LONG = "The quick brown fox jumps over the lazy dog while seven wizards box their evil quartz jug"
_ANSWER = ("assistant", "12")

_FILES = {
    "file-empty": CheckNote("Most often the wrong file, or one whose download or export failed.", _raw(b"")),
    "file-unreadable": CheckNote(
        "A packed file that ends too early has lost its last rows; training on what is left would hide that.",
        _raw(gzip.compress(_lines(*CHATS * 200))[:-20], "rows.jsonl.gz"),
    ),
    "file-skipped": CheckNote(
        "A folder holds more than rows: cards, licences, code. What was not read is named, so that no data file is "
        "left out without a word.",
        {"train.jsonl": _lines(*PAIRS), "notes.docx": b"PK"},
    ),
    "encoding-bom": CheckNote(
        "Some programs write three invisible bytes at the start of a file. A reader that does not know them takes them "
        "for a part of the first column's name.",
        _raw(b"\xef\xbb\xbf" + _lines(*PAIRS)),
    ),
    "encoding-utf16": CheckNote(
        'Excel\'s "Unicode text" is UTF-16. Readers of UTF-8 fail on it, or read a NUL behind every letter.',
        _raw(_lines(*PAIRS).decode().encode("utf-16")),
    ),
    "encoding-not-utf8": CheckNote(
        "Older Hebrew files from Windows are often in cp1255. A program that guesses, or replaces what it cannot read, "
        "trains wrong letters silently; so the first such byte is named, and nothing is guessed for training.",
        _raw("text,label\nHello,a\nשלום,b\n".encode("cp1255"), "rows.csv"),
    ),
}
_SYNTAX = {
    "json-syntax": CheckNote(
        "A line that cannot be parsed is a row that would be missing.", _raw(_lines(PAIRS[0]) + b'{"prompt": "a", }\n')
    ),
    "json-not-object": CheckNote(
        "A row needs names for its values. A bare list or text has none.", _raw(_lines(PAIRS[0]) + b'["a", "b"]\n')
    ),
    "json-duplicate-key": CheckNote(
        "JSON readers keep the last of two equal keys and say nothing. One of the two values is lost.",
        _raw(_lines(PAIRS[0]) + b'{"prompt": "a", "completion": "b", "completion": "c"}\n'),
    ),
    "json-surrogate": CheckNote(
        "A cut emoji, most often: half of a pair is no character, and UTF-8 cannot hold it.",
        _raw(_lines(PAIRS[0]) + b'{"prompt": "\\ud83d", "completion": "b"}\n'),
    ),
    "line-blank": CheckNote(
        "They do no harm here, but other readers take them for broken rows.",
        _raw(_lines(PAIRS[0]) + b"\n" + _lines(PAIRS[1])),
    ),
    "csv-cells": CheckNote(
        "A comma in a text that is not quoted moves all later cells into the next column.",
        _raw("text,label\nשלום,a\nWell, hello,b\n", "rows.csv"),
    ),
    "csv-quote": CheckNote(
        "An open quote swallows all lines up to the next quote: many rows become one cell. The line where it opens is "
        "named.",
        _raw('text,label\nHello,a\n"Well,b\nBye,c\n', "rows.csv"),
    ),
    "csv-header": CheckNote(
        "Of two columns with one name only the last would be seen.", _raw("text,text\nHello,a\n", "rows.csv")
    ),
    "csv-unnamed-column": CheckNote(
        "Most often the row numbers that pandas writes. They are read as a column, and play no part unless they are "
        "named.",
        _raw(",text,label\n0,good film,yes\n1,סרט גרוע,no\n", "rows.csv"),
    ),
    "csv-no-header": CheckNote(
        "If the first line is a row, taking it for names loses it; if it holds names, taking it for a row trains them.",
        _raw("good film,1\nסרט גרוע,0\ngood cast,1\nbad plot,0\n", "rows.csv"),
    ),
    "columns-unequal": CheckNote(
        "One missing line gives every later text its neighbour's label.",
        {"train_text.txt": "Hello\nשלום\nBye\n".encode(), "train_labels.txt": b"0\n0\n"},
    ),
}
_FORMAT = {
    "format-detected": CheckNote(
        "Formats are found out from the keys of the rows. A wrong guess would train the wrong field, so it is said "
        "aloud.",
        _raw(_lines(*PAIRS)),
    ),
    "format-unknown": CheckNote(
        "Nothing is guessed: which column is the answer, you have to say.", _raw(_lines({"utterance": "Hi", "rank": 2}))
    ),
    "format-mixed": CheckNote(
        "Two files joined into one, most often. Rows of another shape would be read with fields that they do not have.",
        _raw(_lines(*CHATS, {"instruction": "Say hello", "output": "Hello"})),
    ),
    "format-loss": CheckNote(
        "`kivnun convert` and `kivnun repair` say this. A conversion that drops a weight or a system turn gives other "
        "training than the file that you had."
    ),
    "field-missing": CheckNote(
        "A row without its question or answer teaches nothing, and often shows that an export went wrong.",
        _raw(_lines(*PAIRS, {"prompt": "And now?"})),
    ),
    "field-null": CheckNote(
        'Null becomes the text "None" in many scripts and is then trained as an answer.',
        _raw(_lines(*PAIRS, {"prompt": "And now?", "completion": None})),
    ),
    "field-empty": CheckNote(
        "An empty question with an answer teaches the model to say that answer to anything.",
        _raw(_lines(*({"text": t, "label": "x"} for t in ("Hello", "שלום", " ")))),
    ),
    "field-type": CheckNote(
        "A number, list or object where a text should be is written into the training text in a way nobody chose.",
        _raw(_lines(*CHATS, {"messages": "hello"})),
    ),
    "field-unknown": CheckNote(
        "A misspelt key, such as `wieght`, is otherwise ignored silently, and hosted services refuse the file.",
        _talked({"role": "user", "content": "Hi", "colour": "red"}, _ANSWER),
    ),
    "field-none-text": CheckNote(
        "A script turned a missing value into a word. The model would learn to say it.",
        _raw(_lines(*({"text": t, "label": "x"} for t in ("Hello", "שלום", "None")))),
    ),
    "messages-empty": CheckNote("There is nothing to read and nothing to learn.", _talked()),
    "message-type": CheckNote("A turn without a role belongs to nobody.", _raw(_lines(*CHATS, {"messages": ["hi"]}))),
    "role-unknown": CheckNote(
        "A misspelt role is a turn that a chat template drops, refuses, or writes as a speaker the model never met.",
        _talked(("usr", "Hi"), _ANSWER),
    ),
    "content-missing": CheckNote(
        "Content may be absent only where an assistant calls tools.", _talked(_turn("user"), _ANSWER)
    ),
    "content-type": CheckNote(
        "Content is a text, or a list of parts of text and pictures.", _talked(("user", 7), _ANSWER)
    ),
    "weight-invalid": CheckNote(
        "A weight says whether an assistant's turn is trained, or how much its tokens count. What lies between 0 and 1 "
        "is for Kivnun's own training; `--for openai` finds it. Other roles are never trained.",
        _talked(("user", "Hi"), {"role": "assistant", "content": "Hello", "weight": 1.5}),
    ),
    "label-invalid": CheckNote(
        "A label that is neither true nor false cannot say whether the answer is wanted.",
        _raw(_lines(_pair("a?", "b", label=True), _pair("c?", "d", label="maybe"))),
    ),
    "image-on-answer": CheckNote(
        "Language models answer with text. A picture there cannot be learnt.",
        _talked(("user", "Draw a cat"), ("assistant", [_PICTURE])),
    ),
}
_TURNS = {
    "order-no-user": CheckNote(
        "An answer to nothing teaches what to say unasked. That may be meant, in running text.",
        _talked(("system", "Be brief."), ("assistant", "Hello")),
    ),
    "order-no-assistant": CheckNote("Only the assistant's turns are trained.", _talked(("user", "שלום"))),
    "order-last": CheckNote(
        "What stands behind the last answer is never trained; most often a conversation was cut in the middle.",
        _talked(("user", "Hi"), ("assistant", "Hello"), ("user", "And now?")),
    ),
    "order-first": CheckNote(
        "The model would learn to greet before it is spoken to. With weight 0 the greeting is only context.",
        _talked(("assistant", "Hello"), ("user", "Hi"), ("assistant", "Good day")),
    ),
    "order-system": CheckNote(
        "Many chat templates know one system turn at the start and drop or refuse any other.",
        _talked(("user", "Hi"), ("system", "Be brief."), ("assistant", "Hello")),
    ),
    "order-repeated": CheckNote(
        "Many chat templates refuse two turns of one role, and the model never meets them in use.",
        _talked(("user", "Hi"), ("user", "Are you there?"), ("assistant", "Yes")),
    ),
    "system-mixed": CheckNote(
        "The model learns to answer with and without the system turn; what it is served with should be what it was "
        "trained with.",
        _talked(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")),
    ),
    "tools-invalid": CheckNote(
        "The declaration is what the model reads. If it is broken, calls are learnt without knowing what is called.",
        _called(_RESULT, _ANSWER, tools=(_TOOL, {"type": "function", "function": {}})),
    ),
    "tool-arguments": CheckNote(
        "The model learns to write what no program can parse.", _called(_RESULT, _ANSWER, arguments='{"city')
    ),
    "tool-arguments-schema": CheckNote(
        "The model learns calls that the tool would refuse.", _called(_RESULT, _ANSWER, arguments='{"city": 7}')
    ),
    "tool-unknown": CheckNote(
        "The model learns to call functions that it was not offered.", _called(_RESULT, _ANSWER, name="seek")
    ),
    "tool-result-missing": CheckNote(
        "The model learns to make up what the tool would have said.", _called(("user", "Well?"), _ANSWER)
    ),
    "tool-result-orphan": CheckNote(
        "A result without its call is text that comes from nowhere.",
        _called(_RESULT, {**_RESULT, "tool_call_id": "call_9"}, _ANSWER),
    ),
    "tool-call-id": CheckNote(
        "With one id for two calls nobody can tell which result is whose.", _called(_RESULT, _RESULT, _ANSWER, number=2)
    ),
}
_LEARNING = {
    "nothing-trained": CheckNote(
        "The row costs time and changes nothing.",
        _talked(("user", "Hi"), {"role": "assistant", "content": "Hello", "weight": 0}),
    ),
    "answer-empty": CheckNote("The model learns to say nothing, and often does so afterwards.", _answered(" ")),
    "answer-copies-prompt": CheckNote(
        "A prompt that was pasted into the answer's column teaches parroting.",
        _raw(_lines(*PAIRS, _pair("תרגם לאנגלית: שלום", "תרגם לאנגלית: שלום"))),
    ),
    "answer-whitespace": CheckNote(
        "A space or line break at the end becomes a token that is learnt; with most tokenizers a leading space changes "
        "the first word. A completion may begin with one space.",
        _answered("Good. "),
    ),
    "answer-disclaimer": CheckNote(
        "Rows made by another model carry its habits; yours would refuse in its words.",
        _answered("As an AI language model, I have no opinion."),
    ),
    "placeholder-text": CheckNote(
        "A template that was not filled in is learnt as it stands.", _answered("Dear {{name}}, it is good.")
    ),
    "markup-text": CheckNote(
        "Another model's turn signs are plain text to yours: it would learn to write them, or see turns where there "
        "are none.",
        _answered("It is good.<|im_end|>"),
    ),
    "html-text": CheckNote(
        "Text taken from web pages without decoding: the model learns to write the entities.",
        _answered("Salt &amp; pepper"),
    ),
    "preference-equal": CheckNote(
        "There is nothing to prefer; the pair teaches nothing.",
        _raw(
            _lines({"prompt": "a?", "chosen": "b", "rejected": "c"}, {"prompt": "d?", "chosen": "e", "rejected": "e"})
        ),
    ),
    "preference-length": CheckNote(
        "Preference training finds the easiest difference. If the better answer is nearly always the longer one, it "
        "learns to write more. At least 20 pairs are looked at, and nine in ten must lean the same way.",
        _raw(_lines(*({"prompt": _text(n), "chosen": "yes, " + _text(n + 30), "rejected": "no"} for n in range(30)))),
    ),
    "kto-one-sided": CheckNote(
        "KTO needs both kinds: with good answers only there is nothing to move away from.",
        _raw(_lines(*(_pair(f"{word}?", f"the {word}", label=True) for word in _QUESTIONS))),
    ),
    "reinforcement-reference": CheckNote(
        "A grader reads `item.reference` or some such key. Without one it can judge form only.",
        _raw(_lines(_chat(("user", "2 + 2?")))),
        {"wanted": "openai-reinforcement"},
    ),
}
_TEXT = {
    "text-nul": CheckNote("A NUL ends the text for many programs; what follows is lost there.", _said("a\0b")),
    "text-control": CheckNote(
        "Bells, escapes and the like come from terminals and broken conversions. They become tokens.", _said("a\x07b")
    ),
    "text-invisible": CheckNote(
        "Zero-width characters split words for the tokenizer, and direction overrides make text read other than it "
        "is. The marks that Hebrew and Arabic texts need (U+200E, U+200F), and joiners inside emoji, are not reported.",
        _said("pass\u200bword"),
    ),
    "text-replacement": CheckNote(
        "The original letters are gone from this file; only the source still has them.", _said("caf\ufffd")
    ),
    "text-mojibake": CheckNote(
        "Text that was decoded with the wrong encoding, such as UTF-8 as cp1252. It is found by what whole words look "
        "like, so single letters may be missed.",
        _said("cafÃ© noir"),
    ),
    "text-not-normal": CheckNote(
        "The same word in two spellings is two words to a tokenizer. The order of Hebrew and Arabic points does not "
        "count.",
        _said("cafe\u0301"),
    ),
    "text-confusable": CheckNote(
        "A Cyrillic а in a Latin word looks right and is another token; also a known trick to get past filters.",
        _said("p\u0430ypal"),
    ),
    "hebrew-visual-order": CheckNote(
        "Old programs stored Hebrew from left to right. On the screen it may look right, but the model reads every "
        "word backwards. Words that begin with final letters (ם ן ץ ף ך) give it away.",
        _said("םולש םיבוט"),
    ),
    "hebrew-presentation-forms": CheckNote(
        "Letters such as שׁ exist as one old code point too, mostly from PDF files. They look the same and are rare "
        "tokens, or none.",
        _said("\ufb2aלום"),
    ),
}
_PERSONAL = {
    "personal-email": CheckNote(
        "A model can repeat what it was trained on to anybody who asks. Addresses that are plainly made up "
        "(`user@…`, `…@domain.com`) are not reported.",
        _said("כתבו אל dana.levi@firma.co.il"),
    ),
    "personal-phone": CheckNote(
        "Israeli mobile and land lines, American numbers and international ones that begin with +. Toll-free and "
        "star numbers are not reported.",
        _said("טלפון 052-1234567"),
    ),
    "personal-card": CheckNote(
        "14 to 19 digits with an issuer's prefix and a fitting Luhn digit.", _said("4111 1111 1111 1111")
    ),
    "personal-israeli-id": CheckNote(
        "Nine digits with a fitting check digit. One nine-digit number in ten fits by chance; of those, only numbers "
        'that begin with 0 to 3 count by themselves, others only after words such as ת.ז. or "ID number".',
        _said("ת.ז. 123456782"),
    ),
    "personal-secret": CheckNote(
        "A key in training data is a key in the model, and in every copy of the file. Taking it out is not enough: "
        "revoke it.",
        _said("sk-not-a-real-key-1234567890"),
    ),
}
_ROWS = {
    "duplicate-exact": CheckNote(
        "A row that stands n times is trained n times. That may be meant; mostly it is not.",
        _raw(_lines(*PAIRS, PAIRS[1])),
    ),
    "duplicate-near": CheckNote(
        "Rows whose inputs share about 85 % of their 4-character pieces and have the same answer. They count like "
        "copies, and straddle splits that are cut by chance.",
        _raw(_lines(_pair(_LONG, "Yes."), _pair(_LONG + " today", "Yes."))),
    ),
    "duplicate-not-searched": CheckNote(
        "Above a million rows the search takes minutes; it is left out unless you ask for it."
    ),
    "conflicting-answers": CheckNote(
        "The model can only learn the average of two answers. Where several answers are right, that is meant.",
        _raw(_lines({"text": "סרט ארוך", "label": "good"}, {"text": "סרט ארוך", "label": "bad"})),
    ),
    "leak-exact": CheckNote(
        "A test row whose question was trained measures memory, not skill. Case, points and punctuation do not count, "
        "nor does the answer.",
        {"train.jsonl": _lines(*PAIRS), "test.jsonl": _lines(_pair("where is the key", "In the drawer."))},
    ),
    "leak-large": CheckNote(
        "Above one test row in twenty the score moves by more than most changes that you would measure with it. This "
        "is an error; accept it with `--ignore leak-large`, or `data.ignore_checks` in a recipe.",
        {"train.jsonl": _lines(*PAIRS), "test.jsonl": _lines(_pair("where is the key", "In the drawer."))},
    ),
    "leak-validation": CheckNote(
        "Validation rows choose the best step; if they were trained, the step that remembers best wins.",
        {"train.jsonl": _lines(*PAIRS), "validation.jsonl": _lines(PAIRS[1])},
    ),
    "leak-near": CheckNote(
        "One more word is no new question. The share of equal 4-character pieces is an estimate; look at the rows.",
        {"train.jsonl": _lines(_pair(_LONG, "Yes.")), "test.jsonl": _lines(_pair(_LONG + " today", "No."))},
    ),
}
_LABELS = {
    "label-imbalance": CheckNote(
        "A model that always says the common label looks good. The largest label has ten times the rows of the "
        "smallest, or more.",
        _raw(_labelled({"yes": 60, "no": 6})),
    ),
    "label-rare": CheckNote("Fewer than 10 rows of a label are hardly learnt.", _raw(_labelled({"yes": 20, "no": 3}))),
    "label-single": CheckNote("There is nothing to tell apart.", _raw(_labelled({"yes": 20}))),
    "label-not-in-train": CheckNote(
        "No model can be right about a label that it never met. Mostly it is a spelling.",
        {
            "train.jsonl": _labelled({"yes": 20, "no": 20}),
            "test.jsonl": _labelled({"yes": 2, "maybe": 1}, 50),
        },
    ),
    "label-variants": CheckNote(
        "`Yes` and `yes` are two answers to a model, and one of them is always counted as wrong.",
        _raw(_labelled({"yes": 20, "no": 20, "Yes": 12})),
    ),
}
_SIZES = {
    "language-mix": CheckNote(
        "The share of each script of all letters, so that you see a language that you did not expect.",
        _raw(_lines(*PAIRS)),
    ),
    "language-answer": CheckNote(
        "A Hebrew question with an English answer teaches to change the language. Reported only where less than half "
        "of the rows do so, and not where the answers are labels.",
        _raw(_lines(*PAIRS, _pair("מה שלומך היום?", "I am fine, thank you."))),
    ),
    "rows-few": CheckNote(
        "Below 100 to 200 rows a model learns the form of an answer at best, and a test split of them says little.",
        _raw(_lines(*(_pair(_text(n), _text(n + 50)) for n in range(20)))),
    ),
    "rows-below-minimum": CheckNote("Fewer than 10 rows are an example, not training data.", _raw(_lines(*PAIRS))),
    "length-outlier": CheckNote(
        "A row more than 20 times as long as the usual one, and longer than 2,000 characters, is often a whole "
        "document, or many rows that lost their line breaks.",
        _raw(_lines(*PAIRS * 2, _pair("Tell me a story.", "Once upon a time. " * 400))),
    ),
    "split-missing": CheckNote(
        "Without rows that were never trained, no score means anything. Recipes cut a test split by themselves.",
        _raw(_lines(*PAIRS)),
    ),
}
_HOSTED = {
    "hosted-format": CheckNote(
        "With `--for`: services take JSONL in a few formats.",
        _raw(_labelled({"yes": 2, "no": 2})),
        {"service": "openai"},
    ),
    "hosted-rows": CheckNote(
        "With `--for`: OpenAI and Azure want 10 rows at least, Gemini takes 5,000 validation rows at most.",
        _raw(_lines(*CHATS)),
        {"service": "openai"},
    ),
    "hosted-size": CheckNote("With `--for`: 512 MB at OpenAI and Azure, 1 GB at Gemini, as published."),
    "hosted-length": CheckNote(
        "With `--for`: rows longer than 65,536 tokens (OpenAI, Azure) or 131,072 (Gemini) are cut there, mostly "
        "without a word. Tokens are counted as four characters each, so that only rows that are surely too long are "
        "reported.",
        _talked(("user", "Tell me a story."), ("assistant", "Once upon a time. " * 20_000)),
        {"service": "azure"},
    ),
    "hosted-images": CheckNote(
        "With `--for`: OpenAI takes PNG, JPEG and WebP, 10 pictures a row, 10 MB each.",
        _talked(
            ("user", [{"type": "image_url", "image_url": {"url": "https://example.com/cat.gif"}}]),
            ("assistant", "A cat"),
        ),
        {"service": "openai"},
    ),
    "hosted-field": CheckNote(
        "With `--for`: OpenAI and Azure refuse keys that they do not know, at the end of an upload.",
        _talked(("user", "Hi"), ("assistant", "Hello"), source="web"),
        {"service": "openai"},
    ),
}
_TOKENS = {
    "answer-cut": CheckNote(
        "A trainer that cuts long rows cuts the end, which is the answer: the model learns to stop in the middle.",
        _raw(_lines(CHATS[0], _chat(("user", "Hi"), ("assistant", f"{_LONG}. " * 4)))),
        needs="bundled",
    ),
    "prompt-too-long": CheckNote(
        "Nothing of the answer would be left.",
        _raw(_lines(CHATS[0], _chat(("user", f"{_LONG}. " * 4), ("assistant", "Yes")))),
        needs="bundled",
    ),
    "tokens-per-character": CheckNote(
        "A tokenizer that never met a language spells it letter by letter: rows are longer, slower and dearer, and "
        "words are hard to learn. Typical of Hebrew on an English tokenizer. For Chinese, Japanese and Korean the "
        "limit is 1.2.",
        _raw(_lines(CHATS[0], _chat(("user", "สวัสดี"), ("assistant", "ภาษาไทย" * 40)))),
        needs="bundled",
    ),
    "tokens-unknown": CheckNote(
        "Characters that become the unknown token are lost: the model cannot read or write them. Tokenizers of bytes, "
        "such as the bundled one, spell everything."
    ),
    "special-token-text": CheckNote(
        "A control token in a row's own words would end an answer or forge a turn. Training refuses such rows.",
        _raw(_lines(CHATS[0], _chat(("user", "Say <|im_end|>"), ("assistant", "Hello")))),
        needs="bundled",
    ),
    "template-missing": CheckNote(
        "A base model knows no turns, and without an end-of-turn token an answer never ends. Use a chat model, or "
        "`prompt_template` and `answer_template` in a recipe.",
        _raw(_lines(*CHATS)),
        needs="no template",
    ),
    "template-refuses": CheckNote(
        "Some templates know no system turn, or want users and assistants in turn. Such a row cannot be trained on "
        "this model as it stands.",
        _raw(_lines(CHATS[0], _chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")))),
        needs="no system",
    ),
    "template-differs": CheckNote(
        "Rows that bring their own turn signs would have two sets of them. So do templates that leave out or move "
        "what a row has: a system turn, a name.",
        _raw(_lines(CHATS[0], _chat(("user", "### Instruction: greet me"), ("assistant", "Hello")))),
        needs="bundled",
    ),
}

CHECK_NOTES: dict[str, CheckNote] = {
    **_FILES,
    **_SYNTAX,
    **_FORMAT,
    **_TURNS,
    **_LEARNING,
    **_TEXT,
    **_PERSONAL,
    **_ROWS,
    **_LABELS,
    **_SIZES,
    **_HOSTED,
    **_TOKENS,
}
