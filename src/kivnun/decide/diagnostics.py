"""What the arms say together: what is missing (knowledge, behaviour, retrieval), and the rows on which they differ."""

import statistics
from collections.abc import Mapping, Sequence

from kivnun.decide.arms import CLOSED_BOOK, ORACLE
from kivnun.decide.context import Context
from kivnun.decide.results import Arm, Flip, Gaps

MOST_FLIPS = 10


def measure_gaps(context: Context, arms: Sequence[Arm]) -> Gaps:
    """The gaps on the test rows whose right passage is known; None where an arm that one needs was not measured.

    Args:
        context: The comparison.
        arms: Every arm and diagnostic.
    """
    passages = context.passages
    if passages is None:
        return Gaps(None, None, None)
    known = [number for number, row in enumerate(context.test) if passages.gold(row) is not None]
    means = {
        arm.name: statistics.fmean(arm.scores[number] for number in known)
        for arm in arms
        if arm.state == "measured" and known
    }
    if len(known) < len(context.test):
        context.note(f"the gaps are of the {len(known)} of {len(context.test)} test rows whose right passage is known")
    oracle, closed, rag = (means.get(name) for name in (ORACLE, CLOSED_BOOK, "rag"))
    return Gaps(
        knowledge=None if oracle is None or closed is None else oracle - closed,
        behaviour=None if oracle is None else 1 - oracle,
        retrieval=None if oracle is None or rag is None else oracle - rag,
    )


def find_flips(context: Context, arms: Sequence[Arm], chosen: str) -> tuple[Flip, ...]:
    """The rows on which arms differ most: those that the chosen arm loses first, then those that only it wins.

    Args:
        context: The comparison.
        arms: Every arm and diagnostic.
        chosen: Name of the arm to take; "" where there is none.
    """
    measured = {arm.name: arm for arm in arms if arm.state == "measured" and arm.name != CLOSED_BOOK}
    if len(measured) < 2:
        return ()
    taken = measured.get(chosen) or next(iter(measured.values()))
    others = [arm for arm in measured.values() if arm.name != taken.name]

    def lost(number: int) -> float:
        return max(arm.scores[number] for arm in others) - taken.scores[number]

    def won(number: int) -> float:
        return taken.scores[number] - min(arm.scores[number] for arm in others)

    numbers = range(len(context.test))
    losses = sorted((number for number in numbers if lost(number) > 0), key=lambda number: (-lost(number), number))
    wins = sorted((number for number in numbers if won(number) > 0), key=lambda number: (-won(number), number))
    chosen_rows = list(dict.fromkeys((*losses, *wins)))[:MOST_FLIPS]
    return tuple(_flip(context, number, measured, taken) for number in chosen_rows)


def _flip(context: Context, number: int, arms: Mapping[str, Arm], taken: Arm) -> Flip:
    row = context.test[number]
    shown = next((arm.sources[number] for arm in (taken, *arms.values()) if arm.sources), ())
    return Flip(
        where=row.scored.where,
        prompt=row.scored.prompt,
        reference=row.references[0],
        answers={name: arm.answers[number] for name, arm in arms.items()},
        scores={name: arm.scores[number] for name, arm in arms.items()},
        sources=tuple(f"{document}:{start}-{end}" for document, start, end in shown),
    )
