"""Weights as whole numbers of 4 bits with a scale and a zero point for each group, as MatMulNBits has them in ONNX.

A weight is worth `(code - zero) * scale`. Shapes: O outputs, I inputs, G groups, B inputs of one group; I = G * B.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 4
NUM_LEVELS = 2**BITS - 1
# The builder's loader rounds `zero * scale` to float16 on its way; from here up that cannot change a code.
MIN_SCALE = 2.0**-20
# Groups are also tried with a range this much narrower than their weights: one large weight costs all others precision.
RANGES = tuple(1 - step / 20 for step in range(9))


@dataclass(frozen=True)
class Scheme:
    """How a matrix is cut into groups, and what scales may be.

    Attributes:
        group_size: Inputs that share one scale.
        half_scales: Whether scales are kept to what float16 holds, the number format of GPU forms.
    """

    group_size: int
    half_scales: bool = False


@dataclass(frozen=True)
class Grid:
    """The numbers that the weights of each group can be.

    Attributes:
        scales: Step between two of them, (O, G).
        zeros: The code that stands for 0, (O, G), as float.
    """

    scales: Tensor
    zeros: Tensor

    def encode(self, weights_OGB: Tensor) -> Tensor:
        """The codes nearest to weights, as float."""
        return (weights_OGB / self.scales[..., None] + self.zeros[..., None]).round_().clamp_(0, NUM_LEVELS)

    def decode(self, codes_OGB: Tensor) -> Tensor:
        """What codes are worth."""
        return (codes_OGB - self.zeros[..., None]) * self.scales[..., None]


@dataclass(frozen=True)
class Rounded:
    """A rounded matrix.

    Attributes:
        codes: Whole numbers from 0 to 15, (O, I), as uint8.
        grid: What they stand for.
    """

    codes: Tensor
    grid: Grid

    def weights(self) -> Tensor:
        """What the matrix is worth, (O, I)."""
        num_groups = self.grid.scales.shape[1]
        return self.grid.decode(self.codes.unflatten(1, (num_groups, -1)).float()).flatten(1)

    def rows(self, start: int, end: int) -> "Rounded":
        """The part of some outputs."""
        return Rounded(self.codes[start:end], Grid(self.grid.scales[start:end], self.grid.zeros[start:end]))


def fit_grid(weights_OGB: Tensor, scheme: Scheme, *, range_share: float | Tensor = 1.0) -> Grid:
    """The grid from each group's smallest to its largest weight, and over 0, which stays exact.

    Args:
        weights_OGB: Weights in groups.
        scheme: What scales may be.
        range_share: Part of that range which is kept; weights beyond it are cut to its ends. One number, or (O, G).
    """
    lowest_OG = weights_OGB.amin(2).clamp(max=0) * range_share
    highest_OG = weights_OGB.amax(2).clamp(min=0) * range_share
    scales_OG = ((highest_OG - lowest_OG) / NUM_LEVELS).clamp(min=MIN_SCALE)
    if scheme.half_scales:
        scales_OG = scales_OG.half().float()
    return Grid(scales_OG, (-lowest_OG / scales_OG).round().clamp(0, NUM_LEVELS))


def fit_weighted_grid(weights_OGB: Tensor, importance_GB: Tensor, scheme: Scheme) -> Grid:
    """For each group that one of the grids of `RANGES` with the smallest weighted square error.

    Args:
        weights_OGB: Weights in groups.
        importance_GB: What the square error of each input counts.
        scheme: What scales may be.
    """
    best = fit_grid(weights_OGB, scheme)
    lowest_OG = torch.full_like(best.scales, torch.inf)
    for share in RANGES:
        grid = fit_grid(weights_OGB, scheme, range_share=share)
        error_OG = ((grid.decode(grid.encode(weights_OGB)) - weights_OGB).square() * importance_GB).sum(2)
        better_OG = error_OG < lowest_OG
        best = Grid(
            *(torch.where(better_OG, new, old) for new, old in ((grid.scales, best.scales), (grid.zeros, best.zeros)))
        )
        lowest_OG = torch.minimum(error_OG, lowest_OG)
    return best


def round_to_nearest(weight_OI: Tensor, scheme: Scheme, *, range_share: float | Tensor = 1.0) -> Rounded:
    """Each weight to the nearest number of its group's grid.

    Args:
        weight_OI: The matrix.
        scheme: How it is cut into groups.
        range_share: As `fit_grid` takes it.
    """
    weights_OGB = weight_OI.unflatten(1, (-1, scheme.group_size))
    grid = fit_grid(weights_OGB, scheme, range_share=range_share)
    return Rounded(grid.encode(weights_OGB).flatten(1).to(torch.uint8), grid)


def output_error(change_OI: Tensor, hessian_II: Tensor) -> Tensor:
    """For each output, the square error that a change of the weights makes of it over all calibration tokens.

    `|| change X ||^2 = change X X^T change^T`, and the Hessian is `2 X X^T`: the tokens themselves are not needed.

    Args:
        change_OI: Changed weights less the original.
        hessian_II: From `InputStatistics`.
    """
    return ((change_OI @ hessian_II) * change_OI).sum(1) / 2
