"""Whether the turns of a row come in an order that can be learnt, and whether its pictures can be used."""

import re
from collections.abc import Iterator, Sequence

from kivnun.data.checks.problem import Problem
from kivnun.data.conversation import Conversation, Image, Message

MAX_PICTURES = 10
MAX_PICTURE_BYTES = 10 * 1024 * 1024
_PICTURE_TYPES = ("image/jpeg", "image/jpg", "image/png", "image/webp")
_OTHER_PICTURE = re.compile(r"\.(gif|bmp|tiff?|svg|heic|avif|ico)(?:[?#]|$)", re.IGNORECASE)
_SYSTEM = ("system", "developer")
_USUAL_ROLES = (("user", "assistant"), ("system", "user", "assistant"))


def check_turns(conversation: Conversation, *, reinforcement: bool = False, document: bool = False) -> list[Problem]:
    """What is wrong with the order of a row's turns.

    Args:
        conversation: The row.
        reinforcement: Whether it is a row for reinforcement, which rightly ends with the user.
        document: Whether it is a plain text without a user.
    """
    messages = conversation.messages
    roles = tuple([message.role for message in messages])
    if roles in _USUAL_ROLES or document:
        return []
    problems = [*_system_problems(roles), *_repeated(messages)]
    if not reinforcement:
        problems += _end_problems(roles)
    if "user" not in roles:
        problems.append(("order-no-user", f"no user turn among {_roles_in_words(roles)}"))
    else:
        problems += _early_answers(messages, roles.index("user"))
    return problems


def check_pictures(conversation: Conversation) -> list[Problem]:
    """Which rules of hosted services for pictures a row breaks."""
    images = [(number, image) for number, turn in enumerate(conversation.messages, 1) for image in turn.images]
    problems: list[Problem] = []
    if len(images) > MAX_PICTURES:
        problems.append(("hosted-images", f"{len(images)} pictures; at most {MAX_PICTURES} are taken"))
    for number, image in images:
        reason = _refused_picture(image)
        if reason:
            problems.append(("hosted-images", f"turn {number}: {reason}"))
    return problems


def _end_problems(roles: Sequence[str]) -> list[Problem]:
    if "assistant" not in roles:
        return [("order-no-assistant", f"no assistant turn among {_roles_in_words(roles)}")]
    if roles[-1] != "assistant":
        return [("order-last", f"turn {len(roles)}, the last one, is a {roles[-1]} turn")]
    return []


def _early_answers(messages: Sequence[Message], first_user: int) -> list[Problem]:
    early = [n for n, turn in enumerate(messages[:first_user], 1) if turn.role == "assistant" and turn.trained]
    if not early:
        return []
    return [("order-first", f"turn {early[0]} is a trained assistant turn; the first user turn is {first_user + 1}")]


def _system_problems(roles: Sequence[str]) -> list[Problem]:
    late = [number for number, role in enumerate(roles, 1) if role in _SYSTEM and number > 1]
    if not late:
        return []
    what = "is a second" if roles[0] in _SYSTEM else "is a late"
    return [("order-system", f"turn {late[0]} {what} {roles[late[0] - 1]} turn")]


def _repeated(messages: Sequence[Message]) -> Iterator[Problem]:
    """Turns of one speaker in a row; results of several calls and speakers of different names are no repeats."""
    for number in range(1, len(messages)):
        before, turn = messages[number - 1], messages[number]
        if turn.role == before.role and turn.role in ("user", "assistant") and turn.name == before.name:
            yield "order-repeated", f"turns {number} and {number + 1} are both {turn.role} turns"
            return


def _roles_in_words(roles: Sequence[str]) -> str:
    if not roles:
        return "0 turns"
    shown = ", ".join(roles[:6])
    return f"{len(roles)} ({shown}{', ...' if len(roles) > 6 else ''})"


def _refused_picture(image: Image) -> str:
    """Why a hosted service refuses a picture, or ""."""
    url = image.url
    if url.startswith("data:"):
        mime_type = re.split("[;,]", url[5:100], maxsplit=1)[0].lower()
        size = (len(url) - url.find(",") - 1) * 3 // 4
        if size > MAX_PICTURE_BYTES:
            return f"a picture of {size / 1024 / 1024:.1f} MB; at most 10 MB are taken"
    elif url.startswith(("http://", "https://", "gs://")):
        mime_type = image.mime_type.lower()
        other = _OTHER_PICTURE.search(url)
        if other:
            return f"a {other[1].lower()} picture; JPEG, PNG and WEBP are taken"
    else:
        return f"picture `{url[:40]}` is neither a web address nor a data URL"
    if mime_type and mime_type not in _PICTURE_TYPES:
        return f"a picture of type {mime_type}; JPEG, PNG and WEBP are taken"
    return ""
