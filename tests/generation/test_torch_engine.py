"""Batched, cached, padded generation equals the plainest loop there is."""

import numpy as np
import pytest
import torch
from tiny_llama import CONTEXT_TOKENS, END
from transformers import LlamaForCausalLM

from kivnun.errors import UserError
from kivnun.generation.engine import Generation
from kivnun.generation.sampling import Sampling
from kivnun.generation.torch_engine import TorchEngine

NO_STOP: frozenset[int] = frozenset()


def answer_plainly(model: LlamaForCausalLM, prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
    """No batch, no padding, no cache: the whole sequence through the model for every token."""
    sequence, margins = list(prompt), []
    for _ in range(num_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([sequence]), use_cache=False).logits[0, -1]
        best, second = logits.topk(2).values.tolist()
        margins.append(best - second)
        sequence.append(int(logits.argmax()))
    return sequence[len(prompt) :], margins


@pytest.fixture(scope="module")
def plain_answers(tiny_model: LlamaForCausalLM, prompts: list[list[int]]) -> list[tuple[list[int], list[float]]]:
    return [answer_plainly(tiny_model, prompt, 16) for prompt in prompts]


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_batches_with_padding_and_cache_equal_the_plain_loop(tiny_model, prompts, plain_answers, batch_size: int):
    engine = TorchEngine(tiny_model, pad_id=END, batch_size=batch_size)
    answers = engine.generate(prompts, max_new_tokens=16, stop_ids=NO_STOP)
    for answer, (tokens, margins) in zip(answers, plain_answers, strict=True):
        assert answer.finished == "length"
        assert list(answer.token_ids) == tokens
        assert answer.top_two_margins == pytest.approx(margins, abs=1e-4)


def test_answers_equal_those_of_transformers(tiny_model, prompts):
    engine = TorchEngine(tiny_model, pad_id=END)
    answers = engine.generate(prompts, max_new_tokens=16, stop_ids=frozenset({END}))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        theirs = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        assert list(answer.token_ids) == [token for token in theirs[0, len(prompt) :].tolist() if token != END]


def test_an_answer_ends_at_the_first_of_any_stop_token(tiny_model, prompts, plain_answers):
    # Two stop tokens taken from inside real answers, so that rows end at different steps of one batch.
    stop_ids = frozenset({plain_answers[0][0][3], plain_answers[5][0][7]})
    answers = TorchEngine(tiny_model, pad_id=END).generate(prompts, max_new_tokens=16, stop_ids=stop_ids)
    lengths = set()
    for answer, (tokens, margins) in zip(answers, plain_answers, strict=True):
        end = next((step for step, token in enumerate(tokens) if token in stop_ids), None)
        assert answer.finished == ("length" if end is None else "stop")
        assert list(answer.token_ids) == tokens[:end]
        assert answer.top_two_margins == pytest.approx(margins if end is None else margins[: end + 1], abs=1e-4)
        lengths.add(len(answer.token_ids))
    assert len(lengths) >= 3


def test_the_padding_token_does_not_matter(tiny_model, prompts):
    first, second = (
        TorchEngine(tiny_model, pad_id=pad_id).generate(prompts, max_new_tokens=8, stop_ids=NO_STOP)
        for pad_id in (END, 300)
    )
    assert [answer.token_ids for answer in first] == [answer.token_ids for answer in second]


def test_an_answer_that_fills_the_context_ends_there(tiny_model, prompts):
    full = [list(range(1, CONTEXT_TOKENS - 4)), prompts[0]]
    answers = TorchEngine(tiny_model, pad_id=END).generate(full, max_new_tokens=12, stop_ids=NO_STOP)
    assert [len(answer.token_ids) for answer in answers] == [5, 12]
    assert [answer.finished for answer in answers] == ["length", "length"]
    assert list(answers[1].token_ids) == answer_plainly(tiny_model, prompts[0], 12)[0]


@pytest.mark.parametrize("prompt", [[], [5] * CONTEXT_TOKENS, [5] * (CONTEXT_TOKENS + 40)])
def test_a_prompt_that_leaves_no_room_is_refused(tiny_model, prompt: list[int]):
    engine = TorchEngine(tiny_model, pad_id=END)
    with pytest.raises(UserError) as caught:
        engine.generate([[5], prompt], max_new_tokens=4, stop_ids=NO_STOP)
    assert caught.value.code == "prompt-invalid"
    expected = f"prompt 1 has {len(prompt)} tokens; prompt and answer may have {CONTEXT_TOKENS} together"
    assert caught.value.details == (expected if prompt else "prompt 1 is empty",)
    # Before the first token is asked for: a server must answer 400, not break off a stream.
    with pytest.raises(UserError):
        engine.stream(prompt, max_new_tokens=4, stop_ids=NO_STOP, sampling=Sampling())


def test_a_greedy_stream_equals_the_answer(tiny_model, prompts, plain_answers):
    engine = TorchEngine(tiny_model, pad_id=END)
    stop_ids = frozenset({plain_answers[0][0][3]})
    for prompt, answer in zip(prompts, engine.generate(prompts, max_new_tokens=9, stop_ids=stop_ids), strict=True):
        streamed = engine.stream(prompt, max_new_tokens=9, stop_ids=stop_ids, sampling=Sampling())
        assert tuple(streamed) == answer.token_ids


def test_a_seeded_stream_repeats_and_another_seed_differs(tiny_model, prompts):
    engine = TorchEngine(tiny_model, pad_id=END)

    def stream(seed: int) -> list[int]:
        sampling = Sampling(temperature=1.5, top_p=0.95, top_k=50, seed=seed)
        return list(engine.stream(prompts[0], max_new_tokens=20, stop_ids=NO_STOP, sampling=sampling))

    assert stream(1) == stream(1)
    assert stream(1) != stream(2)


def test_a_stream_leaves_gradients_on_for_its_consumer(tiny_model, prompts):
    stream = TorchEngine(tiny_model, pad_id=END).stream(
        prompts[0], max_new_tokens=3, stop_ids=NO_STOP, sampling=Sampling()
    )
    assert all(torch.is_grad_enabled() for _ in stream)


def test_no_prompts_give_no_answers(tiny_model):
    assert TorchEngine(tiny_model, pad_id=END).generate([], max_new_tokens=4, stop_ids=NO_STOP) == []


def test_weights_that_are_not_numbers_are_refused(tiny_folder, prompts):
    model = LlamaForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(UserError) as caught:
        TorchEngine(model, pad_id=END, name="adapter").generate(prompts, max_new_tokens=4, stop_ids=NO_STOP)
    assert caught.value.code == "logits-not-finite"
    assert "adapter" in caught.value.problem


def test_a_model_in_training_mode_is_refused(tiny_folder, prompts):
    model = LlamaForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).train()
    with pytest.raises(ValueError, match="eval mode"):
        TorchEngine(model, pad_id=END).generate(prompts, max_new_tokens=4, stop_ids=NO_STOP)


def test_a_generation_is_a_value():
    assert Generation((1, 2), "stop", (0.5, 0.1, 3.0)) == Generation((1, 2), "stop", (0.5, 0.1, 3.0))


def test_a_given_answer_is_led_in_one_pass_as_it_is_token_by_token(tiny_model, prompts):
    engine = TorchEngine(tiny_model, pad_id=END)
    answer = [7, END, 5, 9, 9]
    for prompt in prompts[:3]:
        led = torch.tensor(np.stack(list(engine.forced_logits(prompt, answer))))
        assert led.shape[0] == len(answer) + 1
        with torch.no_grad():
            plain = [tiny_model(torch.tensor([[*prompt, *answer[:n]]])).logits[0, -1] for n in range(len(answer) + 1)]
        torch.testing.assert_close(led, torch.stack(plain), atol=1e-4, rtol=1e-4)
