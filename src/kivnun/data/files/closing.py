"""Lines of JSON that lack nothing but the brackets at their ends, as copying and cutting leaves them."""

import orjson

CLOSING = {"{": "}", "[": "]"}


def find_closing(line: bytes) -> str:
    """The brackets that make an object of a line that lacks nothing but them, or ""."""
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    else:
        return ""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return ""
    closing = _list_open(text)
    if not closing or not text.lstrip().startswith("{"):
        return ""
    try:
        orjson.loads(text + closing)
    except orjson.JSONDecodeError:
        return ""
    return closing


def _list_open(text: str) -> str:
    """What closes the brackets that a text leaves open."""
    stack: list[str] = []
    in_string = is_escaped = False
    for sign in text:
        if in_string:
            in_string = is_escaped or sign != '"'
            is_escaped = sign == "\\" and not is_escaped
        elif sign == '"':
            in_string = True
        elif sign in CLOSING:
            stack.append(CLOSING[sign])
        elif stack and sign == stack[-1]:
            stack.pop()
    return "".join(reversed(stack))
