"""JSON Lines whose lines lack brackets at their ends: these are written, and nothing else is changed."""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext

import orjson

from kivnun.data.files.closing import find_closing
from kivnun.data.files.unpack import UnreadableError, stream_bytes
from kivnun.data.repair.encoding import cut_at_newlines
from kivnun.data.repair.output import both_or_neither, check_target, log_path, open_log, open_whole
from kivnun.data.repair.rewrite import Repair, Target
from kivnun.data.repair.source import Source
from kivnun.errors import UserError


def close_brackets(source: Source, target: Target) -> Repair:
    """Write the brackets that lines lack at their ends; all others stay as they are, to the byte.

    Args:
        source: A file of JSON Lines.
        target: Where to.

    Raises:
        UserError: `data-format` for another layout, `data-malformed` if the file cannot be unpacked, and what writing
            raises.
    """
    if source.file.layout != "jsonl":
        problem = f"{source.name}: {source.file.layout} has no lines that are objects"
        raise UserError("data-format", problem, hint="name a file of JSON Lines")
    check_target(source, target.out, force=target.force)
    counts: Counter[str] = Counter()
    broken: list[int] = []
    number = 0
    with both_or_neither(target.out) as stack:
        file = stack.enter_context(nullcontext() if target.dry_run else open_whole(target.out))
        log = stack.enter_context(nullcontext(_ignore) if target.dry_run else open_log(log_path(target.out)))
        for number, line in enumerate(_read_lines(source), start=1):
            body = line.rstrip()
            closing = find_closing(body)
            if closing:
                counts[f"closed: {closing}"] += 1
                reason = f"`{closing}` was missing at its end"
                log({"where": f"{source.name}:{number}", "action": "closed", "reason": reason})
            elif body and not _is_json(body):
                broken.append(number)
            if file is not None:
                file.write(body + closing.encode() + line[len(body) :])
    notes = [
        f"{len(broken):,} line(s) are broken otherwise and stay as they are, the first of them line {first}"
        for first in broken[:1]
    ]
    names = (str(target.out), str(log_path(target.out)))
    return Repair(source.name, *names, number, number, dict(counts), notes)


def _read_lines(source: Source) -> Iterator[bytes]:
    try:
        yield from cut_at_newlines(stream_bytes(source.file.path))
    except UnreadableError as error:
        raise UserError("data-malformed", f"{source.name} {error}", hint="copy or download it again") from error


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return False
    return True


def _ignore(*_: object) -> None:
    """In place of a log."""
