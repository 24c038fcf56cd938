"""Chunked cross-entropy against torch's own over whole logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.training.loss import CHUNK_TARGETS, summed_cross_entropy, target_losses

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
