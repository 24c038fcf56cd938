"""The learning curve: the tuned arm on parts of the training rows, scored on validation rows."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from kivnun.decide.context import Context
from kivnun.decide.measure import Answered, answer_rows, write_plain
from kivnun.decide.results import CurvePoint
from kivnun.decide.rows import DecideRow
from kivnun.decide.trained import ROWS_FOLDER, count_letters, rows_recipe, train, write_rows

MIN_ROWS = 4
"""Training rows below which a part says nothing."""
PART_CHECKS = ("label-not-in-train",)
"""What a part may lack that the whole has: a rare label."""


@dataclass(frozen=True)
class Part:
    """A part of the training rows, trained on and measured.

    Attributes:
        point: Its place on the curve.
        answered: What the model of it said to the pilot rows.
    """

    point: CurvePoint
    answered: Answered


def part_name(share: float) -> str:
    """Run folder of a part."""
    return f"curve-{100 * share:g}".replace(".", "_")


def take_part(rows: Sequence[DecideRow], share: float, *, seed: int) -> list[DecideRow]:
    """A part of the rows in their own order; smaller parts lie inside larger ones, so that only the number differs."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)  # noqa: S311 - a sample, no secret
    return [rows[number] for number in sorted(order[: round(share * len(rows))])]


def measure_part(context: Context, share: float) -> Part:
    """Train on a part of the rows, and let the model answer the pilot rows.

    Args:
        context: The comparison.
        share: Of the training rows, below 1.

    Raises:
        UserError: Whatever the training refuses.
    """
    name = part_name(share)
    rows = take_part(context.rows["train"], share, seed=context.settings.seed)
    folder, template = context.folder / ROWS_FOLDER, context.frozen.template
    parts = {"train": rows, "validation": context.rows["validation"]}
    files = {
        split: write_rows(folder / f"{name}-{split}.jsonl", [row.conversation for row in part], template)
        for split, part in parts.items()
        if part
    }
    recipe = rows_recipe(context, files)
    accepted = tuple(dict.fromkeys((*recipe.data.ignore_checks, *PART_CHECKS)))
    data = recipe.data.model_copy(update={"ignore_checks": accepted})
    trained = train(context, name, recipe.model_copy(update={"data": data}))
    context.training_speed = 60 * trained.minutes / max(count_letters([row.conversation for row in rows]), 1)
    spec = str(trained.folder)
    model = context.model(spec)
    write = write_plain(context.prompter(model, is_tuned=True))
    answered = answer_rows(context, model, context.pilot, write, purpose=f"{name} on the pilot rows")
    context.forget(spec)
    return Part(CurvePoint(share, len(rows), answered.estimate, "validation"), answered)


def parts_of(context: Context) -> list[float]:
    """The shares below 1 that can be trained on, the smallest first; what cannot is said."""
    shares = sorted(share for share in context.settings.learning_curve if share < 1)
    if shares and not context.pilot:
        context.note("no learning curve: there are no validation rows to measure it on")
        return []
    count = len(context.rows["train"])
    small = [share for share in shares if round(share * count) < MIN_ROWS]
    if small:
        said = ", ".join(f"{share:g}" for share in small)
        context.note(f"no learning curve at {said}: of {count} training rows that leaves fewer than {MIN_ROWS}")
    return [share for share in shares if share not in small]
