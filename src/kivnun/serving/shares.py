"""Fair shares among projects: who gets the next place of a model, and who may still wait for one."""

from collections import Counter
from collections.abc import Iterable, Mapping

from kivnun.serving.one_answer import Answer

# Beyond this many times `max_waiting`, nobody may wait.
MOST_TIMES = 2


def next_to_start(
    waiting: Iterable[Answer],
    active: Iterable[Answer],
    latest_starts: Mapping[str, int],
    *,
    most_tokens: int | None = None,
) -> Answer | None:
    """Who gets the next place: the project that has the fewest, and of those the one that got one longest ago.

    So the crowd that one project sends at once waits behind itself. Within a project it is the oldest.

    Args:
        waiting: Those that wait for this model.
        active: Those that have a place in it.
        latest_starts: When projects got their latest places, in any unit.
        most_tokens: Only prompts of at most so many tokens; None for any.
    """
    places = Counter(answer.project for answer in active)
    fitting = (each for each in waiting if most_tokens is None or each.unread_tokens <= most_tokens)
    return min(
        fitting,
        key=lambda each: (places[each.project], latest_starts.get(each.project, -1), each.number),
        default=None,
    )


def may_wait(project: str, waiting: Iterable[Answer], *, num_waiting: int, max_waiting: int) -> bool:
    """Whether a project may let one more answer wait.

    Anybody may while there is room. When it is full, those still may that hold less than an equal share of it, so that
    one project's crowd shuts nobody out; what it holds beyond its own share stays, and so the room is exceeded until
    that has gone, by as much again at most.

    Args:
        project: Whose it is.
        waiting: Those that wait, for all models.
        num_waiting: How many of them find no place at the next turn.
        max_waiting: How many there is room for.
    """
    if num_waiting < max_waiting:
        return True
    held = Counter(answer.project for answer in waiting)
    return num_waiting < MOST_TIMES * max_waiting and held[project] * len(held) < max_waiting
