"""What every form is asked, and how far its predictions are from the tuned model's: the mathematics as equalities."""

import numpy as np
import pytest
import tiny_llama
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kivnun.errors import UserError
from kivnun.generation.torch_engine import TorchEngine
from kivnun.optimization.divergence import (
    TOP_TOKENS,
    bucket_log_p,
    divergence,
    force,
    merge_outcomes,
    num_steps,
    reference_step,
)
from kivnun.optimization.golden import CHUNK, Golden, GoldenPrompt, read_golden, was_fixed, write_golden
from kivnun.optimization.reference import check_form, make_reference, read_reference, write_reference

STOP = frozenset({tiny_llama.END})
LOGITS = arrays(np.float32, st.integers(2, 60), elements=st.floats(-30, 30, width=32))


def golden_of(prompts: list[list[int]], max_new_tokens: int = 12) -> Golden:
    return Golden(tuple(GoldenPrompt(tuple(ids), "x") for ids in prompts), max_new_tokens, STOP, "generation")


def full_divergence(p_V: np.ndarray, q_V: np.ndarray) -> float:
    log_p, log_q = (values.astype(np.float64) - np.logaddexp.reduce(values.astype(np.float64)) for values in (p_V, q_V))
    return float(np.sum(np.exp(log_p) * (log_p - log_q)))


@given(LOGITS)
def test_a_prediction_does_not_diverge_from_itself(logits_V):
    step = reference_step(logits_V)
    assert divergence(step.log_p, bucket_log_p(logits_V, step.ids)) == 0.0


@given(st.data())
def test_the_divergence_is_never_more_than_that_of_the_whole_vocabulary(data):
    p_V = data.draw(LOGITS)
    q_V = data.draw(arrays(np.float32, len(p_V), elements=st.floats(-30, 30, width=32)))
    step = reference_step(p_V)
    found = divergence(step.log_p, bucket_log_p(q_V, step.ids))
    whole = full_divergence(p_V, q_V)
    assert 0.0 <= found <= whole + 1e-4 * (1 + whole)
    if len(p_V) <= TOP_TOKENS:
        assert found == pytest.approx(whole, abs=1e-4, rel=1e-4)


@given(st.data())
def test_telling_fewer_tokens_apart_never_raises_the_divergence(data):
    p_V, q_V = (data.draw(arrays(np.float32, 40, elements=st.floats(-20, 20, width=32))) for _ in range(2))
    step = reference_step(p_V)
    log_q = bucket_log_p(q_V, step.ids)
    kept = sorted(data.draw(st.sets(st.integers(0, TOP_TOKENS - 1))))
    coarse = divergence(merge_outcomes(step.log_p, kept), merge_outcomes(log_q, kept))
    fine = divergence(step.log_p, log_q)
    assert coarse <= fine + 1e-4 * (1 + fine)


def test_the_kept_tokens_are_the_likeliest_and_their_probabilities_add_up():
    logits_V = np.arange(100, dtype=np.float32)[::-1].copy()
    step = reference_step(logits_V)
    assert step.ids == tuple(range(TOP_TOKENS))
    assert np.exp(step.log_p).sum() == pytest.approx(1.0)


def test_golden_prompts_come_back_as_written_and_equal_ones_are_equal_bytes(tmp_path, prompts):
    golden = golden_of(prompts)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_golden(tmp_path / name, golden)
    assert read_golden(tmp_path / "a") == golden
    assert (tmp_path / "a" / "golden.json").read_bytes() == (tmp_path / "b" / "golden.json").read_bytes()
    assert read_golden(tmp_path) is None
    (tmp_path / "golden.json").write_text('{"format": 1, "prompts": [{}]}')
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_golden(tmp_path)
    assert caught.value.code == "artifact-damaged"


def test_asking_in_parts_gives_the_answers_in_the_order_of_the_prompts(tiny_model, prompts):
    engine = TorchEngine(tiny_model, pad_id=tiny_llama.END)
    many = [prompt[:length] for prompt in prompts for length in range(1, len(prompt) + 1)][: CHUNK + 9]
    golden = golden_of(many, max_new_tokens=3)
    ticks: list[tuple[int, int]] = []
    answers = golden.ask(engine, lambda done, total: ticks.append((done, total)))
    alone = engine.generate(many, max_new_tokens=3, stop_ids=STOP)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in alone]
    assert ticks == [(CHUNK, len(many)), (len(many), len(many))]


def test_the_tuned_model_agrees_with_itself_at_every_token(tiny_model, prompts, tmp_path):
    engine = TorchEngine(tiny_model, pad_id=tiny_llama.END)
    golden = golden_of(prompts)
    reference = make_reference(engine, golden, divergence_prompts=3)
    write_reference(tmp_path, reference)
    assert read_reference(tmp_path) == reference
    assert [len(steps) for steps in reference.predicted] == [num_steps(answer) for answer in reference.answers[:3]]
    ticks: list[tuple[int, int]] = []
    check = check_form(engine, golden, reference, tie_tolerance=1e-3, tick=lambda *counts: ticks.append(counts))
    assert [done for done, _ in ticks] == sorted(done for done, _ in ticks)
    assert {total for _, total in ticks} == {len(prompts)}
    assert (check.agreement.identical, check.token_agreement, check.divergence) == (len(prompts), 1.0, 0.0)


def test_a_form_is_led_along_the_reference_and_not_along_its_own_answer(tiny_folder, tiny_model, prompts):
    golden = golden_of(prompts)
    reference = make_reference(TorchEngine(tiny_model, pad_id=tiny_llama.END), golden, divergence_prompts=len(prompts))
    bent = tiny_llama.load_tiny_llama(tiny_folder)
    bent.model.layers[1].mlp.down_proj.weight.data.mul_(1.2)
    check = check_form(TorchEngine(bent, pad_id=tiny_llama.END), golden, reference, tie_tolerance=1e-3)
    assert check.agreement.different > 0
    # Only where it parted was it asked; what it was not asked is what it would have said.
    said = golden.ask(TorchEngine(bent, pad_id=tiny_llama.END))
    assert [answer.token_ids for answer in check.answers] == [answer.token_ids for answer in said]
    assert 0.5 < check.token_agreement < 1.0
    assert 0.0 < check.divergence < 10.0
    # By hand: the model's own best token after the reference's tokens, without any cache.
    agreed = steps = 0
    for prompt, answer in zip(prompts, reference.answers, strict=True):
        chosen = [*answer.token_ids, *([tiny_llama.END] if answer.finished == "stop" else [])]
        for place, token in enumerate(chosen):
            ids = bent.dummy_inputs["input_ids"].new_tensor([[*prompt, *chosen[:place]]])
            agreed += int(bent(ids).logits[0, -1].argmax()) == token
            steps += 1
    assert check.token_agreement == pytest.approx(agreed / steps)


def test_any_stop_token_ends_an_answer_alike(tiny_model, prompts):
    engine = TorchEngine(tiny_model, pad_id=tiny_llama.END)
    [answer] = engine.generate(prompts[:1], max_new_tokens=4, stop_ids=frozenset())
    stops = frozenset({answer.token_ids[1]})
    [stopped] = engine.generate(prompts[:1], max_new_tokens=4, stop_ids=stops)
    assert stopped.finished == "stop"
    forced = force(engine, prompts[0], stopped, stop_ids=stops)
    assert (forced.agreed, forced.steps) == (2, 2)
    assert force(engine, prompts[0], stopped, stop_ids=STOP).agreed == 1


def test_the_first_of_the_prompts_that_were_fixed_are_fixed_too():
    kept = Golden(tuple(GoldenPrompt((number,), "x") for number in range(3)), 4, frozenset({1}), None)
    first = Golden(kept.prompts[:2], 4, frozenset({1}), None)
    assert was_fixed(kept, kept)
    assert was_fixed(kept, first)
    assert not was_fixed(first, kept)
    assert not was_fixed(None, kept)
    assert not was_fixed(kept, Golden(kept.prompts[1:], 4, frozenset({1}), None))
    assert not was_fixed(kept, Golden(kept.prompts, 5, frozenset({1}), None))
