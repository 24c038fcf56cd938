"""Examples that a model is shown: the same ones for every question, or those nearest to it."""

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from kivnun.data.conversation import Conversation
from kivnun.decide.rows import DecideRow
from kivnun.retrieval.analysis import analyse
from kivnun.retrieval.bm25 import Postings
from kivnun.retrieval.store_rows import count_terms


def choose_static(rows: Sequence[DecideRow], limit: int, *, by_label: bool, seed: int) -> list[Conversation]:
    """Examples for every question: drawn by a seed, and for a classification one label after the other.

    The first n of them are the choice of n, so that trying several numbers compares numbers and not draws.

    Args:
        rows: Training rows.
        limit: Most examples.
        by_label: Whether each label comes once before any comes twice.
        seed: Of the draw.
    """
    drawn = list(rows)
    random.Random(seed).shuffle(drawn)  # noqa: S311 - a draw of examples, no secret
    if not by_label:
        return [row.conversation for row in drawn[:limit]]
    queues: dict[str, list[DecideRow]] = defaultdict(list)
    for row in drawn:
        queues[row.references[0]].append(row)
    rounds = max(map(len, queues.values()), default=0)
    in_turn = [queue[number] for number in range(rounds) for queue in queues.values() if number < len(queue)]
    return [row.conversation for row in in_turn[:limit]]


class NearestExamples:
    """Training rows found by the words of what they ask, ranked as passages are (BM25).

    Args:
        rows: The training rows.
    """

    def __init__(self, rows: Sequence[DecideRow]) -> None:
        self._rows = rows
        self._postings = Postings()
        self._postings.add([count_terms(analyse(row.query)) for row in rows])
        self._present = np.ones(len(rows), dtype=np.bool_)

    def find(self, query: str, limit: int) -> list[Conversation]:
        """The nearest rows, the nearest one last, since what stands last is followed most.

        Rows without a common word come after all others, in their own order.

        Args:
            query: What is asked.
            limit: How many.
        """
        scores = self._postings.score(analyse(query), self._present)
        best = np.argsort(-scores, kind="stable")[:limit].tolist()
        return [self._rows[number].conversation for number in reversed(best)]
