"""Texts of other kinds than the rows, on which tuned arms are asked what they forgot."""

from dataclasses import dataclass
from pathlib import Path

import orjson

from kivnun.errors import UserError

SHIPPED_PROBE = Path(__file__).with_name("probe.jsonl")
SHIPPED_NOTE = "short everyday texts in English and Hebrew that are shipped with Kivnun"


@dataclass(frozen=True)
class Probe:
    """Texts of other kinds than the rows.

    Attributes:
        texts: The texts.
        note: What they are.
    """

    texts: tuple[str, ...]
    note: str


def read_probe(path: str | None) -> Probe:
    """The texts of a file: JSONL with `text`, or paragraphs of plain text; the shipped ones without a file.

    Raises:
        UserError: `data-missing`, `data-encoding`, `data-malformed` or `data-empty`.
    """
    file = SHIPPED_PROBE if path is None else Path(path)
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        hint = "name a file in decide.probe, or leave it out for the texts that are shipped"
        raise UserError("data-missing", f"{file}: {(error.strerror or str(error)).lower()}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise UserError("data-encoding", f"{file} is not UTF-8", hint="save the file as UTF-8") from error
    is_lines = file.suffix in (".jsonl", ".ndjson")
    texts = _read_lines(file, content) if is_lines else content.replace("\r\n", "\n").split("\n\n")
    filled = tuple(text.strip() for text in texts if text.strip())
    if not filled:
        raise UserError("data-empty", f"{file} holds no text", hint="give texts in `text`, or paragraphs")
    return Probe(filled, SHIPPED_NOTE if path is None else f"texts of {file.name}")


def _read_lines(file: Path, content: str) -> list[str]:
    texts: list[str] = []
    # Not splitlines(), which also cuts at signs that may stand inside a JSON text.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = orjson.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            hint = 'write a line like {"text": "..."}'
            raise UserError("data-malformed", f"{file}:{number}: no text in `text`", hint=hint)
        texts.append(text)
    return texts
