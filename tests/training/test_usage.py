"""What training uses: operations counted by hand, the machine's measured peak, and samples between steps."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch

from kivnun.data.tokens import TokenizedRow, make_table
from kivnun.methods import make_method
from kivnun.models.load import load_model
from kivnun.models.types import Model
from kivnun.recipe.methods import LoraMethod, QloraMethod
from kivnun.training import peak, usage
from kivnun.training.device import decoder_layers
from kivnun.training.flops import flops_of_table, flops_per_token
from kivnun.training.loop import StepReport
from kivnun.training.objectives.kto import Kto
from kivnun.training.usage import UsageMeter

CPU = torch.device("cpu")
# The tiny Llama of tests/conftest.py: hidden 32, feed-forward 64, 4 heads of 8 with 2 key heads, vocabulary 400.
LAYER_WEIGHTS = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
ATTENTION_WIDTH = 32


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peak, "SECONDS_PER_SIZE", 0.01)
    return tmp_path / "kivnun" / "matrix-rates.json"


def report(step: int, *, num_tokens: int = 100, seconds: float = 0.5) -> StepReport:
    numbers = {"epoch": 1.0, "loss": 1.0, "grad_norm": 1.0, "learning_rate": 1.0, "num_steps": 10, "num_targets": 10}
    return StepReport(step=step, num_tokens=num_tokens, seconds=seconds, **numbers)


def test_full_training_costs_six_operations_for_every_weight_and_the_attention(tiny_model: Model) -> None:
    tiny_model.requires_grad_(requires_grad=True)
    vocabulary = tiny_model.get_output_embeddings().weight.shape[0]
    lengths, num_targets = [5, 11], 8
    positions = (5 * 6 / 2 + 11 * 12 / 2) / 16
    attention = 3 * 2 * (4 * ATTENTION_WIDTH * positions)  # two layers; forward, and twice that backward
    expected = 6 * (2 * LAYER_WEIGHTS + 0.5 * 32 * vocabulary) + attention
    assert flops_per_token(tiny_model, lengths=lengths, num_targets=num_targets) == pytest.approx(expected)


def test_frozen_layers_below_cost_their_forward_pass_alone(tiny_model: Model) -> None:
    tiny_model.requires_grad_(requires_grad=False)
    decoder_layers(tiny_model)[1].requires_grad_(requires_grad=True)
    attention = 4 * ATTENTION_WIDTH * 2  # a document of three tokens: two positions on average
    expected = 2 * LAYER_WEIGHTS + attention + 6 * LAYER_WEIGHTS + 3 * attention
    assert flops_per_token(tiny_model, lengths=[3], num_targets=0) == pytest.approx(expected)


def test_adapters_cost_four_for_frozen_weights_and_six_for_their_own(tiny_model: Model) -> None:
    method = make_method(LoraMethod(rank=4, alpha=8))
    method.prepare(tiny_model, generator=torch.Generator().manual_seed(0))
    trained = sum(weight.numel() for weight in tiny_model.parameters() if weight.requires_grad)
    expected = 4 * 2 * LAYER_WEIGHTS + 6 * trained + 3 * 2 * 4 * ATTENTION_WIDTH
    assert flops_per_token(tiny_model, lengths=[1, 1], num_targets=0) == pytest.approx(expected)


def test_weights_in_4_bits_cost_what_whole_ones_cost(tiny_model_folder: Path) -> None:
    counts = []
    for section in (LoraMethod(rank=4, alpha=8), QloraMethod(rank=4, alpha=8)):
        model = load_model(tiny_model_folder, dtype=torch.float32)
        make_method(section).prepare(model, generator=torch.Generator().manual_seed(0))
        counts.append(flops_per_token(model, lengths=[5, 11], num_targets=8))
    assert counts[0] == counts[1]


def test_documents_that_are_only_read_cost_their_forward_pass(tiny_model: Model) -> None:
    tiny_model.requires_grad_(requires_grad=True)
    documents = [TokenizedRow([5] * size, [False] + [True] * (size - 1)) for size in (5, 11)]
    own, other = (flops_per_token(tiny_model, lengths=[size], num_targets=size - 1) * size for size in (5, 11))
    table = make_table(documents, documents_per_row=2)
    assert flops_of_table(tiny_model, table) == pytest.approx((own + other) / 16)
    # A forward pass is a third of what training a whole model costs.
    assert flops_of_table(tiny_model, table, read_only=(1,)) == pytest.approx((own + other / 3) / 16)
    assert Kto(0.1).read_only == (1,)


def test_the_count_is_what_torch_counts_where_nothing_is_masked(tiny_model: Model) -> None:
    # One token a document: the causal mask hides nothing, so both must agree to the last operation.
    from torch.utils.flop_counter import FlopCounterMode

    tiny_model.requires_grad_(requires_grad=True)
    ids = torch.tensor([[7]])
    with FlopCounterMode(display=False) as counter:
        tiny_model(ids).logits.sum().backward()
    # Scores and weighted values of one token on itself are 4 H a layer; torch's kernel for the CPU counts them as well.
    counted = counter.get_total_flops()
    assert flops_per_token(tiny_model, lengths=[1], num_targets=1) == pytest.approx(counted, rel=0.02)


def test_the_peak_is_measured_once_and_kept(cache: Path) -> None:
    state = torch.random.get_rng_state()
    first = peak.peak_flops(CPU, torch.float32)
    assert first is not None
    assert first > 1e8
    assert torch.equal(torch.random.get_rng_state(), state), "measuring drew from the training's random numbers"
    (name,) = json.loads(cache.read_text("utf-8"))
    assert "float32" in name
    cache.write_text(json.dumps({name: 123.0}), "utf-8")
    assert peak.peak_flops(CPU, torch.float32) == 123.0
    assert peak.peak_flops(CPU, torch.bfloat16) != 123.0, "another number format has another rate"
    torch.set_num_threads(2)
    try:
        assert peak.peak_flops(CPU, torch.float32) != 123.0, "another number of threads has another rate"
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("content", ["", "[1]", '{"x": "fast"}', "\x00"])
def test_a_cache_that_cannot_be_read_is_measured_again(cache: Path, content: str) -> None:
    cache.parent.mkdir()
    cache.write_text(content, "utf-8")
    rate = peak.peak_flops(CPU, torch.float32)
    assert rate is not None
    assert rate in json.loads(cache.read_text("utf-8")).values()


def test_a_cache_that_cannot_be_written_costs_only_the_second(cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be", "utf-8")
    assert peak.peak_flops(CPU, torch.float32) is not None


def test_measuring_takes_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    started = time.perf_counter()
    peak.measure_peak(CPU, torch.float32)
    assert time.perf_counter() - started < 10, "a second on an idle machine"


def test_nothing_is_said_before_it_is_time() -> None:
    meter = UsageMeter(CPU, torch.float32, every_seconds=3600)
    assert meter.sample(report(1)) == []


def test_a_sample_covers_the_steps_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "peak_flops", lambda *_: 1e6)
    meter = UsageMeter(CPU, torch.float32, flops_per_token=500.0, every_seconds=3600)
    assert meter.sample(report(1, num_tokens=100, seconds=1.0)) == []
    meter.every_seconds = 0
    (fields,) = meter.sample(report(2, num_tokens=300, seconds=1.0))
    assert fields["step"] == 2
    assert fields["tokens_per_second"] == 200.0
    assert (fields["flops_per_second"], fields["peak_share"]) == (100_000.0, 0.1)
    (fields,) = meter.sample(report(3, num_tokens=50, seconds=0.5))
    assert fields["tokens_per_second"] == 100.0


def test_memory_and_processor_are_those_of_this_process() -> None:
    meter = UsageMeter(CPU, torch.float32, every_seconds=0)
    wall, busy = time.perf_counter(), time.process_time()
    while time.process_time() - busy < 0.2:
        pass
    (fields,) = meter.sample(report(1))
    expected = 100 * (time.process_time() - busy) / (time.perf_counter() - wall)
    assert float(str(fields["cpu_percent"])) == pytest.approx(expected, rel=0.3)
    assert 2**26 < int(str(fields["memory_bytes"])) <= int(str(fields["peak_memory_bytes"])) < 2**36
    assert "gpu_memory_bytes" not in fields
    assert "peak_share" not in fields, "without operations per token there is no share"


def test_what_is_faster_than_the_peak_casts_doubt_on_the_peak_once(cache: Path) -> None:
    peak.peak_flops(CPU, torch.float32)
    meter = UsageMeter(CPU, torch.float32, flops_per_token=1e15, every_seconds=0)
    (fields,) = meter.sample(report(1))
    assert float(str(fields["peak_share"])) > 1
    assert json.loads(cache.read_text("utf-8")) == {}
    meter.sample(report(2))
    assert len(json.loads(cache.read_text("utf-8"))) == 1, "measured again, and not forgotten a second time"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured_too() -> None:
    device = torch.device("cuda")
    meter = UsageMeter(device, torch.bfloat16, flops_per_token=1e6, every_seconds=0)
    (fields,) = meter.sample(dataclasses.replace(report(1)))
    assert int(str(fields["gpu_peak_memory_bytes"])) > 0
    assert float(str(fields["peak_flops_per_second"])) > 1e12
