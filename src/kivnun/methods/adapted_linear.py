r"""Linear layers with a trained low-rank update: LoRA's and DoRA's.

LoRA (Hu et al. 2021, arXiv:2106.09685, eq. 3): h = W x + b + s B A x, with s = alpha / rank, or alpha / sqrt(rank)
(rsLoRA, Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2).

DoRA (Liu et al. 2024, arXiv:2402.09353, eq. 5): h = c * (W x + s B A x) + b, with c = m / ||W + s B A|| for each row,
where the length ||.|| is a constant to the gradient (section 4.3) and m starts as the row lengths of W.

A starts as in PEFT (Kaiming uniform with a = sqrt(5)) and B at zero, so that an untrained adapter is the base model.
The base layer may keep W as (I, O), as GPT-2's does; all that is computed here sees it as (O, I).
Shapes: I in, O out, R rank; leading axes are free.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name of the field

from kivnun.methods.dropped_low_rank import dropped_low_rank_linear
from kivnun.methods.low_rank import low_rank_linear
from kivnun.models.linear_layers import LinearLayer, is_transposed, weight_matrix
from kivnun.recipe.methods import LoraMethod


def lora_scaling(settings: LoraMethod) -> float:
    """The factor s of the update."""
    return settings.alpha / (math.sqrt(settings.rank) if settings.use_rslora else settings.rank)


class AdaptedLinear(nn.Module):
    """A frozen linear layer with the two low-rank factors of a trained update.

    Args:
        base: The layer to adapt; it is kept, frozen, as `base`.
        settings: Rank, scaling and dropout.
        generator: Source of A's initial values, so that a seed covers the adapter too.

    Attributes:
        is_transposed: Whether the base model's own layer keeps its matrix as (I, O).
    """

    def __init__(self, base: LinearLayer, settings: LoraMethod, *, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.is_transposed = is_transposed(base)
        self.scaling = lora_scaling(settings)
        self.dropout = settings.dropout
        self.learning_rate_ratio = settings.learning_rate_ratio
        # float32 whatever the base: the low-rank factors are small, and they are what is trained.
        num_out, num_in = weight_matrix(base).shape
        bound = 1 / math.sqrt(num_in)
        a_RI = torch.empty(settings.rank, num_in).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(a_RI.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(num_out, settings.rank, device=base.weight.device))

    @property
    def matrix(self) -> Tensor:
        """The base layer's own weight, seen as (O, I)."""
        return weight_matrix(self.base)

    def base_weight(self) -> Tensor:
        """The frozen weight (O, I) in float32."""
        return self.matrix.float()

    def delta(self) -> Tensor:
        """The update's full matrix (O, I) in float32: s B A."""
        return self.scaling * (self.lora_B.float() @ self.lora_A.float())

    def merged_weight(self) -> Tensor:
        """The weight (O, I), in float32, of the one linear layer that computes the same."""
        return self.base_weight() + self.delta()

    def low_rank_part(self, x: Tensor) -> Tensor:
        """The factors' part of the output, s B A x, in the dtype of `x`."""
        return self.scaling * F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))


class LoraLinear(AdaptedLinear):
    """A frozen linear layer with LoRA's update."""

    def forward(self, x: Tensor) -> Tensor:
        """The adapted layer's output, in the base layer's dtype."""
        if self.training and self.dropout > 0:
            dropped = F.dropout(x, self.dropout)
            return dropped_low_rank_linear(
                x, dropped, self.matrix, self.base.bias, self.lora_A, self.lora_B, self.scaling
            )
        return low_rank_linear(x, self.matrix, self.base.bias, self.lora_A, self.lora_B, self.scaling)


class DoraLinear(AdaptedLinear):
    """A frozen linear layer with DoRA's update.

    Not a kind of `LoraLinear`: code that computes that one's formula itself would lose the magnitude.

    Args:
        base: The layer to adapt; it is kept, frozen, as `base`.
        settings: Rank, scaling and dropout.
        generator: Source of A's initial values.
    """

    base_squares: Tensor

    def __init__(self, base: LinearLayer, settings: LoraMethod, *, generator: torch.Generator) -> None:
        super().__init__(base, settings, generator=generator)
        squares_O = self.base_weight().square().sum(1)
        # The frozen part of every row's length, computed once.
        self.register_buffer("base_squares", squares_O, persistent=False)
        self.lora_magnitude_vector = nn.Parameter(squares_O.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """The adapted layer's output, in the base layer's dtype.

        With dropout d, as in PEFT: W x + b + (c - 1) * W d(x) + c * s B A d(x).
        """
        c_O = self.lora_magnitude_vector / self.row_lengths()
        if self.training and self.dropout > 0:
            dropped = F.dropout(x, self.dropout)
            update = (c_O - 1) * F.linear(dropped, self.matrix) + c_O * self.low_rank_part(dropped)
            return self.base(x) + update.to(x.dtype)
        y = c_O * low_rank_linear(x, self.matrix, None, self.lora_A, self.lora_B, self.scaling)
        return (y if self.base.bias is None else y + self.base.bias).to(x.dtype)

    @torch.no_grad()
    def row_lengths(self) -> Tensor:
        """||W + s B A|| of each row, shape (O,), without the matrix W + s B A.

        |w + s b A|^2 = |w|^2 + 2 s b (A w) + s^2 b (A A^T) b^T for a row w of W and b of B.
        """
        b_OR = self.lora_B.float()
        cross_OR = (self.matrix @ self.lora_A.to(self.base.weight.dtype).T).float()
        gram_RR = self.lora_A.float() @ self.lora_A.float().T
        squares_O = (b_OR * (2 * self.scaling * cross_OR + self.scaling**2 * (b_OR @ gram_RR))).sum(1)
        return (self.base_squares + squares_O).clamp_min(torch.finfo(torch.float32).tiny).sqrt()

    def merged_weight(self) -> Tensor:
        """The weight (O, I), in float32, of the one linear layer that computes the same."""
        weight_OI = self.base_weight() + self.delta()
        return weight_OI * (self.lora_magnitude_vector / weight_OI.norm(dim=1)).unsqueeze(1)
