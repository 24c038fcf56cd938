"""GPTQ: a matrix is rounded column by column, and what one column loses the later ones make up for.

Reference: Frantar et al. 2022, arXiv:2210.17323, algorithm 1 (and section 3.3 for its three steps). Shapes: O outputs,
I inputs, B inputs of one group, C columns of one block.
"""

import torch
from torch import Tensor

from kivnun.errors import UserError
from kivnun.optimization.rounding import Grid, Rounded, Scheme, fit_weighted_grid

# Part of the mean curvature that is added to each; the paper's 1 %.
DAMPENING = 0.01
# Columns whose losses are handed on to the rest of the matrix together: one large product instead of many small ones.
BLOCK_COLUMNS = 128


def round_gptq(weight_OI: Tensor, hessian_II: Tensor, scheme: Scheme) -> Rounded:
    """Round a matrix so that its outputs on the calibration tokens change little.

    A group's grid is chosen when its first column is reached, from the weights as the earlier columns left them.

    Args:
        weight_OI: The matrix.
        hessian_II: `2 X X^T` over the calibration tokens.
        scheme: How the matrix is cut into groups.

    Raises:
        UserError: `export-failed` where the Hessian cannot be inverted.
    """
    importance_I = hessian_II.diagonal().to(weight_OI.dtype)
    importance_I = importance_I + DAMPENING * importance_I.mean()
    factor_II = inverse_factor(hessian_II).to(weight_OI.dtype)
    rest_OI, codes_OI = weight_OI.clone(), torch.empty_like(weight_OI, dtype=torch.uint8)
    grids: list[Grid] = []
    columns = max(BLOCK_COLUMNS, scheme.group_size)
    for start in range(0, weight_OI.shape[1], columns):
        end = min(start + columns, weight_OI.shape[1])
        codes_OC, errors_OC, found = _round_block(
            rest_OI[:, start:end], factor_II[start:end, start:end], importance_I[start:end], scheme
        )
        codes_OI[:, start:end] = codes_OC.to(torch.uint8)
        grids += found
        rest_OI[:, end:] -= errors_OC @ factor_II[start:end, end:]
    scales_OG, zeros_OG = torch.cat([each.scales for each in grids], 1), torch.cat([each.zeros for each in grids], 1)
    return Rounded(codes_OI, Grid(scales_OG, zeros_OG))


def _round_block(
    block_OC: Tensor, factor_CC: Tensor, importance_C: Tensor, scheme: Scheme
) -> tuple[Tensor, Tensor, list[Grid]]:
    """The inner loop: codes of a block's columns, their weighted losses, and the grids of its groups."""
    block_OC = block_OC.clone()
    codes_OC, errors_OC = torch.empty_like(block_OC), torch.empty_like(block_OC)
    grids: list[Grid] = []
    for column in range(block_OC.shape[1]):
        if column % scheme.group_size == 0:
            group = slice(column, column + scheme.group_size)
            grids.append(fit_weighted_grid(block_OC[:, None, group], importance_C[None, group], scheme))
        weight_O11 = block_OC[:, column, None, None]
        code_O11 = grids[-1].encode(weight_O11)
        error_O = (weight_O11 - grids[-1].decode(code_O11))[:, 0, 0] / factor_CC[column, column]
        block_OC[:, column:] -= error_O[:, None] * factor_CC[None, column, column:]
        codes_OC[:, column], errors_OC[:, column] = code_O11[:, 0, 0], error_O
    return codes_OC, errors_OC, grids


def inverse_factor(hessian_II: Tensor) -> Tensor:
    """The upper Cholesky factor U of the dampened Hessian's inverse, U^T U, in float64.

    An input that was 0 at every token says nothing about its weights: its curvature is set to 1, so that it is rounded
    to nearest and neither gives nor takes.

    Args:
        hessian_II: `2 X X^T`.

    Raises:
        UserError: `export-failed` where no dampening helps.
    """
    hessian_II = hessian_II.to(torch.float64, copy=True)
    diagonal_I = hessian_II.diagonal()
    mean = diagonal_I.mean()
    diagonal_I[diagonal_I == 0] = 1
    for dampening in (DAMPENING, 10 * DAMPENING, 100 * DAMPENING):
        dampened_II = hessian_II + torch.diag(torch.full_like(diagonal_I, float(dampening * mean)))
        lower_II, failed = torch.linalg.cholesky_ex(dampened_II)
        if not failed:
            upper_II, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower_II), upper=True)
            if not failed:
                return upper_II
    raise UserError(
        "export-failed",
        "gptq cannot weigh the inputs of a matrix: what the calibration rows make of them has no inverse",
        hint="set optimization.algorithm to k_quant, which needs no rows",
    )
