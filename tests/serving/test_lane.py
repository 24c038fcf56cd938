"""A long prompt holds nobody up and never stands still; what prompts begin with alike is computed once."""

from itertools import count
from pathlib import Path

import pytest
from gate import Gate, answer_alone
from heard import Heard, ask_for
from tiny_llama import load_tiny_llama

from kivnun.errors import UserError
from kivnun.generation.torch_rows import TorchRows
from kivnun.serving.answers import Ended
from kivnun.serving.failures import quiet
from kivnun.serving.lane import MOST_READING, SHORT_TOKENS, Lane
from kivnun.serving.one_answer import Answer
from kivnun.serving.prefixes import BLOCK_TOKENS, PrefixStore
from kivnun.serving.prompts import FEWEST_TOKENS, MOST_TOKENS


class Room:
    """Memory for so many bytes of rows, and whether other models are answering."""

    def __init__(self, num_bytes: int = 1 << 40) -> None:
        self.num_bytes = num_bytes
        self.others = False

    def may_start(self, lane: Lane, answer: Answer) -> bool:
        return lane.expected_bytes_with(answer) <= self.num_bytes

    def is_short(self) -> bool:
        return False

    def others_run(self, lane: Lane) -> bool:
        return self.others


class Turns:
    """A lane that is given its turns by hand."""

    def __init__(self, rows: TorchRows, *, max_rows: int = 64, prefix_bytes: int = 1 << 26) -> None:
        self.rows, self.gate, self.room = rows, Gate(rows), Room()
        self.lane = Lane(1, rows, max_rows, PrefixStore(prefix_bytes), quiet)
        self._numbers = count()

    def ask(self, prompt, num_tokens: int = 1, **more: object) -> tuple[Answer, Heard]:
        heard, asked = Heard(), ask_for(prompt, num_tokens, **more)
        self.lane.waiting.append(Answer(next(self._numbers), None, asked, heard, num_tokens, lambda: None))
        return self.lane.waiting[-1], heard

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.lane.turn(self.room, lambda: None)

    def turns_until(self, heard: Heard) -> int:
        for number in range(100):
            if heard.told:
                return number
            self.turn()
        raise AssertionError("it was never told anything")

    def finish(self) -> None:
        while self.lane.has_work:
            self.turn()

    @property
    def fed(self) -> int:
        """Tokens of prompts that were computed, of answers with one token each."""
        return sum(tokens for _, tokens in self.gate.shapes)


@pytest.fixture
def turns(long_folder: Path) -> Turns:
    return Turns(TorchRows(load_tiny_llama(long_folder), name="long"))


def prompt_of(length: int, *, seed: int = 0, begins: list[int] | None = None) -> list[int]:
    drawn = [(seed * 131 + place * place * 31 + place) % 500 + 1 for place in range(length)]
    return [*(begins or []), *drawn][:length]


@pytest.mark.parametrize("turns_before", [1, 2])
def test_a_short_prompt_that_comes_late_has_its_first_token_after_a_turn_or_two(turns, turns_before: int):
    prompt = prompt_of(4000)
    _, slow = turns.ask(prompt, 3)
    turns.turn(turns_before)
    waited = []
    for seed in range(1, 4):
        _, quick = turns.ask(prompt_of(20, seed=seed), 1)
        waited.append(turns.turns_until(quick))
        assert quick.tokens == answer_alone(turns.rows, prompt_of(20, seed=seed), 1)
    assert slow.told == []
    # The next turn is the late one's; after that the long one has one of its own first.
    assert waited == [1, 2, 2]
    turns.finish()
    assert slow.tokens == answer_alone(turns.rows, prompt, 3)


def test_a_long_prompt_goes_on_every_second_turn_however_many_short_ones_come(turns):
    slow, heard = turns.ask(prompt_of(4000))
    fed, seeds = [0], count(1)
    while not heard.told:
        # More than a turn reads, each turn.
        while sum(each.unread_tokens for each in turns.lane.waiting if each is not slow) < 2 * MOST_TOKENS:
            turns.ask(prompt_of(100, seed=next(seeds)))
        turns.turn()
        fed.append(slow.fed)
    gains = [later - sooner for sooner, later in zip(fed, fed[2:], strict=False)]
    # Half of what is read is the long prompt's, and half is the others'.
    assert set(gains[:-1]) == {MOST_TOKENS}
    assert len(turns.lane.finished) > 4000 // 100 * 0.8


@pytest.mark.parametrize(("others", "tokens"), [(False, MOST_TOKENS), (True, FEWEST_TOKENS)])
def test_a_prompt_is_read_in_short_pieces_while_another_model_answers(turns, others: bool, tokens: int):
    """How fast this model reads is not known before its first piece, and the other's clients wait for that."""
    turns.room.others = others
    answer, _ = turns.ask(prompt_of(2000))
    turns.turn()
    assert answer.fed == tokens


def test_no_prompt_is_cut_into_more_pieces_than_turns_need(turns):
    turns.ask(prompt_of(3000))
    turns.ask(prompt_of(3000, seed=1))
    turns.finish()
    assert len(turns.gate.shapes) <= 2 * -(-3000 // MOST_TOKENS) + 1


def test_of_long_prompts_the_one_that_ends_soonest_goes_on_beside_the_oldest(turns):
    asked = {length: turns.ask(prompt_of(length, seed=length // 100)) for length in (4000, 2000, 900)}
    turns.turn()
    assert turns.lane.num_active == 3
    ended = []
    while turns.lane.has_work:
        fed = [answer.fed for answer, _ in asked.values() if answer.fed and not answer.has_ended]
        assert turns.lane.held_bytes == turns.rows.padded_tokens(fed) * turns.rows.bytes_per_token
        left = [len(answer.asked.prompt_ids) + 1 for answer, _ in asked.values() if not answer.has_ended]
        assert turns.lane.expected_bytes == turns.rows.padded_tokens(left) * turns.rows.bytes_per_token
        turns.turn()
        ended += [length for length, (answer, _) in asked.items() if answer.has_ended and length not in ended]
    assert ended == [900, 2000, 4000]
    for length, (_, heard) in asked.items():
        assert heard.tokens == answer_alone(turns.rows, prompt_of(length, seed=length // 100), 1)


def test_few_long_prompts_are_read_at_once_and_short_ones_come_between(turns):
    for seed in range(MOST_READING + 3):
        turns.ask(prompt_of(2000, seed=seed))
    turns.turn(2)
    assert len(turns.lane.reading) == MOST_READING
    for seed in range(5):
        turns.ask(prompt_of(SHORT_TOKENS, seed=20 + seed))
    _, last = turns.ask(prompt_of(30, seed=30))
    assert turns.turns_until(last) <= 6
    # Those that were cut at the end of a turn are read to their end before others of their kind begin.
    assert len(turns.lane.reading) <= MOST_READING + 1


def test_short_prompts_are_read_one_after_another(turns):
    heard = [turns.ask(prompt_of(SHORT_TOKENS - 10 * seed, seed=seed))[1] for seed in range(6)]
    while not heard[-1].told:
        turns.turn()
        told = [bool(ears.told) for ears in heard]
        assert told == sorted(told, reverse=True)
        assert len(turns.lane.reading) <= 1


def test_prompts_without_a_place_or_memory_wait(turns):
    turns.lane.max_rows = 2
    for seed in range(3):
        turns.ask(prompt_of(3000, seed=seed))
    turns.turn()
    assert (turns.lane.num_active, len(turns.lane.waiting)) == (2, 1)
    turns.lane.max_rows = 9
    # Each is reckoned with all that it will hold, one token of its answer among it.
    turns.room.num_bytes = turns.rows.bytes_per_token * (3 * 3001 - 1)
    turns.turn(2)
    assert (turns.lane.num_active, len(turns.lane.waiting)) == (2, 1)
    turns.room.num_bytes += turns.rows.bytes_per_token
    turns.turn(2)
    assert (turns.lane.num_active, len(turns.lane.waiting)) == (3, 0)


def test_rows_are_counted_with_the_padding_that_a_longer_one_brings(turns):
    for seed in range(3):
        turns.ask(prompt_of(600, seed=seed), 100)
    while len(turns.lane.running) < 3:
        turns.turn()
    one = turns.rows.bytes_per_token
    assert turns.lane.expected_bytes == 3 * 700 * one
    turns.ask(prompt_of(2000, seed=4), 8)
    [long] = turns.lane.waiting
    assert turns.lane.expected_bytes_with(long) == 4 * 2008 * one
    while long not in turns.lane.running:
        turns.turn()
    assert turns.lane.expected_bytes == 4 * 2008 * one
    assert turns.lane.held_bytes == 4 * long.held_tokens * one
    turns.finish()
    assert turns.lane.held_bytes == turns.lane.expected_bytes == 0


def test_short_prompts_that_begin_alike_and_come_at_once_compute_their_beginning_once(turns):
    system = prompt_of(104)
    heard = [turns.ask(prompt_of(118, seed=seed, begins=system))[1] for seed in range(20)]
    turns.finish()
    kept = 104 // BLOCK_TOKENS * BLOCK_TOKENS
    assert [ears.end.cached_tokens for ears in heard] == [0] + [kept] * 19
    assert turns.fed == 118 + 19 * (118 - kept)


def test_nobody_waits_for_a_common_beginning_that_is_not_kept(long_folder: Path):
    turns = Turns(TorchRows(load_tiny_llama(long_folder), name="long"), prefix_bytes=0)
    prompt = prompt_of(3000)
    first, _ = turns.ask(prompt)
    second, heard = turns.ask(prompt[:2000])
    turns.turn(2)
    assert (first.fed, second.fed) == (MOST_TOKENS, MOST_TOKENS)
    turns.finish()
    assert heard.tokens == answer_alone(turns.rows, prompt[:2000], 1)


@pytest.mark.parametrize("other_first", [False, True])
def test_long_prompts_that_begin_alike_compute_their_beginning_once(turns, other_first: bool):
    document = prompt_of(2000)
    if other_first:
        # Another long prompt is the oldest, so that none of the others is.
        turns.ask(prompt_of(3900, seed=9))
    heard = [turns.ask(prompt_of(3500, seed=1, begins=document))[1]]
    turns.turn()
    # They would end sooner, and pass the first one, if they did not gain by waiting for it.
    heard += [turns.ask(prompt_of(2100, seed=2, begins=document))[1] for _ in range(2)]
    turns.finish()
    kept = 2000 // BLOCK_TOKENS * BLOCK_TOKENS
    assert [ears.end.cached_tokens for ears in heard] == [0, kept, 2100]
    assert turns.fed == (3900 if other_first else 0) + 3500 + 2100 - kept


@pytest.mark.parametrize("more", [{"cache_salt": "another project"}, {"tell_prompt": True}])
def test_only_those_wait_for_a_common_beginning_who_may_use_it(turns, more: dict[str, object]):
    document = prompt_of(3900)
    turns.ask(document)
    turns.turn()
    sibling, _ = turns.ask(document[:3000])
    other, _ = turns.ask(document[:2900], **more)
    turns.turn(2)
    assert sibling.row is None
    assert other.row is not None
    turns.finish()
    assert sibling.cached >= 2900 // BLOCK_TOKENS * BLOCK_TOKENS
    assert other.cached == 0


def test_a_short_prompt_finds_the_beginning_that_a_long_one_has_read_so_far(turns):
    system = prompt_of(104)
    turns.ask(prompt_of(4000, seed=1, begins=system))
    turns.turn()
    _, quick = turns.ask(prompt_of(118, seed=2, begins=system))
    assert turns.turns_until(quick) == 1
    assert quick.end == Ended("length", 118, 104 // BLOCK_TOKENS * BLOCK_TOKENS, 1)


def test_any_of_several_that_are_read_can_be_cancelled_or_fail_alone(turns):
    asked = [turns.ask(prompt_of(1500 - 100 * seed, seed=seed), 2) for seed in range(4)]
    _, ill = turns.ask([*prompt_of(600, seed=7), 9999], 2)
    turns.turn(2)
    assert turns.lane.num_active == 4
    asked[1][0].cancelled = asked[3][0].cancelled = True
    turns.turn()
    for number in (1, 3):
        assert asked[number][1].end == Ended("cancelled", 1500 - 100 * number, 0, 0)
    turns.finish()
    assert isinstance(ill.end, UserError)
    assert ill.end.code == "prompt-invalid"
    for number in (0, 2):
        prompt = prompt_of(1500 - 100 * number, seed=number)
        assert asked[number][1].tokens == answer_alone(turns.rows, prompt, 2)
    assert turns.lane.num_active == 0


def test_when_all_fail_those_that_are_read_and_those_that_wait_are_told(turns):
    turns.lane.max_rows = 3
    heard = [turns.ask(prompt_of(1500, seed=seed))[1] for seed in range(5)]
    turns.turn(2)
    turns.lane.fail_all(lambda answer: Ended("cancelled", len(answer.asked.prompt_ids), 0, 0))
    assert [ears.end for ears in heard] == [Ended("cancelled", 1500, 0, 0)] * 5
    assert not turns.lane.has_work
