"""Whether a row teaches what it should: its answers, what was left in them by templates, and its preferences."""

import re
from collections.abc import Iterable, Mapping, Sequence

from kivnun.data.checks.problem import Problem, cut_value
from kivnun.data.conversation import Conversation, Message

_NONE_TEXTS = frozenset(("None", "null", "NULL", "nan", "NaN", "<NA>", "NaT", "undefined", "[object Object]"))
_BOOKKEEPING = frozenset(
    ("id", "uuid", "index", "idx", "source", "dataset", "split", "created", "created_at", "metadata", "meta", "tags")
)


def names_reference(extra: Mapping[str, object]) -> bool:
    """Whether a row's further keys hold anything that a grader could compare an answer with."""
    return any(value not in (None, "", [], {}) and key.lower() not in _BOOKKEEPING for key, value in extra.items())


def check_answers(conversation: Conversation, *, completion: bool = False) -> list[Problem]:
    """What is wrong with the answers of a row that are learnt.

    Args:
        conversation: The row.
        completion: Whether the answer goes on where the prompt ends, so that it rightly begins with a space.
    """
    problems: list[Problem] = []
    trained = False
    for number, turn in enumerate(conversation.messages, 1):
        if turn.trained:
            trained = True
            content = turn.content
            if not content or content.isspace():
                if not turn.tool_calls:
                    problems.append(("answer-empty", f"turn {number} (assistant) {_empty_in_words(content)}"))
            elif content[-1].isspace() or content[0].isspace():
                problems += _outer_space(turn, number, completion=completion)
    if not trained and any(turn.role == "assistant" for turn in conversation.messages):
        problems.append(("nothing-trained", "every assistant turn has weight 0"))
    problems += _copies(conversation.messages)
    if conversation.rejected is not None:
        problems += _preference_problems(conversation.messages, conversation.rejected)
    return problems


def check_reference(extra: Mapping[str, object]) -> list[Problem]:
    """Whether a row for reinforcement gives its grader something to compare with."""
    if names_reference(extra):
        return []
    keys = f"only {', '.join(f'`{key}`' for key in list(extra)[:5])}" if extra else "no key"
    return [("reinforcement-reference", f"{keys} beside `messages` and `tools`")]


def check_none_texts(conversation: Conversation) -> list[Problem]:
    """Fields and turns that hold the text of a missing value."""
    turns = [turn.content for turn in conversation.messages]
    if _NONE_TEXTS.isdisjoint(conversation.fields.values()) and _NONE_TEXTS.isdisjoint(turns):
        return []
    for name, value in conversation.fields.items():
        if value in _NONE_TEXTS:
            return [("field-none-text", f"field `{name[:40]}` holds the text `{value}`")]
    for number, turn in enumerate(conversation.messages, 1):
        if turn.content in _NONE_TEXTS:
            return [("field-none-text", f"turn {number} ({turn.role}) holds the text `{turn.content}`")]
    return []


# Boilerplate of other assistants, and not the way in which a model may be taught to introduce itself.
_DISCLAIMER = re.compile(
    r"\b(?:as|being) an? (?:(?:ai|artificial intelligence)(?: assistant| chatbot| model)?,"
    r"|(?:ai[ -])?(?:(?:large|text-based) )?(?:ai )?language model\b)"
    r"|\bi(?: am| was|['’]m) (?:just |only )?an? (?:ai[ -])?(?:large )?language model\b|\bi(?: am|['’]m) chatgpt\b"
    r"|\bi (?:was|am|have been) (?:created|developed|trained|made|built) by (?:openai|anthropic|google|meta)\b"
    r"|כמודל שפה|כבינה מלאכותית|אני מודל שפה",
    re.IGNORECASE,
)
# One of these stands in every disclaimer; a search for them costs far less than the pattern.
_DISCLAIMER_WORDS = ("AI", "anguage model", "an ai", "hatGPT", "rtificial", "Anthropic", "מודל שפה", "בינה מלאכותית")


def check_disclaimer(conversation: Conversation, joined: str) -> list[Problem]:
    """Answers that speak as another assistant.

    Args:
        conversation: The row.
        joined: All its texts in one.
    """
    for word in _DISCLAIMER_WORDS:
        if word in joined:
            break
    else:
        return []
    for number, turn in enumerate(conversation.messages, 1):
        found = _DISCLAIMER.search(turn.content) if turn.trained else None
        if found:
            return [("answer-disclaimer", f"turn {number} (assistant): `{_around(turn.content, found)}`")]
    return []


# Not behind letters, `$`, `\`, `^`, `_` or braces: LaTeX groups and variables of build files are no placeholders.
_PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9$\\^_{}])\{\{ ?[^\W\d][\w .-]{0,39}\}\}(?!\})|\b[Ll]orem ipsum dolor\b")
_MARKUP = re.compile(
    r"<\|[a-z][a-z0-9_ ]{1,30}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</s>|<(?:bos|eos)>"
    r"|^### ?(?:Instruction|Response|Input) ?:",
    re.MULTILINE,
)
_ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|hellip|mdash|ndash|[lr][sd]quo|copy|reg|euro|shy|[lr]rm|#[0-9]{2,6}|#x[0-9a-f]{2,5});",
    re.IGNORECASE,
)
# A lone `<table>` may stand for a name (`SELECT * FROM <table>`); an end tag or an attribute is HTML.
_TAG = re.compile(
    r"</(?:p|div|span|b|i|u|a|strong|em|font|ul|ol|li|table|tr|td|th|h[1-6]|blockquote|center|sup|sub)>|<[bh]r ?/?>"
    r"|<(?:p|div|span|a|font|table|td|img) [a-z-]{2,12}=[^<>]{0,300}>",
    re.IGNORECASE,
)
_CODE = re.compile(r"```|\bhtml|\bxml|\bcss\b|javascript|markup|\btags?\b|<!doctype|<script|\?php", re.IGNORECASE)


def may_hold_leftovers(text: str, marks: bytes) -> bool:
    """Whether a text, with its `ascii_marks`, may hold what `check_leftovers` finds; a quick look for most texts."""
    if b"<" in marks or b"&" in marks or b"{{" in marks or b"##" in marks:
        return True
    return (b"[" in marks and "INST]" in text) or "orem ipsum" in text


def check_leftovers(texts: Sequence[tuple[str, str]]) -> list[Problem]:
    """Placeholders, other models' signs and HTML that a row's texts still hold.

    Args:
        texts: Each text behind the words that say where in the row it stands.
    """
    # A row about web pages rightly shows tags.
    about_code = any(_CODE.search(text) for _, text in texts)
    wanted = [("placeholder-text", _PLACEHOLDER), ("markup-text", _MARKUP)]
    wanted += [] if about_code else [("html-text", _ENTITY), ("html-text", _TAG)]
    problems: list[Problem] = []
    for code, pattern in wanted:
        if any(known == code for known, _ in problems):
            continue
        found = _first_match(pattern, texts)
        if found:
            problems.append((code, found))
    return problems


def _first_match(pattern: re.Pattern[str], texts: Iterable[tuple[str, str]]) -> str:
    for where, text in texts:
        match = pattern.search(text)
        if match:
            number = len(pattern.findall(text))
            more = f", {number} in all" if number > 1 else ""
            return f"{where}: `{match[0][:60].strip()}` at character {match.start() + 1}{more}"
    return ""


def _empty_in_words(content: str) -> str:
    return f"holds only {len(content)} characters of white space" if content else "is empty"


def _outer_space(turn: Message, number: int, *, completion: bool) -> list[Problem]:
    content = turn.content
    ends = [
        *(["begins"] if content[0].isspace() and not (completion and content[0] == " ") else []),
        *(["ends"] if content[-1].isspace() else []),
    ]
    return [("answer-whitespace", f"turn {number} (assistant) {' and '.join(ends)} with white space")] if ends else []


def _copies(messages: Sequence[Message]) -> list[Problem]:
    """Answers that only repeat the turn before them; one word may rightly be its own answer."""
    for number in range(1, len(messages)):
        answer, prompt = messages[number], messages[number - 1]
        if not answer.trained or prompt.role != "user":
            continue
        first, second = answer.content[:1], prompt.content[:1]
        if first.isalnum() and second.isalnum() and first.casefold() != second.casefold():
            continue
        if _start(answer) == _start(prompt):
            said = answer.content.split()
            if len(said) > 1 and " ".join(said).casefold() == " ".join(prompt.content.split()).casefold():
                shown = cut_value(answer.content, 60)
                return [("answer-copies-prompt", f"turn {number + 1} (assistant) repeats turn {number}: `{shown}`")]
    return []


def _start(turn: Message) -> str:
    return turn.content[:40].lstrip()[:1].casefold()


def _preference_problems(messages: Sequence[Message], rejected: Message) -> list[Problem]:
    if not messages:
        return []
    preferred = messages[-1]
    if preferred.content.strip() != rejected.content.strip():
        return []
    calls = [[(call.name, call.arguments) for call in turn.tool_calls] for turn in (preferred, rejected)]
    if calls[0] != calls[1]:
        return []
    return [("preference-equal", f"both are `{cut_value(preferred.content, 60)}`")]


def _around(text: str, match: re.Match[str]) -> str:
    return " ".join(text[max(0, match.start() - 10) : match.end() + 20].split())
