"""Both engines with several adapters on one model: a batch of different adapters equals each adapter on its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_adapters import write_adapter
from tiny_llama import END, load_tiny_llama

from kivnun.errors import UserError
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.sampling import Sampling
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned
from kivnun.methods.many_lora import ManyLora

# Many tokens end an answer, so that rows leave a batch at different steps.
ASK = {"max_new_tokens": 12, "stop_ids": frozenset({END, *range(1, 60)})}


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("engines")
    return {
        "one": write_adapter(tiny_folder, folder / "one", seed=1),
        "two": write_adapter(tiny_folder, folder / "two", seed=2, rank=2, target_modules=["v_proj", "up_proj"]),
    }


@pytest.fixture(scope="module")
def many(tiny_folder: Path, folders: dict[str, Path]) -> ManyLora:
    made = ManyLora(load_tiny_llama(tiny_folder), tiny_folder)
    for name, folder in folders.items():
        made.add(name, folder)
    return made


@pytest.fixture
def engine(many: ManyLora) -> TorchEngine:
    return TorchEngine(many.model, pad_id=END, adapters=many, batch_size=5)


def test_a_mixed_batch_is_answered_as_each_adapter_alone(engine, prompts, folders, tiny_folder):
    names = [("one", None, "two")[row % 3] for row in range(len(prompts))]
    mixed = engine.generate(prompts, **ASK, adapters=names)
    # Those that stay when others leave must keep their own adapter.
    assert len({len(answer.token_ids) for answer in mixed}) > 1
    for name in ("one", "two", None):
        model = (
            load_tiny_llama(tiny_folder)
            if name is None
            else load_tuned(tiny_folder, folders[name], dtype=torch.float32)
        )
        rows = [row for row, each in enumerate(names) if each == name]
        wanted = TorchEngine(model, pad_id=END).generate([prompts[row] for row in rows], **ASK)
        assert [mixed[row].token_ids for row in rows] == [answer.token_ids for answer in wanted]
        assert [mixed[row].finished for row in rows] == [answer.finished for answer in wanted]


def test_streams_with_different_adapters_may_run_side_by_side(engine, prompts):
    sampling = Sampling()
    streams = {name: engine.with_adapter(name).stream(prompts[3], **ASK, sampling=sampling) for name in ("one", "two")}
    said = {name: [] for name in streams}
    while streams:
        for name, stream in list(streams.items()):
            token = next(stream, None)
            if token is None:
                del streams[name]
            else:
                said[name].append(token)
    for name, tokens in said.items():
        [alone] = engine.generate([prompts[3]], **ASK, adapters=[name])
        assert tuple(tokens) == alone.token_ids
    assert said["one"] != said["two"]


def test_the_chosen_adapter_holds_for_logits_too(engine, prompts, folders, tiny_folder):
    model = load_tuned(tiny_folder, folders["two"], dtype=torch.float32)
    wanted = list(TorchEngine(model, pad_id=END).forced_logits(prompts[0], [3, 4]))
    found = list(engine.with_adapter("two").forced_logits(prompts[0], [3, 4]))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_an_unknown_adapter_is_refused_with_the_known_ones(engine, prompts, fp32_folder, tiny_model):
    for ask in (
        lambda: engine.with_adapter("three"),
        lambda: engine.generate(prompts[:1], **ASK, adapters=["three"]),
        lambda: TorchEngine(tiny_model, pad_id=END).with_adapter("three"),
        lambda: OnnxEngine(fp32_folder).with_adapter("three"),
    ):
        with pytest.raises(UserError) as caught:
            ask()
        assert caught.value.code == "adapter-unknown"
    with pytest.raises(UserError, match="three") as caught:
        engine.with_adapter("three")
    assert "one, two" in caught.value.hint


def test_without_adapters_the_engines_are_as_before(engine, prompts, tiny_model, fp32_folder):
    plain = TorchEngine(tiny_model, pad_id=END, batch_size=5).generate(prompts, **ASK)
    assert engine.generate(prompts, **ASK) == plain
    assert engine.with_adapter("one").with_adapter(None).generate(prompts, **ASK) == plain
    onnx = OnnxEngine(fp32_folder)
    assert onnx.with_adapter(None).generate(prompts, **ASK) == onnx.generate(prompts, **ASK)
