"""Learned tokens before every document: as embeddings (prompt tuning) or as every layer's keys and values (prefixes).

They are part of the model: once attached, whatever asks the model for hidden states or logits, a packed row, a padded
batch or one more token with a cache, gets them as if they stood before each document, and never sees their positions.

    packed row     a b c | d e          prompt: v v a b c | v v d e     prefix: keys  v v a b c | v v d e
    positions      0 1 2 | 0 1                  0 1 2 3 4 | 0 1 2 3             positions 2 3 4 | 2 3

Shapes: B rows, T tokens, V virtual tokens, N packed tokens, D documents of the row, C hidden size, H key heads.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from kivnun.models.attention import group_documents
from kivnun.models.context import context_of
from kivnun.models.types import Model

NAME = "virtual_tokens"

Inputs = dict[str, object]
"""What a model's backbone is called with, by name."""


class VirtualTokens(nn.Module):
    """Learned tokens, float32 whatever the model computes in.

    Args:
        weight: Shape (V, numbers of a token).
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    @property
    def num_tokens(self) -> int:
        """V."""
        return len(self.weight)

    def attach(self, model: Model) -> None:
        """Make them part of a model, as its submodule `virtual_tokens`; everything else is frozen."""
        model.requires_grad_(requires_grad=False)
        model.add_module(NAME, self)
        # Hooks, since they follow the model into copies and other processes, and leave its weights their names.
        model.base_model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.base_model.register_forward_hook(self._after, with_kwargs=True)

    def insert(self, inputs: Inputs, backbone: Model) -> None:
        """Put the virtual tokens before the documents of a call that starts them."""
        raise NotImplementedError

    def _before(self, backbone: Model, args: tuple[object, ...], inputs: Inputs) -> tuple[tuple[()], Inputs]:
        # Some architectures hand their backbone the tokens by place.
        inputs = {**inputs, **({"input_ids": args[0]} if args else {})}
        if len(args) > 1 or inputs.get("input_ids") is None:
            raise TypeError(f"{type(backbone).__name__} is called in a way that virtual tokens do not know")
        mask = cast("Tensor | None", inputs.get("attention_mask"))
        if mask is not None:
            inputs["attention_mask"] = torch.cat([mask.new_ones(len(mask), self.num_tokens), mask], dim=1)
        if inputs.get("position_ids") is not None:
            inputs["position_ids"] = cast("Tensor", inputs["position_ids"]) + self.num_tokens
        cache = cast("Cache | None", inputs.get("past_key_values"))
        if cache is None or cache.get_seq_length() == 0:
            self.insert(inputs, backbone)
        return (), inputs

    def _after(
        self, backbone: Model, args: tuple[()], inputs: Inputs, output: BaseModelOutputWithPast
    ) -> BaseModelOutputWithPast:
        """Take the virtual positions out again where they were put in."""
        del backbone, args
        if inputs.get("inputs_embeds") is None:
            return output
        hidden_BTC = cast("Tensor", output.last_hidden_state)
        if "document_groups" in inputs:
            is_real_N = cast("Tensor", inputs["position_ids"])[0] >= self.num_tokens
            output.last_hidden_state = hidden_BTC.index_select(1, is_real_N.nonzero().flatten())
        else:
            output.last_hidden_state = hidden_BTC[:, self.num_tokens :]
        return output


class PromptTokens(VirtualTokens):
    """Learned embeddings before every document (Lester et al. 2021, arXiv:2104.08691)."""

    def insert(self, inputs: Inputs, backbone: Model) -> None:
        """Replace the token ids by embeddings, the learned ones first."""
        input_ids_BT = cast("Tensor", inputs.pop("input_ids"))
        embeds_BTC = cast("nn.Embedding", backbone.get_input_embeddings())(input_ids_BT)
        virtual_VC = self.weight.to(embeds_BTC.dtype)
        if "document_groups" in inputs:
            positions_N = cast("Tensor", inputs["position_ids"])[0]
            order, lengths = self._interleave(positions_N)
            many_VC = virtual_VC.repeat(len(lengths), 1)
            inputs["inputs_embeds"] = torch.cat([many_VC, embeds_BTC[0]]).index_select(0, order).unsqueeze(0)
            places = torch.arange(self.num_tokens, device=order.device).repeat(len(lengths))
            inputs["position_ids"] = torch.cat([places, positions_N]).index_select(0, order).unsqueeze(0)
            inputs["document_groups"] = group_documents(lengths, order.device)
            return
        positions_BT = cast("Tensor | None", inputs.get("position_ids"))
        num_rows = len(embeds_BTC)
        inputs["inputs_embeds"] = torch.cat([virtual_VC.expand(num_rows, -1, -1), embeds_BTC], dim=1)
        if positions_BT is not None:
            places = torch.arange(self.num_tokens, device=positions_BT.device).expand(len(positions_BT), -1)
            inputs["position_ids"] = torch.cat([places, positions_BT], dim=1)

    def _interleave(self, positions_N: Tensor) -> tuple[Tensor, list[int]]:
        """Where each place of the longer row comes from, and the documents' lengths in it.

        The source is D times the virtual tokens and then the packed row. Every place of it is taken once, so that the
        gradient is a permutation, whose sum has one order, and not a scattered sum.
        """
        is_first_N = positions_N == self.num_tokens
        starts_D = is_first_N.nonzero().flatten()
        num_documents, num_tokens = len(starts_D), len(positions_N)
        device = positions_N.device
        document_N = is_first_N.cumsum(0)
        target_N = torch.arange(num_tokens, device=device) + self.num_tokens * document_N
        target_DV = (target_N[starts_D] - self.num_tokens).unsqueeze(1) + torch.arange(self.num_tokens, device=device)
        order = torch.empty(num_tokens + num_documents * self.num_tokens, dtype=torch.long, device=device)
        order[torch.cat([target_DV.flatten(), target_N])] = torch.arange(len(order), device=device)
        ends_D = torch.cat([starts_D[1:], starts_D.new_tensor([num_tokens])])
        return order, (ends_D - starts_D + self.num_tokens).tolist()


class PrefixTokens(VirtualTokens):
    """Learned keys and values before every layer's own (Li and Liang 2021, arXiv:2101.00190).

    The weight holds, as in PEFT's folders, for each token and layer its key heads and then its value heads.
    """

    def insert(self, inputs: Inputs, backbone: Model) -> None:
        """Start the cache with the learned keys and values."""
        input_ids_BT = cast("Tensor", inputs["input_ids"])
        num_heads, head_dim = key_shape(backbone)
        dtype = cast("nn.Embedding", backbone.get_input_embeddings()).weight.dtype
        layers_HVD = self.weight.to(dtype).view(self.num_tokens, -1, num_heads, head_dim).permute(1, 2, 0, 3)
        cache = cast("Cache | None", inputs.get("past_key_values"))
        cache = DynamicCache(config=backbone.config) if cache is None else cache
        for layer in range(num_layers(backbone)):
            key, value = (layers_HVD[2 * layer + part].expand(len(input_ids_BT), -1, -1, -1) for part in (0, 1))
            cache.update(key, value, layer)
        inputs["past_key_values"] = cache


def virtual_tokens_of(model: nn.Module) -> VirtualTokens | None:
    """A model's virtual tokens, if it has some."""
    return cast("Mapping[str, VirtualTokens]", model._modules).get(NAME)


def context_tokens(model: Model) -> int | None:
    """Tokens that a document may have: the model's context without its virtual tokens; None for no limit."""
    limit = context_of(model.config)
    virtual = virtual_tokens_of(model)
    return limit if limit is None or virtual is None else limit - virtual.num_tokens


def num_layers(model: Model) -> int:
    """Decoder layers, each with keys and values of its own."""
    return cast("int", model.config.get_text_config().num_hidden_layers)


def key_shape(model: Model) -> tuple[int, int]:
    """Key heads and head size of every layer."""
    config = model.config.get_text_config()
    # Not every configuration names them: without groups there are as many key heads as heads.
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
