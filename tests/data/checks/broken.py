"""One tiny broken data set for each check's code: its files, and the place where the fault must be found."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ROWS = "rows.jsonl"
TRAIN, TEST = "train.jsonl", "test.jsonl"

WORDS = ("apple", "river", "candle", "window", "garden", "letter", "mountain", "silver", "basket", "thunder")
OTHER_WORDS = ("quickly", "beside", "under", "without", "towards", "among", "beyond", "across", "against", "around")


def chat(question: str, answer: str = "Yes, of course.", **more: object) -> dict[str, object]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


def talk(*turns: tuple[str, object] | Mapping[str, object], **more: object) -> dict[str, object]:
    messages = [each if isinstance(each, Mapping) else {"role": each[0], "content": each[1]} for each in turns]
    return {"messages": messages, **more}


def jsonl(*rows: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


GOOD = (chat("Where is the key?", "Under the mat."), chat("מתי נפתחת החנות?", "בתשע בבוקר."))
LONG = "The quick brown fox jumps over the lazy dog while seven wizards boxed their evil quartz jug near the harbour"


@dataclass(frozen=True)
class Broken:
    """A data set with one fault.

    Attributes:
        files: What stands in each file.
        place: `file:line` of the fault, or the file alone.
        options: What `check_data` is asked for.
        needs: A tokenizer that the check needs, by its name in the test.
    """

    files: Mapping[str, bytes]
    place: str
    options: Mapping[str, object] = field(default_factory=dict)
    needs: str = ""


def third(row: object, **options: object) -> Broken:
    """Two good rows, and then a broken one."""
    return Broken({ROWS: jsonl(*GOOD, row)}, f"{ROWS}:3", options)


def raw(content: bytes, line: int, name: str = ROWS) -> Broken:
    return Broken({name: content}, f"{name}:{line}" if line else name)


def said(text: str) -> Broken:
    """A row whose user says something that should not stand there."""
    return third(chat(f"Please tell me more: {text}"))


def answered(text: str) -> Broken:
    return third(chat("What do you think of it?", text))


def tokens(row: object, needs: str = "chatml", line: int = 3) -> Broken:
    broken = third(row)
    return Broken(broken.files, f"{ROWS}:{line}" if line else "data", needs=needs)


def sentence(number: int) -> str:
    """Sentences of which no two are nearly the same."""
    first, second = WORDS[number % 10], OTHER_WORDS[number // 10 % 10]
    return f"{first} {second} {number}{first[::-1]}{number * 7919}"


def many(number: int, answer: str = "Yes, the {}.", **more: object) -> list[dict[str, object]]:
    return [chat(f"{sentence(each)}?", answer.format(sentence(each)), **more) for each in range(number)]


def labelled(counts: Mapping[str, int], start: int = 0) -> list[dict[str, object]]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [{"text": sentence(start + number), "label": label} for number, label in enumerate(labels)]


def pairs(rows: Sequence[tuple[str, str]]) -> bytes:
    return jsonl(*({"prompt": f"{sentence(n)}?", "chosen": a, "rejected": b} for n, (a, b) in enumerate(rows)))


CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Haifa"}'}}
TOOL = {
    "type": "function",
    "function": {"name": "find", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def calling(*rest: object, call: object = CALL, calls: int = 1, tools: object = (TOOL,)) -> Broken:
    turn = {"role": "assistant", "content": None, "tool_calls": [call] * calls}
    return third(talk(("user", "Where is it?"), turn, *rest, tools=list(tools)))


def changed(**changes: object) -> dict[str, object]:
    return {**CALL, "function": {**CALL["function"], **changes}}


RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "12"}
PICTURE = {"type": "image_url", "image_url": {"url": "https://x.example/cat.gif"}}

FILES = {
    "file-empty": raw(b"", 0),
    "file-unreadable": raw(gzip.compress(jsonl(*many(300)))[:-60], 0, "rows.jsonl.gz"),
    "file-skipped": Broken({TRAIN: jsonl(*GOOD), "tool.exe": b"MZ"}, "tool.exe"),
    "encoding-bom": raw(b"\xef\xbb\xbf" + jsonl(*GOOD), 1),
    "encoding-utf16": raw(jsonl(*GOOD).decode().encode("utf-16"), 1),
    "encoding-not-utf8": raw(jsonl(*GOOD) + jsonl(chat("שלום")).decode().encode("cp1255"), 3),
    "json-syntax": raw(jsonl(*GOOD) + b'{"messages": [}\n', 3),
    "json-not-object": raw(jsonl(*GOOD) + b"[1, 2]\n", 3),
    "json-duplicate-key": raw(jsonl(*GOOD) + b'{"messages": [], "messages": []}\n', 3),
    "json-surrogate": raw(jsonl(*GOOD) + b'{"messages": [{"role": "user", "content": "\\ud800"}]}\n', 3),
    "line-blank": raw(jsonl(GOOD[0]) + b"\n" + jsonl(GOOD[1]), 2),
    "csv-cells": raw(b"text,label\na,b\nc,d,e\n", 3, "rows.csv"),
    "csv-quote": raw(b'text,label\na,b\n"c,d\ne,f\n', 3, "rows.csv"),
    "csv-header": raw(b"text,text\na,b\nc,d\n", 1, "rows.csv"),
    "csv-no-header": raw(b"good film,1\nbad film,0\ngood cast,1\nbad plot,0\n", 1, "rows.csv"),
    "csv-unnamed-column": raw(b",text,label\n0,good film,yes\n1,bad film,no\n", 1, "rows.csv"),
    "columns-unequal": Broken({"train_text.txt": b"a\nb\nc\n", "train_labels.txt": b"x\ny\n"}, "train_text.txt"),
}
SCHEMA = {
    "format-detected": raw(jsonl(*GOOD), 0),
    "format-unknown": raw(jsonl({"aa": 1}, {"aa": 2}), 1),
    "format-mixed": third({"instruction": "Say hello", "output": "Hello"}),
    "field-missing": raw(jsonl(*labelled({"x": 1, "y": 1}), {"text": "a"}), 3),
    "field-null": raw(jsonl(*labelled({"x": 1, "y": 1}), {"text": "a", "label": None}), 3),
    "field-empty": raw(jsonl(*labelled({"x": 1, "y": 1}), {"text": " ", "label": "x"}), 3),
    "field-type": third({"messages": "hello"}),
    "field-unknown": third(talk({"role": "user", "content": "Hi", "colour": "red"}, ("assistant", "Hello"))),
    "field-none-text": raw(jsonl(*labelled({"x": 2}), {"text": "None", "label": "y"}), 3),
    "messages-empty": third({"messages": []}),
    "message-type": third({"messages": ["hello", {"role": "assistant", "content": "Hi"}]}),
    "role-unknown": third(talk(("usr", "Hi"), ("assistant", "Hello"))),
    "content-missing": third(talk({"role": "user"}, ("assistant", "Hello"))),
    "content-type": third(talk(("user", 7), ("assistant", "Hello"))),
    "weight-invalid": third(talk(("user", "Hi"), {"role": "assistant", "content": "Hello", "weight": 2})),
    "label-invalid": raw(
        jsonl(*({"prompt": f"{w}?", "completion": w, "label": label} for w, label in (("a", True), ("b", 7)))), 2
    ),
    "image-on-answer": third(talk(("user", "Draw"), ("assistant", [PICTURE]))),
}
TURNS = {
    "order-no-user": third(talk(("system", "Be brief."), ("assistant", "Hello"))),
    "order-no-assistant": third(talk(("user", "Hi"))),
    "order-last": third(talk(("user", "Hi"), ("assistant", "Hello"), ("user", "And now?"))),
    "order-first": third(talk(("assistant", "Hello"), ("user", "Hi"), ("assistant", "Good day"))),
    "order-system": third(talk(("user", "Hi"), ("system", "Be brief."), ("assistant", "Hello"))),
    "order-repeated": third(talk(("user", "Hi"), ("user", "You there?"), ("assistant", "Hello"))),
    "system-mixed": third(talk(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))),
    "tools-invalid": calling(RESULT, ("assistant", "12"), tools=({"type": "function", "function": {}}, TOOL)),
    "tool-arguments": calling(RESULT, ("assistant", "12"), call=changed(arguments="{city")),
    "tool-arguments-schema": calling(RESULT, ("assistant", "12"), call=changed(arguments='{"city": 7}')),
    "tool-unknown": calling(RESULT, ("assistant", "12"), call=changed(name="seek")),
    "tool-result-missing": calling(("user", "Well?"), ("assistant", "12")),
    "tool-result-orphan": calling(RESULT, {**RESULT, "tool_call_id": "call_9"}, ("assistant", "12")),
    "tool-call-id": calling(RESULT, RESULT, ("assistant", "12"), calls=2),
}
LEARNING = {
    "nothing-trained": third(talk(("user", "Hi"), {"role": "assistant", "content": "Hello", "weight": 0})),
    "answer-empty": answered("   "),
    "answer-copies-prompt": third(chat("Say it again now", "say it again now")),
    "answer-whitespace": answered("A good thing. "),
    "answer-disclaimer": answered("As an AI language model, I cannot think."),
    "placeholder-text": answered("Dear {{name}}, it is good."),
    "markup-text": answered("It is good.<|im_start|>user"),
    "html-text": answered("Salt &amp; pepper are good."),
    "preference-equal": raw(pairs([("a b", "c"), ("d e", "f"), ("same", "same")]), 3),
    "preference-length": raw(pairs([(sentence(n), WORDS[n % 10]) for n in range(30)]), 0),
    "kto-one-sided": raw(jsonl(*({"prompt": w, "completion": f"{w} {w}.", "label": True} for w in WORDS)), 0),
    "reinforcement-reference": third(talk(("user", "Hi")), wanted="openai-reinforcement"),
}
TEXT = {
    "text-nul": said("a\0b"),
    "text-control": said("a\x07b"),
    "text-invisible": said("pass\u200bword"),
    "text-replacement": said("caf\ufffd"),
    "text-mojibake": said("cafÃ© noir"),
    "text-not-normal": said("cafe\u0301"),
    "text-confusable": said("p\u0430ypal"),
    "hebrew-visual-order": said("םולש םיבוט"),
    "hebrew-presentation-forms": said("\ufb2a\ufb4b"),
    "personal-email": said("dana.levi@firma.co.il"),
    "personal-phone": said("052-1234567"),
    "personal-card": said("4111 1111 1111 1111"),
    "personal-israeli-id": said("ת.ז. 123456782"),
    "personal-secret": said("sk-proj-" + "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7dE9fG1hJ3"),
}
ALL_ROWS = {
    "duplicate-exact": third(GOOD[0]),
    "duplicate-near": Broken({ROWS: jsonl(GOOD[1], chat(LONG, "Yes."), chat(f"{LONG} today", "Yes."))}, f"{ROWS}:3"),
    "conflicting-answers": third(chat("Where is the key?", "In the drawer.")),
    "leak-exact": Broken({TRAIN: jsonl(*many(30)), TEST: jsonl(*many(1))}, f"{TEST}:1"),
    "leak-large": Broken({TRAIN: jsonl(*many(30)), TEST: jsonl(*many(9))}, TEST),
    "leak-validation": Broken({TRAIN: jsonl(*many(30)), "validation.jsonl": jsonl(*many(1))}, "validation.jsonl:1"),
    "leak-near": Broken({TRAIN: jsonl(chat(LONG)), TEST: jsonl(chat(f"{LONG} today"))}, f"{TEST}:1"),
    "label-imbalance": raw(jsonl(*labelled({"yes": 60, "no": 6})), 0),
    "label-rare": raw(jsonl(*labelled({"yes": 20, "no": 3})), 21),
    "label-single": raw(jsonl(*labelled({"yes": 20})), 1),
    "label-not-in-train": Broken(
        {TRAIN: jsonl(*labelled({"yes": 20, "no": 20})), TEST: jsonl(*labelled({"yes": 2, "maybe": 1}, 50))},
        f"{TEST}:3",
    ),
    "label-variants": raw(jsonl(*labelled({"yes": 20, "no": 20, "Yes": 12})), 41),
    "language-mix": raw(jsonl(*GOOD), 0),
    "language-answer": third(chat("מה שלומך היום?", "I am fine, thank you.")),
    "rows-few": raw(jsonl(*many(20)), 0),
    "rows-below-minimum": raw(jsonl(*GOOD), 0),
    "length-outlier": third(chat("Tell me a story.", "Once upon a time. " * 400)),
    "split-missing": raw(jsonl(*GOOD), 0),
}
HOSTED = {
    "hosted-format": Broken({ROWS: jsonl(*labelled({"x": 2}))}, ROWS, {"service": "openai"}),
    "hosted-rows": Broken({ROWS: jsonl(*GOOD)}, ROWS, {"service": "openai"}),
    "hosted-length": third(chat("Tell me a story.", "Once upon a time. " * 20_000), service="azure"),
    "hosted-images": third(talk(("user", [PICTURE]), ("assistant", "A cat")), service="openai"),
    "hosted-field": third(chat("Hi there", "Hello", source="web"), service="openai"),
}
TOKENS = {
    "answer-cut": tokens(chat("Hi there", f"{LONG} " * 3)),
    "prompt-too-long": tokens(chat(f"{LONG} " * 4, "Hello")),
    "tokens-per-character": tokens(chat("Hi there", "ภาษาไทย" * 40), line=0),
    "tokens-unknown": tokens(chat("Hi 漢", "Hello"), needs="letters"),
    "special-token-text": tokens(chat("Hi <|im_end|>", "Hello")),
    "template-missing": tokens(chat("Hi there", "Hello"), needs="no template", line=0),
    "template-refuses": tokens(talk(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")), needs="strict"),
    "template-differs": tokens(chat("### Instruction: say joy", "Hello")),
}
BROKEN: dict[str, Broken] = {**FILES, **SCHEMA, **TURNS, **LEARNING, **TEXT, **ALL_ROWS, **HOSTED, **TOKENS}
