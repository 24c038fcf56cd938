"""Several adapters on one torch model: a row is answered as by its adapter alone, and the base stays untouched."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

# Test folders are no packages; this is how a neighbour's module is found when these tests run alone.
sys.path.append(str(Path(__file__).parent.parent / "generation"))

from tiny_adapters import write_adapter
from tiny_llama import load_tiny_llama, write_tiny_llama

from kivnun.errors import UserError
from kivnun.methods import load_tuned
from kivnun.methods.adapter import WEIGHTS_NAME
from kivnun.methods.many_lora import ManyLora

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [17, 18, 19, 20]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("many") / "base")


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    """Of other ranks, other layers and other scalings."""
    folder = base.parent
    return {
        "wide": write_adapter(base, folder / "wide", seed=1, rank=8),
        "narrow": write_adapter(base, folder / "narrow", seed=2, rank=2, target_modules=["q_proj", "down_proj"]),
        "rooted": write_adapter(base, folder / "rooted", seed=3, use_rslora=True, alpha=3),
    }


@pytest.fixture
def many(base: Path, adapters: dict[str, Path]) -> ManyLora:
    made = ManyLora(load_tiny_llama(base), base)
    for name, folder in adapters.items():
        made.add(name, folder)
    return made


def logits(model, ids=IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def alone(base: Path, folder: Path) -> torch.Tensor:
    return logits(load_tuned(base, folder, dtype=torch.float32))


def test_each_row_of_a_batch_has_its_own_adapter(many, base, adapters):
    with many.applied(["narrow", None, "wide", "rooted"]):
        mixed = logits(many.model)
    wanted = [
        alone(base, adapters["narrow"])[0],
        logits(load_tiny_llama(base))[1],
        alone(base, adapters["wide"])[2],
        alone(base, adapters["rooted"])[3],
    ]
    torch.testing.assert_close(mixed, torch.stack(wanted), rtol=1e-4, atol=1e-4)


def test_outside_of_a_batch_the_model_is_the_base_model(many, base):
    with many.applied(["wide"] * 4):
        changed = logits(many.model)
    plain = logits(load_tiny_llama(base))
    assert torch.equal(logits(many.model), plain)
    assert not torch.allclose(changed, plain, atol=0.1)
    with many.applied([None] * 4):
        assert torch.equal(logits(many.model), plain)


def test_adding_and_removing_leaves_the_base_weights_and_their_names_alone(many, base, adapters):
    plain = load_tiny_llama(base).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in many.model.state_dict().items())
    assert many.model.state_dict().keys() == plain.keys()
    for name in ("wide", "narrow", "rooted"):
        many.remove(name)
    assert many.names == ()
    assert all(not module._forward_hooks for module in many.model.modules())
    many.add("narrow", adapters["narrow"])
    with many.applied(["narrow"] * 4):
        torch.testing.assert_close(logits(many.model), alone(base, adapters["narrow"]), rtol=1e-4, atol=1e-4)


def test_removing_one_adapter_leaves_the_others_as_they_were(many):
    with many.applied(["rooted"] * 4):
        before = logits(many.model)
    many.remove("wide")
    with many.applied(["rooted"] * 4):
        assert torch.equal(logits(many.model), before)
    with pytest.raises(UserError) as caught, many.applied(["wide"]):
        pass
    assert caught.value.code == "adapter-unknown"


def test_an_error_within_a_batch_does_not_leave_its_adapters_on(many, base):
    with pytest.raises(RuntimeError, match="halfway"), many.applied(["wide"] * 4):
        raise RuntimeError("halfway")
    assert torch.equal(logits(many.model), logits(load_tiny_llama(base)))


def test_a_batch_of_another_size_than_its_adapters_is_an_error(many):
    with many.applied(["wide", "narrow"]), pytest.raises(ValueError, match="4 rows"):
        logits(many.model)


def test_the_masks_of_an_answer_are_made_once_and_not_for_every_token(many):
    def masks(*rows: str | None) -> list[object]:
        with many.applied(rows):
            return [layer.mask for layer in many._layers.values()]

    first = masks(*many.names[:2], None)
    assert all(one is other for one, other in zip(first, masks(*many.names[:2], None), strict=True))
    assert all(one is not other for one, other in zip(first, masks(None, *many.names[:2]), strict=True))


def test_a_name_is_taken_once(many, adapters):
    with pytest.raises(UserError) as caught:
        many.add("wide", adapters["narrow"])
    assert caught.value.code == "adapter-taken"


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["norm"]}, "a whole model.norm")],
    ids=["dora", "modules-to-save"],
)
def test_what_is_more_than_lora_is_refused_by_name(many, base, tmp_path, settings, word):
    folder = write_adapter(base, tmp_path / "more", seed=4, **settings)
    with pytest.raises(UserError, match=word) as caught:
        many.add("more", folder)
    assert caught.value.code == "adapter-invalid"
    assert "merge" in caught.value.hint
    assert many.names == ("wide", "narrow", "rooted")


def test_other_kinds_of_adapters_are_refused_by_name(many, adapters, tmp_path):
    for name in ("adapter_config.json", WEIGHTS_NAME, "base_model.json"):
        (tmp_path / name).write_bytes((adapters["wide"] / name).read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(UserError, match="IA3") as caught:
        many.add("other", tmp_path)
    assert "merge" in caught.value.hint


def test_an_adapter_of_other_base_weights_is_refused(many, tmp_path):
    other = write_tiny_llama(tmp_path / "other", tie_word_embeddings=False)
    folder = write_adapter(other, tmp_path / "adapter", seed=5)
    with pytest.raises(UserError, match="other weights") as caught:
        many.add("foreign", folder)
    assert caught.value.code == "adapter-invalid"


def test_an_adapter_that_is_not_finite_is_refused(many, base, tmp_path):
    folder = write_adapter(base, tmp_path / "broken", seed=6)
    tensors = load_file(folder / WEIGHTS_NAME)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / WEIGHTS_NAME)
    with pytest.raises(UserError, match="NaN") as caught:
        many.add("broken", folder)
    assert caught.value.code == "adapter-invalid"
