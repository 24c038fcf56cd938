"""Decoder layers with backwards derived by hand against transformers' own layers."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    HeliumConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.ernie4_5 import Ernie4_5Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from kivnun.methods import make_method
from kivnun.methods.fused import fuse_model
from kivnun.models import decoder as decoder_module
from kivnun.models.attention import DECODERS, group_documents, packed_hidden_states, use_packed_attention
from kivnun.models.decoder import FusedLayer, unfuse_layers
from kivnun.models.fused import After, Before, Norm, after_attention, before_attention
from kivnun.models.kernels import EAGER
from kivnun.models.projections import Projection
from kivnun.models.types import Model
from kivnun.recipe.methods import FullMethod, LoraMethod, QloraMethod
from kivnun.training.memory import recompute_layers

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
FUSED = {
    "llama": LlamaConfig(**SHAPE),
    "llama with biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SHAPE),
    "gemma": GemmaConfig(**SHAPE, head_dim=16, hidden_activation="gelu_pytorch_tanh"),
    "mistral with a window": MistralConfig(**SHAPE, sliding_window=4),
}
UNFUSED = {
    "phi3, its projections joined": Phi3Config(**SHAPE),
    "qwen3, with norms of queries and keys": Qwen3Config(**SHAPE, head_dim=16),
    "gpt2": GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "dropout of attention": LlamaConfig(**SHAPE, attention_dropout=0.1),
    "exact gelu": LlamaConfig(**SHAPE, hidden_act="gelu"),
}
# Their layers have the parts of Llama's and compute something else with them. With small weights a layer adds little to
# the residual stream, so that the whole model's output hardly shows it.
SMALL = SHAPE | {"initializer_range": 0.02, "num_hidden_layers": 4, "head_dim": 16}
LOOKALIKES = {
    "helium, interleaved rotation": HeliumConfig(**SMALL),
    "smollm3, a layer without rotation": SmolLM3Config(**SMALL, no_rope_layers=[1, 0, 1, 1]),
    "granite, its residual scaled": GraniteConfig(**SMALL, residual_multiplier=0.9),
    "granite, its residual scaled a little": GraniteConfig(**SMALL, residual_multiplier=0.99),
    "granite, its embeddings scaled a little": GraniteConfig(**SMALL, embedding_multiplier=1.01),
    "ernie, rotation tables in float32": Ernie4_5Config(**SMALL),
}
LENGTHS = [1, 3, 3, 9, 14, 20]
WANTED = torch.tensor([2, 5, 11, 12, 40, 48])


def make_model(config: PreTrainedConfig, method: object, *, dtype: torch.dtype = torch.float32) -> Model:
    """A random model, prepared by a method, its adapters and norms moved away from where they start."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager").to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    make_method(method).prepare(model, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=generator)
    use_packed_attention(model)
    return model.train()


def run(model: Model, wanted: torch.Tensor | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states, and the gradients of a function of them."""
    hidden, gradients, _ = run_and_count(model, wanted)
    return hidden, gradients


def run_and_count(
    model: Model, wanted: torch.Tensor | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """The same, and how many numbers were kept for the backward pass."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 97, (sum(LENGTHS),), generator=generator)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = packed_hidden_states(model, ids, positions, group_documents(LENGTHS), wanted)
    weight = torch.randn(sum(LENGTHS), hidden.shape[1], generator=generator)
    (hidden.float() * (weight if wanted is None else weight[wanted])).sum().backward()
    gradients = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return hidden.detach().float(), gradients, sum(kept)


def require_equal(ours: Sequence, theirs: Sequence, tolerance: float) -> None:
    (hidden, gradients), (own_hidden, own_gradients) = ours, theirs
    assert gradients.keys() == own_gradients.keys()
    assert relative_error(hidden, own_hidden) < tolerance
    scale = max(float(gradient.norm()) for gradient in own_gradients.values())
    for name, gradient in own_gradients.items():
        # A key's bias moves all scores of a query alike: its gradient is zero but for rounding.
        assert float((gradients[name] - gradient).norm()) < tolerance * max(float(gradient.norm()), 1e-2 * scale), name


def relative_error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(
    "method", [FullMethod(), LoraMethod(rank=3, alpha=8), LoraMethod(target_modules=("k_proj", "up_proj"))], ids=repr
)
@pytest.mark.parametrize("name", FUSED)
def test_fused_layers_are_the_models_own_in_float32(name: str, method: object):
    model = make_model(FUSED[name], method)
    own = run(model)
    decoder = fuse_model(model)
    assert decoder is not None
    assert all(isinstance(layer, FusedLayer) for layer in decoder.layers)
    require_equal(run(model), own, 2e-5)


@pytest.mark.parametrize("name", FUSED)
def test_fused_layers_in_bf16_are_as_near_to_float32_as_the_models_own(name: str):
    exact = make_model(FUSED[name], LoraMethod(rank=3, alpha=8))
    rounded = make_model(FUSED[name], LoraMethod(rank=3, alpha=8), dtype=torch.bfloat16)
    with torch.no_grad():
        for one, other in zip(exact.parameters(), rounded.parameters(), strict=True):
            one.copy_(other)
    truth, own = run(exact), run(rounded)
    assert fuse_model(rounded) is not None
    ours = run(rounded)
    assert relative_error(ours[0], truth[0]) < 1.2 * relative_error(own[0], truth[0])
    whole, own_whole, our_whole = (torch.cat([g.flatten() for g in r[1].values()]) for r in (truth, own, ours))
    assert relative_error(our_whole, whole) < 1.2 * relative_error(own_whole, whole)


def test_weights_of_4_bits_are_dequantised_for_each_product():
    model = make_model(FUSED["llama"], QloraMethod(rank=3))
    own = run(model)
    assert fuse_model(model) is not None
    require_equal(run(model), own, 2e-5)


@pytest.mark.parametrize("reason", UNFUSED)
def test_another_kind_of_layer_is_left_as_it_is(reason: str):
    model = make_model(UNFUSED[reason], FullMethod())
    own = run(model)
    assert fuse_model(model) is None
    assert model not in DECODERS
    require_equal(run(model), own, 1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probe_all_parameters", [10**9, 0])
@pytest.mark.parametrize("name", LOOKALIKES)
def test_layers_that_only_look_like_llamas_are_left_as_they_are(
    name: str, probe_all_parameters: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decoder_module, "PROBE_ALL_PARAMETERS", probe_all_parameters)
    model = make_model(LOOKALIKES[name], FullMethod(), dtype=dtype)
    assert fuse_model(model) is None
    assert model not in DECODERS
    assert model.training


class KeywordRotary(LlamaRotaryEmbedding):
    """A rotary embedding that is asked in another way."""

    def forward(self, x: torch.Tensor, *, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x, position_ids)


def test_a_model_that_fails_while_it_is_probed_is_left_as_it_is():
    model = make_model(FUSED["llama"], FullMethod())
    model.model.rotary_emb = KeywordRotary(model.config)
    own = run(model)
    assert fuse_model(model) is None
    assert model.training
    require_equal(run(model), own, 1e-7)


def test_the_probe_leaves_no_trace():
    model = make_model(FUSED["llama"], LoraMethod(rank=3), dtype=torch.bfloat16)
    recompute_layers(model)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert fuse_model(model) is not None
    assert torch.equal(torch.get_rng_state(), random)
    after = model.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        assert torch.equal(value, after[name])


class Added(nn.Module):
    """A module that adds something trained, zero at first, so that no probe sees it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.extra = nn.Parameter(torch.zeros(64))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(*inputs) + self.extra


def add_to_feed_forward(layer: nn.Module) -> None:
    layer.mlp = Added(layer.mlp)


def add_to_norm(layer: nn.Module) -> None:
    layer.input_layernorm.register_parameter("extra", nn.Parameter(torch.zeros(64)))


def derive_linear(layer: nn.Module) -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 2

    layer.self_attn.v_proj.__class__ = Doubled


def replace_forward(layer: nn.Module) -> None:
    forward = layer.mlp.forward
    layer.mlp.forward = lambda x: forward(x) * 2


def hook(layer: nn.Module) -> None:
    layer.mlp.register_forward_hook(lambda module, inputs, output: output * 1.5)


@pytest.mark.parametrize("change", [add_to_feed_forward, add_to_norm, derive_linear, replace_forward, hook])
def test_a_layer_with_anything_of_its_own_runs_as_it_is_between_fused_ones(change: Callable[[nn.Module], None]):
    model = make_model(FUSED["llama"], FullMethod())
    change(model.model.layers[1])
    own = run(model)
    decoder = fuse_model(model)
    assert decoder is not None
    assert [isinstance(layer, FusedLayer) for layer in decoder.layers] == [True, False, True]
    require_equal(run(model), own, 2e-5)


def test_dropout_of_adapters_is_never_left_out():
    model = make_model(FUSED["llama"], LoraMethod(rank=3, dropout=0.5))
    assert fuse_model(model.eval()) is not None
    model.train()
    ours = run(model)
    unfuse_layers(model)
    require_equal(ours, run(model), 2e-5)


@pytest.mark.parametrize("is_fused", [True, False])
def test_asking_for_some_positions_gives_their_part_of_all(is_fused: bool):
    model = make_model(FUSED["llama"], FullMethod())
    whole, _ = run(model)
    few = run(model, WANTED)
    if is_fused:
        fuse_model(model)
    ours = run(model, WANTED)
    assert relative_error(ours[0], whole[WANTED]) < 2e-5
    require_equal(ours, few, 2e-5)


def test_checkpointed_layers_have_the_same_gradients_and_keep_less():
    model = make_model(FUSED["llama"], FullMethod())
    fuse_model(model)
    *own, kept = run_and_count(model)
    for layer in model.model.layers:
        layer.is_recomputed = True
    *ours, kept_less = run_and_count(model)
    require_equal(ours, own, 1e-6)
    assert kept_less < kept / 4


def test_nothing_is_kept_for_frozen_lower_layers_and_they_get_no_gradient():
    model = make_model(FUSED["llama"], FullMethod())
    fuse_model(model)
    whole = run_and_count(model)[2]
    model.requires_grad_(requires_grad=False)
    model.model.layers[2].requires_grad_(requires_grad=True)
    *ours, kept = run_and_count(model)
    assert kept < whole / 2
    unfuse_layers(model)
    require_equal(ours, run(model), 2e-5)


def freeze_all_but_the_last(model: Model) -> Model:
    model.requires_grad_(requires_grad=False)
    model.model.layers[2].requires_grad_(requires_grad=True)
    model.lm_head.requires_grad_(requires_grad=True)
    return model


@pytest.mark.parametrize("limit_bytes", [10**9, 30 * 64 * 4, 0])
def test_kept_states_of_frozen_layers_change_nothing(limit_bytes: int):
    model = freeze_all_but_the_last(make_model(FUSED["llama"], FullMethod()))
    own = run(model)
    decoder = fuse_model(model)
    assert decoder is not None
    assert decoder.keep_lower_states(limit_bytes)
    first, second = run(model), run(model)
    require_equal(first, own, 2e-5)
    assert torch.equal(first[0], second[0])
    assert decoder.cache is not None
    assert sum(states.nbytes for states in decoder.cache.documents.values()) <= limit_bytes
    assert bool(decoder.cache.documents) == (limit_bytes > 0)


def test_a_second_pass_starts_at_the_first_trained_layer():
    model = freeze_all_but_the_last(make_model(FUSED["llama"], FullMethod()))
    decoder = fuse_model(model)
    assert decoder is not None
    decoder.keep_lower_states(10**9)
    first = run(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.zero_()
    require_equal(run(model), first, 1e-9)


def test_kept_states_do_not_depend_on_the_batch_in_which_they_were_made():
    model = freeze_all_but_the_last(make_model(FUSED["llama"], FullMethod(), dtype=torch.bfloat16))
    decoder = fuse_model(model)
    assert decoder is not None
    documents = torch.arange(3, 33).split([7, 23])
    found: list[torch.Tensor] = []
    for together in (True, False):
        decoder.keep_lower_states(10**9)
        for group in ([0, 1],) if together else ([1], [0]):
            ids = torch.cat([documents[index] for index in group])
            lengths = [len(documents[index]) for index in group]
            positions = torch.cat([torch.arange(length) for length in lengths])
            packed_hidden_states(model, ids, positions, group_documents(lengths))
        assert decoder.cache is not None
        found.append(torch.cat([decoder.cache.documents[ids.numpy().tobytes()] for ids in documents]))
    assert torch.equal(*found)


@pytest.mark.parametrize("method", [FullMethod(), LoraMethod(rank=3)], ids=repr)
def test_nothing_is_kept_where_the_lowest_layer_or_the_embeddings_are_trained(method: object):
    model = make_model(FUSED["llama"], method)
    decoder = fuse_model(model)
    assert decoder is not None
    assert not decoder.keep_lower_states(10**9)
    model = freeze_all_but_the_last(model)
    model.model.embed_tokens.requires_grad_(requires_grad=True)
    assert decoder.first_trained_layer() == 0


def test_weights_are_read_anew_for_each_batch():
    model = make_model(FUSED["llama"], LoraMethod(rank=3))
    fuse_model(model)
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.lora_B.mul_(3)
        model.model.layers[0].mlp.down_proj.base.weight.mul_(2)
    ours = run(model)
    unfuse_layers(model)
    require_equal(ours, run(model), 2e-5)


def test_a_graph_may_be_asked_twice():
    model = make_model(FUSED["llama"], FullMethod())
    fuse_model(model)
    ids, positions = torch.arange(3, 12), torch.arange(9)
    hidden = packed_hidden_states(model, ids, positions, group_documents([9]))
    weight = model.model.layers[0].mlp.up_proj.weight
    (once,) = torch.autograd.grad(hidden.square().sum(), weight, retain_graph=True)
    (again,) = torch.autograd.grad(hidden.square().sum(), weight)
    assert torch.equal(once, again)


def exact(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def projections(*sizes: tuple[int, int]) -> list[Projection]:
    return [
        Projection(exact(o, i, seed=n), exact(o, seed=n + 10), exact(2, i, seed=n + 20), exact(o, 2, seed=n + 30), 0.7)
        for n, (o, i) in enumerate(sizes)
    ]


def trained(parts: list[Projection]) -> list[torch.Tensor]:
    return [tensor for part in parts for tensor in part.tensors() if tensor is not None]


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_what_stands_before_attention_has_the_gradient_of_its_function(offset: float):
    parts, weight, x = projections((8, 6), (4, 6), (4, 6)), exact(6, seed=50), exact(3, 6, seed=51)
    cos, sin = exact(3, 2, seed=52).detach(), exact(3, 2, seed=53).detach()

    def function(x: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return before_attention(Before(Norm(weight, offset, 1e-5), tuple(parts), 4), EAGER, x, cos, sin)

    assert torch.autograd.gradcheck(function, (x, weight, *trained(parts)))


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_what_stands_after_attention_has_the_gradient_of_its_function(activation: str):
    parts, weight = projections((6, 4), (5, 6), (5, 6), (6, 5)), exact(6, seed=50)

    def function(x: torch.Tensor, attended: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return after_attention(After(Norm(weight, 0.0, 1e-5), tuple(parts), activation), EAGER, x, attended)

    inputs = (exact(3, 6, seed=51), exact(3, 4, seed=52), weight, *trained(parts))
    assert torch.autograd.gradcheck(function, inputs)
