"""Rows of an ONNX graph: whatever stands beside a row, and however it was fed, it computes what it does alone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from tiny_adapters import write_adapter
from tiny_llama import CONTEXT_TOKENS, END
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from kivnun.errors import UserError
from kivnun.generation.adapter_list import adapter_file
from kivnun.generation.onnx_cache import RESERVED_SLOTS, OnnxCache, OnnxRow
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.onnx_rows import MAX_FEED_TOKENS, OnnxRows
from kivnun.generation.torch_rows import TorchRows
from kivnun.models.load import load_model
from kivnun.models.resolve import resolve_model
from kivnun.models.types import Model
from kivnun.optimization.adapter_sources import find_sources
from kivnun.optimization.adapters import make_adapter_model
from kivnun.optimization.forms import Form
from kivnun.optimization.onnx import export_onnx

NO_STOP: frozenset[int] = frozenset()
NEW_TOKENS = 16
SHAPE = {"vocab_size": 512, "initializer_range": 0.3, "bos_token_id": END, "eos_token_id": END, "pad_token_id": END}


@pytest.fixture(scope="module")
def rows(fp32_folder: Path) -> OnnxRows:
    return OnnxRows(fp32_folder, num_threads=1)


@pytest.fixture(scope="module")
def shared(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An fp32 folder with the adapters `one` and `two`."""
    folder = tmp_path_factory.mktemp("shared")
    sources = [str(write_adapter(tiny_folder, folder / name, seed=seed)) for seed, name in ((1, "one"), (2, "two"))]
    quiet = lambda _event, _fields: None  # noqa: E731 - nothing is shown
    make_adapter_model(resolve_model(str(tiny_folder)), find_sources(sources), folder / "made", Form("fp32"), log=quiet)
    return folder / "made"


def answer_side_by_side(
    model: OnnxRows, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None] | None = None
) -> list[tuple[int, ...]]:
    """Greedy answers; a row comes with each step, those behind step in another order each time and end one by one."""
    names = adapters or [None] * len(prompts)
    said: dict[int, list[int]] = {}
    live: dict[int, OnnxRow] = {}
    waiting = list(range(len(prompts)))
    while waiting or live:
        if waiting:
            number = waiting.pop(0)
            live[number] = model.begin(adapter=names[number])
            said[number] = [int(model.feed(live[number], prompts[number]).argmax())]
        order = sorted(live, key=lambda number: (number * 7 + len(said[number])) % 5)
        logits_BV = model.step([live[number] for number in order], [said[number][-1] for number in order])
        for number, logits_V in zip(order, logits_BV, strict=True):
            said[number].append(int(logits_V.argmax()))
            if len(said[number]) >= NEW_TOKENS - number % 3:
                model.end(live.pop(number))
    return [tuple(said[number]) for number in range(len(prompts))]


def alone(model: OnnxRows | TorchRows, token_ids: Sequence[int], adapter: str | None = None) -> np.ndarray:
    """Logits after tokens that are fed at once."""
    row = model.begin(adapter=adapter)
    logits_V = model.feed(row, token_ids)
    model.end(row)
    return logits_V


def expected_answers(engine: OnnxEngine, prompts, adapters=None) -> list[tuple[int, ...]]:
    answers = engine.generate(prompts, max_new_tokens=NEW_TOKENS, stop_ids=NO_STOP, adapters=adapters)
    return [answer.token_ids[: NEW_TOKENS - number % 3] for number, answer in enumerate(answers)]


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_mixed_rows_answer_as_onnxruntime_genai_does_one_by_one(precision, prompts, fp32_folder, int4_folder):
    folder = fp32_folder if precision == "fp32" else int4_folder
    model = OnnxRows(folder, num_threads=1)
    assert answer_side_by_side(model, prompts) == expected_answers(OnnxEngine(folder, num_threads=1), prompts)


def export(model: Model, tiny_folder: Path, folder: Path) -> Path:
    """The fp32 folder of a model that reads the tiny tokenizer's tokens."""
    model.save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, folder / "model")
    return export_onnx(folder / "model", folder / "onnx", Form("fp32")).folder


def test_learned_positions_are_told_row_by_row(prompts, tiny_folder, tmp_path):
    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT_TOKENS}
    folder = export(GPT2LMHeadModel(GPT2Config(**SHAPE, **sizes)), tiny_folder, tmp_path)
    said = answer_side_by_side(OnnxRows(folder, num_threads=1), prompts)
    assert said == expected_answers(OnnxEngine(folder, num_threads=1), prompts)


def test_sliding_windows_and_prompts_beyond_one_piece(prompts, tiny_folder, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    # Answers leave the window, which reaches from one piece of a long prompt into the one before.
    room = {"num_key_value_heads": 1, "max_position_embeddings": 2 * MAX_FEED_TOKENS, "sliding_window": 12}
    folder = export(MistralForCausalLM(MistralConfig(**SHAPE, **sizes, **room)), tiny_folder, tmp_path)
    long = [(31 * place * place) % 511 for place in range(MAX_FEED_TOKENS + 5)]
    said = answer_side_by_side(OnnxRows(folder, num_threads=1), [*prompts, long])
    assert said == expected_answers(OnnxEngine(folder, num_threads=1), [*prompts, long])


def test_no_row_is_so_long_that_it_changes_the_positions_of_others(tiny_folder, tmp_path):
    """LongRoPE takes other frequencies for a whole step as soon as one row is longer than the first context."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    factors = {"short_factor": [1.0 + 0.1 * place for place in range(16)], "long_factor": [9.0] * 16}
    positions = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24, **factors}
    config = Phi3Config(
        **SHAPE, **sizes, max_position_embeddings=96, original_max_position_embeddings=24, rope_parameters=positions
    )
    folder = export(Phi3ForCausalLM(config), tiny_folder, tmp_path)
    assert json.loads((folder / "genai_config.json").read_bytes())["model"]["context_length"] == 24
    change_config(folder, context_length=96)  # as others export it
    short, long = [3, 1, 4, 1, 5], [place % 400 for place in range(23)]
    for model in (OnnxRows(folder, num_threads=1), TorchRows(load_model(tmp_path / "model", dtype=torch.float32))):
        assert model.context_tokens == 24
        expected_V = alone(model, [*short, 9])
        rows = [model.begin(), model.begin()]
        for row, prompt in zip(rows, (short, long), strict=True):
            model.feed(row, prompt)
        np.testing.assert_allclose(model.step(rows, [9, 2])[0], expected_V, atol=1e-4)


def change_config(folder: Path, **values: int) -> None:
    path = folder / "genai_config.json"
    told = json.loads(path.read_bytes())
    told["model"] |= values
    path.write_text(json.dumps(told))


def test_a_step_computes_for_each_row_what_it_computes_alone(rows, prompts):
    begun = [rows.begin() for _ in prompts]
    for row, prompt in zip(begun, prompts, strict=True):
        rows.feed(row, prompt)
    logits_BV = rows.step(begun, range(1, len(begun) + 1))
    for row in begun:
        rows.end(row)
    assert [row.num_tokens for row in begun] == [len(prompt) + 1 for prompt in prompts]
    wanted = [alone(rows, [*prompt, number]) for number, prompt in enumerate(prompts, 1)]
    np.testing.assert_allclose(logits_BV, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prompt", [[0], [0, 0], [5, 0], [5, 6, 0, 0, 0], [0, 0, 5], [0, 5, 0]])
def test_padding_tokens_are_read_like_any_other(rows, fp32_folder, prompt):
    [wanted] = OnnxEngine(fp32_folder, num_threads=1).forced_logits(prompt, [])
    np.testing.assert_allclose(alone(rows, prompt), wanted, rtol=1e-4, atol=1e-4)


def test_a_padding_token_at_the_end_changes_what_comes(rows):
    assert np.abs(alone(rows, [5, 6, 0]) - alone(rows, [5, 6])).max() > 0.1


@pytest.mark.parametrize("pieces", [(1, 1), (1, 30), (30, 1), (7, 8, 9)])
def test_a_prompt_in_pieces_is_the_prompt_at_once(rows, pieces):
    tokens = [(31 * place * place) % 511 for place in range(sum(pieces))]
    beside = rows.begin()
    rows.feed(beside, [3, 4])
    row, start = rows.begin(), 0
    for length in pieces:
        logits_V = rows.feed(row, tokens[start : start + length])
        start += length
        rows.step([beside], [9])
    rows.end(row)
    rows.end(beside)
    np.testing.assert_allclose(logits_V, alone(rows, tokens), rtol=1e-4, atol=1e-4)


def test_what_was_kept_of_rows_begins_others_with_the_same_answer(rows):
    tokens = [(17 * place) % 511 + 1 for place in range(40)]
    first = rows.begin()
    rows.feed(first, tokens)
    kept = [rows.keep(first, 0, 16), rows.keep(first, 16, 25)]
    assert [(piece.num_tokens, piece.num_bytes) for piece in kept] == [
        (16, 16 * rows.bytes_per_token),
        (9, 9 * rows.bytes_per_token),
    ]
    begun = [rows.begin(kept=kept) for _ in range(2)]
    assert [row.num_tokens for row in begun] == [25, 25]
    # A short row is not padded to a longer one's length.
    assert rows.padded_tokens([25, 3000, 1]) == 3026
    # The first of them writes behind its own copy, and what was kept stays what it was.
    rows.feed(begun[0], [9, 9, 9])
    rows.end(first)
    np.testing.assert_allclose(rows.feed(begun[1], tokens[25:]), alone(rows, tokens), rtol=1e-4, atol=1e-4)
    later = rows.begin(kept=kept[:1])
    # A row may step right after what was kept.
    logits_BV = rows.step([later], [5])
    np.testing.assert_allclose(logits_BV[0], alone(rows, [*tokens[:16], 5]), rtol=1e-4, atol=1e-4)
    for row in (*begun, later):
        rows.end(row)


def test_logits_after_every_token_of_a_prompt_are_those_of_its_beginnings(rows):
    tokens = [5, 0, 77, 300, 9]
    row = rows.begin()
    logits_TV = rows.feed(row, tokens, every=True)
    rows.end(row)
    wanted = [alone(rows, tokens[:count]) for count in range(1, len(tokens) + 1)]
    np.testing.assert_allclose(logits_TV, wanted, rtol=1e-4, atol=1e-4)


def test_rows_that_wait_take_no_part(rows):
    begun = [rows.begin() for _ in range(4)]
    for number, row in enumerate(begun):
        rows.feed(row, [number + 1, 50])
    # The last two step, then the outer two, so that rows change places in both directions.
    for picked in ([2, 3], [3, 0]):
        rows.step([begun[place] for place in picked], [60 + place for place in picked])
    assert [row.num_tokens for row in begun] == [3, 2, 3, 4]
    wanted = [alone(rows, [*held, 7]) for held in ([1, 50, 60], [2, 50], [3, 50, 62], [4, 50, 63, 63])]
    np.testing.assert_allclose(rows.step(begun, [7] * 4), wanted, rtol=1e-4, atol=1e-4)
    for row in begun:
        rows.end(row)


def test_rows_of_several_adapters_answer_as_each_adapter_alone(shared, prompts):
    model = OnnxRows(shared, num_threads=1)
    assert model.adapters == ("one", "two")
    names = [("one", None, "two")[number % 3] for number in range(len(prompts))]
    engine = OnnxEngine(shared, num_threads=1)
    said = answer_side_by_side(model, prompts, names)
    assert said == expected_answers(engine, prompts, names)
    assert said != expected_answers(engine, prompts)


def test_adapters_come_and_go_while_rows_of_others_live(shared):
    model = OnnxRows(shared, num_threads=1)
    weights = model.num_bytes
    row = model.begin(adapter="one")
    model.feed(row, [5, 6])
    assert model.num_bytes > weights
    model.add_adapter("third", str(adapter_file(shared, "two")))
    np.testing.assert_array_equal(alone(model, [5, 6], "third"), alone(model, [5, 6], "two"))
    with pytest.raises(UserError) as caught:
        model.add_adapter("third", str(adapter_file(shared, "two")))
    assert caught.value.code == "adapter-taken"
    model.remove_adapter("third")
    for ask in (lambda: model.begin(adapter="third"), lambda: model.remove_adapter("third")):
        with pytest.raises(UserError) as caught:
            ask()
        assert caught.value.code == "adapter-unknown"
    with pytest.raises(ValueError, match="answer with"):
        model.remove_adapter("one")
    np.testing.assert_allclose(model.step([row], [7])[0], alone(model, [5, 6, 7], "one"), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="another model or adapter"):
        model.begin(kept=[model.keep(row, 0, 2)])


def test_what_is_no_adapter_of_the_graph_is_refused(rows, shared, tmp_path):
    (tmp_path / "wrong.onnx_adapter").write_bytes(b"no adapter")
    for source in (tmp_path / "wrong.onnx_adapter", adapter_file(shared, "one")):
        with pytest.raises(UserError) as caught:
            rows.add_adapter("new", str(source))
        assert caught.value.code == "adapter-invalid"
    assert rows.adapters == ()
    with pytest.raises(UserError) as caught:
        rows.begin(adapter="new")
    assert caught.value.code == "adapter-unknown"


def test_more_rows_than_were_reserved_and_a_row_that_fills_the_context(rows):
    begun = [rows.begin() for _ in range(RESERVED_SLOTS + 2)]
    for number, row in enumerate(begun):
        rows.feed(row, [number + 1])
    full = [(31 * place * place) % 511 for place in range(CONTEXT_TOKENS - 1)]
    rows.feed(begun[0], full[1:])
    logits_BV = rows.step(begun, [8] * len(begun))
    np.testing.assert_allclose(logits_BV[0], alone(rows, [1, *full[1:], 8]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits_BV[-1], alone(rows, [len(begun), 8]), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError) as caught:
        rows.feed(begun[0], [1])
    assert caught.value.code == "prompt-invalid"
    for row in begun:
        rows.end(row)


def test_a_row_goes_on_when_others_make_its_memory_another_one(rows):
    row = rows.begin()
    rows.feed(row, [5, 6])
    rows.step([row], [7])
    others = [rows.begin() for _ in range(RESERVED_SLOTS)]
    np.testing.assert_allclose(rows.step([row], [8])[0], alone(rows, [5, 6, 7, 8]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rows.step([row], [9])[0], alone(rows, [5, 6, 7, 8, 9]), rtol=1e-4, atol=1e-4)
    for each in (row, *others):
        rows.end(each)


def test_tokens_outside_the_vocabulary_are_refused(rows):
    row = rows.begin()
    for token in (-1, 512):
        with pytest.raises(UserError) as caught:
            rows.feed(row, [token])
        assert caught.value.code == "prompt-invalid"
    rows.end(row)
    with pytest.raises(ValueError, match="ended"):
        rows.feed(row, [1])


def test_a_step_writes_into_our_memory_and_nothing_else_of_it(rows):
    row, waiting = rows.begin(), rows.begin()
    rows.feed(row, [1, 2, 3])
    rows.feed(waiting, [4])
    cache = rows._caches[None]
    before = cache.values_NBHSD[:, :2].copy()
    rows.step([row], [5])
    changed = np.argwhere((cache.values_NBHSD[:, :2] != before).any(axis=(0, 2, 4)))
    assert changed.tolist() == [[0, 3]]
    rows.end(row)
    rows.end(waiting)
    assert rows._caches == {}


class Witness:
    """A session that writes down how wide the masks are that it is given."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.widths: list[int] = []
        self._session = session

    def io_binding(self) -> ort.IOBinding:
        return SeenBinding(self._session, self.widths)

    def run_with_iobinding(self, binding: ort.IOBinding) -> None:
        self._session.run_with_iobinding(binding)


class SeenBinding(ort.IOBinding):
    def __init__(self, session: ort.InferenceSession, widths: list[int]) -> None:
        super().__init__(session)
        self._widths = widths

    def bind_input(self, name, device_type, device_id, element_type, shape, buffer_ptr) -> None:
        if name == "attention_mask":
            self._widths.append(shape[1])
        super().bind_input(name, device_type, device_id, element_type, shape, buffer_ptr)


def test_the_mask_is_as_wide_as_the_longest_row_will_be(fp32_folder):
    # The operator asks for that. ONNX Runtime 1.31 gives the same bits for every width but that of the new tokens
    # alone, which it takes for the beginning of a prompt; so answers would not tell.
    model = OnnxRows(fp32_folder, num_threads=1)
    witness = model._session = Witness(model._session)
    begun = [model.begin() for _ in range(3)]
    for row, length in zip(begun, (5, 30, 2), strict=True):
        model.feed(row, range(1, length + 1))
    model.feed(begun[0], [7, 8, 9])
    model.feed(begun[2], [7, 8], every=True)
    assert witness.widths == [5, 30, 2, 8, 3, 4]
    witness.widths.clear()
    # The longest stands first, last and aside; then all together.
    for picked in ([1, 0], [2, 1], [0, 2], [0, 1, 2]):
        model.step([begun[place] for place in picked], [9] * len(picked))
    assert witness.widths == [31, 32, 10, 33]


@pytest.mark.parametrize("damage", ["no config", "config cut", "model cut", "data cut", "device", "option"])
def test_a_folder_that_cannot_serve_rows_is_refused_quietly(fp32_folder, tmp_path, capfd, damage):
    folder = Path(shutil.copytree(fp32_folder, tmp_path / "onnx"))
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    options = config["model"]["decoder"]["session_options"]
    if damage == "no config":
        path.unlink()
    elif damage in ("device", "option"):
        options.update({"provider_options": [{"cuda": {}}]} if damage == "device" else {"enable_magic": True})
        path.write_text(json.dumps(config))
    else:
        part = {"config cut": "genai_config.json", "model cut": "model.onnx", "data cut": "model.onnx.data"}[damage]
        data = (folder / part).read_bytes()
        (folder / part).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError) as caught:
        OnnxRows(folder)
    assert caught.value.code == "model-invalid"
    assert caught.value.details
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("change", ["attention", "mask", "input"])
def test_a_graph_in_which_rows_cannot_share_a_step_is_refused(fp32_folder, tmp_path, change):
    folder = Path(shutil.copytree(fp32_folder, tmp_path / "onnx"))
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    if change == "attention":
        next(node for node in model.graph.node if node.op_type == "GroupQueryAttention").op_type = "Attention"
    elif change == "mask":
        model.graph.node.append(onnx.helper.make_node("Cast", ["attention_mask"], ["seen"], to=1))
    else:
        model.graph.input.append(onnx.helper.make_tensor_value_info("cache_indirection", 6, [1]))
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(UserError, match="side by side"):
        OnnxRows(folder)


def test_logits_that_are_not_finite_end_a_prompt_with_an_error(fp32_folder, tmp_path):
    folder = Path(shutil.copytree(fp32_folder, tmp_path / "onnx"))
    model = onnx.load(folder / "model.onnx")
    norm = next(each for each in model.graph.initializer if "final_norm" in each.name)
    norm.CopyFrom(numpy_helper.from_array(np.full(tuple(norm.dims), np.nan, np.float32), norm.name))
    (folder / "model.onnx.data").unlink()
    onnx.save(model, folder / "model.onnx")
    broken = OnnxRows(folder)
    row = broken.begin()
    with pytest.raises(UserError) as caught:
        broken.feed(row, [5, 6])
    assert caught.value.code == "logits-not-finite"


Change = st.tuples(st.sampled_from(["add", "write", "remove", "first"]), st.integers(0, 99), st.integers(1, 30))


@given(st.lists(Change, max_size=60))
@settings(max_examples=60, deadline=None)
def test_rows_keep_what_they_hold_whatever_moves_around_them(changes):
    cache = OnnxCache(2, 1, 3, 300)
    held: dict[OnnxRow, list[float]] = {}
    written = 0.0
    for kind, pick, amount in changes:
        row = cache.rows[pick % len(cache.rows)] if cache.rows else None
        if kind == "add":
            held[cache.add(None)] = []
        elif row is not None and kind == "write":
            cache.require_room(min(300, row.num_tokens + amount))
            for _ in range(min(amount, 300 - row.num_tokens)):
                written += 1
                cache.values_NBHSD[:, row.slot, :, row.num_tokens] = written
                held[row].append(written)
                row.num_tokens += 1
        elif row is not None and kind == "remove":
            cache.remove(row)
            del held[row]
        elif row is not None:
            first = cache.rows[pick % len(cache.rows) :: 2]
            cache.put_first(first)
            assert sorted(each.slot for each in first) == list(range(len(first)))
        assert [each.slot for each in cache.rows] == list(range(len(cache.rows)))
    for row, values in held.items():
        assert cache.copy(row, 0, row.num_tokens)[1, 0, :, 2].tolist() == values


def test_memory_of_a_row_that_ended_is_given_back():
    cache = OnnxCache(2, 2, 64, 4096)
    first, second = cache.add(None), cache.add(None)
    for row in (first, second):
        cache.values_NBHSD[:, row.slot] = 1.0
    first.num_tokens = second.num_tokens = 10
    cache.remove(first)
    # Pages that were given back read as zeros; the row that took the gap holds its tokens and no more.
    assert (second.slot, float(cache.values_NBHSD[:, 1].sum())) == (0, 0.0)
    assert (cache.copy(second, 0, 10) == 1.0).all()


def test_rows_get_room_where_the_system_lets_nothing_be_reserved():
    script = """
import resource
from kivnun.generation.onnx_cache import RESERVED_TOKENS, OnnxCache
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
cache = OnnxCache(60, 3, 64, 100_000)
rows = [cache.add(None) for _ in range(3)]
for number, row in enumerate(rows):
    cache.require_room(300)
    cache.values_NBHSD[:, row.slot, :, :300] = number
    row.num_tokens = 300
cache.remove(rows[0])
print(cache.token_room < RESERVED_TOKENS, [float(cache.copy(row, 0, 300).mean()) for row in rows[1:]])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("True [1.0, 2.0]\n", "")
