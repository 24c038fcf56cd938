"""What a model with a head says to the rows of a split: the label of a classifier, the nearest text of an embedder."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from kivnun.data.encode import Encoder
from kivnun.data.folder import Dataset
from kivnun.data.tokens import TokenTable
from kivnun.models.attention import use_packed_attention
from kivnun.models.heads import Head
from kivnun.training.classify import class_log_probabilities
from kivnun.training.embed import embed_table, rank_candidates
from kivnun.training.objectives.classification import table_classes
from kivnun.training.objectives.contrastive import table_candidates


@dataclass(frozen=True)
class HeadAnswers:
    """The answers to the rows that are asked, in their order.

    Attributes:
        texts: The answers.
        losses: Negative log likelihood of each row's class, in nats; of an embedder there is none.
    """

    texts: list[str]
    losses: list[float] | None = None


def asked_rows(table: TokenTable, head: Head) -> list[int]:
    """The rows of a table that have an answer: all, but the unlike pairs of an embedder."""
    if head.kind == "classification" or table.labels is None:
        return list(range(len(table)))
    return np.flatnonzero(table.labels <= 0.5).tolist()


def answer_split(
    model: nn.Module, head: Head, dataset: Dataset, split: str, encoder: Encoder, *, batch_tokens: int
) -> HeadAnswers:
    """Answer a split's rows.

    Args:
        model: The model; packed attention is switched on.
        head: Its head.
        dataset: The rows.
        split: Which of them.
        encoder: The tokenizer.
        batch_tokens: Tokens that are computed at once.
    """
    use_packed_attention(model)
    table = dataset.table(split)
    if head.kind == "classification":
        log_p_DL = class_log_probabilities(model, table, batch_tokens=batch_tokens)
        labels = [head.labels[number] for number in log_p_DL.argmax(1).tolist()]
        return HeadAnswers(labels, [-float(log_p_DL[row, true]) for row, true in enumerate(table_classes(table))])
    embeddings_DC = embed_table(model, table, pooling=head.pooling, batch_tokens=batch_tokens)
    candidates = table_candidates(table)
    ranking = rank_candidates(embeddings_DC, candidates, head.similarity)
    answers = [row.answer for row in dataset.rows(split)]
    nearest = candidates.texts[list(ranking.nearest)].tolist()
    return HeadAnswers([_text_of(table, number, answers, encoder) for number in nearest])


def _text_of(table: TokenTable, document: int, answers: list[str], encoder: Encoder) -> str:
    """A candidate's text; that of a hard negative stands in its tokens alone."""
    row, role = divmod(document, table.documents_per_row)
    return answers[row] if role == 1 else encoder.decode(table.input_ids(document).tolist())
