"""JSON files that hold their rows in an array: alone, in an object, or in the layouts of known collections."""

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import orjson

from kivnun.data.files.dataset import ReadOptions
from kivnun.data.files.encoding import TextSource
from kivnun.data.files.objects import Place, count_written_keys, parse_object, shorten
from kivnun.data.files.scanner import JsonFaultError, JsonScanner, Value
from kivnun.data.findings import Finding
from kivnun.data.rows import Row

# Lists of objects under these keys are parts of one row, not rows.
_MESSAGE_KEYS = ("messages", "conversations", "conversation", "contents", "input", "prompt", "completion", "history")
_PAIR_KEYS = ("chosen", "rejected", "preferred_output", "non_preferred_output", "preferred_completion", "completions")
_OTHER_KEYS = ("non_preferred_completion", "system", "systemInstruction", "tools", "functions", "images")
ROW_KEYS = frozenset((*_MESSAGE_KEYS, *_PAIR_KEYS, *_OTHER_KEYS))
_KINDS = {b"{": "dict", b'"': "str", b"t": "bool", b"f": "bool", b"n": "NoneType"}

Walk = Callable[[TextSource, JsonScanner], Iterator[Row | Finding]]


def read_array(source: TextSource, _: ReadOptions) -> Iterator[Row | Finding]:
    """The objects of one array."""
    return _follow(source, _walk_array)


def read_object(source: TextSource, _: ReadOptions) -> Iterator[Row | Finding]:
    """The objects of the one list of objects that an object holds."""
    return _follow(source, _walk_object)


def read_super_ni(source: TextSource, options: ReadOptions) -> Iterator[Row | Finding]:
    """The instances of a task of Super-NaturalInstructions, each with the task's definition and examples."""
    again = TextSource(source.path, options.encoding)
    return _follow(source, lambda source, scanner: _walk_super_ni(source, scanner, again))


def read_snips(source: TextSource, _: ReadOptions) -> Iterator[Row | Finding]:
    """The utterances of a Snips file, {"Intent": [{"data": [{"text": ..., "entity": ...}]}]}, as texts with slots."""
    return _follow(source, _walk_snips)


def read_squad(source: TextSource, _: ReadOptions) -> Iterator[Row | Finding]:
    """The questions of a SQuAD file, each with the paragraph that it is about."""
    return _follow(source, _walk_squad)


def _follow(source: TextSource, walk: Walk) -> Iterator[Row | Finding]:
    """Walk through a file; faults of its structure become findings, unless the file was cut off for another reason."""
    file = str(source.path)
    scanner = JsonScanner(source.chunks())
    try:
        yield from walk(source, scanner)
        if scanner.peek():
            yield Finding("json-syntax", file, scanner.line, "something follows the end of the array or object")
    except JsonFaultError as error:
        if not source.broken:
            yield Finding("json-syntax", file, error.line, error.message)
    yield from (Finding("json-syntax", file, line, message) for line, message in scanner.faults)


def _walk_array(source: TextSource, scanner: JsonScanner) -> Iterator[Row | Finding]:
    start = scanner.peek()
    if not start:
        return
    if start in _KINDS:
        kind = _KINDS[start]
        yield Finding("json-not-object", str(source.path), 0, f"expected an array of objects, got {kind}")
        scanner.take_value()
        return
    for value in take_elements(scanner):
        fields, findings = parse_object(value.text, _place(source, value))
        yield from findings
        if fields is not None:
            yield Row(fields, str(source.path), value.line)


def _walk_object(source: TextSource, scanner: JsonScanner) -> Iterator[Row | Finding]:
    found = ""
    for key in _read_keys(scanner):
        line = scanner.line
        if scanner.peek_inside() != b"{":
            scanner.take_value()
        elif not found:
            found = key
            yield from _walk_array(source, scanner)
        else:
            scanner.take_value()
            said = f"a second list of objects, {shorten(key)!r}, beside {found!r}: its rows are not read"
            yield Finding("json-not-object", str(source.path), line, said)


def _walk_super_ni(source: TextSource, scanner: JsonScanner, again: TextSource) -> Iterator[Row | Finding]:
    task = _read_task(again)
    task["task"] = source.path.name.partition(".")[0]
    for key in _read_keys(scanner):
        if key != "Instances":
            scanner.take_value()
            continue
        for row in _walk_array(source, scanner):
            yield Row({**task, **row.fields}, row.file, row.line) if isinstance(row, Row) else row


def _read_task(source: TextSource) -> dict[str, object]:
    """What all instances of a task share, wherever in the file it stands."""
    task: dict[str, object] = {"definition": "", "positive_examples": [], "negative_examples": []}
    scanner = JsonScanner(source.chunks())
    try:
        for key in _read_keys(scanner):
            name = key.lower().replace(" ", "_")
            text = scanner.take_value().text
            if name in task:
                value = _load(text)
                is_lines = name == "definition" and isinstance(value, list)
                task[name] = "\n".join(map(str, cast("list[object]", value))) if is_lines else value
    except JsonFaultError:
        # Reading the rows comes to the same place and tells it.
        return task
    return task


def _walk_snips(source: TextSource, scanner: JsonScanner) -> Iterator[Row | Finding]:
    for intent in _read_keys(scanner):
        for row in _walk_array(source, scanner):
            yield _read_utterance(row, intent) if isinstance(row, Row) else row


def _read_utterance(row: Row, intent: str) -> Row | Finding:
    parts = row.fields.get("data")
    if not isinstance(parts, list) or not all(isinstance(part, dict) and "text" in part for part in parts):
        return Finding("field-type", row.file, row.line, "`data` is no list of objects with `text`")
    text, slots = "", []
    for part in cast("list[dict[str, object]]", parts):
        said = str(part["text"])
        if "entity" in part:
            slots.append({"entity": part["entity"], "value": said, "start": len(text)})
        text += said
    return Row({"text": text, "intent": intent, "slots": slots}, row.file, row.line)


def _walk_squad(source: TextSource, scanner: JsonScanner) -> Iterator[Row | Finding]:
    for key in _read_keys(scanner):
        if key != "data":
            scanner.take_value()
            continue
        for article in take_elements(scanner):
            fields, findings = parse_object(article.text, _place(source, article))
            yield from findings
            if fields is not None:
                yield from _read_article(source, article, fields.get("title", ""))


def _read_article(source: TextSource, article: Value, title: object) -> Iterator[Row | Finding]:
    """The questions of an article; it is walked through once more for the lines on which they stand."""
    for paragraph in _take_list(article, "paragraphs"):
        context = _load_object(paragraph.text).get("context", "")
        for value in _take_list(paragraph, "qas"):
            question = _load_object(value.text)
            given = question.get("answers")
            answers = given if isinstance(given, list) else []
            fields = {"title": title, "context": context, **question}
            if all(isinstance(answer, dict) for answer in answers):
                listed = cast("list[dict[str, object]]", answers)
                fields["answers"] = {key: [answer.get(key) for answer in listed] for key in ("text", "answer_start")}
            yield Row(fields, str(source.path), value.line)


def _take_list(value: Value, wanted: str) -> Iterator[Value]:
    """The objects of the list that stands under a key of an object."""
    scanner = JsonScanner(iter([value.text]), value.line, value.offset)
    for key in _read_keys(scanner):
        if key == wanted and scanner.peek() == b"[":
            yield from (element for element in take_elements(scanner) if element.text.startswith(b"{"))
        else:
            scanner.take_value()


def take_elements(scanner: JsonScanner) -> Iterator[Value]:
    """The elements of the array that begins here, as they are written.

    Raises:
        JsonFaultError: If the array cannot be followed to its end.
    """
    for _ in scanner.elements():
        yield scanner.take_value()


def _read_keys(scanner: JsonScanner) -> Iterator[str]:
    for key in scanner.entries():
        yield str(_load(key))


def _load(text: bytes) -> object:
    """A value that only says how rows belong together; None where it is no JSON, or too deep to be written again."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if count_written_keys(value) >= 0 else None


def _load_object(text: bytes) -> Mapping[str, object]:
    value = _load(text)
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _place(source: TextSource, value: Value) -> Place:
    return Place(str(source.path), value.line, source.skipped + value.offset)
