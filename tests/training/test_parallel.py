"""Two processes learn what one learns: shares of a step, sums over processes, and where they agree to stop."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from several_processes import NUM_STEPS, Case, Given, Left, settings, train_case, train_together

from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.training.ddp import BUCKET_VALUES, cut_into_buckets
from kivnun.training.fsdp import ShardedParallel
from kivnun.training.interrupt import deferred_interrupt
from kivnun.training.loop import seed_step
from kivnun.training.parallel import ALONE

# One row a step: the second process of two has nothing to do.
ONE_ROW = {"batch_tokens": 1, "gradient_accumulation_steps": 1}
# Five rows a step in micro-batches of at most one row: an odd number of them.
ODD = {"batch_size": 5, "gradient_accumulation_steps": 1, "micro_batch_tokens": 4}

CASES: dict[str, tuple[str, Case]] = {
    "ddp-full": ("ddp", Case("full", "a")),
    "ddp-lora": ("ddp", Case("lora", "b")),
    "ddp-one-row": ("ddp", Case("full", "c", ONE_ROW)),
    "ddp-odd": ("ddp", Case("lora", "d", ODD)),
    "ddp-8bit": ("ddp", Case("full", "e", {"optimizer": "adamw_8bit"})),
    "ddp-kto": ("ddp", Case("lora", "r", {"objective": {"kind": "kto"}})),
    "fsdp-dpo": ("fsdp", Case("lora", "s", {"objective": {"kind": "dpo"}})),
    "fsdp-full": ("fsdp", Case("full", "f")),
    "fsdp-lora": ("fsdp", Case("lora", "g")),
    "fsdp-partial": ("fsdp", Case("partial", "h")),
    "fsdp-one-row": ("fsdp", Case("full", "i", ONE_ROW)),
    "fsdp-odd": ("fsdp", Case("lora", "j", ODD)),
    "fsdp-recomputed": ("fsdp", Case("full", "k", {"gradient_checkpointing": True})),
    "fsdp-muon": ("fsdp", Case("full", "l", {"optimizer": "muon"})),
    "fsdp-bf16": ("fsdp", Case("full", "m", dtype="bfloat16")),
    "ddp-dropout": ("ddp", Case("dropout", "n")),
    "ddp-dropout-again": ("ddp", Case("dropout", "o")),
    "ddp-signal": ("ddp", Case("lora", "p", stop="signal")),
    "fsdp-signal": ("fsdp", Case("lora", "q", stop="signal")),
}
# Muon orthogonalises in bf16, where another order of adding is seen; so it is in a model in bf16, where the gradients
# of unused embeddings are noise whose sign Adam makes a whole step of.
ROUNDED = {"fsdp-muon": (0.01, 0.01), "fsdp-bf16": (0.01, 0.05)}


@pytest.fixture(scope="module")
def given(
    tiny_model_folder: Path,
    tiny_table: TokenTable,
    tiny_validation_table: TokenTable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Given:
    return Given(tiny_model_folder, tiny_table, tiny_validation_table, tmp_path_factory.mktemp("together"))


@pytest.fixture(scope="module")
def left(given: Given) -> dict[str, Left]:
    """Every case, done by two processes that are started once."""
    return train_together(CASES, given)


@pytest.fixture(scope="module")
def alone(given: Given) -> Callable[[str], Left]:
    """A case as one process does it."""

    def train(name: str) -> Left:
        case = CASES[name][1]
        return train_case(Case(case.method, f"alone-{name}", case.settings, case.dtype), given)

    return train


@pytest.mark.parametrize("name", [name for name in CASES if "dropout" not in name and "signal" not in name])
def test_two_processes_learn_what_one_learns(name: str, left: dict[str, Left], alone: Callable[[str], Left]):
    expected = alone(name)
    tolerance, weight_tolerance = ROUNDED.get(name, (1e-5, 1e-4))
    assert len(left[name].losses) == NUM_STEPS
    assert left[name].losses == pytest.approx(expected.losses, rel=tolerance)
    assert left[name].norms == pytest.approx(expected.norms, rel=max(10 * tolerance, 1e-4))
    assert left[name].validations == pytest.approx(expected.validations, rel=tolerance)
    assert left[name].tensors.keys() == expected.tensors.keys()
    for key, value in expected.tensors.items():
        torch.testing.assert_close(left[name].tensors[key], value, atol=weight_tolerance, rtol=1e-3)


def test_what_fsdp_leaves_is_what_ddp_leaves(left: dict[str, Left]):
    for one, other in (("ddp-full", "fsdp-full"), ("ddp-lora", "fsdp-lora")):
        assert left[one].losses == pytest.approx(left[other].losses, rel=1e-6)


def test_each_process_drops_other_inputs_and_the_same_ones_again(left: dict[str, Left], alone: Callable[[str], Left]):
    assert left["ddp-dropout"].losses == left["ddp-dropout-again"].losses
    assert left["ddp-dropout"].losses != left["ddp-lora"].losses
    assert left["ddp-dropout"].losses != pytest.approx(alone("ddp-dropout").losses, rel=1e-6)


def test_random_numbers_are_a_process_s_own_and_the_first_one_s_are_those_of_a_process_alone():
    drawn: dict[tuple[int, int], list[float]] = {}
    for step in range(3):
        for rank in range(3):
            seed_step(7, step, rank=rank)
            drawn[step, rank] = torch.rand(2).tolist()
        seed_step(7, step)
        assert torch.rand(2).tolist() == drawn[step, 0]
    assert len(set(map(tuple, drawn.values()))) == len(drawn)


@pytest.fixture
def usual_signals():
    """The handlers of a program in the foreground; what runs in the background begins with Ctrl-C ignored."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_that_is_ignored_stays_ignored_and_the_other_one_waits():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as interrupted:  # noqa: PT012 - raised at its end
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted()


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_step_and_a_second_one_does_not(number: signal.Signals):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as interrupted:  # noqa: PT012 - raised at its end
        assert not interrupted()
        os.kill(os.getpid(), number)
        assert interrupted()
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_signal_to_one_process_stops_all_after_the_same_step_with_a_checkpoint(
    kind: str, left: dict[str, Left], given: Given
):
    stopped = left[f"{kind}-signal"]
    assert stopped.ended == "KeyboardInterrupt"
    assert [step for event, step in stopped.events if event == "step"] == [1, 2]
    assert stopped.events[-1] == ("interrupted", 2)
    folders = {path.name for path in (given.runs / CASES[f"{kind}-signal"][1].run_dir / "checkpoints").iterdir()}
    assert folders == {"step-000001", "step-000002"}


def test_a_process_alone_does_everything_and_asks_nobody():
    assert ALONE.share([1, 2, 3]) == [1, 2, 3]
    assert ALONE.fill([1, 2, 3]) == []
    assert ALONE.gather({"a": 1}) == [{"a": 1}]
    with pytest.raises(UserError, match="too full"):
        ALONE.together(lambda: _fail("too full"))


def _fail(problem: str) -> None:
    raise UserError("disk-full", problem, hint="make room")


def test_micro_batches_are_dealt_once_each_and_filled_up_to_equal_numbers():
    parts = [[0], [1], [2], [3], [4]]
    shares = [ShardedParallel(rank, 3).share(parts) for rank in range(3)]
    fills = [ShardedParallel(rank, 3).fill(parts) for rank in range(3)]
    assert sorted(part for share in shares for part in share) == parts
    assert [len(share) + len(fill) for share, fill in zip(shares, fills, strict=True)] == [2, 2, 2]


def test_buckets_hold_every_tensor_once_in_order_and_no_more_than_their_size():
    sizes = [3, BUCKET_VALUES, 5, BUCKET_VALUES - 5, 1]
    tensors = [torch.empty(size, device="meta") for size in sizes]
    buckets = list(cut_into_buckets(tensors))
    assert [tensor.numel() for bucket in buckets for tensor in bucket] == sizes
    assert [len(bucket) for bucket in buckets] == [1, 1, 2, 1]


@pytest.mark.parametrize(
    ("method", "fields", "problem"),
    [
        ("qlora", {}, "method qlora cannot be cut"),
        ("prefix", {}, "method prefix cannot be cut"),
        ("full", {"optimizer": "adamw_8bit"}, "adamw_8bit cannot be cut"),
        ("full", {"objective": {"kind": "kto"}}, "kto compares all rows"),
        ("full", {"objective": {"kind": "contrastive"}}, "contrastive compares all rows"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_training(method: str, fields: dict[str, object], problem: str):
    with pytest.raises(UserError, match=problem) as refused:
        ShardedParallel(0, 2).require(method, settings(**fields))
    assert refused.value.code == "stage-unsupported"
