"""What became of every key of an Olive file, as a table on standard error and as JSON."""

from typing import TYPE_CHECKING

from kivnun.cli.output import tell

if TYPE_CHECKING:
    from kivnun.olive.translation import KeyLine, Translation

OUTCOMES = {
    "used": "",
    "renamed": "",
    "same": "Kivnun does so anyway",
    "default": "not given: Olive's own",
    "own": "not given: Kivnun's own",
}
"""What each outcome is called, where the target does not say it."""


def say_translation(translation: "Translation", source: str) -> None:
    """Say on standard error what became of every key."""
    tell(f"{source} is an Olive file; what becomes of each key:")
    cells = [(_given(line), _became(line)) for line in translation.lines]
    width = min(max(len(given) for given, _ in cells), 72)
    for given, became in cells:
        tell(f"  {given:<{width}}  {became}")
    for note in translation.notes:
        tell(f"note: {note}")


def translation_rows(translation: "Translation") -> list[dict[str, object]]:
    """The same as plain values."""
    return [
        {"key": line.key, "value": line.value, "outcome": line.outcome, "becomes": line.target, "note": line.note}
        for line in translation.lines
    ]


def _given(line: "KeyLine") -> str:
    from kivnun.recipe.dump import dump_value

    if line.outcome in ("default", "own") or line.value in (None, "") or isinstance(line.value, dict):
        return line.key
    value = dump_value(line.value)
    return f"{line.key}: {value if len(value) <= 48 else value[:47] + '…'}"


def _became(line: "KeyLine") -> str:
    told = [line.target, OUTCOMES[line.outcome] if line.outcome != "refused" else "", line.note]
    return "; ".join(filter(None, told)) or "used"
