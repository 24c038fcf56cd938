"""Rows that are read and yet wrong, one fault each: formats, turns, calls, answers, letters, persons, leaks."""

from broken_files import FILES, GOOD, GOOD_LINES, ROWS, BrokenFile, chat, jsonl, parquet, talk

HELLO = ("user", "Hi there")
REPLY = ("assistant", "Hello to you")
WORDS = ("apple", "river", "candle", "window", "garden", "letter", "mountain", "silver", "basket", "thunder")


def row(code: str, fields: object, *also: str, options: tuple[str, ...] = ()) -> BrokenFile:
    """Two good rows of OpenAI's chat, and then a wrong one."""
    return BrokenFile(code, 3, GOOD_LINES + jsonl(fields), also=also, options=options)


def turns(code: str, *said: object, **more: object) -> BrokenFile:
    return BrokenFile(code, 3, GOOD_LINES + jsonl(talk(*said)), **more)


def asked(code: str, text: str, *also: str) -> BrokenFile:
    return row(code, chat(f"Please say more of this: {text}"), *also)


def answered(code: str, text: object, *also: str) -> BrokenFile:
    return row(code, chat("What do you think of it?", text), *also)


def after(code: str, good: object, wrong: object, *also: str, name: str = ROWS, line: int = 2) -> BrokenFile:
    """A good row of some format, and then a wrong one."""
    return BrokenFile(code, line, jsonl(good, wrong), name, also=also)


CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Haifa"}'}}
FIND = {"name": "find", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": FIND}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "12"}
TWELVE = ("assistant", "It is 12")
PICTURE = {"type": "image_url", "image_url": {"url": "https://x.example/cat.png"}}


def calling(
    code: str, *rest: object, also: tuple[str, ...] = (), tools: object = (TOOL,), **changes: object
) -> BrokenFile:
    """A row whose assistant calls a function; `changes` are made to what it calls."""
    call = {**CALL, "function": {**CALL["function"], **changes}}
    calls = {"role": "assistant", "content": None, "tool_calls": [call]}
    return row(code, talk(("user", "Where is it?"), calls, *rest, tools=tools), *also)


CHATS = {
    "turns that are a text": row("field-type", {"messages": "hello"}),
    "turns that are null": row("field-null", {"messages": None}),
    "no turns": row("messages-empty", {"messages": []}),
    "a turn that is a text": row("message-type", {"messages": ["Hi", {"role": "assistant", "content": "Hello"}]}),
    "a role that is misspelt": turns("role-unknown", ("assistent", "Hi"), REPLY),
    "a role with a capital": turns("role-unknown", ("User", "Hi"), REPLY),
    "a role that is missing": turns("role-unknown", {"content": "Hi"}, REPLY),
    "a role that is a number": turns("role-unknown", (7, "Hi"), REPLY),
    "a role that is a list": turns("role-unknown", (["user"], "Hi"), REPLY),
    "a turn without content": turns("content-missing", {"role": "user"}, REPLY),
    "content that is null": turns("content-missing", ("user", None), REPLY),
    "content that is a number": turns("content-type", ("user", 7), REPLY),
    "content that is an object": turns("content-type", ("user", {"text": "Hi"}), REPLY),
    "a part of an unknown type": turns("content-type", ("user", [{"type": "video", "video": "x"}]), REPLY),
    "a part without its text": turns("content-type", ("user", [{"type": "text"}]), REPLY),
    "a part that is a text": turns("content-type", ("user", ["Hi"]), REPLY),
    "a part with a further key": turns("field-unknown", ("user", [{"type": "text", "text": "Hi", "bold": 1}]), REPLY),
    "a picture without an address": turns("content-type", ("user", [{"type": "image_url", "image_url": {}}]), REPLY),
    "a picture that the assistant shows": turns("image-on-answer", HELLO, ("assistant", [PICTURE])),
    "a key that nobody knows": turns("field-unknown", {"role": "user", "content": "Hi", "colour": "red"}, REPLY),
    "a name that is a number": turns("field-type", {"role": "user", "content": "Hi", "name": 3}, REPLY),
    "a weight above one": turns("weight-invalid", HELLO, {"role": "assistant", "content": "Hello", "weight": 1.5}),
    "a weight that is true": turns("weight-invalid", HELLO, {"role": "assistant", "content": "Hello", "weight": True}),
    "a weight that is a text": turns("weight-invalid", HELLO, {"role": "assistant", "content": "Hello", "weight": "1"}),
    "a weight of the user": turns("weight-invalid", {"role": "user", "content": "Hi", "weight": 1}, REPLY),
    "nothing but weights of 0": turns("nothing-trained", HELLO, {"role": "assistant", "content": "Hello", "weight": 0}),
    "a row of another format": row("format-mixed", {"instruction": "Say hello", "output": "Hello"}),
    "a row of unknown keys": row("field-missing", {"aa": 1, "bb": 2}),
    "rows that nobody knows": BrokenFile("format-unknown", 1, jsonl({"aa": "b"}, {"aa": "c"})),
}
ORDER = {
    "no answer": turns("order-no-assistant", HELLO),
    "a user who speaks last": turns("order-last", HELLO, REPLY, ("user", "And now?")),
    "no user": turns("order-no-user", ("assistant", "Hello to all of you")),
    "an answer before the question": turns("order-first", ("assistant", "Hello"), HELLO, ("assistant", "Good day")),
    "a late system turn": turns("order-system", HELLO, ("system", "Be brief."), REPLY, also=("system-mixed",)),
    "a second system turn": turns(
        "order-system", ("system", "Be kind."), ("system", "Be brief."), HELLO, REPLY, also=("system-mixed",)
    ),
    "two users in a row": turns("order-repeated", HELLO, ("user", "You there?"), REPLY),
    "two answers in a row": turns("order-repeated", HELLO, REPLY, ("assistant", "And welcome")),
    "a system turn that others lack": turns("system-mixed", ("system", "Be brief."), HELLO, REPLY),
}
CALLS = {
    "arguments that are no JSON": calling("tool-arguments", RESULT, TWELVE, arguments="{city"),
    "arguments that are a list": calling("tool-arguments", RESULT, TWELVE, arguments='["Haifa"]'),
    "arguments that are empty": calling("tool-arguments", RESULT, TWELVE, arguments=""),
    "arguments of a wrong type": calling("tool-arguments-schema", RESULT, TWELVE, arguments='{"city": 7}'),
    "arguments that are missing": calling("field-missing", RESULT, TWELVE, arguments=None),
    "a function that is not declared": calling("tool-unknown", RESULT, TWELVE, name="seek"),
    "a function without a name": calling("field-missing", RESULT, TWELVE, name=None),
    "a call that nobody answers": calling("tool-result-missing", ("user", "Well?"), TWELVE),
    "an answer to no call": calling("tool-result-orphan", RESULT, {**RESULT, "tool_call_id": "call_9"}, TWELVE),
    "a result without a call": turns("tool-result-orphan", HELLO, RESULT, TWELVE),
    "two calls of one id": calling(
        "tool-call-id", RESULT, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, TWELVE
    ),
    "calls that are no list": turns(
        "field-type", HELLO, {"role": "assistant", "tool_calls": "find"}, also=("content-missing",)
    ),
    "a call of the user": turns("field-unknown", {"role": "user", "content": "Hi", "tool_calls": [CALL]}, REPLY),
    "a declared tool without a name": calling(
        "tools-invalid", RESULT, TWELVE, tools=[{"type": "function", "function": {}}]
    ),
    "tools that are a text": calling("tools-invalid", RESULT, TWELVE, tools="find"),
    "parameters that are no schema": calling(
        "tools-invalid",
        RESULT,
        TWELVE,
        tools=[{"type": "function", "function": {**FIND, "parameters": {"type": "thing"}}}],
    ),
}
PAIR = {"prompt": "Who is there?", "chosen": "It is me.", "rejected": "Nobody."}
HOSTED_PAIR = {
    "input": {"messages": [{"role": "user", "content": "Who is there?"}]},
    "preferred_output": [{"role": "assistant", "content": "It is me."}],
    "non_preferred_output": [{"role": "assistant", "content": "Nobody."}],
}
KTO = {"prompt": "Who is there?", "completion": "It is me.", "label": True}
ALPACA = {"instruction": "Say who is there", "input": "", "output": "It is me."}
SHAREGPT = {"conversations": [{"from": "human", "value": "Who is there?"}, {"from": "gpt", "value": "It is me."}]}
GEMINI = {
    "contents": [
        {"role": "user", "parts": [{"text": "Who is there?"}]},
        {"role": "model", "parts": [{"text": "It is me."}]},
    ]
}
BEDROCK = {"system": "Be brief.", **talk(("user", "Who is there?"), ("assistant", "It is me."))}
PALM = {"messages": [{"author": "user", "content": "Who is there?"}, {"author": "bot", "content": "It is me."}]}
PALM_TEXT = {"input_text": "Who is there?", "output_text": "It is me."}
LABELLED = {"text": "a fine film", "label": "good"}
REINFORCEMENT = {**talk(("user", "What is six times two?")), "reference": "12"}
ASKS = {"role": "user", "text": "A film please"}
LOOKS = [{"role": "agent", "api": {"find": {"city": "Haifa"}}}, {"role": "api", "response": {"find": {"film": "Yes"}}}]
REWARD = {"context": [ASKS, *LOOKS], "generation": {"role": "agent", "text": "Here is one."}, "reward": 1.0}
MODEL = {"role": "model", "parts": [{"text": "Hello to you"}]}


def reward(code: str, *also: str, **changes: object) -> BrokenFile:
    """Dialogues of Taskmaster, which declare no functions."""
    return after(code, REWARD, {**REWARD, "reward": 0.0, **changes}, "tool-unknown", *also)


def gemini(code: str, *contents: object, **more: object) -> BrokenFile:
    return after(code, GEMINI, {"contents": list(contents), **more})


def sharegpt(code: str, *said: object, also: tuple[str, ...] = ()) -> BrokenFile:
    return after(code, SHAREGPT, {"conversations": list(said)}, *also)


FORMATS = {
    "a pair without its better answer": after("field-missing", PAIR, {"prompt": "Where?", "rejected": "There."}),
    "a pair whose answer is null": after("field-null", PAIR, {**PAIR, "chosen": None}),
    "a pair of equal answers": after(
        "preference-equal", PAIR, {"prompt": "Where?", "chosen": "Here.", "rejected": "Here."}
    ),
    "a pair of two texts without a prompt": BrokenFile(
        "field-missing", 1, jsonl({"chosen": "Me.", "rejected": "You."})
    ),
    "a hosted pair without its input": after("field-missing", HOSTED_PAIR, {**HOSTED_PAIR, "input": {}}),
    "a hosted pair with two answers": after(
        "field-type", HOSTED_PAIR, {**HOSTED_PAIR, "preferred_output": HOSTED_PAIR["preferred_output"] * 2}
    ),
    "a hosted pair whose answer is the user's": after(
        "field-type", HOSTED_PAIR, {**HOSTED_PAIR, "preferred_output": [{"role": "user", "content": "Me"}]}
    ),
    "a hosted pair that is a text": after("field-type", HOSTED_PAIR, {**HOSTED_PAIR, "preferred_output": "Me"}),
    "a label that is a number": after("label-invalid", {**KTO, "label": False}, {**KTO, "label": 3}),
    "a label that is null": after("field-null", KTO, {**KTO, "label": None}),
    "labels of one kind": BrokenFile(
        "kto-one-sided", 0, jsonl(KTO, {**KTO, "prompt": "Where are you?", "completion": "Here."})
    ),
    "an alpaca row without its output": after("field-missing", ALPACA, {"instruction": "Say hello", "input": ""}),
    "an alpaca row whose output is a list": after("field-type", ALPACA, {**ALPACA, "output": ["a"]}),
    "an alpaca history of one text": after("field-type", ALPACA, {**ALPACA, "history": [["Who?"]]}),
    "a speaker whom nobody knows": sharegpt(
        "role-unknown", {"from": "bing", "value": "Hi"}, {"from": "gpt", "value": "Hello"}
    ),
    "a speaker who says nothing": sharegpt("content-missing", {"from": "human"}, {"from": "gpt", "value": "Hello"}),
    "a talk without turns": sharegpt("messages-empty"),
    "a talk that ends with the human": sharegpt("order-no-assistant", {"from": "human", "value": "Hi there"}),
    "a role of Gemini's that is OpenAI's": gemini(
        "role-unknown", {"role": "user", "parts": [{"text": "Hi"}]}, {"role": "assistant", "parts": [{"text": "Hello"}]}
    ),
    "a content without parts": gemini("content-missing", {"role": "user"}, MODEL),
    "parts that are a text": gemini("content-type", {"role": "user", "parts": "Hi"}, MODEL),
    "a part with two kinds": gemini(
        "content-type", {"role": "user", "parts": [{"text": "Hi", "functionCall": {"name": "f", "args": {}}}]}, MODEL
    ),
    "contents that are empty": gemini("messages-empty"),
    "an instruction that is a number": gemini(
        "field-type", {"role": "user", "parts": [{"text": "Hi"}]}, MODEL, systemInstruction=7
    ),
    "a role that Bedrock does not know": after("role-unknown", BEDROCK, {**BEDROCK, **talk(("tool", "x"), REPLY)}),
    "a system text that is a number of objects": after("field-type", BEDROCK, {**BEDROCK, "system": {"a": 1}}),
    "an author whom nobody knows": after("role-unknown", PALM, {"messages": [{"author": "cat", "content": "Mew"}]}),
    "a text without its output": after("field-missing", PALM_TEXT, {"input_text": "Where?"}),
    "an output that is null": after("field-null", PALM_TEXT, {"input_text": "Where?", "output_text": None}),
    "a prompt without its completion": BrokenFile(
        "field-missing",
        3,
        jsonl(*({"prompt": f"{w}?", "completion": f"{w}s"} for w in WORDS[:2]), {"prompt": "Where?"}),
    ),
    "a reward of two": reward("label-invalid", reward=2),
    "a reward for nothing": reward("content-missing", generation={"role": "agent"}),
    "a reward for no object": reward("field-type", generation="Here is one."),
    "a dialogue of a speaker whom nobody knows": reward("role-unknown", context=[{"role": "cat", "text": "Mew"}]),
    "a dialogue whose user calls": reward("field-unknown", context=[{**ASKS, "api": {"find": {}}}]),
    "a dialogue whose user gives a result": reward("field-unknown", context=[{"role": "user", "response": {"a": 1}}]),
    "a dialogue with a text for an answer to no call": reward(
        "tool-result-orphan", context=[ASKS, {"role": "api", "text": "It is late"}]
    ),
    "a row without its label": after("field-missing", LABELLED, {"text": "a poor film"}),
    "a label that is a list": after("field-type", LABELLED, {"text": "a poor film", "label": ["bad"]}),
    "a row without a reference": BrokenFile(
        "reinforcement-reference",
        2,
        jsonl(REINFORCEMENT, talk(("user", "What is six times three?"))),
        options=("--from", "openai-reinforcement"),
    ),
    "Parquet with turns that lack a role": BrokenFile(
        "role-unknown",
        2,
        parquet({"messages": [GOOD[0]["messages"], [{"role": None, "content": "Hi"}]]}),
        "rows.parquet",
    ),
    "a table of turns with a wrong role": BrokenFile(
        "role-unknown", 2, b'messages\n"[{""role"": ""usr"", ""content"": ""Hi""}]"\n', "rows.csv"
    ),
}
ANSWERS = {
    "an answer that is empty": answered("answer-empty", ""),
    "an answer of white space": answered("answer-empty", " \n\t"),
    "a prompt that is empty": row("field-empty", chat("")),
    "a prompt of white space": row("field-empty", chat(" \u00a0 ")),
    "an answer that repeats its prompt": row("answer-copies-prompt", chat("Say it again now", "say it again now")),
    "an answer that begins with a space": answered("answer-whitespace", " A good thing."),
    "an answer of another assistant": answered("answer-disclaimer", "As an AI language model, I cannot say."),
    "an answer of another assistant, in Hebrew": row("answer-disclaimer", chat("מה דעתך?", "כמודל שפה אין לי דעה.")),
    "a place that was never filled": answered("placeholder-text", "Dear {{name}}, it is good."),
    "signs of another model": answered("markup-text", "It is good.[/INST]"),
    "an entity of HTML": answered("html-text", "Salt &amp; pepper are good."),
    "None in place of a text": answered("field-none-text", "None"),
    "nan in a table": BrokenFile(
        "field-none-text", 3, b"question,answer\nWho is it?,Me\nWhere is it?,nan\n", "rows.csv"
    ),
    "a row far longer than the others": row(
        "length-outlier", chat("Tell me a story.", "Once upon a time. " * 400 + "End.")
    ),
}
LETTERS = {
    "NUL in a text": asked("text-nul", "a\0b"),
    "a bell in a text": asked("text-control", "a\x07b"),
    "a space of no width": asked("text-invisible", "pass\u200bword"),
    "an override of direction": asked("text-invisible", "abc\u202edef"),
    "a letter that was lost": asked("text-replacement", "caf\ufffd"),
    "UTF-8 that was read as latin-1": asked("text-mojibake", "café noir".encode().decode("latin-1")),
    "Hebrew that was read as cp1252": asked(
        "text-mojibake", "שלום".encode().decode("cp1252", "replace").replace("\ufffd", "\x9d")
    ),
    "an accent on its own": asked("text-not-normal", "cafe\u0301"),
    "a Cyrillic letter in a Latin word": asked("text-confusable", "p\u0430ypal"),
    "Hebrew in visual order": row("hebrew-visual-order", chat("םולש םיבוט ךל", "טוב תודה.")),
    "Hebrew of presentation forms": row(
        "hebrew-presentation-forms", chat("\ufb2a\u05dc\u05d5\u05dd לכם", "שלום גם לך.")
    ),
    "an answer in another script": BrokenFile(
        "language-answer",
        4,
        jsonl(*GOOD, chat("מה השעה?", "עכשיו שבע."), chat("מה שלומך היום?", "I am fine, thank you.")),
    ),
}
PERSONS = {
    "an e-mail address": asked("personal-email", "dana.levi@firma.co.il"),
    "a phone number": asked("personal-phone", "052-1234567"),
    "a number of a card": asked("personal-card", "4111 1111 1111 1111"),
    "an Israeli ID": asked("personal-israeli-id", "ת.ז. 123456782"),
    "a key of a service": asked("personal-secret", "sk-proj-" + "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7dE9fG1hJ3"),
    "a phone number in an answer": answered("personal-phone", "Call 03-1234567 after six."),
    "an e-mail address in a call": calling("personal-email", RESULT, TWELVE, arguments='{"city": "dana@firma.co.il"}'),
    "an e-mail address in a rejected answer": after(
        "personal-email", PAIR, {"prompt": "Where?", "chosen": "Here.", "rejected": "Write to dana@firma.co.il"}
    ),
}


def sentences(number: int, start: int = 0) -> list[str]:
    """Sentences of which no two are nearly the same."""
    places = range(start, start + number)
    return [f"{WORDS[n % 10]} {WORDS[n // 10 % 10][::-1]} {n}{WORDS[n % 10][::-1]} x{n * 31 % 97}y" for n in places]


def labelled(start: int = 0, **labels: int) -> list[dict[str, object]]:
    names = [label for label, count in labels.items() for _ in range(count)]
    return [{"text": text, "label": label} for text, label in zip(sentences(len(names), start), names, strict=True)]


def split(
    code: str, line: int, train: list[dict[str, object]], test: list[dict[str, object]], *also: str
) -> BrokenFile:
    return BrokenFile(code, line, jsonl(*test), "test.jsonl", {"train.jsonl": jsonl(*train)}, also=also)


LONG = "The quick brown fox jumps over the lazy dog while seven wizards boxed their evil quartz jug near the harbour"
TALKS = [chat(f"{text}?", f"Yes, the {text}.") for text in sentences(30)]
ALL_ROWS = {
    "a row twice": row("duplicate-exact", GOOD[0]),
    "a row twice but for a point": row("duplicate-near", chat("where is the key", "Under the mat.")),
    "two rows that nearly agree": BrokenFile(
        "duplicate-near", 3, jsonl(GOOD[1], chat(LONG, "Yes."), chat(f"{LONG} today", "Yes."))
    ),
    "two answers to one question": row("conflicting-answers", chat("Where is the key?", "In the drawer.")),
    "a test row that stands in train": split(
        "leak-exact", 2, TALKS, [chat("Who are you?", "Me, of course."), TALKS[0]], "leak-large"
    ),
    "a test row that nearly stands in train": split("leak-near", 1, [chat(LONG)], [chat(f"{LONG} today")]),
    "a test of training rows": split("leak-large", 0, TALKS, TALKS[:9], "leak-exact"),
    "one label for all rows": BrokenFile("label-single", 1, jsonl(*labelled(good=20))),
    "a label in two spellings": BrokenFile("label-variants", 41, jsonl(*labelled(good=20, bad=20, Good=12))),
    "a label of three rows": BrokenFile("label-rare", 21, jsonl(*labelled(good=20, bad=3))),
    "a label ten times as frequent": BrokenFile("label-imbalance", 0, jsonl(*labelled(good=120, bad=12))),
    "a label that train lacks": split("label-not-in-train", 3, labelled(good=20, bad=20), labelled(50, good=2, fair=1)),
    "pairs whose longer answer always wins": BrokenFile(
        "preference-length",
        0,
        jsonl(
            *({"prompt": f"{t}?", "chosen": f"Yes, {t}.", "rejected": f"No {n}"} for n, t in enumerate(sentences(25)))
        ),
    ),
}
HOSTED = {
    "too few rows for a service": BrokenFile("hosted-rows", 0, GOOD_LINES, options=("--for", "openai")),
    "a format that a service refuses": BrokenFile(
        "hosted-format", 0, jsonl(*labelled(good=12, bad=12)), options=("--for", "openai")
    ),
    "a key that a service refuses": row(
        "hosted-field", chat("Hi", "Hello", source="web"), "hosted-rows", options=("--for", "azure")
    ),
    "a picture that a service refuses": row(
        "hosted-images",
        talk(("user", [{"type": "image_url", "image_url": {"url": "https://x.example/cat.gif"}}]), REPLY),
        "hosted-rows",
        options=("--for", "openai"),
    ),
}
BROKEN_FILES: dict[str, BrokenFile] = {
    **FILES,
    **CHATS,
    **ORDER,
    **CALLS,
    **FORMATS,
    **ANSWERS,
    **LETTERS,
    **PERSONS,
    **ALL_ROWS,
    **HOSTED,
}
