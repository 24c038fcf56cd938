"""What mends the rows of a job's file: the advice of the check that refused them, or of what the file really is."""

import re
from pathlib import Path

from kivnun.data.findings import CHECKS, Finding

AS_UTF8 = "save the file as UTF-8 and upload it again (`kivnun repair fix-encoding IN OUT` does)"
_CONVERT = "`kivnun convert IN rows.jsonl --to openai-chat` writes that"
_LINES = "upload JSON Lines, which has one object a line"
ADVICE = {
    "encoding-utf16": AS_UTF8,
    "encoding-not-utf8": AS_UTF8,
    "json-not-object": f"{_LINES}: {_CONVERT}",
    "format-unknown": "give each row `messages`, or `prompt` and `completion`",
}
"""In place of the check's own hint, by its code."""
_HEAD_BYTES = 4096
_QUOTED_CELLS = re.compile(rb'"[^"]*"[,;\t]')


def advise(finding: Finding, copy: Path) -> str:
    """One action that mends what was found.

    Args:
        finding: The first error of a file.
        copy: The job's own copy of that file.
    """
    if finding.code == "json-syntax":
        with copy.open("rb") as file:
            return _advise_syntax(file.read(_HEAD_BYTES).lstrip())
    return ADVICE.get(finding.code, CHECKS[finding.code].hint)


def _advise_syntax(head: bytes) -> str:
    """What a file is that is no JSON Lines, by how it begins."""
    first = head.partition(b"\n")[0].strip()
    if first.startswith(b"["):
        return f"the file is one JSON array: {_LINES}; {_CONVERT}"
    if first.startswith(b"{'"):
        return "JSON has double quotes: write each row with `json.dumps(row)`, and not with `str(row)`"
    are_cells = first[:1] not in b'{"<' and any(sign in first for sign in (b",", b";", b"\t"))
    if first and (are_cells or _QUOTED_CELLS.match(first)):
        return f"the file looks like a table (CSV): {_LINES}; {_CONVERT}"
    return CHECKS["json-syntax"].hint
