"""PyTorch's own ``nn.MultiheadAttention``: SigLIP's pooling head, BridgeTower's vision tower, any model made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attngraph.calls import attend, merge_heads, split_heads
from attngraph.errors import UserError


def _multihead_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                         dropout: float = 0.0, blind: float = 0.0) -> tuple[Tensor, Tensor]:
    """In PyTorch's order of operations: the query is scaled, and the product is added to the mask.

    Args:
        blind: the weights of a query that sees nothing. PyTorch has NaN there if weights are wanted, else 0.
    """
    b, h, n, d = query.shape
    scores = (query * d**-0.5).flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    if attention_mask is None:
        weight = torch.bmm(*scores).softmax(-1)
    else:
        mask = attention_mask.expand(b, h, n, -1).flatten(0, 1)
        hidden = (mask == float("-inf")).all(-1, keepdim=True)
        weight = torch.baddbmm(mask, *scores).softmax(-1).masked_fill(hidden, blind)
    weight = F.dropout(weight, dropout, module.training)
    context = torch.bmm(weight, value.flatten(0, 1)).view(b, h, n, -1)
    return context.transpose(1, 2), weight.view(b, h, n, -1)


class GraphMultiheadAttention(nn.MultiheadAttention):
    """Self-attention where ``key`` is ``query``, else cross-attention."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
                need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
                is_causal: bool = False) -> tuple[Tensor, Tensor | None]:
        """As the original.

        Raises:
            UserError: what a graph has no place for (``add_bias_kv``, ``add_zero_attn``), a sequence without a batch
                dimension, nested tensors, ``is_causal`` without a mask.
        """
        self._check(query, key, value, attn_mask, is_causal)
        self.attngraph.source = None if key is query else key
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        query, key, value = (split_heads(x, self.head_dim) for x in self._project(query, key, value))
        mask = _merged(key_padding_mask, attn_mask, query)
        call = attend(self, query, key, value, mask, _multihead_attention, dropout=self.dropout,
                      blind=float("nan") if need_weights else 0.0)
        output = self.out_proj(merge_heads(call.context))
        weights = call.dropped if need_weights else None
        if need_weights and average_attn_weights:
            weights = weights.mean(1)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, *states: Tensor) -> list[Tensor]:
        if self._qkv_same_embed_dim:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [F.linear(x, weight, bias) for x, weight, bias in zip(states, weights, biases)]

    def _check(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool) -> None:
        name = self.attngraph.site.name
        if self.bias_k is not None or self.add_zero_attn:
            raise UserError(f"{name} adds a key and a value of its own (add_bias_kv or add_zero_attn), which are no nodes "
                            "of a graph: leave the layer out (layers=...)")
        if any(x.is_nested for x in (query, key, value)):
            raise UserError(f"{name} is given nested tensors, which an attention graph can't be read from: switch them off "
                            "(enable_nested_tensor=False in nn.TransformerEncoder)")
        if query.dim() != 3:
            raise UserError(f"{name} is given a sequence without a batch dimension: add one")
        if is_causal and attn_mask is None:
            raise UserError(f"{name} is called with is_causal and without attn_mask, which PyTorch refuses too: give it "
                            "the causal mask")


def _merged(padding: Tensor | None, mask: Tensor | None, query: Tensor) -> Tensor | None:
    """PyTorch's two masks, in which True hides, as one that is added to the scores ``(b, h, n, m)``."""
    masks = []
    if mask is not None:
        masks.append(mask[None, None] if mask.dim() == 2 else mask.unflatten(0, query.shape[:2]))
    if padding is not None:
        masks.append(padding[:, None, None])
    masks = [torch.zeros_like(x, dtype=query.dtype).masked_fill(x, float("-inf")) if x.dtype == torch.bool
             else x.to(query.dtype) for x in masks]
    return sum(masks) if masks else None


CLASSES = {nn.MultiheadAttention: GraphMultiheadAttention}
HOOKS = {}
