"""Messages that count less than others: from the row's `weight` to the gradient."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kivnun.data.encode import Encoder
from kivnun.data.packing import pack
from kivnun.data.prepare import tokenize_splits
from kivnun.data.reading import read_conversations
from kivnun.data.tokens import TokenizedRow, TokenTable, load_table, make_table, save_table
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import DEFAULT_CHAT_TEMPLATE
from kivnun.models.types import Model, Tokenizer
from kivnun.recipe.schema import DataSection
from kivnun.training.objectives.supervised import Supervised


def table_of(tokenizer: Tokenizer, folder: Path, *weights: float | None) -> TokenTable:
    """One talk of two answers with these weights, None for no weight."""
    turns: list[dict[str, object]] = []
    for number, weight in enumerate(weights):
        turns.append({"role": "user", "content": f"What is {number}?"})
        answer: dict[str, object] = {"role": "assistant", "content": f"It is the number {number}, שלום."}
        turns.append(answer if weight is None else answer | {"weight": weight})
    path = folder / "talk.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n", "utf-8")
    data = DataSection.model_validate({"train": str(path), "split": {"validation": 0, "test": 0}})
    chat = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token)
    chat.chat_template = DEFAULT_CHAT_TEMPLATE
    return tokenize_splits(*read_conversations(data, "supervised"), data, Encoder(chat)).table("train")


def gradients(model: Model, table: TokenTable) -> tuple[float, dict[str, Tensor]]:
    """The count that a step is divided by, and the gradients of the sum."""
    use_packed_attention(model)
    batch = pack(table, range(len(table)))
    objective = Supervised()
    objective.loss(model, batch, None).total.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return objective.count(batch), found


def test_a_message_of_half_weight_has_half_the_gradient(tiny_model: Model, tiny_tokenizer: Tokenizer, tmp_path: Path):
    first, second, both, half = (
        gradients(tiny_model, table_of(tiny_tokenizer, tmp_path, *weights))
        for weights in ((1, 0), (0, 1), (None, None), (1, 0.5))
    )
    assert half[0] == first[0] + 0.5 * second[0] == both[0] - 0.5 * second[0]
    for name, gradient in half[1].items():
        torch.testing.assert_close(gradient, first[1][name] + 0.5 * second[1][name], atol=1e-5, rtol=1e-4)


def test_weights_of_one_change_no_bit(tiny_model: Model, tiny_tokenizer: Tokenizer, tmp_path: Path):
    plain, said = table_of(tiny_tokenizer, tmp_path, None, None), table_of(tiny_tokenizer, tmp_path, 1, 1.0)
    assert said.weights is None
    assert said.ids.tolist() == plain.ids.tolist()
    ids, trained = plain.input_ids(0).tolist(), plain.trained(0).astype(bool).tolist()
    given = make_table([TokenizedRow(ids, trained, [1.0] * len(ids))])
    expected = gradients(tiny_model, plain)
    for table in (said, given):
        count, found = gradients(tiny_model, table)
        assert count == expected[0]
        assert all(torch.equal(found[name], gradient) for name, gradient in expected[1].items())


def test_each_token_of_a_message_has_its_weight(tiny_tokenizer: Tokenizer, tmp_path: Path):
    table = table_of(tiny_tokenizer, tmp_path, 0.25, 0.5)
    save_table(table, tmp_path / "table.safetensors")
    loaded = load_table(tmp_path / "table.safetensors")
    assert loaded.weights is not None
    trained = loaded.mask.astype(bool)
    runs = [weight for place, weight in enumerate(loaded.weights) if trained[place]]
    assert runs == sorted(runs)
    assert set(runs) == {0.25, 0.5}


@pytest.mark.parametrize("weight", [0.0, 0])
def test_a_message_of_weight_zero_is_not_trained(tiny_tokenizer: Tokenizer, tmp_path: Path, weight: float):
    table = table_of(tiny_tokenizer, tmp_path, weight, None)
    assert table.weights is None
    assert table.num_trained == table_of(tiny_tokenizer, tmp_path, 1, 1).num_trained / 2
