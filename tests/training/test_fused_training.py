"""The loop with fused layers and kept hidden states against the loop without."""

from pathlib import Path

import pytest
import torch

from kivnun.data.packing import pack
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.methods import make_method
from kivnun.models.attention import DECODERS, use_packed_attention
from kivnun.models.decoder import FusedDecoder
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.methods import FullMethod, LoraMethod, PartialMethod
from kivnun.recipe.training import TrainingSection
from kivnun.training.device import compile_layers
from kivnun.training.loop import fit, make_plan
from kivnun.training.memory import recompute_layers
from kivnun.training.objectives.supervised import Supervised
from kivnun.training.optimizer import make_master_weights
from tests.generation.tiny_llama import write_tiny_llama

SETTINGS = TrainingSection(epochs=2, batch_tokens=60, learning_rate=1e-2, compile=False)
UPPER = PartialMethod(modules=("layers.1",))


def prepared(folder: Path, method: object) -> Model:
    model = load_model(folder, dtype=torch.float32)
    make_method(method).prepare(model, generator=torch.Generator().manual_seed(0))
    use_packed_attention(model)
    return model


def losses(model: Model, table: TokenTable) -> list[float]:
    weights = make_master_weights(model, SETTINGS)
    plan = make_plan(table.lengths(), SETTINGS)
    return [report.loss for report in fit(model, weights, table, SETTINGS, plan=plan)]


def decoder_of(model: Model) -> FusedDecoder:
    decoder = DECODERS[model]
    assert isinstance(decoder, FusedDecoder)
    return decoder


@pytest.mark.parametrize("method", [FullMethod(), LoraMethod(rank=4), UPPER], ids=lambda method: method.kind)
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_fused_training_is_the_same_training(
    tiny_model_folder: Path, tiny_table: TokenTable, method: object, recomputes: bool
):
    plain, fused = prepared(tiny_model_folder, method), prepared(tiny_model_folder, method)
    if recomputes:
        recompute_layers(fused)
    assert not compile_layers(fused, SETTINGS, num_tokens=1)
    assert (decoder_of(fused).cache is not None) == (method is UPPER)
    ours, own = losses(fused, tiny_table), losses(plain, tiny_table)
    assert own[-1] < own[0]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(own), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("names", [("lm_head",), ("model.norm",), ("model.norm", "lm_head")], ids=repr)
def test_kept_states_change_nothing_where_only_what_stands_above_the_layers_is_trained(
    tmp_path: Path, tiny_table: TokenTable, names: tuple[str, ...]
):
    folder, method = write_tiny_llama(tmp_path, tie_word_embeddings=False), PartialMethod(modules=names)
    found: list[list[torch.Tensor]] = []
    for wanted in (True, False):
        model = prepared(folder, method)
        compile_layers(model, TrainingSection(cache_hidden_states=wanted, compile=False), num_tokens=1)
        assert (decoder_of(model).cache is not None) == wanted
        loss = Supervised().loss(model, pack(tiny_table, range(4)), None).total
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found.append([loss, *torch.autograd.grad(loss, trained)])
    assert len(found[0]) == 1 + len(names)
    for kept, own in zip(*found, strict=True):
        torch.testing.assert_close(kept, own, rtol=1e-4, atol=1e-5)


def test_lower_states_are_kept_only_where_rows_come_again_or_the_recipe_says_so(tiny_model_folder: Path):
    model = prepared(tiny_model_folder, UPPER)
    kept = []
    for epochs, wanted in ((1, "auto"), (2, "auto"), (1, True), (2, False)):
        compile_layers(model, TrainingSection(epochs=epochs, cache_hidden_states=wanted, compile=False), num_tokens=1)
        kept.append(decoder_of(model).cache is not None)
    assert kept == [False, True, True, False]


def test_keeping_states_where_no_layer_is_frozen_is_refused(tiny_model_folder: Path):
    model = prepared(tiny_model_folder, LoraMethod(rank=4))
    settings = TrainingSection(cache_hidden_states=True, compile=False)
    with pytest.raises(UserError, match="cache_hidden_states"):
        compile_layers(model, settings, num_tokens=1)
