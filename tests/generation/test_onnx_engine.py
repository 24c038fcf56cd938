"""The ONNX engine answers as the torch engine does, and refuses what is not a model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_llama import CONTEXT_TOKENS, END

from kivnun.errors import UserError
from kivnun.generation.onnx_engine import OnnxEngine, top_two_margin
from kivnun.generation.sampling import Sampling
from kivnun.generation.torch_engine import TorchEngine

NO_STOP: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def onnx_engine(fp32_folder: Path) -> OnnxEngine:
    return OnnxEngine(fp32_folder, num_threads=1)


@pytest.fixture(scope="module")
def torch_engine(tiny_model) -> TorchEngine:
    return TorchEngine(tiny_model, pad_id=END)


def test_fp32_answers_equal_those_of_torch(onnx_engine, torch_engine, prompts):
    expected = torch_engine.generate(prompts, max_new_tokens=20, stop_ids=NO_STOP)
    answers = onnx_engine.generate(prompts, max_new_tokens=20, stop_ids=NO_STOP)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
    for answer, reference in zip(answers, expected, strict=True):
        assert answer.top_two_margins == pytest.approx(reference.top_two_margins, abs=1e-3)


@given(arrays(np.float32, st.integers(2, 40), elements=st.sampled_from([-3.5, 0.0, 1.25, 7.0])))
def test_the_margin_is_that_of_the_two_largest_logits_wherever_they_stand(logits_V):
    second, best = np.sort(logits_V)[-2:]
    assert top_two_margin(logits_V, int(logits_V.argmax())) == best - second


class OneStep:
    """What onnxruntime-genai gives after a token."""

    def __init__(self, *logits: float) -> None:
        self.logits = np.array([[logits]], dtype=np.float32)

    def get_logits(self) -> np.ndarray:
        return self.logits


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_logits_that_are_not_finite_are_refused_wherever_they_stand(onnx_engine, wrong: float, place: int):
    logits = [1.0, 5.0, -2.0]
    assert list(onnx_engine._logits(OneStep(*logits))) == logits
    logits[place] = wrong
    with pytest.raises(UserError) as caught:
        onnx_engine._logits(OneStep(*logits))
    assert caught.value.code == "logits-not-finite"


@pytest.mark.parametrize(
    "prompt", [[0], [0, 0], [0, 0, 0], [5, 0], [5, 6, 0, 0, 0], [0, 0, 5], [5, 0, 0, 5], [0, 5, 0]]
)
def test_padding_tokens_in_a_prompt_are_read_like_any_other(onnx_engine, torch_engine, prompt: list[int]):
    (expected,) = torch_engine.generate([prompt], max_new_tokens=8, stop_ids=NO_STOP)
    (answer,) = onnx_engine.generate([prompt], max_new_tokens=8, stop_ids=NO_STOP)
    assert answer.token_ids == expected.token_ids
    assert answer.top_two_margins == pytest.approx(expected.top_two_margins, abs=1e-3)


def test_answers_end_at_our_stop_tokens_and_at_no_others(onnx_engine, torch_engine, prompts):
    tokens = onnx_engine.generate(prompts, max_new_tokens=12, stop_ids=NO_STOP)
    stop_ids = frozenset({tokens[0].token_ids[3], tokens[5].token_ids[0]})
    answers = onnx_engine.generate(prompts, max_new_tokens=12, stop_ids=stop_ids)
    expected = torch_engine.generate(prompts, max_new_tokens=12, stop_ids=stop_ids)
    assert [(a.token_ids, a.finished) for a in answers] == [(e.token_ids, e.finished) for e in expected]
    assert [len(a.top_two_margins or ()) for a in answers] == [len(e.top_two_margins or ()) for e in expected]
    assert {answer.finished for answer in answers} == {"stop", "length"}
    assert answers[5].token_ids == ()


def test_the_model_s_own_end_token_is_no_stop_unless_asked(fp32_folder, tmp_path, onnx_engine, prompts):
    # The end token of this copy's genai_config.json is the first token of an answer.
    (expected,) = onnx_engine.generate(prompts[:1], max_new_tokens=8, stop_ids=NO_STOP)
    folder = shutil.copytree(fp32_folder, tmp_path / "onnx")
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["eos_token_id"] = expected.token_ids[0]
    (folder / "genai_config.json").write_text(json.dumps(config))
    assert OnnxEngine(folder, num_threads=1).generate(prompts[:1], max_new_tokens=8, stop_ids=NO_STOP) == [expected]


def test_streams_draw_the_same_tokens_as_torch(onnx_engine, torch_engine, prompts):
    for seed, prompt in enumerate(prompts[:6]):
        sampling = Sampling(temperature=1.2, top_p=0.95, top_k=60, seed=seed)
        first, second = (
            list(engine.stream(prompt, max_new_tokens=16, stop_ids=frozenset({7}), sampling=sampling))
            for engine in (onnx_engine, torch_engine)
        )
        assert first == second


def test_a_greedy_stream_equals_the_answer(onnx_engine, prompts):
    (answer,) = onnx_engine.generate(prompts[3:4], max_new_tokens=10, stop_ids=NO_STOP)
    stream = onnx_engine.stream(prompts[3], max_new_tokens=10, stop_ids=NO_STOP, sampling=Sampling())
    assert tuple(stream) == answer.token_ids


def test_an_answer_that_fills_the_context_ends_there(onnx_engine, torch_engine):
    full = [list(range(1, CONTEXT_TOKENS - 4))]
    (answer,) = onnx_engine.generate(full, max_new_tokens=12, stop_ids=NO_STOP)
    assert (len(answer.token_ids), answer.finished) == (5, "length")
    assert answer.token_ids == torch_engine.generate(full, max_new_tokens=12, stop_ids=NO_STOP)[0].token_ids


@pytest.mark.parametrize("prompt", [[], [5] * CONTEXT_TOKENS])
def test_a_prompt_that_leaves_no_room_is_refused(onnx_engine, prompt: list[int]):
    with pytest.raises(UserError) as caught:
        onnx_engine.generate([prompt], max_new_tokens=4, stop_ids=NO_STOP)
    assert caught.value.code == "prompt-invalid"
    with pytest.raises(UserError):
        onnx_engine.stream(prompt, max_new_tokens=4, stop_ids=NO_STOP, sampling=Sampling())


@pytest.mark.parametrize("damage", ["no folder", "no config", "config cut", "model cut", "data cut"])
def test_a_damaged_folder_is_refused_quietly(fp32_folder: Path, tmp_path: Path, capfd, damage: str):
    folder = tmp_path / "onnx"
    if damage != "no folder":
        shutil.copytree(fp32_folder, folder)
    if damage == "no config":
        (folder / "genai_config.json").unlink()
    elif damage != "no folder":
        part = {"config cut": "genai_config.json", "model cut": "model.onnx", "data cut": "model.onnx.data"}[damage]
        data = (folder / part).read_bytes()
        (folder / part).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError) as caught:
        OnnxEngine(folder)
    assert caught.value.code == "model-invalid"
    assert caught.value.details
    assert capfd.readouterr() == ("", "")
