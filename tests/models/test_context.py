"""How long a document may be before the positions of its neighbours change."""

import pytest
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, Phi3Config

from kivnun.models.context import context_of, steady_tokens

LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=96), 96),
        (GPT2Config(n_positions=96), 96),
        (
            LlamaConfig(
                max_position_embeddings=96, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
            ),
            96,
        ),
        (
            LlamaConfig(
                max_position_embeddings=96, rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
            ),
            96,
        ),
        (
            Phi3Config(max_position_embeddings=96, original_max_position_embeddings=24, rope_parameters=dict(LONGROPE)),
            24,
        ),
        (Gemma3TextConfig(max_position_embeddings=96), 96),
    ],
)
def test_a_document_ends_where_longer_ones_would_change_others(config: object, limit: int) -> None:
    assert context_of(config) == limit


def test_older_files_and_kinds_of_layers_are_read() -> None:
    old = {"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 24, "max_position_embeddings": 96}
    assert steady_tokens(old) == 24
    each = {
        "full_attention": LONGROPE | {"original_max_position_embeddings": 8},
        "sliding_attention": {"rope_type": "default"},
    }
    assert steady_tokens({"rope_parameters": each, "max_position_embeddings": 96}) == 8
    assert steady_tokens({"rope_parameters": {"rope_type": "yarn"}, "max_position_embeddings": 96}) is None
    assert steady_tokens({"max_position_embeddings": 96}) is None
