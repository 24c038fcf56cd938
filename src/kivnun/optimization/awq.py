"""AWQ: inputs that matter are scaled up before rounding and their source is scaled down; then ranges are narrowed.

Reference: Lin et al. 2023, arXiv:2306.00978, equations 4 and 5 (scales) and the clipping that follows them. The loss
is the one of equation 4, the output error of the matrices that read one input; it comes from `X X^T`, so it is over
all calibration tokens and not over a sample. Shapes: O outputs, I inputs, S channels of the input's source, G groups, B
inputs of one group.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kivnun.optimization.rounding import RANGES, Rounded, Scheme, output_error, round_to_nearest

NUM_EXPONENTS = 20
SMALLEST_SCALE = 1e-4


def search_scales(
    weight_OI: Tensor,
    hessian_II: Tensor,
    candidates: Sequence[Tensor],
    scheme: Scheme,
) -> Tensor:
    """The scales of a matrix's inputs with the smallest output error of `Q(W diag(s)) diag(s)^-1`.

    Args:
        weight_OI: All matrices that read the input, below each other.
        hessian_II: `2 X X^T` of that input.
        candidates: Scales to try, (I) each; the first of equals wins.
        scheme: How the matrix is cut into groups.
    """
    errors = []
    for scales_I in candidates:
        rounded_OI = round_to_nearest(weight_OI * scales_I, scheme).weights() / scales_I
        errors.append(float(output_error(rounded_OI - weight_OI, hessian_II).sum()))
    return candidates[errors.index(min(errors))]


def scale_candidates(magnitude_S: Tensor, expand: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Equation 5: mean magnitudes to exponents from 0, which changes nothing, to 1.

    Args:
        magnitude_S: Mean absolute value of each channel of the source.
        expand: Gives each input the scale of the source's channel that it reads.
    """
    candidates = []
    for step in range(NUM_EXPONENTS + 1):
        scales_S = magnitude_S.pow(step / NUM_EXPONENTS).clamp(min=SMALLEST_SCALE)
        candidates.append(expand(scales_S / (scales_S.max() * scales_S.min()).sqrt()))
    return candidates


def round_clipped(weight_OI: Tensor, hessian_II: Tensor, scheme: Scheme) -> Rounded:
    """Round to nearest with each group's range narrowed where that lowers the error of its part of the output.

    Groups are judged one by one; an output whose groups together are then worse keeps its whole ranges.

    Args:
        weight_OI: The matrix.
        hessian_II: `2 X X^T` of its input.
        scheme: How the matrix is cut into groups.
    """
    weights_OGB = weight_OI.unflatten(1, (-1, scheme.group_size))
    hessian_GBB = torch.stack(
        [
            hessian_II[start : start + scheme.group_size, start : start + scheme.group_size]
            for start in range(0, len(hessian_II), scheme.group_size)
        ]
    )
    shares_OG = torch.ones(weights_OGB.shape[:2], dtype=weight_OI.dtype)
    lowest_OG = torch.full_like(shares_OG, torch.inf)
    for share in RANGES:
        change_OGB = round_to_nearest(weight_OI, scheme, range_share=share).weights().view_as(weights_OGB) - weights_OGB
        change_GOB = change_OGB.transpose(0, 1)
        error_OG = ((change_GOB @ hessian_GBB) * change_GOB).sum(2).T
        shares_OG[error_OG < lowest_OG] = share
        lowest_OG = torch.minimum(lowest_OG, error_OG)
    narrowed, whole = (round_to_nearest(weight_OI, scheme, range_share=share) for share in (shares_OG, 1.0))
    narrowed_O, whole_O = (output_error(each.weights() - weight_OI, hessian_II) for each in (narrowed, whole))
    kept_OG = torch.where((narrowed_O < whole_O)[:, None], shares_OG, torch.ones_like(shares_OG))
    return round_to_nearest(weight_OI, scheme, range_share=kept_OG)
