"""Answers to other questions: what KTO estimates the distance to the base model on."""

from dataclasses import replace
from itertools import accumulate

import numpy as np

from kivnun.data.tokens import TokenTable


def add_mismatched(table: TokenTable) -> TokenTable:
    """The table with a second document in every row: its prompt, answered with the answer to another prompt.

    The answer is that of the next row that asks something else, the first row following the last; where all rows ask
    the same, of the next row. The pairs are fixed, so that the base model is asked about them once. A document
    is cut where it would be longer than the longest row: the model may read no further.

    Args:
        table: Rows of one document each, every one a prompt and its answer.
    """
    if not len(table):
        return replace(table, documents_per_row=2)
    starts = [int(np.argmax(table.trained(row))) for row in range(len(table))]
    longest = max(table.lengths())
    spans: list[list[slice]] = []
    for row, other in enumerate(_next_questions(table, starts)):
        own, begin = table.offsets[row], table.offsets[other] + starts[other]
        end = min(table.offsets[other + 1], begin + longest - starts[row])
        spans.append([slice(own, table.offsets[row + 1])])
        spans.append([slice(own, own + starts[row]), slice(begin, end)])
    places = np.concatenate([np.arange(part.start, part.stop) for document in spans for part in document])
    lengths = [sum(part.stop - part.start for part in document) for document in spans]
    return TokenTable(
        ids=table.ids[places],
        mask=table.mask[places],
        offsets=np.asarray(list(accumulate(lengths, initial=0)), dtype=np.int64),
        documents_per_row=2,
        weights=None if table.weights is None else table.weights[places],
        labels=table.labels,
    )


def _next_questions(table: TokenTable, starts: list[int]) -> list[int]:
    """For each row the next one, round the table, whose prompt is another."""
    num_rows = len(table)
    prompts = [table.input_ids(row)[: starts[row]].tobytes() for row in range(num_rows)]
    following = [(row + 1) % num_rows for row in range(num_rows)]
    if len(set(prompts)) == 1:
        return following
    # Twice round from the back, so that rows at the end know of those at the start.
    for row in [*range(num_rows - 1, -1, -1)] * 2:
        if prompts[following[row]] == prompts[row]:
            following[row] = following[following[row]]
    return following
