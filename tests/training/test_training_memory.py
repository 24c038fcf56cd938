"""Memory: what is cut to fit changes nothing that is learnt, and running out of it is found out and said."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from kivnun.data.packing import pack, split_to_fit
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.memory import (
    count_activation_bytes,
    is_out_of_memory,
    out_of_memory,
    plan_memory,
    recompute_layers,
)
from kivnun.training.objectives.supervised import Supervised, summed_loss
from kivnun.training.optimizer import make_master_weights
from kivnun.training.process_memory import free_memory_bytes


def settings(**fields: object) -> TrainingSection:
    return TrainingSection(**{"max_steps": 3, "batch_tokens": 80, "learning_rate": 0.01, "precision": "fp32", **fields})


def train(folder: Path, table: TokenTable, chosen: TrainingSection, micro_batch_tokens: int | None) -> tuple:
    model = load_model(folder, dtype=torch.float32)
    use_packed_attention(model)
    weights = make_master_weights(model, chosen)
    plan = make_plan(table.lengths(), chosen)
    reports = list(fit(model, weights, table, chosen, plan=plan, micro_batch_tokens=micro_batch_tokens))
    return reports, dict(model.named_parameters())


def test_micro_batches_of_any_size_learn_the_same(tiny_model_folder: Path, tiny_table: TokenTable):
    whole, expected = train(tiny_model_folder, tiny_table, settings(), None)
    for tokens in (1, 20, 50):
        cut, weights = train(tiny_model_folder, tiny_table, settings(), tokens)
        assert [report.num_tokens for report in cut] == [report.num_tokens for report in whole]
        assert [report.loss for report in cut] == pytest.approx([report.loss for report in whole], rel=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


def test_no_micro_batch_passes_the_bound_unless_a_row_does():
    lengths = [5, 9, 30, 7, 7, 12, 3]
    parts = split_to_fit(range(7), lengths, num_parts=1, max_tokens=20)
    assert sorted(row for part in parts for row in part) == list(range(7))
    assert all(len(part) == 1 or sum(lengths[row] for row in part) <= 20 for part in parts)
    assert split_to_fit(range(7), lengths, num_parts=1, max_tokens=None) == [
        sorted(range(7), key=lambda r: (-lengths[r], r))
    ]


def test_a_small_step_needs_no_measurement_and_no_cut(tiny_model, tiny_table: TokenTable):
    use_packed_attention(tiny_model)
    plan = plan_memory(tiny_model, Supervised(), tiny_table, largest_step_tokens=100)
    assert (plan.micro_batch_tokens, plan.bytes_per_token) == (None, None)
    assert 0 < plan.free_bytes <= free_memory_bytes(torch.device("cpu")) * 1.5


def test_a_step_that_cannot_be_sure_to_fit_is_measured_and_cut(tiny_model, tiny_table: TokenTable):
    use_packed_attention(tiny_model)
    huge = free_memory_bytes(torch.device("cpu")) // count_activation_bytes(tiny_model)
    plan = plan_memory(tiny_model, Supervised(), tiny_table, largest_step_tokens=huge)
    assert plan.bytes_per_token is not None
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_layers_that_are_computed_again_give_the_same_gradients(tiny_model, tiny_table: TokenTable):
    use_packed_attention(tiny_model)
    tiny_model.train()
    batch = pack(tiny_table, range(6))
    summed_loss(tiny_model, batch).backward()
    expected = {name: parameter.grad.clone() for name, parameter in tiny_model.named_parameters()}
    tiny_model.zero_grad()
    recompute_layers(tiny_model)
    calls: list[int] = []
    for layer in tiny_model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    summed_loss(tiny_model, batch).backward()
    assert len(calls) == 2 * len(tiny_model.model.layers)
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=0)


HUNGRY = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
import psutil
from kivnun.data.tokens import TokenizedRow, make_table
from kivnun.errors import UserError
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.optimizer import make_master_weights

folder, micro = Path(sys.argv[1]), sys.argv[2]
bound = None if micro == "auto" else int(micro)
settings = TrainingSection(
    max_steps=2, batch_tokens=60000, precision="fp32", micro_batch_tokens="auto" if bound is None else bound
)
rows = make_table(TokenizedRow([(7 * i + row) % 390 for i in range(200)], [True] * 200) for row in range(600))
model = load_model(folder, dtype=torch.float32)
use_packed_attention(model)
weights = make_master_weights(model, settings)
plan = make_plan(rows.lengths(), settings)
next(fit(model, weights, make_table([TokenizedRow([1, 2, 3], [True] * 3)]), settings, plan=make_plan([3], settings)))
limit = psutil.Process().memory_info().vms + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    reports = list(fit(model, weights, rows, settings, plan=plan, micro_batch_tokens=bound))
    print(json.dumps([[report.loss, report.micro_batch_tokens, report.num_tokens] for report in reports]))
except UserError as error:
    print(json.dumps([error.code, error.hint]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded as Linux does it")
def test_where_memory_runs_out_smaller_micro_batches_are_found_or_named(tiny_model_folder: Path):
    def run(micro: str) -> list:
        command = [sys.executable, "-c", textwrap.dedent(HUNGRY), str(tiny_model_folder), micro]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    found = run("auto")
    assert [tokens for _, _, tokens in found] == [60000, 60000]
    assert found[0][1] is not None
    assert found[0][1] < 60000
    code, hint = run("60000")
    assert code == "memory-full"
    assert "training.micro_batch_tokens" in hint


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


def test_a_row_that_does_not_fit_alone_is_told_apart():
    error = out_of_memory(900, step=3, num_rows=1, is_auto=True)
    assert isinstance(error, UserError)
    assert "max_seq_len" in error.hint
