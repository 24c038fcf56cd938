"""Broken files, one fault each, and where it must be found: bytes, tables, archives and folders.

`broken_rows` adds rows that are read but wrong; `BROKEN_FILES` there holds both.
"""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import zstandard
from pyarrow import ipc
from pyarrow.parquet import write_table

ROWS = "rows.jsonl"


@dataclass(frozen=True)
class BrokenFile:
    """A data set with one fault.

    Attributes:
        code: The check that must find it.
        line: The line that must be named; 0 where the file as a whole is meant.
        content: What stands in the broken file.
        name: What the broken file is called.
        beside: Other files of the same folder, which is checked then instead of the file.
        options: What else `kivnun check` is told.
        also: Further codes that cannot be kept from being found with it.
    """

    code: str
    line: int
    content: bytes
    name: str = ROWS
    beside: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    options: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """What is named on the command line."""
        return "." if self.beside else self.name

    @property
    def place(self) -> str:
        """What a command that stops here must name: where no format fits, that is the file."""
        return f"{self.name}:{self.line}: " if self.line and self.code != "format-unknown" else self.name


def talk(*turns: tuple[str, object] | Mapping[str, object], **more: object) -> dict[str, object]:
    messages = [each if isinstance(each, Mapping) else {"role": each[0], "content": each[1]} for each in turns]
    return {"messages": messages, **more}


def chat(question: object, answer: object = "Yes, of course.", **more: object) -> dict[str, object]:
    return talk(("user", question), ("assistant", answer), **more)


def dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def jsonl(*rows: object) -> bytes:
    return b"".join(row if isinstance(row, bytes) else dumps(row) + b"\n" for row in rows)


GOOD = (chat("Where is the key?", "Under the mat."), chat("מתי נפתחת החנות?", "בתשע בבוקר."))
GOOD_LINES = jsonl(*GOOD)


def third(code: str, line: bytes, **more: object) -> BrokenFile:
    """Two good rows, and then a line that is none."""
    return BrokenFile(code, 3, GOOD_LINES + line, **more)


def array(*elements: bytes, end: bytes = b"\n]\n") -> bytes:
    """A JSON array whose first element stands on line 2."""
    return b"[\n" + b",\n".join((*map(dumps, GOOD), *elements)) + end


def in_array(code: str, line: int, content: bytes) -> BrokenFile:
    return BrokenFile(code, line, content, "rows.json")


def table(code: str, line: int, content: bytes, name: str = "rows.csv", **more: object) -> BrokenFile:
    return BrokenFile(code, line, content, name, **more)


def parquet(columns: Mapping[str, list[object]]) -> bytes:
    return write_parquet(pa.table(dict(columns)))


def write_parquet(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    write_table(rows, buffer)
    return buffer.getvalue()


def arrow(columns: Mapping[str, list[object]]) -> bytes:
    rows = pa.table(dict(columns))
    buffer = io.BytesIO()
    with ipc.new_stream(buffer, rows.schema) as stream:
        stream.write_table(rows)
    return buffer.getvalue()


def word(number: int) -> str:
    """A made-up word without a digit, another one for every number."""
    return "".join(chr(ord("a") + number * prime % 26) for prime in (1, 3, 5, 7)) + "o" * (number // 26)


SYNTAX = GOOD_LINES + b'{"messages": [}\n'
HEBREW = dumps(chat("מה שלום הילדים היום?")).decode()
TEXTS: dict[str, list[object]] = {"question": ["Who?", "Where?", "When?"], "answer": ["Me.", "Here.", None]}
MANY_ROWS = jsonl(*(chat(f"Is {word(n)} here?", f"Look for {word(n)} there.") for n in range(300)))
TWO_COLUMNS = write_parquet(pa.Table.from_arrays([pa.array(["a b"])] * 2, names=["text", "text"]))
WRONG_CHECKSUM = gzip.compress(GOOD_LINES)[:-8] + bytes(8)

JSONL = {
    "a comma that nothing follows": third("json-syntax", b'{"messages": [],}\n'),
    "a bracket that is never closed": third("json-syntax", b'{"messages": [{"role": "user"}\n'),
    "quotes of Python": third("json-syntax", b"{'messages': []}\n"),
    "True of Python": third("json-syntax", b'{"messages": [], "good": True}\n'),
    "NaN": third("json-syntax", b'{"messages": [], "score": NaN}\n'),
    "Infinity": third("json-syntax", b'{"messages": [], "score": -Infinity}\n'),
    "a number beyond all measure": third("json-syntax", b'{"messages": [], "score": 1e999}\n'),
    "a comment": third("json-syntax", b"// the rest is from the web\n"),
    "two objects on one line": third("json-syntax", b'{"messages": []} {"messages": []}\n'),
    "one object on two lines": third("json-syntax", b'{"messages":\n[]}\n'),
    "a tab in a string": third("json-syntax", b'{"messages": "a\tb"}\n'),
    "an escape that does not exist": third("json-syntax", b'{"messages": "a\\qb"}\n'),
    "a NUL in place of a line": third("json-syntax", b"\0\n"),
    "NULs at the end, as after a crash": third("json-syntax", bytes(4096)),
    "a line without its end": third("json-syntax", dumps(GOOD[0])[:-9]),
    "a fault behind Windows line ends": BrokenFile("json-syntax", 3, SYNTAX.replace(b"\n", b"\r\n")),
    "a fault behind line ends of the old Macintosh": BrokenFile("json-syntax", 3, SYNTAX.replace(b"\n", b"\r")),
    "a fault behind a line of five megabytes": BrokenFile(
        "json-syntax", 3, jsonl(GOOD[0], chat("Well?", "A word " * 800_000 + "ends")) + b"{\n", also=("length-outlier",)
    ),
    "nested two thousand deep": third("json-syntax", b'{"messages": ' + b"[" * 2000 + b"]" * 2000 + b"}\n"),
    "nested three hundred deep": third(
        "json-syntax", b'{"messages": [], "more": ' + b'{"a":' * 300 + b"1" + b"}" * 301 + b"\n"
    ),
    "a list for a row": third("json-not-object", b"[1, 2]\n"),
    "a number for a row": third("json-not-object", b"7\n"),
    "a string for a row": third("json-not-object", '"שלום"\n'.encode()),
    "null for a row": third("json-not-object", b"null\n"),
    "a key twice in a row": third("json-duplicate-key", b'{"messages": [],' + dumps(chat("Who?"))[1:] + b"\n"),
    "a key twice in a turn": third(
        "json-duplicate-key",
        b'{"messages": [{"role": "user", "content": "a", "content": "b"}, {"role": "assistant", "content": "c"}]}\n',
    ),
    "a key twice, once with an escape": third(
        "json-duplicate-key",
        b'{"messages": [{"role": "user", "content": "a", "c\\u006fntent": "b"}, '
        b'{"role": "assistant", "content": "c"}]}\n',
    ),
    "half of a surrogate pair": third("json-surrogate", b'{"messages": "\\ud800"}\n'),
    "a surrogate pair the wrong way round": third("json-surrogate", b'{"messages": "\\udc00\\ud800"}\n'),
    "half of a surrogate pair in a key": third("json-surrogate", b'{"messages\\udead": 1}\n'),
    "an empty line": BrokenFile("line-blank", 2, jsonl(GOOD[0], b"\n", GOOD[1])),
    "a line of spaces": BrokenFile("line-blank", 2, jsonl(GOOD[0], b" \t\r\n", GOOD[1])),
}
ENCODINGS = {
    "a byte-order mark": BrokenFile("encoding-bom", 1, b"\xef\xbb\xbf" + GOOD_LINES),
    "a byte-order mark where files were joined": third("json-syntax", b"\xef\xbb\xbf" + jsonl(chat("Who?"))),
    "UTF-16 with a mark": BrokenFile("encoding-utf16", 1, GOOD_LINES.decode().encode("utf-16")),
    "UTF-16 without one": BrokenFile("encoding-utf16", 1, GOOD_LINES.decode().encode("utf-16-be")),
    "UTF-32": BrokenFile("encoding-utf16", 1, GOOD_LINES.decode().encode("utf-32")),
    "UTF-16 that ends in half a letter": BrokenFile(
        "encoding-not-utf8", 3, GOOD_LINES.decode().encode("utf-16") + b"{", also=("encoding-utf16",)
    ),
    "a line in cp1255": third("encoding-not-utf8", HEBREW.encode("cp1255") + b"\n"),
    "a file in cp1255": BrokenFile("encoding-not-utf8", 2, GOOD_LINES.decode().encode("cp1255")),
    "a line in latin-1": third("encoding-not-utf8", dumps(chat("Un café?")).decode().encode("latin-1") + b"\n"),
    "a line in cp1251": third("encoding-not-utf8", dumps(chat("Привет всем")).decode().encode("cp1251") + b"\n"),
    "an emoji as Java writes it": third(
        "encoding-not-utf8", dumps(chat("HI")).replace(b"HI", b"\xed\xa0\xbd\xed\xb8\x80")
    ),
    "a letter that is cut": third("encoding-not-utf8", dumps(chat("HI")).replace(b"HI", "ש".encode()[:1])),
    "a letter written too long": third("encoding-not-utf8", dumps(chat("HI")).replace(b"HI", b"\xc0\xaf")),
    "a picture that is called JSONL": BrokenFile(
        "encoding-not-utf8", 1, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), also=("json-syntax",)
    ),
    "cp1255 in an array": in_array("encoding-not-utf8", 4, array(HEBREW.encode("cp1255"))),
    "cp1255 in a table": table("encoding-not-utf8", 3, "text,label\na b,x\nשלום לכם,y\n".encode("cp1255")),
    "cp1255 in a table of tabs": table(
        "encoding-not-utf8", 2, "text\tlabel\nשלום לכם\ty\n".encode("cp1255"), "rows.tsv"
    ),
    "cp1255 in a text": BrokenFile("encoding-not-utf8", 2, "A line\nועוד שורה\n".encode("cp1255"), "book.txt"),
}
ARRAYS = {
    "a comma too few": in_array("json-syntax", 3, array().replace(b",\n{", b"\n{")),
    "a comma too many": in_array("json-syntax", 3, array(end=b",\n]\n")),
    "an array that is never closed": in_array("json-syntax", 4, array(end=b",\n")),
    "a fault in an element": in_array("json-syntax", 4, array(b'{"messages": [}')),
    "a fault in the second line of an element": in_array("json-syntax", 5, array(b'{"messages":\n[nope]}')),
    "something behind the array": in_array("json-syntax", 5, array(end=b"\n]\n7\n")),
    "a number among the elements": in_array("json-not-object", 4, array(b"12")),
    "a list among the elements": in_array("json-not-object", 4, array(b"[{}]")),
    "a key twice in an element": in_array(
        "json-duplicate-key", 4, array(b'{"messages": [],\n' + dumps(chat("Who?"))[1:])
    ),
    "half of a surrogate pair in an element": in_array("json-surrogate", 4, array(b'{"messages": "\\ud800"}')),
    "an array without elements": in_array("file-empty", 0, b"[]\n"),
    "a string for a file": in_array("json-not-object", 0, '"שלום"'.encode()),
    "a second list of rows": in_array(
        "json-not-object",
        3,
        b'{"rows": [{"text": "a b", "label": "x"},\n{"text": "c d", "label": "y"}],\n"more": [{"text": "e"}]}\n',
    ),
}
TABLES = {
    "a cell too many": table("csv-cells", 3, b"text,label\na b,x\nc, d,y\n"),
    "a cell too few": table("csv-cells", 3, b"text,label\na b,x\nc d\n"),
    "a cell too few behind a cell of three lines": table("csv-cells", 5, b'text,label\n"a\nb\nc",x\nc d\n'),
    "a quote that is never closed": table("csv-quote", 3, b'text,label\na b,x\n"c d,y\ne f,x\n'),
    "a quote within a cell": table("csv-quote", 3, b'text,label\na b,x\n"c" d,x\ne f,y\n'),
    "a column name twice": table("csv-header", 1, b"text,label,text\na b,x,c\n"),
    "no column names": table("csv-header", 1, b",,\na b,x,c\n"),
    "a column without a name": table("csv-unnamed-column", 1, b",text,label\n0,a b,x\n1,c d,y\n"),
    "a table without a header": table("csv-no-header", 1, b"good film,1\nbad film,0\nfine cast,1\nweak plot,0\n"),
    "bars for commas": table("format-unknown", 2, b"text|label\na b|x\nc d|y\n"),
    "a header and no rows": table("file-empty", 0, b"text,label\n"),
    "a tab too many": table("csv-cells", 3, b"text\tlabel\na b\tx\nc\td\ty\n", "rows.tsv"),
    "a tab too few": table("csv-cells", 2, b"text\tlabel\na b\nc d\ty\n", "rows.tsv"),
    "a name twice between tabs": table("csv-header", 1, b"text\ttext\na b\tx\n", "rows.tsv"),
    "JSON in a cell that is none": table("field-type", 2, b'messages\n"[{""role"": ""user""]"\n'),
    "NUL in a cell": table("text-nul", 3, b"text,label\na b,x\nc\0d,y\n"),
}
WHOLE_FILES = {
    "nothing": BrokenFile("file-empty", 0, b""),
    "spaces and line ends": BrokenFile("file-empty", 0, b" \n\n", also=("line-blank",)),
    "a byte-order mark alone": BrokenFile("file-empty", 0, b"\xef\xbb\xbf", also=("encoding-bom",)),
    "an empty archive": BrokenFile("file-empty", 0, gzip.compress(b""), "rows.jsonl.gz"),
    "gzip that is cut off": BrokenFile("file-unreadable", 0, gzip.compress(MANY_ROWS)[:-900], "rows.jsonl.gz"),
    "gzip whose sum is wrong": BrokenFile("file-unreadable", 0, WRONG_CHECKSUM, "rows.jsonl.gz"),
    "gzip with a piece of something else": BrokenFile(
        "file-unreadable", 0, gzip.compress(GOOD_LINES) + b"PK", "rows.jsonl.gz"
    ),
    "bzip2 that is cut off": BrokenFile("file-unreadable", 0, bz2.compress(GOOD_LINES)[:-9], "rows.jsonl.bz2"),
    "xz that is cut off": BrokenFile("file-unreadable", 0, lzma.compress(GOOD_LINES)[:-9], "rows.jsonl.xz"),
    "xz with a bit turned": BrokenFile(
        "file-unreadable", 0, lzma.compress(GOOD_LINES)[:40] + b"\xff" + lzma.compress(GOOD_LINES)[41:], "rows.jsonl.xz"
    ),
    "zstd that is cut off": BrokenFile("file-unreadable", 0, zstandard.compress(MANY_ROWS)[:-9], "rows.jsonl.zst"),
    "a zip archive": BrokenFile("file-unreadable", 0, b"PK\x03\x04\x14\0" + bytes(40)),
    "a fault in gzip": BrokenFile("json-syntax", 3, gzip.compress(SYNTAX), "rows.jsonl.gz"),
    "a fault in xz": BrokenFile("json-syntax", 3, lzma.compress(SYNTAX), "rows.jsonl.xz"),
    "a fault in zstd": BrokenFile("json-syntax", 3, zstandard.compress(SYNTAX), "rows.jsonl.zst"),
    "a fault in gzip without its ending": BrokenFile("json-syntax", 3, gzip.compress(SYNTAX)),
    "Parquet that is cut off": BrokenFile("file-unreadable", 0, parquet(TEXTS)[:-7], "rows.parquet"),
    "text that is called Parquet": BrokenFile("file-unreadable", 0, GOOD_LINES, "rows.parquet"),
    "nothing that is called Parquet": BrokenFile("file-unreadable", 0, b"", "rows.parquet"),
    "Parquet with a null": BrokenFile("field-null", 3, parquet(TEXTS), "rows.parquet"),
    "Parquet with a column name twice": BrokenFile("csv-header", 0, TWO_COLUMNS, "rows.parquet"),
    "Parquet without rows": BrokenFile("file-empty", 0, parquet({"question": [], "answer": []}), "rows.parquet"),
    "packed Parquet with a null": BrokenFile("field-null", 3, gzip.compress(parquet(TEXTS)), "rows.parquet.gz"),
    "Arrow with a null": BrokenFile("field-null", 3, arrow(TEXTS), "rows.arrow"),
    "Arrow whose texts lie outside of it": BrokenFile(
        "file-unreadable", 0, arrow(TEXTS).replace(b"\3\0\0\0\x08\0\0\0", b"\3\0\0\0\xff\xff\xff\x7f"), "rows.arrow"
    ),
    "Arrow that is cut off": BrokenFile("file-unreadable", 0, arrow(TEXTS)[:-60], "rows.arrow"),
    "a text without a word": BrokenFile("file-empty", 0, b"\n \n", "book.txt"),
    "more texts than labels": BrokenFile(
        "columns-unequal", 0, b"a b\nc d\ne f\n", "train_text.txt", {"train_labels.txt": b"x\ny\n"}
    ),
    "a label that is not UTF-8": BrokenFile(
        "encoding-not-utf8", 2, b"x\n\xff\xfe\n", "train_labels.txt", {"train_text.txt": b"a b\nc d\n"}
    ),
    "a program beside the data": BrokenFile("file-skipped", 0, b"MZ", "tool.exe", {"train.jsonl": GOOD_LINES}),
}
TASK = b'{"Definition": ["Say it."], "Positive Examples": [],\n"Instances": [{"input": "a b", "output": ["c"]},\n%s]}\n'
UTTERANCES = b'{"PlayMusic": [{"data": [{"text": "play "}, {"text": "jazz", "entity": "genre"}]},\n%s]}\n'
QUESTIONS = (
    b'{"data": [{"title": "A", "paragraphs": [{"context": "A town by the sea.", "qas": [\n'
    b'{"question": "Where?", "answers": [{"text": "by the sea", "answer_start": 7}]},\n%s]}]}]}\n'
)
COLLECTIONS = {
    "an instance without its output": in_array("field-missing", 3, TASK % b'{"input": "d e"}'),
    "an instance whose input is null": in_array("field-null", 3, TASK % b'{"input": null, "output": ["c"]}'),
    "an instance with no answer": in_array("field-empty", 3, TASK % b'{"input": "d e", "output": []}'),
    "an instance that is a text": in_array("json-not-object", 3, TASK % b'"d e"'),
    "a task that breaks off": in_array("json-syntax", 3, (TASK % b'{"input": "d e", "output": ["f"]}')[:-3]),
    "an utterance that is a text": in_array("field-type", 2, UTTERANCES % b'{"data": "stop"}'),
    "an utterance without its text": in_array("field-type", 2, UTTERANCES % b'{"data": [{"entity": "genre"}]}'),
    "a question without answers": in_array("field-empty", 3, QUESTIONS % b'{"question": "When?", "answers": []}'),
    "a question that is a list": in_array(
        "field-type", 3, QUESTIONS % b'{"question": [1], "answers": [{"text": "x"}]}'
    ),
}
FILES: dict[str, BrokenFile] = {**JSONL, **ENCODINGS, **ARRAYS, **TABLES, **WHOLE_FILES, **COLLECTIONS}
