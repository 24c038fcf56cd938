"""What base and tuned model say to the test rows: generated answers, a classifier's labels, or nearest texts."""

from collections.abc import Sequence

import torch

from kivnun.data.encode import Encoder
from kivnun.data.folder import Dataset
from kivnun.evaluation.results import BASE
from kivnun.evaluation.runner import EvalRow, answer_rows
from kivnun.evaluation.stage import Answers
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned
from kivnun.models.attention import use_packed_attention, use_standard_attention
from kivnun.models.heads import Head, load_headed
from kivnun.models.load import load_tokenizer, move_model
from kivnun.models.types import Model
from kivnun.optimization.stage import TunedFolders
from kivnun.training.device import pick_device
from kivnun.training.head_answers import answer_split
from kivnun.training.score import document_losses

SCORING_BATCH_TOKENS = 8192


def answer_test_rows(
    name: str, folders: TunedFolders, dataset: Dataset, rows: Sequence[EvalRow], head: Head | None, max_new_tokens: int
) -> Answers:
    """One model's answers in float32, and how likely it finds the right ones.

    Args:
        name: `BASE` or `TUNED`; a classifier's head on the base model has learnt nothing.
        folders: Both models.
        dataset: The test rows' tokens.
        rows: The test rows.
        head: The head of the tuned model; None for the one that predicts tokens.
        max_new_tokens: Longest generated answer.
    """
    model = (
        load_headed(folders.base, head, dtype=torch.float32)
        if name == BASE
        else load_tuned(folders.base, folders.model, dtype=torch.float32)
    )
    move_model(model, pick_device())
    encoder = Encoder(load_tokenizer(folders.model))
    if head is None:
        return _generate(model, encoder, dataset, rows, max_new_tokens)
    said = answer_split(model, head, dataset, "test", encoder, batch_tokens=SCORING_BATCH_TOKENS)
    return Answers(said.texts, said.losses, [1] * len(said.texts))


def _generate(
    model: Model, encoder: Encoder, dataset: Dataset, rows: Sequence[EvalRow], max_new_tokens: int
) -> Answers:
    """Greedy answers and the likelihoods of the right ones; of a preference those of the rejected ones too."""
    use_packed_attention(model)
    table = dataset.table("test")
    sums, counts = document_losses(model, table, batch_tokens=SCORING_BATCH_TOKENS)
    step = table.documents_per_row
    rejected = sums[1::step] if step > 1 else None
    use_standard_attention(model)
    engine = TorchEngine(model, pad_id=encoder.end_id)
    texts = answer_rows(
        engine, rows, tokenizer=encoder.tokenizer, max_new_tokens=max_new_tokens, stop_ids=dataset.stop_ids
    )
    return Answers(texts, sums[::step], counts[::step], rejected)
