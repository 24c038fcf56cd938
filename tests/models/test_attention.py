"""Packed attention against each document alone through transformers' own attention."""

import copy
import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - the name of the field
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from kivnun.errors import UserError
from kivnun.models.attention import (
    attend_documents,
    group_documents,
    packed_hidden_states,
    use_packed_attention,
)
from kivnun.models.document_products import QUERY_BLOCK_TOKENS, document_products, make_layout
from kivnun.models.types import Model

# Weights are large, so that attention matters and a mistake in it shows.
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
SUPPORTED = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "gemma": GemmaConfig(**SHAPE, head_dim=8),
    "phi3": Phi3Config(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral with a window": MistralConfig(**SHAPE, sliding_window=4),
    "gpt2": GPT2Config(
        vocab_size=97,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    ),
}
UNSUPPORTED = {
    "soft-capping": Gemma2Config(**SHAPE, head_dim=8),
    "attention sinks": GptOssConfig(**SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
    "scaled logits (cohere)": CohereConfig(**SHAPE),
    "scaled logits (granite)": GraniteConfig(**SHAPE, logits_scaling=3.0),
    "attention of its own": BloomConfig(
        vocab_size=97, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=1, eos_token_id=2
    ),
    "recurrence": MambaConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    ),
    "convolution": Lfm2Config(**SHAPE, full_attn_idxs=[1]),
}

# Small weights make small logits, of which soft-capping leaves nearly everything as it is.
SMALL = SHAPE | {"initializer_range": 0.02}
HEADS = {
    "a bias of zeros": (PhiConfig(**SMALL), "bias"),
    "soft-capping": (
        Gemma2Config(**SMALL, head_dim=8, attn_logit_softcapping=None, final_logit_softcapping=30.0),
        "final_logit_softcapping: 30",
    ),
    "scaling of 1.01": (GraniteConfig(**SHAPE, logits_scaling=1.01), "logits_scaling: 1.01"),
    "scale of 0.99": (CohereConfig(**SHAPE, logit_scale=0.99), "logit_scale: 0.99"),
}


def random_model(config: PreTrainedConfig, *, dtype: torch.dtype = torch.float32) -> Model:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager").to(dtype).eval()


def packed(model: Model, documents: list[torch.Tensor]) -> list[torch.Tensor]:
    """Last hidden states of each document of a packed row."""
    lengths = [len(ids) for ids in documents]
    positions = torch.cat([torch.arange(length) for length in lengths])
    return list(packed_hidden_states(model, torch.cat(documents), positions, group_documents(lengths)).split(lengths))


def random_documents(lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 97, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_packed_document_is_what_it_is_alone(name: str):
    model = random_model(SUPPORTED[name])
    documents = random_documents([1, 2, 2, 5, 11, 17, 20, 21, 40])
    with torch.no_grad():
        alone = [
            model.base_model(input_ids=ids.unsqueeze(0), use_cache=False).last_hidden_state[0] for ids in documents
        ]
        use_packed_attention(model)
        together = packed(model, documents)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other, one, atol=2e-5, rtol=1e-5)


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_any_order_of_lengths_may_be_packed(llama_pair: tuple[Model, Model], lengths: list[int]):
    own, switched = llama_pair
    documents = random_documents(lengths)
    with torch.no_grad():
        for ids, together in zip(documents, packed(switched, documents), strict=True):
            alone = own.base_model(input_ids=ids.unsqueeze(0), use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def llama_pair() -> tuple[Model, Model]:
    """The same model twice: as transformers made it, and switched to packed attention."""
    switched = random_model(SUPPORTED["llama"])
    use_packed_attention(switched)
    return random_model(SUPPORTED["llama"]), switched


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_documents_never_see_each_other(changed: int, dtype: torch.dtype):
    model = random_model(SUPPORTED["llama"], dtype=dtype)
    use_packed_attention(model)
    documents = random_documents([9, 9, 10])
    others = [ids.clone() for ids in documents]
    others[changed] = (others[changed] + 1) % 97
    with torch.no_grad():
        before, after = packed(model, documents), packed(model, others)
    for place in range(3):
        assert torch.equal(before[place], after[place]) == (place != changed)


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_an_architecture_that_packing_would_change_is_refused(reason: str):
    with pytest.raises(UserError) as caught:
        use_packed_attention(random_model(UNSUPPORTED[reason]))
    assert caught.value.code == "stage-unsupported"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reason", HEADS)
def test_a_head_that_is_more_than_a_product_is_refused_by_name(reason: str, dtype: torch.dtype):
    config, named = HEADS[reason]
    with pytest.raises(UserError, match=named) as caught:
        use_packed_attention(random_model(config, dtype=dtype))
    assert caught.value.code == "stage-unsupported"


def test_attention_without_documents_is_refused():
    query = torch.zeros(1, 2, 3, 4)
    with pytest.raises(UserError) as caught:
        attend_documents(torch.nn.Identity(), query, query, query, None)
    assert caught.value.code == "stage-unsupported"


def test_switching_twice_and_the_mode_of_the_model_are_kept():
    model = random_model(SUPPORTED["llama"]).train()
    state = torch.get_rng_state()
    use_packed_attention(model)
    use_packed_attention(model)
    assert model.training
    assert model.config._attn_implementation == "kivnun_documents"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("window", [1, 3, 8, 50])
def test_a_sliding_window_looks_back_that_many_tokens(window: int):
    torch.manual_seed(0)
    lengths = [4, 17, 20]
    query, key, value = torch.randn(1, 4, 41, 8), torch.randn(1, 2, 41, 8), torch.randn(1, 2, 41, 8)
    out, _ = attend_documents(
        torch.nn.Identity(), query, key, value, None, document_groups=group_documents(lengths), sliding_window=window
    )
    start = 0
    for length in lengths:
        for place in range(length):
            seen = slice(start + max(0, place - window + 1), start + place + 1)
            for head in range(4):
                scores = key[0, head // 2, seen] @ query[0, head, start + place] / 8**0.5
                expected = scores.softmax(0) @ value[0, head // 2, seen]
                torch.testing.assert_close(out[0, start + place, head], expected, atol=1e-5, rtol=1e-5)
        start += length


def qkv(length: int, dtype: torch.dtype, *, heads: int = 4, key_heads: int = 2, size: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(2, num, length, size, generator=generator, dtype=torch.float32).to(dtype).requires_grad_()
        for num in (heads, key_heads, key_heads)
    ]


def products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
    """The products over (G, H, T, D) documents of one length, packed and unpacked again."""
    num_documents, num_heads, length, size = q.shape
    q_NHD, k_NHD, v_NHD = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (q, k, v))
    groups = group_documents([length] * num_documents).groups
    layout = make_layout([(group.positions(), group.is_real()) for group in groups], len(q_NHD), num_heads, k.shape[1])
    out = document_products(q_NHD, k_NHD, v_NHD, layout, scaling)
    return out.view(num_documents, length, num_heads, size).transpose(1, 2)


@pytest.mark.parametrize("heads", [(1, 1), (4, 2), (3, 1)])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_products_have_the_gradient_of_their_function(length: int, heads: tuple[int, int]):
    inputs = qkv(length, torch.float64, heads=heads[0], key_heads=heads[1], size=3)
    assert torch.autograd.gradcheck(lambda q, k, v: products(q, k, v, 0.37), inputs)


@pytest.mark.parametrize(
    "length", [1, 5, QUERY_BLOCK_TOKENS - 1, QUERY_BLOCK_TOKENS, QUERY_BLOCK_TOKENS + 1, 2 * QUERY_BLOCK_TOKENS + 3]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
def test_the_products_are_causal_attention_forward_and_backward(length: int, dtype: torch.dtype, tolerance: float):
    ours = qkv(length, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    out = products(*ours, 0.3)
    expected = F.scaled_dot_product_attention(*exact, is_causal=True, scale=0.3, enable_gqa=True)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    out.backward(weight)
    expected.backward(weight.double())
    assert relative_error(out, expected) < tolerance
    for one, other in zip(ours, exact, strict=True):
        if length > 1 or one is ours[2]:  # a single key has probability 1: no gradient reaches its score
            assert relative_error(one.grad, other.grad) < tolerance


def bytes_of_tensors() -> int:
    gc.collect()
    return sum(found.nbytes for found in gc.get_objects() if type(found) is torch.Tensor)


def test_no_more_than_one_triangle_is_kept_however_many_lengths_come():
    inputs = qkv(5, torch.bfloat16, heads=4, key_heads=2)
    products(*inputs, 0.3)
    before = bytes_of_tensors()
    for length in (20, 60, 150, 200, 300, 400):
        products(*qkv(length, torch.bfloat16, heads=4, key_heads=2), 0.3)
    assert bytes_of_tensors() - before <= QUERY_BLOCK_TOKENS**2 * 2 * 2


def test_bf16_training_on_a_cpu_has_the_gradients_of_fp32():
    """Through `attend_documents`, which takes the products in bf16 and torch's kernel in fp32."""
    groups = group_documents([3, 9, 10, 12, 300])
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(1, num, 334, 8, generator=generator, requires_grad=True) for num in (4, 2, 2)]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    weight = torch.randn(1, 334, 4, 8, generator=generator)
    outs = []
    for inputs in (exact, rounded):
        out, _ = attend_documents(torch.nn.Identity(), *inputs, None, document_groups=groups)
        (out.float() * weight).sum().backward()
        outs.append(out)
    assert relative_error(outs[1], outs[0]) < 2e-2
    for one, other in zip(rounded, exact, strict=True):
        assert relative_error(one.grad, other.grad) < 3e-2


def relative_error(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).norm() / other.norm())
