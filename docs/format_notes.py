"""What the page of formats says beyond `kivnun.data.formats.FORMATS`: a row of each, and what the format cannot hold.

What it cannot hold is found by writing: rows are given something more, such as a system turn, and a format that has no
room for it says so.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from kivnun.data.conversation import Conversation, Image, Message, ToolCall
from kivnun.data.findings import RowError
from kivnun.data.formats import FORMATS
from kivnun.data.rows import Row


@dataclass(frozen=True)
class FormatNote:
    """What the page says of one format.

    Attributes:
        row: A row as it stands in a file.
        advice: What to know about it, in a few sentences.
    """

    row: Mapping[str, object]
    advice: str

    def read(self, name: str) -> Conversation:
        """The row as its format reads it."""
        return FORMATS[name].read(Row(self.row, "rows.jsonl", 1))

    def is_recognised(self, name: str) -> bool:
        """Whether the row looks like its format."""
        return FORMATS[name].recognise(self.row) is not None


@dataclass(frozen=True)
class Feature:
    """Something that not every format has room for.

    Attributes:
        title: What the page calls it.
        add: Gives it to a row; None for rows to which it cannot be given.
    """

    title: str
    add: Callable[[Conversation], Conversation | None]


def find_losses(note: FormatNote, name: str, feature: Feature) -> str | None:
    """Why a format refuses a row with a feature; "" where it holds it, None where that cannot be asked."""
    write = FORMATS[name].write
    given = feature.add(note.read(name))
    if write is None or given is None:
        return None
    try:
        write(given)
    except RowError as error:
        return error.findings[0].message
    return ""


def describe_turns(conversation: Conversation) -> Iterator[str]:
    """A line for each turn, and for what stands beside the turns."""
    for message in conversation.messages:
        texts = [message.content] if message.content else []
        texts += [f"calls {call.name}({call.arguments})" for call in message.tool_calls]
        learnt = "  <- learnt" if message.trained else ""
        yield f"{message.role}: {' '.join(texts)}".replace("\n", "\\n") + learnt
    if conversation.rejected is not None:
        yield f"rejected: {conversation.rejected.content}"
    if conversation.desirable is not None:
        yield f"desirable: {str(conversation.desirable).lower()}"
    yield from (f"further column {key}: {json.dumps(value)}" for key, value in conversation.extra.items())


_QUESTION = Message("user", "And tomorrow?", trained=False)
_ANSWER = Message("assistant", "Sunny.", trained=True)
_CALL = Message("assistant", "", trained=True, tool_calls=(ToolCall("call_1", "weather", '{"city":"Haifa"}'),))
_RESULT = Message("tool", "Sunny", trained=False, name="weather", tool_call_id="call_1")
_TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def _before(given: Conversation, *turns: Message) -> Conversation:
    """The row with turns before its last question: what is judged or learnt at the end stays where it is."""
    ends_with_answer = bool(given.messages) and given.messages[-1].role == "assistant"
    place = max(0, len(given.messages) - (2 if ends_with_answer else 1))
    return replace(given, messages=(*given.messages[:place], *turns, *given.messages[place:]))


def _is_last_only(given: Conversation) -> bool:
    return given.rejected is not None or given.desirable is not None or not any(m.trained for m in given.messages)


def _context(given: Conversation, message: Message) -> Message:
    """An earlier assistant turn, which preference and KTO rows do not learn."""
    return replace(message, trained=False) if _is_last_only(given) else message


def _add_system(given: Conversation, role: str = "system") -> Conversation:
    rest = given.messages[1:] if given.messages[0].role == "system" else given.messages
    return replace(given, messages=(Message(role, "Be brief.", trained=False), *rest))


def _add_turns(given: Conversation) -> Conversation:
    return _before(given, replace(_QUESTION), _context(given, _ANSWER))


def _add_late_system(given: Conversation) -> Conversation:
    late = Message("system", "Be brief.", trained=False)
    return _before(_add_turns(given), late)


def _add_untrained(given: Conversation) -> Conversation | None:
    return None if _is_last_only(given) else _before(given, _QUESTION, replace(_ANSWER, trained=False))


def _add_name(given: Conversation) -> Conversation | None:
    turns = list(given.messages)
    place = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
    if place is None:
        return None
    turns[place] = replace(turns[place], name="דנה")
    return replace(given, messages=tuple(turns))


def _add_tools(given: Conversation) -> Conversation:
    calling = _before(given, _QUESTION, _context(given, _CALL), _RESULT, _context(given, _ANSWER))
    return replace(calling, tools=(_TOOL,))


def _add_picture(given: Conversation) -> Conversation | None:
    turns = list(given.messages)
    place = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
    if place is None:
        return None
    turns[place] = replace(turns[place], images=(Image(0, "https://example.com/cat.png"),))
    return replace(given, messages=tuple(turns))


def _add_rejected(given: Conversation) -> Conversation | None:
    if given.rejected is not None or _is_last_only(given):
        return None
    return replace(given, rejected=Message("assistant", "No.", trained=False))


def _add_label(given: Conversation) -> Conversation | None:
    return None if _is_last_only(given) else replace(given, desirable=True)


def _drop_judgement(given: Conversation) -> Conversation | None:
    is_judged = given.rejected is not None or given.desirable is not None
    return replace(given, rejected=None, desirable=None) if is_judged else None


def _add_answer(given: Conversation) -> Conversation | None:
    """A learnt answer, for rows that end with the user."""
    return None if given.messages[-1].role == "assistant" else replace(given, messages=(*given.messages, _ANSWER))


FEATURES = (
    Feature("system turn first", _add_system),
    Feature("system turn later", _add_late_system),
    Feature("developer turn", lambda given: _add_system(given, "developer")),
    Feature("several turns", _add_turns),
    Feature("weight 0", _add_untrained),
    Feature("names of speakers", _add_name),
    Feature("tools and calls", _add_tools),
    Feature("parallel_tool_calls", lambda given: replace(given, parallel_tool_calls=False)),
    Feature("pictures", _add_picture),
    Feature("rejected answer", _add_rejected),
    Feature("good or bad", _add_label),
    Feature("rows that are not judged", _drop_judgement),
    Feature("an answer to learn", _add_answer),
    Feature("further columns", lambda given: replace(given, extra={**given.extra, "source": "web"})),
)

_USER, _MODEL = {"role": "user", "content": "מתי נפתחת החנות?"}, {"role": "assistant", "content": "בתשע בבוקר."}
_PARTS = {"role": "user", "parts": [{"text": "מתי נפתחת החנות?"}]}, {"role": "model", "parts": [{"text": "בתשע."}]}
_AGENT = {"role": "agent", "text": "בתשע."}

FORMAT_NOTES: dict[str, FormatNote] = {
    "openai-preference": FormatNote(
        {
            "input": {"messages": [_USER]},
            "preferred_output": [_MODEL],
            "non_preferred_output": [{"role": "assistant", "content": "לא יודע."}],
        },
        "`preferred_completion` and `non_preferred_completion` are read too; `preferred_output` is written. `tools` "
        "and `parallel_tool_calls` stand inside `input`. The service refuses further keys.",
    ),
    "gemini-preference": FormatNote(
        {
            "contents": [_PARTS[0]],
            "completions": [
                {"score": 1.0, "completion": _PARTS[1]},
                {"score": 0.0, "completion": {"role": "model", "parts": [{"text": "לא יודע."}]}},
            ],
        },
        "Text only. The system turn is written as `system_instruction`. Scores are written as 1 and 0.",
    ),
    "preference": FormatNote(
        {"prompt": "Where is the key?", "chosen": "Under the mat.", "rejected": "No idea."},
        "Read as TRL writes it (texts, lists of turns, the prompt repeated in both answers) and as LLaMA-Factory does "
        "(`conversations` or `messages` with `chosen` and `rejected`); written as lists of turns. Two plain texts "
        "without a prompt are refused: nobody knows where the prompt ends.",
    ),
    "kto": FormatNote(
        {"prompt": "Where is the key?", "completion": "Under the mat.", "label": True},
        "Recognised only where `label` is true or false; 0 and 1 are labels of a table. Written as `messages` and "
        "`label`. Only the last answer is learnt.",
    ),
    "openai-reinforcement": FormatNote(
        {"messages": [{"role": "user", "content": "2 + 2?"}], "reference": "4"},
        "Recognised where rows end with the user and have a further key; without such a key they are taken for chat "
        "rows that lost their answer, so say `--from openai-reinforcement`. No turn is learnt: a grader judges answers "
        "by the further keys.",
    ),
    "gemini": FormatNote(
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "ענה בקצרה."}]},
            "contents": list(_PARTS),
        },
        "Both spellings (`systemInstruction`, `system_instruction`; `functionCall`, `function_call`) are read, the "
        "first is written. Calls have no ids: results answer them in order. Arguments are objects, so their spacing is "
        "not kept. A picture must tell its type by its address. Words of JSON Schema that Gemini does not know are "
        "written as they stand.",
    ),
    "gemini-1.0": FormatNote(
        {"messages": [{"role": "user", "content": "מתי נפתחת החנות?"}, {"role": "model", "content": "בתשע."}]},
        "The shape of 2024: like OpenAI's, with the role `model`.",
    ),
    "palm-chat": FormatNote(
        {
            "context": "ענה בקצרה.",
            "messages": [{"author": "user", "content": "מתי נפתחת החנות?"}, {"author": "bot", "content": "בתשע."}],
        },
        "`context` is the system turn; `author` is written as `user` and `model`.",
    ),
    "palm-text": FormatNote({"input_text": "מתי נפתחת החנות?", "output_text": "בתשע."}, "One question and one answer."),
    "bedrock-claude": FormatNote(
        {"system": "ענה בקצרה.", "messages": [_USER, _MODEL]},
        "Recognised only with `system`; without it, rows are those of OpenAI chat. Turns must alternate, the user "
        "first and the assistant last.",
    ),
    "sharegpt": FormatNote(
        {"conversations": [{"from": "human", "value": "מתי נפתחת החנות?"}, {"from": "gpt", "value": "בתשע."}]},
        "A system turn is written as a first turn. `weight: 0` is read (axolotl) but not written, since others would "
        "train that turn. Ids of calls are dropped where results follow their calls in order.",
    ),
    "openai-chat": FormatNote(
        {"messages": [{"role": "system", "content": "ענה בקצרה."}, _USER, _MODEL]},
        "Content may be a list of parts. `weight: 0` keeps an assistant's turn from being learnt, and "
        "`weight: 0.5` lets its tokens count half, which OpenAI does not know. `tools`, calls with ids, and "
        "the older `functions` are read. No further columns: the service refuses keys that it does not know.",
    ),
    "alpaca": FormatNote(
        {"instruction": "תרגם לאנגלית.", "input": "שלום", "output": "Hello"},
        "Instruction and input are joined by a line break, and written back as one `instruction` with an empty "
        "`input`. `system` and `history` are read and written.",
    ),
    "prompt-completion": FormatNote(
        {"prompt": "Where is the key?", "completion": " Under the mat."},
        "Two texts. TRL's lists of turns are read; two texts are written. A completion may begin with a space.",
    ),
    "columns": FormatNote(
        {"text": "הסרט היה נפלא", "label": "good"},
        "For tables of any layout. Known pairs are found by name: text with label, category, intent, sentiment, ..., "
        "question with answer, instruction with response, source with target, and so on; also טקסט with תווית and שאלה "
        "with תשובה. Any other pair is named with `--prompt` and `--answer`. A `context` goes before a question and "
        "behind an instruction. Written as `prompt` and `answer`.",
    ),
    "text": FormatNote({"text": "פעם אחת היה עץ."}, "Documents without turns, for `objective: text`."),
    "taskmaster": FormatNote(
        {
            "context": json.dumps([{"role": "user", "text": "מתי נפתחת החנות?"}], ensure_ascii=False),
            "generation": json.dumps(_AGENT, ensure_ascii=False),
            "reward": 1.0,
        },
        "The reward files of Taskmaster-4; read as KTO rows, with API calls as calls of tools. The rows declare no "
        "tools.",
    ),
    "super-ni": FormatNote(
        {"definition": "Name the tone.", "input": "איזה יופי!", "output": ["joy", "happiness"]},
        "The user's turn is the definition, a blank line and the input; the first output is learnt, the others are "
        "kept in `references`.",
    ),
    "snips": FormatNote(
        {"text": "נגן ג'אז", "intent": "PlayMusic", "slots": []}, "The intent is learnt; slots are kept as a column."
    ),
    "squad": FormatNote(
        {"context": "The shop opens at nine.", "question": "When?", "answers": {"text": ["at nine"]}},
        "SQuAD and XQuAD, also with the articles' nested layout. The first answer is learnt, the others are kept in "
        "`references`.",
    ),
}
