"""Floating-point operations that training needs: the numerator of the share of the machine's peak.

As Kaplan et al. 2020 (arXiv:2001.08361, section 2.1) and Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, appendix B)
count: only matrix products, and only what the mathematics asks for, so that computing layers again to save memory does
not look like speed. A weight in a matrix product costs, per token,

    2   forward,
    2   for the gradient of its input, from the lowest layer on that holds something trained,
    2   for its own gradient, where it is trained itself;

6 in all where everything is trained, 2 in frozen layers below. Attention costs 4 H forward per token, layer and
position that the token sees (H: width of all heads together; 2 H for the products of queries and keys, 2 H for those of
shares and values), and twice that again where gradients flow through it. In a document of T tokens a token sees
(T + 1) / 2 positions on average: what the causal mask hides is not asked for. The head is needed for trained tokens
alone, and counts for them alone. Norms, activations, embeddings and the optimizer count nothing.
"""

from collections.abc import Collection, Iterator, Sequence

from torch import nn

from kivnun.data.tokens import TokenTable
from kivnun.models.quantize import QuantizedLinear
from kivnun.training.device import decoder_layers

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = 2, 2, 2


def flops_of_table(model: nn.Module, table: TokenTable, *, read_only: Collection[int] = ()) -> float:
    """Floating-point operations of training for each token of a table.

    Args:
        model: As for `flops_per_token`.
        table: The rows.
        read_only: Which documents of a row are not learnt from, so that they have no backward pass.
    """
    flops = 0.0
    for learns in (True, False):
        numbers = [
            document
            for document in range(table.num_documents)
            if (document % table.documents_per_row not in read_only) == learns
        ]
        lengths = [table.length(document) for document in numbers]
        num_targets = sum(int(table.trained(document).sum()) for document in numbers)
        flops += sum(lengths) * flops_per_token(model, lengths=lengths, num_targets=num_targets, learns=learns)
    return flops / max(table.num_tokens, 1)


def flops_per_token(model: nn.Module, *, lengths: Sequence[int], num_targets: int, learns: bool = True) -> float:
    """Floating-point operations of a training step for each of its tokens.

    Args:
        model: A causal language model whose method is prepared: what is trained requires gradients.
        lengths: Tokens of every document; documents do not see each other.
        num_targets: Tokens among them that the head is computed for; 0 for an objective that does without the head.
        learns: Whether there is a backward pass.
    """
    num_tokens = max(sum(lengths), 1)
    mean_context = sum(length * (length + 1) / 2 for length in lengths) / num_tokens
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[operator]
    attention = 2 * FORWARD * _attention_width(model) * mean_context
    embeddings = (module for module in model.modules() if isinstance(module, nn.Embedding))
    is_reached = learns and any(map(_is_trained, embeddings))
    total = 0.0
    for layer in decoder_layers(model):
        is_reached = is_reached or (learns and _is_trained(layer))
        total += _cost_of_weights(layer, is_reached=is_reached, learns=learns)
        total += attention * (3 if is_reached else 1)
    if head is not None:
        total += num_targets / num_tokens * _cost_of_weights(head, is_reached=is_reached, learns=learns)
    return total


def _cost_of_weights(part: nn.Module, *, is_reached: bool, learns: bool) -> float:
    """Operations per token of all matrix products with the weights of a part.

    Args:
        part: A layer or the head.
        is_reached: Whether gradients flow through it to what is trained in it or below.
        learns: Whether what is trained in it gets a gradient.
    """
    cost = FORWARD + (INPUT_GRADIENT if is_reached else 0)
    return float(
        sum(size * (cost + (WEIGHT_GRADIENT if trained and learns else 0)) for size, trained in _matrices(part))
    )


def _matrices(part: nn.Module) -> Iterator[tuple[int, bool]]:
    """The size of every weight matrix, and whether it is trained."""
    for module in part.modules():
        if isinstance(module, nn.Linear):
            yield module.weight.numel(), module.weight.requires_grad
        elif isinstance(module, QuantizedLinear):
            # Its 4 bits are no parameter, but the matrix that they stand for is computed with.
            yield module.num_weights, False
        elif not isinstance(module, nn.Embedding):
            own = module.parameters(recurse=False)
            yield from ((weight.numel(), weight.requires_grad) for weight in own if weight.dim() >= 2)


def _attention_width(model: nn.Module) -> int:
    """H, the width of all heads together."""
    config = model.config
    num_heads = int(getattr(config, "num_attention_heads", 0))
    head_dim = getattr(config, "head_dim", None) or int(getattr(config, "hidden_size", 0)) // max(num_heads, 1)
    return num_heads * int(head_dim)


def _is_trained(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())
