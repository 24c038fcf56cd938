"""Chunked cross-entropy against torch's own over whole logits."""

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.training.loss import CHUNK_TARGETS, choose_compiled_loss, summed_cross_entropy, target_losses
from kivnun.training.objectives import log_probabilities

BORDERS = [0, 1, 5, CHUNK_TARGETS - 1, CHUNK_TARGETS, CHUNK_TARGETS + 1, 2 * CHUNK_TARGETS + 7]


def parts(num_targets: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_targets)
    hidden = torch.randn(num_targets, 6, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(11, 6, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, 11, (num_targets,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


@pytest.mark.parametrize("num_targets", BORDERS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 5e-2)]
)
def test_loss_and_gradients_are_those_of_the_whole_logits(num_targets: int, dtype: torch.dtype, tolerance: float):
    hidden, weight, targets = parts(num_targets, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    loss = summed_cross_entropy(hidden, weight, targets)
    expected = F.cross_entropy(exact[0] @ exact[1].T, targets, reduction="sum")
    (3 * loss).backward()
    (3 * expected).backward()
    assert (loss - expected).abs() <= tolerance * max(float(expected.detach()), 1)
    for one, other in zip((hidden, weight), exact, strict=True):
        assert (one.grad.double() - other.grad).norm() <= tolerance * max(float(other.grad.norm()), 1)


def test_the_gradient_is_that_of_the_function():
    hidden, weight, targets = parts(7, torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: summed_cross_entropy(h, w, targets), (hidden, weight))


def test_a_frozen_head_gets_no_gradient_and_a_frozen_body_none_either():
    hidden, weight, targets = parts(9, torch.float32)
    summed_cross_entropy(hidden, weight.detach(), targets).backward()
    assert weight.grad is None
    with_head = hidden.grad.clone()
    summed_cross_entropy(hidden.detach(), weight, targets).backward()
    assert torch.equal(hidden.grad, with_head)
    assert weight.grad is not None


@given(cut=st.integers(0, 20))
def test_the_sum_over_parts_is_the_sum_over_the_whole(cut: int):
    hidden, weight, targets = parts(20, torch.float64)
    whole = summed_cross_entropy(hidden, weight, targets)
    pieces = sum(summed_cross_entropy(hidden[part], weight, targets[part]) for part in (slice(cut), slice(cut, None)))
    torch.testing.assert_close(pieces, whole)


@pytest.mark.parametrize("num_targets", BORDERS)
def test_the_losses_of_single_targets_add_up(num_targets: int):
    hidden, weight, targets = parts(num_targets, torch.float32)
    losses = target_losses(hidden, weight, targets)
    assert losses.shape == targets.shape
    torch.testing.assert_close(
        losses.sum(), summed_cross_entropy(hidden, weight, targets).detach(), rtol=1e-5, atol=1e-5
    )


def test_a_target_weight_of_the_loss_is_that_many_targets():
    hidden, weight, targets = parts(9, torch.float64)
    counts = torch.tensor([1, 2, 0, 1, 3, 1, 1, 0, 2])
    weighted = summed_cross_entropy(hidden, weight, targets, target_weights_M=counts.double())
    repeated = summed_cross_entropy(hidden.repeat_interleave(counts, 0), weight, targets.repeat_interleave(counts))
    torch.testing.assert_close(weighted, repeated)
    gradients = [torch.autograd.grad(loss, (hidden, weight)) for loss in (weighted, repeated)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("loss", [summed_cross_entropy, target_losses, log_probabilities.target_losses])
@pytest.mark.parametrize("num_targets", [4, 6])
def test_hidden_states_that_are_not_one_for_each_target_are_refused(
    loss: Callable[..., torch.Tensor], num_targets: int
):
    hidden, weight, _ = parts(5, torch.float32)
    with pytest.raises(ValueError, match="hidden states"):
        loss(hidden, weight, torch.zeros(num_targets, dtype=torch.long))


@pytest.fixture
def compiled_loss() -> Iterator[None]:
    choose_compiled_loss(wanted=True)
    yield
    choose_compiled_loss(wanted=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("compiled_loss")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_loss_is_the_same():
    for num_targets in (5, 400):
        hidden, weight, targets = parts(num_targets, torch.float32)
        loss = summed_cross_entropy(hidden, weight, targets)
        expected = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
        torch.testing.assert_close(loss, expected)
        gradients = [torch.autograd.grad(value, (hidden, weight)) for value in (loss, expected)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
