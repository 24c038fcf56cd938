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

from collections.abc import Iterator, Sequence

from torch import nn

from kivnun.training.device import decoder_layers

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = 2, 2, 2


def flops_per_token(model: nn.Module, *, lengths: Sequence[int], num_targets: int) -> float:
    """Floating-point operations of a training step for each of its tokens.

    Args:
        model: A causal language model whose method is prepared: what is trained requires gradients.
        lengths: Tokens of every document; documents do not see each other.
        num_targets: Tokens among them that the head is computed for; 0 for an objective that does without the head.
    """
    num_tokens = max(sum(lengths), 1)
    mean_context = sum(length * (length + 1) / 2 for length in lengths) / num_tokens
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[operator]
    attention = 2 * FORWARD * _attention_width(model) * mean_context
    is_reached = any(_is_trained(module) for module in model.modules() if isinstance(module, nn.Embedding))
    total = 0.0
    for layer in decoder_layers(model):
        is_reached = is_reached or _is_trained(layer)
        total += _cost_of_weights(layer, is_reached=is_reached)
        total += attention * (3 if is_reached else 1)
    if head is not None:
        total += num_targets / num_tokens * _cost_of_weights(head, is_reached=is_reached)
    return total


def _cost_of_weights(part: nn.Module, *, is_reached: bool) -> float:
    """Operations per token of all matrix products with the weights of a part.

    Args:
        part: A layer or the head.
        is_reached: Whether gradients flow through it to what is trained in it or below.
    """
    cost = FORWARD + (INPUT_GRADIENT if is_reached else 0)
    return float(sum(size * (cost + (WEIGHT_GRADIENT if trained else 0)) for size, trained in _matrices(part)))


def _matrices(part: nn.Module) -> Iterator[tuple[int, bool]]:
    """The size of every weight matrix, and whether it is trained."""
    for module in part.modules():
        if isinstance(module, nn.Linear):
            # A weight of 4 bits has another shape than the matrix that it stands for.
            yield module.in_features * module.out_features, module.weight.requires_grad
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
