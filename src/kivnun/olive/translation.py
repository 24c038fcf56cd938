"""What an Olive file or command becomes: a recipe, one line for every key, and every refusal at once.

Whoever translates collects in a `Draft`, key by key, and ends with `Draft.finish`: a `Translation`, or one error that
names all the keys that have no meaning here, each with its line and with what to write instead.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, cast

from kivnun.errors import UserError
from kivnun.recipe.dump import dump_value

Outcome = Literal["used", "renamed", "same", "default", "own", "refused"]
"""`used`: under its own name; `renamed`: under another; `same`: Kivnun does so anyway; `default`: the file is silent
and Olive's own value is written out; `own`: it is silent, and Kivnun's value is another; `refused`: an error, with what
to write instead."""

WHOSE: Final[Mapping[Outcome, str]] = {"default": "Olive's own", "own": "Kivnun's own"}
"""Whose value is taken where the file is silent."""
Tree = dict[str, object]

_SHARED = frozenset(
    ("training.betas", "training.precision", "where.subscription_id", "where.resource_group", "where.workspace_name"),
)
"""Fields of the recipe that several keys may give, if they say the same."""

_SECTIONS = (
    *("name", "base_model", "data", "method", "training", "evaluation", "optimization", "search", "where"),
    *("train", "validation", "train_rows", "validation_rows", "text_template", "kind"),
)


@dataclass(frozen=True)
class Meaning:
    """What one key with its value stands for."""

    outcome: Outcome
    """What becomes of it."""
    fields: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Values by dotted field of the recipe."""
    note: str = ""
    """Why it is as it is, or for what is refused: the reason, and what to write instead."""


OPENED: Final = Meaning("used")
"""A group whose keys have lines of their own, and so none itself."""


@dataclass(frozen=True)
class KeyLine:
    """One line of the table that a user is shown."""

    key: str
    """The key as the file or command spells it, such as `passes.lora.config.lora_r`."""
    value: object
    """Its value."""
    outcome: Outcome
    """What became of it."""
    target: str
    """What it is in the recipe, such as `method.rank: 8`; empty where it is nothing."""
    note: str = ""
    """Why."""


@dataclass(frozen=True)
class Translation:
    """A recipe with where each of its values came from."""

    recipe: Tree
    """The recipe as plain values."""
    lines: Sequence[KeyLine]
    """Every key of the source, and every default that was written out."""
    provenance: Mapping[str, str]
    """The key that gave a field of the recipe, by dotted field."""
    notes: Sequence[str] = ()
    """What differs on purpose from what Olive does."""
    output_dir: str | None = None
    """The run folder that the source asks for."""


@dataclass
class Draft:
    """A translation that is being made.

    Attributes:
        source: The file or command, for the error's headline.
        locate: Where a key stands, such as `olive.json:12` or `--lora_r`.
        hint: What mends a refused source as a whole.
    """

    source: str
    locate: Callable[[str], str]
    hint: str = "`kivnun recipe explain` lists what a recipe can say; docs/reference/olive.md lists every key of Olive"
    values: dict[str, object] = field(default_factory=dict[str, object])
    provenance: dict[str, str] = field(default_factory=dict[str, str])
    lines: list[KeyLine] = field(default_factory=list[KeyLine])
    problems: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    output_dir: str | None = None

    def add(self, key: str, value: object, meaning: Meaning) -> None:
        """Take a key with what it means; one that is refused, or contradicts another, becomes a problem."""
        if meaning is OPENED:
            return
        if meaning.outcome == "refused":
            self.refuse(key, meaning.note)
            return
        for path, given in meaning.fields.items():
            self._set(key, path, given)
        target = ", ".join(f"{path}: {dump_value(given)}" for path, given in meaning.fields.items())
        self.lines.append(KeyLine(key, value, meaning.outcome, target, meaning.note))

    def refuse(self, key: str, reason: str) -> None:
        """Note a key that has no meaning here."""
        self.problems.append(f"{self.locate(key)}: {key}: {reason}")

    def _set(self, key: str, path: str, value: object) -> None:
        earlier = self.provenance.get(path)
        if earlier is not None and not (path in _SHARED and self.values[path] == value):
            self.refuse(key, f"gives {path}, which {earlier} gives already; keep one of them")
            return
        self.values[path], self.provenance[path] = value, key

    def finish(self) -> Translation:
        """The translation.

        Raises:
            UserError: `olive-invalid`, with every problem.
        """
        if self.problems:
            details = tuple(dict.fromkeys(self.problems))
            count = f"{len(details)} problem{'s' if len(details) > 1 else ''}"
            raise UserError("olive-invalid", f"{count} in {self.source}", hint=self.hint, details=details)
        return Translation(
            nest(self.values), tuple(self.lines), dict(self.provenance), tuple(self.notes), self.output_dir
        )


def nest(values: Mapping[str, object]) -> Tree:
    """Values by dotted field as groups in groups, in the order of a recipe's sections."""
    tree: Tree = {}
    for path in sorted(values, key=_order):
        group = tree
        *above, name = path.split(".")
        for part in above:
            group = cast("Tree", group.setdefault(part, {}))
        group[name] = values[path]
    return tree


def _order(path: str) -> tuple[int, ...]:
    return tuple(_SECTIONS.index(part) if part in _SECTIONS else len(_SECTIONS) for part in path.split("."))


def write_recipe(translation: Translation, source: str = "an Olive file") -> str:
    """The YAML text of a translated recipe, with the key that each value came from behind it."""
    lines = [f"# Translated from {_one_line(source)}; behind each value stands the key that it came from."]
    lines += [f"# {_one_line(note)}" for note in translation.notes]
    silent = {line.key: WHOSE[line.outcome] for line in translation.lines if line.outcome in WHOSE}
    origins = {
        path: f"not given: {silent[key]} ({key})" if key in silent else key
        for path, key in translation.provenance.items()
    }
    return "\n".join([*lines, *_write_group(translation.recipe, (), origins)]) + "\n"


def _write_group(group: Tree, above: tuple[str, ...], origins: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for name, value in group.items():
        path = (*above, name)
        origin = origins.get(".".join(path))
        comment = f"  # {_one_line(origin)}" if origin is not None else ""
        indent = "  " * len(above)
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{dump_value(name)}:{comment}")
            lines += _write_group(cast("Tree", value), path, {} if origin is not None else origins)
        else:
            lines.append(f"{indent}{dump_value(name)}: {dump_value(value)}{comment}")
    return lines


def _one_line(text: str) -> str:
    """Text that cannot end a comment: a key may hold anything."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
