"""A tokenizer opens without its model's weights, and says how much the model reads."""

import json
from pathlib import Path

import pytest

from kivnun.errors import UserError
from kivnun.models.resolve import BUNDLED
from kivnun.models.tokenizer import open_tokenizer
from kivnun.models.types import Tokenizer


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"vocab_size": 5}, None),
        (None, None),
    ],
)
def test_a_folder_needs_no_weights(tiny_tokenizer: Tokenizer, tmp_path: Path, config: object, context: object) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    named = open_tokenizer(str(tmp_path))
    assert (named.name, named.context) == (str(tmp_path), context)
    assert named.tokenizer.encode("שלום") == tiny_tokenizer.encode("שלום")


def test_the_bundled_model_reads_1024_tokens() -> None:
    assert open_tokenizer(BUNDLED).context == 1024


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "a/b/c"])
def test_a_model_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UserError) as caught:
        open_tokenizer(name)
    assert caught.value.code == "model-missing"
    assert name in caught.value.problem
