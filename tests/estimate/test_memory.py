"""What is counted from a model's shapes is what the real model, its masters and its optimizer hold."""

from pathlib import Path

import pytest
import torch

from kivnun.data.tokens import TokenTable
from kivnun.estimate.memory import count_memory
from kivnun.methods import make_method
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.models.quantize import count_bytes, count_parameters
from kivnun.models.resolve import resolve_model
from kivnun.recipe.methods import FullMethod, Ia3Method, LoraMethod, Method, PrefixMethod, PromptMethod, QloraMethod
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.optimizer import MasterWeights, make_master_weights

METHODS: list[Method] = [
    FullMethod(),
    LoraMethod(rank=4),
    QloraMethod(rank=4),
    QloraMethod(rank=4, use_dora=True, double_quant=False),
    Ia3Method(),
    PrefixMethod(num_virtual_tokens=3),
    PromptMethod(init_text="The quick brown fox"),
]


def trained_once(folder: Path, method: Method, settings: TrainingSection, dtype: torch.dtype, table: TokenTable):
    """A real model and its weights after one real step."""
    model = load_model(folder, dtype=dtype)
    make_method(method).prepare(model, generator=torch.Generator().manual_seed(0))
    use_packed_attention(model)
    weights = make_master_weights(model, settings)
    next(fit(model, weights, table, settings, plan=make_plan(table.lengths(), settings)))
    return model, weights


def optimizer_bytes(weights: MasterWeights) -> int:
    """What the optimizers keep, their step counters of a few bytes each apart."""
    states = [state for optimizer in weights.optimizers for state in optimizer.state.values()]
    return sum(value.nbytes for state in states for value in state.values() if value.numel() > 1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_counted_bytes_are_the_bytes_of_a_real_training(
    tiny_model_folder: Path, tiny_table: TokenTable, method: Method, dtype: torch.dtype, optimizer: str
) -> None:
    settings = TrainingSection(optimizer=optimizer, max_steps=1, batch_tokens=64)  # type: ignore[arg-type]
    need = count_memory(
        resolve_model(str(tiny_model_folder)), method, settings, dtype=dtype, row_lengths=tiny_table.lengths()
    )
    model, weights = trained_once(tiny_model_folder, method, settings, dtype, tiny_table)
    masters = [master for name, master in weights.masters.items() if master is not weights.parameters[name]]
    assert need.weights == count_bytes(model)
    assert need.all_parameters == count_parameters(model)
    assert need.masters == sum(master.nbytes for master in masters)
    assert need.trained_parameters == sum(master.numel() for master in weights.masters.values())
    if optimizer == "adamw":
        assert need.optimizer == optimizer_bytes(weights)
    else:
        # Muon keeps half as much as AdamW, and vectors and embeddings stay with AdamW.
        assert need.optimizer <= optimizer_bytes(weights) <= 2 * need.optimizer


def test_a_larger_batch_needs_more_memory_until_all_rows_are_in_it(
    tiny_model_folder: Path, tiny_table: TokenTable
) -> None:
    base = resolve_model(str(tiny_model_folder))

    def activations(batch_tokens: int) -> int:
        settings = TrainingSection(batch_tokens=batch_tokens)
        need = count_memory(base, FullMethod(), settings, dtype=torch.float32, row_lengths=tiny_table.lengths())
        return need.activations

    assert activations(64) == 2 * activations(32)
    assert activations(10**9) == activations(tiny_table.num_tokens)


def test_4_bits_need_less_than_lora(tiny_model_folder: Path, tiny_table: TokenTable) -> None:
    base, lengths = resolve_model(str(tiny_model_folder)), tiny_table.lengths()
    lora, qlora = (
        count_memory(base, method, TrainingSection(), dtype=torch.bfloat16, row_lengths=lengths)
        for method in (LoraMethod(rank=4), QloraMethod(rank=4))
    )
    assert qlora.weights < lora.weights
    assert qlora.all_parameters == lora.all_parameters
    assert qlora.trained_parameters == lora.trained_parameters


def test_the_total_is_the_sum_of_its_parts(tiny_model_folder: Path, tiny_table: TokenTable) -> None:
    need = count_memory(
        resolve_model(str(tiny_model_folder)),
        LoraMethod(),
        TrainingSection(),
        dtype=torch.float32,
        row_lengths=tiny_table.lengths(),
    )
    parts = [need.weights, need.masters, need.gradients, need.optimizer, need.activations, need.program]
    assert need.total == sum(parts)
    assert need.masters == 0, "an adapter is float32 already"
