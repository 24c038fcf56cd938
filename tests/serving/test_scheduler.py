"""The compute thread answers many at once as each alone, lets nobody wait for others, and survives what fails."""

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from gate import Gate, answer_alone
from heard import Heard, ask_for
from tiny_llama import CONTEXT_TOKENS, load_tiny_llama

from kivnun.errors import UserError
from kivnun.generation.sampling import Sampling, choose_token, start_draws
from kivnun.generation.torch_rows import TorchRows
from kivnun.serving.answers import BusyError, Ended, Token
from kivnun.serving.one_answer import Answer
from kivnun.serving.scheduler import Scheduler


@pytest.fixture
def gate(rows) -> Gate:
    return Gate(rows)


def test_answers_of_many_clients_and_adapters_are_those_of_each_alone(scheduler, rows, prompts):
    lane = scheduler.add(rows)
    heard = []
    for number in range(40):
        adapter = (None, "one", "two")[number % 3]
        prompt, room = prompts[number % len(prompts)], 3 + number % 9
        heard.append((Heard(), prompt, room, adapter))
        scheduler.ask(lane, adapter, ask_for(prompt, room), heard[-1][0])
    for ears, prompt, room, adapter in heard:
        ears.wait()
        assert ears.tokens == answer_alone(rows, prompt, room, adapter)
        assert ears.end == Ended("length", len(prompt), ears.end.cached_tokens, room)
    assert lane.num_active == lane.num_open.total() == 0


def test_a_seeded_answer_is_the_same_whatever_runs_beside_it(scheduler, rows, prompts):
    lane, sampling = scheduler.add(rows), Sampling(1.2, 0.95, seed=5)
    draws, wanted, logits_V = start_draws(sampling), [], rows.feed(rows.begin(), prompts[4])
    for _ in range(12):
        wanted.append(choose_token(logits_V, sampling, draws))
        logits_V = rows.feed(rows.begin(), [*prompts[4], *wanted])
    for others in (0, 5):
        for number in range(others):
            scheduler.ask(lane, None, ask_for(prompts[number], 30, sampling=Sampling(1.0)), Heard())
        heard = Heard()
        scheduler.ask(lane, None, ask_for(prompts[4], 12, sampling=sampling), heard)
        assert heard.wait().tokens == tuple(wanted)


def test_an_answer_ends_at_a_stop_token_and_where_the_context_ends(scheduler, rows, prompts):
    lane = scheduler.add(rows)
    tokens = answer_alone(rows, prompts[0], 8)
    stop, full = Heard(), Heard()
    scheduler.ask(lane, None, ask_for(prompts[0], 8, stop_ids=frozenset({tokens[5]})), stop)
    scheduler.ask(lane, None, ask_for(range(1, CONTEXT_TOKENS - 4), 50), full)
    assert stop.wait().tokens == tokens[:5]
    assert stop.end == Ended("stop", len(prompts[0]), 0, 5)
    assert full.wait().end == Ended("length", CONTEXT_TOKENS - 5, 0, 5)
    for prompt in ([], range(CONTEXT_TOKENS)):
        with pytest.raises(UserError) as caught:
            scheduler.ask(lane, None, ask_for(prompt), Heard())
        assert caught.value.code == "prompt-invalid"


@pytest.mark.parametrize("num_tokens", [0, 3])
def test_the_prompts_own_tokens_are_told_with_their_log_probabilities(scheduler, rows, prompts, num_tokens: int):
    lane, heard = scheduler.add(rows), Heard()
    prompt = prompts[7]
    for tells in (False, True):
        # What is kept of the prompt from the first time has no logits of its tokens.
        heard = Heard()
        scheduler.ask(lane, None, ask_for(prompt, num_tokens or 1, tell_prompt=False), heard)
        heard.wait()
        heard = Heard()
        scheduler.ask(lane, None, ask_for(prompt, num_tokens, tell_prompt=True, top_logprobs=2 * tells), heard)
        heard.wait()
    told = [each for each in heard.told if isinstance(each, Token) and each.of_prompt]
    assert [each.token_id for each in told] == prompt
    assert told[0].logprob is None
    logits = rows.feed(rows.begin(), prompt, every=True).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert [each.logprob for each in told[1:]] == pytest.approx(log_p[range(len(prompt) - 1), prompt[1:]], abs=1e-4)
    assert all(len(each.top) == 2 for each in told[1:])
    assert heard.end == Ended("length", len(prompt), 0, num_tokens)
    assert heard.tokens == (answer_alone(rows, prompt, num_tokens) if num_tokens else ())


def test_a_repeated_prompt_is_told_as_kept_and_answered_alike(scheduler, rows, prompts, gate):
    lane = scheduler.add(rows)
    prompt = [*prompts[3], *prompts[5]]
    for asked, cached in ((prompt, 0), (prompt, len(prompt)), ([*prompt[:20], 7, 8], 16)):
        heard = Heard()
        gate.shapes.clear()
        scheduler.ask(lane, None, ask_for(asked, 4), heard)
        assert heard.wait().end == Ended("length", len(asked), cached, 4)
        fed = sum(count for num_rows, count in gate.shapes) - 3
        assert fed == len(asked) - cached
        assert heard.tokens == answer_alone(rows, asked, 4)


def test_what_is_kept_of_a_prompt_is_found_with_its_own_salt_alone(scheduler, rows, prompts):
    lane, prompt = scheduler.add(rows), [*prompts[3], *prompts[5]]
    cached = []
    for salt in ("proj_a", "proj_b", "", "proj_a", "proj_b"):
        heard = Heard()
        scheduler.ask(lane, None, ask_for(prompt, 2, cache_salt=salt), heard)
        cached.append(heard.wait().end.cached_tokens)
    assert cached == [0, 0, 0, len(prompt), len(prompt)]


def test_a_cancelled_answer_stops_at_the_next_step_and_the_others_go_on(scheduler, rows, prompts, gate):
    lane = scheduler.add(rows)
    gone, stays = Heard(), Heard()
    running = scheduler.ask(lane, None, ask_for(prompts[0], 80), gone)
    scheduler.ask(lane, None, ask_for(prompts[1], 30), stays)
    gone.wait_for(5)
    gate.shut()
    running.cancel()
    told = len(gone.tokens)
    gate.open()
    gone.wait()
    # One step may have been under way.
    assert len(gone.tokens) <= told + 1
    assert gone.end == Ended("cancelled", len(prompts[0]), 0, len(gone.tokens))
    assert stays.wait().tokens == answer_alone(rows, prompts[1], 30)
    running.cancel()
    assert len([each for each in gone.told if isinstance(each, Ended)]) == 1


def test_an_answer_that_waits_can_be_cancelled_too(logged, rows, prompts, gate):
    scheduler = Scheduler(max_rows=1, max_waiting=4)
    lane = scheduler.add(rows)
    first, second, third = Heard(), Heard(), Heard()
    scheduler.ask(lane, None, ask_for(prompts[0], 40), first)
    first.wait_for(2)
    waiting = scheduler.ask(lane, None, ask_for(prompts[1], 40), second)
    scheduler.ask(lane, None, ask_for(prompts[2], 5), third)
    waiting.cancel()
    assert second.wait().end == Ended("cancelled", len(prompts[1]), 0, 0)
    assert first.end is None or len(first.tokens) == 40
    assert third.wait().tokens == answer_alone(rows, prompts[2], 5)
    scheduler.close()


def test_too_many_waiting_answers_are_refused_with_a_time_and_later_ones_taken(rows, prompts, gate):
    scheduler = Scheduler(max_rows=2, max_waiting=3)
    lane = scheduler.add(rows)
    gate.shut()
    heard = []
    for _ in range(5):
        heard.append(Heard())
        scheduler.ask(lane, None, ask_for(prompts[0], 6), heard[-1])
    with pytest.raises(BusyError) as caught:
        scheduler.ask(lane, None, ask_for(prompts[0], 6), Heard())
    assert 0.5 <= caught.value.retry_after_seconds <= 60
    gate.open()
    assert {ears.wait().tokens for ears in heard} == {answer_alone(rows, prompts[0], 6)}
    late = Heard()
    scheduler.ask(lane, None, ask_for(prompts[0], 6), late)
    assert len(late.wait().tokens) == 6
    scheduler.close()


def test_answers_of_one_model_are_taken_in_the_order_of_asking(rows, prompts, gate):
    scheduler = Scheduler(max_rows=1, max_waiting=20)
    lane, order = scheduler.add(rows), []
    heard = [Heard() for _ in range(8)]
    gate.shut()
    for number, ears in enumerate(heard):

        def receive(told, number=number, ears=ears) -> None:
            if not isinstance(told, Token):
                order.append(number)
            ears(told)

        scheduler.ask(lane, None, ask_for(prompts[number], 1 + (5 * number) % 7), receive)
    gate.open()
    for ears in heard:
        ears.wait()
    assert order == list(range(8))
    scheduler.close()


def test_a_long_prompt_is_read_in_pieces_between_the_steps_of_others(scheduler, long_folder):
    rows = TorchRows(load_tiny_llama(long_folder), name="long")
    lane, gate = scheduler.add(rows), Gate(rows)
    runs, late = Heard(), Heard()
    scheduler.ask(lane, None, ask_for([5, 6, 7], 200), runs)
    runs.wait_for(3)
    prompt = [token % 500 + 1 for token in range(3000)]
    scheduler.ask(lane, None, ask_for(prompt, 2), late)
    runs.wait()
    late.wait()
    shapes = list(gate.shapes)
    assert late.tokens == answer_alone(rows, prompt, 2)
    pieces = [place for place, (_, count) in enumerate(shapes) if count > 1]
    assert len(pieces) >= 6
    assert max(count for _, count in shapes) <= 512
    # A step of the running answer stands between any two pieces.
    assert all(second - first >= 2 for first, second in pairwise(pieces))


def test_a_long_prompt_of_one_model_holds_up_no_answer_of_another(scheduler, rows, prompts, long_folder):
    slow = TorchRows(load_tiny_llama(long_folder), name="long")
    passes: list[str] = []
    for each in (rows, slow):
        each._model.register_forward_pre_hook(lambda *_, name=each.name: passes.append(name))
    runs, late = Heard(), Heard()
    scheduler.ask(scheduler.add(rows), None, ask_for(prompts[0], 300), runs)
    runs.wait_for(3)
    passes.clear()
    scheduler.ask(scheduler.add(slow), None, ask_for([token % 500 + 1 for token in range(1500)], 1), late)
    late.wait()
    runs.wait()
    pieces = [place for place, name in enumerate(passes) if name == "long"]
    # In one piece of 512 tokens after another it would be three.
    assert len(pieces) > 3
    assert all(second - first >= 2 for first, second in pairwise(pieces))


def test_two_models_take_turns(scheduler, rows, tiny_model, prompts):
    both = [scheduler.add(rows), scheduler.add(TorchRows(tiny_model, name="other"))]
    order: list[int] = []
    heard = [Heard(), Heard()]
    for number, (lane, ears) in enumerate(zip(both, heard, strict=True)):

        def receive(told, number=number, ears=ears) -> None:
            order.append(number)
            ears(told)

        scheduler.ask(lane, None, ask_for(prompts[0], 60), receive)
    assert heard[0].wait().tokens == heard[1].wait().tokens == answer_alone(rows, prompts[0], 60)
    # Both are about a third done when either is two thirds done.
    ends = [place for place, number in enumerate(order) if order[: place + 1].count(number) == 40]
    assert min(order[: ends[0]].count(0), order[: ends[0]].count(1)) >= 10


def test_an_answer_whose_logits_are_not_finite_fails_alone(scheduler, tiny_folder, prompts):
    model = load_tiny_llama(tiny_folder)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    with torch.no_grad():
        model.model.embed_tokens.weight[509] = float("nan")
    rows = TorchRows(model, name="ill")
    lane = scheduler.add(rows)
    at_once, later, well = Heard(), Heard(), Heard()
    scheduler.ask(lane, None, ask_for(prompts[2], 20), well)
    scheduler.ask(lane, None, ask_for([1, 509, 2]), at_once)
    # The token that the bias forces makes the next step's logits NaN.
    scheduler.ask(lane, None, ask_for(prompts[1], logit_bias={509: 1000.0}), later)
    for ears in (at_once, later):
        assert isinstance(ears.wait().end, UserError)
        assert ears.end.code == "logits-not-finite"
    assert later.tokens == (509,)
    assert well.wait().tokens == answer_alone(rows, prompts[2], 20)


class FailsOnce:
    """A layer that fails at a token that no prompt has, once."""

    def __init__(self, rows: TorchRows, error: Exception) -> None:
        self.error: Exception | None = error
        rows._model.model.layers[1].register_forward_pre_hook(self._before)
        rows._model.register_forward_pre_hook(self._see, with_kwargs=True)
        self._sees = False

    def _see(self, _model, _args, inputs) -> None:
        self._sees = bool((inputs["input_ids"] == 510).any())

    def _before(self, *_: object) -> None:
        if self._sees and self.error is not None:
            error, self.error = self.error, None
            raise error


def test_a_step_that_fails_ends_its_answers_and_the_thread_goes_on(scheduler, rows, prompts, logged):
    lane = scheduler.add(rows)
    FailsOnce(rows, RuntimeError("the secret text of a client"))
    heard = [Heard() for _ in range(3)]
    for ears in heard[:2]:
        scheduler.ask(lane, None, ask_for(prompts[0], 60), ears)
    heard[1].wait_for(2)
    scheduler.ask(lane, None, ask_for(prompts[1], 9, logit_bias={510: 1000.0}), heard[2])
    for ears in heard:
        assert isinstance(ears.wait().end, UserError)
        assert ears.end.code == "answer-failed"
        assert "secret" not in str(ears.end)
    [(event, fields)] = logged
    assert event == "answer_failed"
    assert fields["error"] == "RuntimeError"
    assert any("torch_rows" in place for place in fields["where"])
    assert "secret" not in str(fields)
    again = Heard()
    scheduler.ask(lane, None, ask_for(prompts[0], 9), again)
    assert again.wait().tokens == answer_alone(rows, prompts[0], 9)
    assert lane.num_open.total() == 0


def test_a_prompt_that_fails_ends_alone_and_short_memory_is_said(scheduler, rows, prompts):
    lane = scheduler.add(rows)
    FailsOnce(rows, MemoryError())
    well, ill = Heard(), Heard()
    scheduler.ask(lane, None, ask_for(prompts[0], 30), well)
    well.wait_for(2)
    scheduler.ask(lane, None, ask_for([1, 510, 3]), ill)
    assert ill.wait().end.code == "memory-full"
    assert well.wait().tokens == answer_alone(rows, prompts[0], 30)


def test_a_receiver_that_fails_ends_its_own_answer(scheduler, rows, prompts):
    lane, well, told = scheduler.add(rows), Heard(), []

    def receive(each) -> None:
        told.append(each)
        raise ConnectionResetError

    scheduler.ask(lane, None, ask_for(prompts[0], 60), receive)
    scheduler.ask(lane, None, ask_for(prompts[1], 20), well)
    assert well.wait().tokens == answer_alone(rows, prompts[1], 20)
    assert len(told) == 2
    assert isinstance(told[-1], Ended)


def test_short_memory_lets_fewer_answers_run_at_once_and_none_starve(scheduler, rows, prompts, gate):
    lane = scheduler.add(rows)
    scheduler.share_memory(row_bytes=rows.bytes_per_token * 50, prefix_bytes=0)
    heard = [Heard() for _ in range(6)]
    gate.shut()
    for number, ears in enumerate(heard):
        # The fourth alone needs more than there is.
        scheduler.ask(lane, None, ask_for(prompts[number], 60 if number == 3 else 10), ears)
    gate.open()
    for number, ears in enumerate(heard):
        assert ears.wait().tokens == answer_alone(rows, prompts[number], 60 if number == 3 else 10)
    assert max(num_rows for num_rows, _ in gate.shapes) <= 4


@pytest.mark.parametrize("spare_tokens", [-1, 0])
def test_a_long_answer_waits_until_there_is_memory_for_the_rows_that_it_widens(scheduler, long_folder, spare_tokens):
    rows = TorchRows(load_tiny_llama(long_folder), name="long")
    lane, gate = scheduler.add(rows), Gate(rows)
    # Four rows of its width, though the tokens of all together are half as many.
    scheduler.share_memory(row_bytes=rows.bytes_per_token * (4 * 2002 + spare_tokens), prefix_bytes=0)
    active = []
    rows._model.register_forward_pre_hook(lambda *_: active.append(lane.num_active))
    asked = [(range(seed, seed + 600), 60) for seed in range(1, 4)] + [([*range(1, 501)] * 4, 2)]
    heard = [Heard() for _ in asked]
    gate.shut()
    for (prompt, room), ears in zip(asked, heard, strict=True):
        scheduler.ask(lane, None, ask_for([token % 500 + 1 for token in prompt], room), ears)
    gate.open()
    for (prompt, room), ears in zip(asked, heard, strict=True):
        assert ears.wait().tokens == answer_alone(rows, [token % 500 + 1 for token in prompt], room)
    assert max(active) == 4 + spare_tokens


@pytest.mark.parametrize(("num_tokens", "starts"), [(36, True), (35, False)])
def test_rows_of_all_models_are_counted_before_one_starts(scheduler, rows, num_tokens: int, starts: bool):
    scheduler.share_memory(row_bytes=rows.bytes_per_token * num_tokens, prefix_bytes=0)
    # What its thread would do with them is of no interest here.
    scheduler.close()
    lane, other, late = scheduler.add(rows), scheduler.add(rows), scheduler.add(rows)
    answers = [Answer(number, None, ask_for([5, 6], 10), Heard(), 10, lambda: None) for number in range(3)]
    lane.running.append(answers[0])
    other.running.append(answers[1])
    assert scheduler.may_start(lane, answers[2]) == starts
    assert scheduler.may_start(late, answers[2])


def test_answers_that_outgrow_the_memory_take_turns_by_age_and_come_to_their_end(scheduler, long_folder):
    rows = TorchRows(load_tiny_llama(long_folder), name="long")
    lane, gate = scheduler.add(rows), Gate(rows)
    # Four may begin, and not even three may end side by side; two may.
    scheduler.share_memory(row_bytes=rows.bytes_per_token * 4 * 515, prefix_bytes=0)
    heard, order = [Heard() for _ in range(4)], []
    for number, ears in enumerate(heard):

        def receive(told, number=number, ears=ears) -> None:
            if not isinstance(told, Token):
                order.append(number)
            ears(told)

        scheduler.ask(lane, None, ask_for([5 + number, 6], 700), receive)
    for ears in heard:
        assert len(ears.wait().tokens) == 700
    assert order[:2] == [0, 1]
    assert sorted(order) == [0, 1, 2, 3]
    assert max(num_rows for num_rows, _ in gate.shapes) == 4
    assert (1, 1) in gate.shapes
    for number, ears in enumerate(heard):
        assert ears.tokens == answer_alone(rows, [5 + number, 6], 700)


def test_adapters_are_retired_only_when_nobody_is_answered_with_them(scheduler, rows, prompts):
    lane, heard = scheduler.add(rows), Heard()
    scheduler.ask(lane, "one", ask_for(prompts[0], 40), heard)
    assert not scheduler.retire(lane, "one")
    heard.wait()
    assert scheduler.retire(lane, "one")
    assert rows.adapters == ("two",)
    with pytest.raises(BusyError):
        scheduler.ask(lane, "one", ask_for(prompts[0]), Heard())
    assert scheduler.retire(lane)
    with pytest.raises(BusyError):
        scheduler.ask(lane, "two", ask_for(prompts[0]), Heard())
    assert scheduler.lanes == ()


def test_closing_ends_every_answer(rows, prompts):
    scheduler = Scheduler(max_rows=2, max_waiting=9)
    lane = scheduler.add(rows)
    heard = [Heard() for _ in range(5)]
    for ears in heard:
        scheduler.ask(lane, None, ask_for(prompts[0], 80), ears)
    heard[0].wait_for(2)
    started = time.monotonic()
    scheduler.close()
    assert time.monotonic() - started < 2
    assert [ears.end.reason for ears in heard] == ["cancelled"] * 5
    with pytest.raises(BusyError):
        scheduler.ask(lane, None, ask_for(prompts[0]), Heard())
    with pytest.raises(RuntimeError):
        scheduler.call(Path.cwd)
    scheduler.close()
