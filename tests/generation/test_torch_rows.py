"""Rows that begin and end alone compute what `TorchEngine` computes for each of them alone."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_adapters import write_adapter
from tiny_llama import CONTEXT_TOKENS, END, load_tiny_llama
from transformers import (
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.auto import AutoModelForCausalLM

from kivnun.errors import UserError
from kivnun.generation.row_groups import TorchRow
from kivnun.generation.torch_engine import TorchEngine
from kivnun.generation.torch_rows import TorchRows
from kivnun.methods.many_lora import ManyLora
from kivnun.models.row_cache import ColumnLayer
from kivnun.models.virtual_tokens import PrefixTokens, PromptTokens

ROOM = 10
SMALL = {"vocab_size": 211, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=211, n_embd=32, n_layer=2, n_head=4, n_positions=96),
    "qwen3": Qwen3Config(**SMALL, intermediate_size=64, num_key_value_heads=2, head_dim=8),
    # Windows shorter than the texts, in all layers and in every other one.
    "mistral": MistralConfig(**SMALL, intermediate_size=64, num_key_value_heads=2, head_dim=8, sliding_window=6),
    "gemma3": Gemma3TextConfig(
        **SMALL,
        intermediate_size=64,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
    ),
    # Its positions are a bias on distances; its forward takes no position ids.
    "bloom": BloomConfig(vocab_size=211, hidden_size=32, n_layer=2, n_head=4),
}


def make_model(config: object) -> PreTrainedModel:
    """Random weights, larger than usual, so that answers wander."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


def answer_mixed(rows: TorchRows, prompts: Sequence[list[int]], names: Sequence[str | None]) -> list[list[int]]:
    """Greedy answers; row k begins at step k, its prompt in pieces, and each has a room of its own."""
    answers: list[list[int]] = [[] for _ in prompts]
    running: dict[int, TorchRow] = {}
    for step in range(len(prompts) + ROOM + 3):
        if step < len(prompts):
            row = rows.begin(adapter=names[step])
            prompt = prompts[step]
            cut = len(prompt) // 2
            if cut:
                rows.feed(row, prompt[:cut])
            answers[step].append(int(rows.feed(row, prompt[cut:]).argmax()))
            running[step] = row
        for number in [number for number in running if len(answers[number]) == ROOM - number % 3]:
            rows.end(running.pop(number))
        # Every fourth step some rows wait, and the order is never that of arrival.
        stepping = [number for number in reversed(running) if step % 4 or number % 2]
        if stepping:
            logits_BV = rows.step([running[number] for number in stepping], [answers[n][-1] for n in stepping])
            for number, logits_V in zip(stepping, logits_BV, strict=True):
                answers[number].append(int(logits_V.argmax()))
    for number in list(running):
        rows.end(running.pop(number))
    return answers


def require_equal(model: PreTrainedModel, rows: TorchRows, prompts: Sequence[list[int]]) -> None:
    engine = TorchEngine(model, pad_id=0)
    found = answer_mixed(rows, prompts, [None] * len(prompts))
    for number, (prompt, tokens) in enumerate(zip(prompts, found, strict=True)):
        [wanted] = engine.generate([prompt], max_new_tokens=len(tokens), stop_ids=frozenset())
        assert len(tokens) >= 5, number
        assert tuple(tokens) == wanted.token_ids, number


def test_rows_of_all_lengths_and_times_answer_as_each_alone(tiny_model, prompts):
    rows = TorchRows(tiny_model)
    require_equal(tiny_model, rows, prompts)
    # What the buffers hold of rows that have ended must not matter.
    require_equal(tiny_model, rows, prompts[::-1])


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_other_architectures_answer_as_alone_too(kind, prompts):
    model = make_model(CONFIGS[kind])
    small = [[token % 211 for token in prompt] for prompt in prompts[:8]]
    require_equal(model, TorchRows(model), small)


def test_logits_of_a_step_are_those_of_the_engine(tiny_model, prompts):
    rows = TorchRows(tiny_model)
    answer = [5, 9, 9, 7]
    begun = [rows.begin() for _ in prompts]
    found = [[rows.feed(row, prompt)] for row, prompt in zip(begun, prompts, strict=True)]
    for token in answer:
        for logits, logits_V in zip(found, rows.step(begun, [token] * len(begun)), strict=True):
            logits.append(logits_V)
    for prompt, logits in zip(prompts, found, strict=True):
        wanted = list(TorchEngine(tiny_model, pad_id=END).forced_logits(prompt, answer))
        np.testing.assert_allclose(np.stack(logits), np.stack(wanted), rtol=1e-4, atol=1e-4)
    assert [row.num_tokens for row in begun] == [len(prompt) + len(answer) for prompt in prompts]


@pytest.fixture(scope="module")
def many(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ManyLora:
    folder = tmp_path_factory.mktemp("rows")
    made = ManyLora(load_tiny_llama(tiny_folder), tiny_folder)
    made.add("one", write_adapter(tiny_folder, folder / "one", seed=1))
    made.add("two", write_adapter(tiny_folder, folder / "two", seed=2, rank=2, target_modules=["v_proj", "up_proj"]))
    return made


def test_rows_of_different_adapters_answer_as_each_alone(many, prompts):
    rows = TorchRows(many.model, adapters=many)
    names = [("one", None, "two")[number % 3] for number in range(len(prompts))]
    engine = TorchEngine(many.model, pad_id=END, adapters=many)
    for prompt, name, tokens in zip(prompts, names, answer_mixed(rows, prompts, names), strict=True):
        [wanted] = engine.generate([prompt], max_new_tokens=len(tokens), stop_ids=frozenset(), adapters=[name])
        assert tuple(tokens) == wanted.token_ids


def test_adapters_come_and_go_while_rows_of_others_answer(tiny_folder, tiny_model, prompts, tmp_path):
    many = ManyLora(load_tiny_llama(tiny_folder), tiny_folder)
    rows = TorchRows(many.model, adapters=many)
    row = rows.begin()
    tokens = [int(rows.feed(row, prompts[0]).argmax())]
    for _ in range(3):
        rows.add_adapter("new", str(write_adapter(tiny_folder, tmp_path / str(len(tokens)), seed=4)))
        assert rows.adapters == ("new",)
        tokens.append(int(rows.step([row], tokens[-1:])[0].argmax()))
        rows.remove_adapter("new")
    [wanted] = TorchEngine(tiny_model, pad_id=END).generate([prompts[0]], max_new_tokens=4, stop_ids=frozenset())
    assert tuple(tokens) == wanted.token_ids
    for act in (lambda: rows.begin(adapter="new"), lambda: rows.remove_adapter("new")):
        with pytest.raises(UserError) as caught:
            act()
        assert caught.value.code == "adapter-unknown"
    with pytest.raises(UserError) as caught:
        TorchRows(tiny_model).add_adapter("new", str(tmp_path))
    assert caught.value.code == "adapter-invalid"


def test_a_prompt_in_pieces_equals_one_feed_and_gives_every_logit(tiny_model, prompts):
    rows, prompt = TorchRows(tiny_model), [*prompts[3], *prompts[5], *prompts[7]]
    whole = rows.feed(rows.begin(), prompt, every=True)
    row = rows.begin()
    pieces = [rows.feed(row, prompt[start : start + 7], every=True) for start in range(0, len(prompt), 7)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rows.feed(rows.begin(), prompt), whole[-1], rtol=1e-4, atol=1e-4)
    wanted = list(TorchEngine(tiny_model, pad_id=END).forced_logits(prompt[:1], prompt[1:]))
    np.testing.assert_allclose(whole, np.stack(wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_what_is_kept_of_a_row_begins_others_as_if_computed(kind, tiny_model, prompts):
    model = tiny_model if kind == "llama" else make_model(CONFIGS[kind])
    rows, prompt = TorchRows(model), [token % 200 for token in [*prompts[3], *prompts[5]]]
    first = rows.begin()
    wanted = rows.feed(first, prompt)
    pieces = [rows.keep(first, 0, 8), rows.keep(first, 8, 12)]
    assert [piece.num_tokens for piece in pieces] == [8, 4]
    assert sum(piece.num_bytes for piece in pieces) == 12 * rows.bytes_per_token
    # A copy: what its row becomes does not matter.
    rows.step([first], [3])
    rows.end(first)
    second = rows.begin(kept=pieces)
    assert second.num_tokens == 12
    np.testing.assert_allclose(rows.feed(second, prompt[12:]), wanted, rtol=1e-4, atol=1e-4)
    # A row that was kept whole steps without being fed.
    whole = rows.keep(second, 0, len(prompt))
    third, token = rows.begin(kept=[whole]), int(wanted.argmax())
    found_BV = rows.step([second, third], [token, token])
    np.testing.assert_allclose(found_BV[1], found_BV[0], rtol=1e-5, atol=1e-5)
    alone = rows.begin()
    np.testing.assert_allclose(rows.feed(alone, [*prompt, token]), found_BV[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_rows_of_a_model_with_learned_tokens_answer_as_each_alone(kind, tiny_folder, prompts):
    model = load_tiny_llama(tiny_folder)
    generator = torch.Generator().manual_seed(5)
    size, tokens_of = (64, PromptTokens) if kind == "prompt" else (2 * 2 * 32, PrefixTokens)
    tokens_of(torch.randn(3, size, generator=generator)).attach(model)
    rows = TorchRows(model)
    require_equal(model, rows, prompts[:6])
    first = rows.begin()
    wanted = rows.feed(first, prompts[3])
    kept = [rows.keep(first, 0, 4), rows.keep(first, 4, 6)]
    np.testing.assert_allclose(rows.feed(rows.begin(kept=kept), prompts[3][6:]), wanted, rtol=1e-4, atol=1e-4)


def test_a_row_that_is_not_finite_harms_no_other_nor_who_takes_its_place(tiny_folder, tiny_model, prompts):
    model = load_tiny_llama(tiny_folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[509] = float("nan")
        model.lm_head.weight = torch.nn.Parameter(tiny_model.lm_head.weight.clone())
    rows = TorchRows(model)
    well, ill = rows.begin(), rows.begin()
    answers = [[int(rows.feed(row, prompts[9]).argmax())] for row in (well, ill)]
    for _ in range(3):
        logits_BV = rows.step([well, ill], [answers[0][-1], 509])
        assert np.isnan(logits_BV).any(axis=1).tolist() == [False, True]
        answers[0].append(int(logits_BV[0].argmax()))
    rows.end(ill)
    # It is short: most of the columns that it pads are those that the ill row had.
    late = rows.begin()
    answers[1] = [int(rows.feed(late, prompts[0]).argmax())]
    for _ in range(3):
        logits_BV = rows.step([well, late], [answer[-1] for answer in answers])
        for answer, logits_V in zip(answers, logits_BV, strict=True):
            answer.append(int(logits_V.argmax()))
    for prompt, answer in zip((prompts[9], prompts[0]), answers, strict=True):
        [wanted] = TorchEngine(tiny_model, pad_id=END).generate([prompt], max_new_tokens=7, stop_ids=frozenset())
        assert tuple(answer) == wanted.token_ids[: len(answer)]
    with pytest.raises(UserError) as caught:
        rows.feed(rows.begin(), [1, 509])
    assert caught.value.code == "logits-not-finite"


def test_what_unused_memory_holds_does_not_matter(tiny_model, prompts):
    # Torch fills what it calls uninitialised with NaN then.
    torch.use_deterministic_algorithms(True)
    try:
        require_equal(tiny_model, TorchRows(tiny_model), prompts)
        require_equal(tiny_model, TorchRows(tiny_model), prompts[::-1])
    finally:
        torch.use_deterministic_algorithms(False)


def test_memory_of_rows_is_given_back(tiny_model, prompts):
    rows = TorchRows(tiny_model)
    begun = [rows.begin() for _ in range(16)]
    for row in begun:
        rows.feed(row, prompts[3])
    rows.step(begun, [1] * 16)
    assert [layer.room for layer in kept_layers(rows)] == [16, 16]
    for row in begun[1:]:
        rows.end(row)
    rows.step(begun[:1], [1])
    assert kept_layers(rows)[0].room <= 4
    rows.end(begun[0])
    assert kept_layers(rows) == []
    # To end a row twice is no error: a row that failed may have been ended by what failed.
    rows.end(begun[0])


def kept_layers(rows: TorchRows) -> list[ColumnLayer]:
    return [layer for group in rows._groups._groups for layer in group.batch.cache.kept]


def buffer_bytes(rows: TorchRows) -> int:
    return sum(buffer.nbytes for layer in kept_layers(rows) for buffer in layer.buffers)


def test_a_long_row_widens_no_short_ones_and_gives_its_memory_back(tiny_model):
    rows = TorchRows(tiny_model)
    short = [rows.begin() for _ in range(63)]
    for row in short:
        rows.feed(row, [5, 6, 7])
    rows.step(short, [1] * 63)
    before = buffer_bytes(rows)
    assert before <= 64 * 128 * rows.bytes_per_token
    long = rows.begin()
    rows.feed(long, [9] * 3000)
    rows.step([*short, long], [1] * 64)
    # Its buffers have room for a while.
    assert buffer_bytes(rows) <= before + 3 * 3001 * rows.bytes_per_token
    rows.end(long)
    rows.step(short, [1] * 63)
    assert buffer_bytes(rows) == before
    # So too if it only waits.
    other = rows.begin()
    rows.feed(other, [9] * 600)
    rows.step([other, *short], [1] * 64)
    rows.step(short, [1] * 63)
    assert buffer_bytes(rows) == before


def test_memory_is_told_with_the_padding_of_rows_of_like_lengths(tiny_folder, tiny_model):
    rows = TorchRows(tiny_model)
    assert rows.padded_tokens([]) == 0
    assert rows.padded_tokens([8000, *[4] * 63]) == 8000 + 63 * 4
    assert rows.padded_tokens([3, 512, 8, 512]) == 4 * 512
    # A fourth of the longest is together with it, and less is not.
    assert rows.padded_tokens([128, 512, 2047, 511, 2048]) == 3 * 2048 + 2 * 511
    assert rows.padded_tokens([129, 513, 5]) == 2 * 513 + 5
    model = load_tiny_llama(tiny_folder)
    PromptTokens(torch.randn(3, 64)).attach(model)
    assert TorchRows(model).padded_tokens([4, 500]) == 504


def test_rows_share_a_batch_as_soon_as_their_lengths_let_them_and_then_stay(tiny_model):
    rows = TorchRows(tiny_model, first_width=8)
    begun = [rows.begin() for _ in range(3)]
    for row, length in zip(begun, (8, 1, 60), strict=True):
        rows.feed(row, [5] * length)
    # With the tokens of this step they have 9 and 2.
    rows.step(begun[:2], [1, 1])
    assert [group.rows for group in rows._groups._groups] == [[begun[0]], [begun[1]]]
    rows.step(begun[:2], [1, 1])
    [group] = rows._groups._groups
    rows.step(begun, [1, 1, 1])
    assert [each for each in rows._groups._groups if len(each.rows) == 2] == [group]
    rows.end(begun[0])
    rows.step(begun[1:], [1, 1])
    assert group in rows._groups._groups


class Wandering:
    """Rows that come, step in any order, wait and go, each written down with the logits that it was given."""

    def __init__(self, rows: TorchRows, names: Sequence[str | None], seed: int) -> None:
        self.rows, self.names = rows, names
        self.draws = random.Random(seed)  # noqa: S311 - a test
        self.texts: dict[TorchRow, list[int]] = {}
        self.given: dict[TorchRow, list[np.ndarray]] = {}
        self.ended: list[TorchRow] = []

    def begin(self) -> None:
        row = self.rows.begin(adapter=self.draws.choice(self.names))
        self.texts[row] = [self.draws.randrange(1, 200) for _ in range(self.draws.choice([1, 3, 7, 8, 20, 31, 33]))]
        self.given[row] = [self.rows.feed(row, self.texts[row])]

    def end(self) -> None:
        row = self.draws.choice(self.open)
        self.rows.end(row)
        self.ended.append(row)

    @property
    def open(self) -> list[TorchRow]:
        return [row for row in self.texts if row not in self.ended]

    def step(self) -> None:
        # Mostly all of them; an order of its own each time.
        few = self.draws.random() < 0.2
        stepping = self.draws.sample(self.open, k=self.draws.randint(1, len(self.open)) if few else len(self.open))
        tokens = [self.draws.randrange(1, 200) for _ in stepping]
        for row, token, logits_V in zip(stepping, tokens, self.rows.step(stepping, tokens), strict=True):
            self.texts[row].append(token)
            self.given[row].append(logits_V)

    def require_as_alone(self) -> None:
        for row, text in self.texts.items():
            assert row in self.ended or row.num_tokens == len(text)
            alone = self.rows.feed(self.rows.begin(adapter=row.adapter), text, every=True)
            np.testing.assert_allclose(np.stack(self.given[row]), alone[-len(self.given[row]) :], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2", "bloom", "adapters"])
def test_rows_that_change_their_batch_among_others_that_come_and_go_compute_as_alone(kind, tiny_model, many):
    # So narrow that a few tokens make a row too long for others.
    if kind == "adapters":
        rows, names = TorchRows(many.model, adapters=many, first_width=8), [None, "one", "two"]
    else:
        model = tiny_model if kind == "llama" else make_model(CONFIGS[kind])
        rows, names = TorchRows(model, first_width=8), [None]
    wandering, num_batches, places, num_moves = Wandering(rows, names, seed=4), set(), {}, 0
    for _ in range(60):
        while len(wandering.open) < 2 or (len(wandering.open) < 12 and wandering.draws.random() < 0.4):
            wandering.begin()
        wandering.step()
        batches = [group.batch for group in rows._groups._groups]
        assert all(max(each.lengths) <= max(8, 4 * min(each.lengths)) for each in batches)
        num_batches.add(len(batches))
        last, places = places, {row: group for group in rows._groups._groups for row in group.rows}
        num_moves += sum(last.get(row, group) is not group for row, group in places.items())
        if len(wandering.open) > 2 and wandering.draws.random() < 0.25:
            wandering.end()
    assert {2, 3} <= num_batches
    assert num_moves >= 5
    wandering.require_as_alone()


def test_facts_of_a_model_are_told(tiny_model):
    rows = TorchRows(tiny_model, name="tiny")
    assert rows.name == "tiny"
    assert rows.context_tokens == CONTEXT_TOKENS
    assert rows.bytes_per_token == 2 * 2 * 32 * 4
    assert rows.num_bytes >= sum(parameter.nbytes for parameter in tiny_model.parameters())
    assert rows.adapters == ()


def test_models_that_keep_more_than_keys_and_values_are_refused():
    mamba = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
    t5 = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    for model in (AutoModelForCausalLM.from_config(mamba).eval(), T5ForConditionalGeneration(t5).eval()):
        with pytest.raises(UserError) as caught:
            TorchRows(model)
        assert caught.value.code == "stage-unsupported"
        assert type(model).__name__ in caught.value.problem


@pytest.mark.parametrize("token", [-1, 512])
def test_a_token_that_the_model_does_not_have_is_refused(tiny_model, token: int):
    rows = TorchRows(tiny_model)
    with pytest.raises(UserError) as caught:
        rows.feed(rows.begin(), [1, token])
    assert caught.value.code == "prompt-invalid"


def test_mistakes_of_the_caller_are_errors_of_the_program(tiny_folder, tiny_model, prompts):
    with pytest.raises(ValueError, match="eval mode"):
        TorchRows(LlamaForCausalLM.from_pretrained(tiny_folder).train())
    with pytest.raises(ValueError, match="share a batch"):
        TorchRows(tiny_model, first_width=5)
    rows = TorchRows(tiny_model)
    row = rows.begin()
    rows.feed(row, prompts[0])
    with pytest.raises(ValueError, match="cannot be kept"):
        rows.keep(row, 0, len(prompts[0]) + 1)
    with pytest.raises(ValueError, match="twice"):
        rows.step([row, row], [1, 1])
    rows.step([row], [1])
    with pytest.raises(ValueError, match="fed by them"):
        rows.feed(row, [1])
    rows.end(row)
    with pytest.raises(ValueError, match="ended"):
        rows.step([row], [1])
