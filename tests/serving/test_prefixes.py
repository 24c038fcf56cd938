"""What is kept of prompts begins others as if computed anew, is kept once, and never takes more than its room."""

import numpy as np
import pytest

from kivnun.generation.torch_rows import TorchRows
from kivnun.serving.prefixes import BLOCK_TOKENS, PrefixStore, _digests

LOGITS_BYTES = 512 * 4


def prompt_of(length: int, *, seed: int, begins: list[int] | None = None) -> list[int]:
    drawn = np.random.default_rng(seed).integers(1, 500, length).tolist()
    return [*(begins or []), *drawn][:length]


def compute(rows: TorchRows, store: PrefixStore, prompt: list[int], adapter: str | None = None) -> np.ndarray:
    row = rows.begin(adapter=adapter)
    logits = rows.feed(row, prompt)
    store.keep(1, rows, row, prompt, logits)
    rows.end(row)
    return logits


@pytest.fixture
def store() -> PrefixStore:
    return PrefixStore(1 << 20)


def test_a_prompt_that_begins_alike_gets_whole_blocks_and_the_same_logits(rows, store):
    first = prompt_of(50, seed=1)
    compute(rows, store, first)
    for shared in (50, 49, 48, 47, 33, 20, 16):
        second = prompt_of(55, seed=2, begins=first[:shared])
        found = store.find(1, None, second)
        assert found.num_tokens == min(shared, 48) // BLOCK_TOKENS * BLOCK_TOKENS
        assert found.logits is None
        row = rows.begin(kept=found.pieces)
        rest = rows.feed(row, second[found.num_tokens :])
        np.testing.assert_allclose(rest, rows.feed(rows.begin(), second), rtol=1e-4, atol=1e-4)
    assert store.find(1, None, prompt_of(55, seed=3)).pieces == ()


@pytest.mark.parametrize("length", [5, 16, 17, 48, 60])
def test_the_same_prompt_needs_no_computing(rows, store, length: int):
    prompt = prompt_of(length, seed=4)
    logits = compute(rows, store, prompt)
    found = store.find(1, None, prompt)
    assert found.num_tokens == length
    np.testing.assert_array_equal(found.logits, logits)
    row = rows.begin(kept=found.pieces)
    assert row.num_tokens == length
    alone = rows.begin()
    rows.feed(alone, prompt)
    np.testing.assert_allclose(*rows.step([row, alone], [9, 9]), rtol=1e-4, atol=1e-4)
    # A prompt that ends before it must be fed its last token, whose logits nobody kept.
    shorter = store.find(1, None, prompt[: length - 1])
    assert shorter.num_tokens == (length - 2) // BLOCK_TOKENS * BLOCK_TOKENS
    assert shorter.logits is None


def test_what_prompts_share_is_kept_once(rows, store):
    system = prompt_of(64, seed=5)
    for seed in range(10):
        compute(rows, store, prompt_of(72, seed=seed, begins=system))
    assert store.num_bytes == rows.bytes_per_token * (64 + 10 * 8) + 10 * LOGITS_BYTES
    before = store.num_bytes
    compute(rows, store, prompt_of(72, seed=3, begins=system))
    assert store.num_bytes == before


def test_models_and_adapters_share_nothing(rows, store):
    prompt = prompt_of(40, seed=6)
    compute(rows, store, prompt)
    compute(rows, store, prompt, adapter="one")
    assert store.find(1, "two", prompt).num_tokens == store.find(2, None, prompt).num_tokens == 0
    assert not np.allclose(store.find(1, None, prompt).logits, store.find(1, "one", prompt).logits)
    store.forget(1, "one")
    assert store.find(1, "one", prompt).num_tokens == 0
    assert store.find(1, None, prompt).num_tokens == 40
    store.forget(1)
    assert store.num_bytes == 0


def test_the_room_is_kept_and_what_was_not_used_for_longest_goes_first(rows):
    one = rows.bytes_per_token * 40 + LOGITS_BYTES
    store = PrefixStore(3 * one)
    kept = [prompt_of(40, seed=seed) for seed in range(3)]
    for prompt in kept:
        compute(rows, store, prompt)
    store.find(1, None, kept[0])
    compute(rows, store, prompt_of(40, seed=9))
    assert store.num_bytes <= store.limit_bytes
    assert [store.find(1, None, prompt).num_tokens for prompt in (kept[0], kept[2])] == [40, 40]
    # The end goes before the beginning: what is left is of use.
    assert store.find(1, None, kept[1]).num_tokens < 40


def test_no_block_outlives_the_one_before_it(rows):
    draws = np.random.default_rng(7)
    store = PrefixStore(rows.bytes_per_token * 150 + 3 * LOGITS_BYTES)
    stems = [prompt_of(48, seed=seed) for seed in range(4)]
    asked, holes = [], 0
    for number in range(60):
        stem = stems[int(draws.integers(4))][: int(draws.integers(1, 48))]
        asked.append(prompt_of(int(draws.integers(len(stem), 70)), seed=number % 9, begins=stem))
        compute(rows, store, asked[-1])
        assert store.num_bytes <= store.limit_bytes
        for prompt in asked:
            blocks, end = _digests(1, None, prompt, "")
            is_kept = [digest in store._kept for digest in (*blocks, end)]
            assert is_kept == sorted(is_kept, reverse=True)
            holes += not all(is_kept)
    assert holes


def test_what_is_read_of_a_prompt_so_far_is_kept_in_whole_blocks(rows, store):
    prompt = prompt_of(60, seed=10)
    row = rows.begin()
    for start, stop in ((0, 10), (10, 40), (40, 60)):
        logits = rows.feed(row, prompt[start:stop])
        last = logits if stop == 60 else None
        store.keep(1, rows, row, prompt[:stop], last)
        if last is None:
            assert store.find(1, None, prompt).num_tokens == stop // BLOCK_TOKENS * BLOCK_TOKENS
            # Of the beginning alone nobody knows what comes after it.
            assert store.find(1, None, prompt[:stop]).logits is None
            assert store.num_bytes == rows.bytes_per_token * (stop // BLOCK_TOKENS * BLOCK_TOKENS)
    found = store.find(1, None, prompt)
    assert found.num_tokens == 60
    again = rows.begin(kept=found.pieces)
    np.testing.assert_array_equal(rows.step([again], [9]), rows.step([row], [9]))


def test_without_room_nothing_is_kept(rows):
    store = PrefixStore(0)
    compute(rows, store, prompt_of(40, seed=8))
    assert store.num_bytes == 0
    store = PrefixStore(rows.bytes_per_token * 20)
    compute(rows, store, prompt_of(40, seed=8))
    assert store.find(1, None, prompt_of(40, seed=8)).num_tokens == 16
