"""PyTorch's own ``nn.MultiheadAttention``: SigLIP's pooling head, BridgeTower's vision tower, any model made
of it."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attngraph.errors import UserError
from attngraph.reading.attend import Projected, attend
from attngraph.reading.heads import merge_heads, split_heads
from attngraph.reading.state import state_of


def _multihead_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    wanted: bool = True,
) -> tuple[Tensor, Tensor]:
    """In PyTorch's order of operations: the query is scaled, and the product is added to the mask.

    Args:
        wanted: whether the caller wants weights. A query that sees nothing has NaN then, as in PyTorch, else
            0.
    """
    b, h, n, d = query.shape
    scores = (query * d**-0.5).flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    if attention_mask is None:
        weight = torch.bmm(*scores).softmax(-1)
    else:
        mask = attention_mask.expand(b, h, n, -1).flatten(0, 1)
        weight = torch.baddbmm(mask, *scores).softmax(-1)
        if not wanted:
            weight = weight.masked_fill((mask == float("-inf")).all(-1, keepdim=True), 0)
    weight = F.dropout(weight, dropout, module.training)
    weight = weight.view(b, h, n, -1)  # what is returned is what is used: for gradients
    context = torch.bmm(weight.flatten(0, 1), value.flatten(0, 1)).view(b, h, n, -1)
    return context.transpose(1, 2), weight


class GraphMultiheadAttention(nn.MultiheadAttention):
    """Self-attention where ``key`` is ``query``, else cross-attention."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the original.

        Raises:
            UserError: the layer has listeners, and the call is not a graph (see :meth:`_refused`).
        """
        state = state_of(self)
        refused = self._refused(query, key, value, attn_mask, is_causal)
        if refused is not None:
            if state.listeners:
                raise UserError(f"{state.site.name} {refused}")
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        state.given.source = None if key is query else key
        states = (x.transpose(0, 1) for x in self._project(query, key, value))
        projected = Projected(*(split_heads(x, self.head_dim) for x in states))
        mask = _merged(key_padding_mask, attn_mask, projected.query)
        call = attend(self, projected, mask, _multihead_attention, self.dropout, wanted=need_weights)
        output = self.out_proj(merge_heads(call.context))
        weights = call.dropped if need_weights else None
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, *states: Tensor) -> list[Tensor]:
        """Projected queries, keys and values, ``(n, b, h·d)``. As PyTorch does it, to the last bit: in that
        order of dimensions, and states that are the same in one product."""
        shared = {id(x): x.transpose(0, 1) if self.batch_first else x for x in states}
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if not self._qkv_same_embed_dim:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
            return [F.linear(shared[id(x)], weight, bias) for x, weight, bias in zip(states, weights, biases)]
        projected: list[Tensor] = []
        first = 0
        for x, same in groupby(states, id):
            count = len(list(same))
            rows = slice(first * self.embed_dim, (first + count) * self.embed_dim)
            bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
            projected += F.linear(shared[x], self.in_proj_weight[rows], bias).chunk(count, -1)
            first += count
        return projected

    def _refused(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool
    ) -> str | None:
        """Reason why a call is not a graph; None if it is."""
        if self.bias_k is not None or self.add_zero_attn:
            return (
                "adds a key and a value (add_bias_kv or add_zero_attn) that are not nodes of a graph: "
                "exclude the layer (layers=...; for adapters exclude_modules=...)"
            )
        if any(x.is_nested for x in (query, key, value)):
            return (
                "is given nested tensors, which can't be read as a graph: set use_nested_tensor = False on "
                "the nn.TransformerEncoder around it"
            )
        if query.dim() != 3:
            return "is given a sequence without a batch dimension: add one"
        if is_causal and attn_mask is None:
            return (
                "is called with is_causal and without attn_mask, which is an error in PyTorch too: pass the "
                "causal mask"
            )
        return None


def _merged(padding: Tensor | None, mask: Tensor | None, query: Tensor) -> Tensor | None:
    """PyTorch's two masks, in which True hides, as one that is added to the scores ``(b, h, n, m)``."""
    masks = []
    if mask is not None:
        masks.append(mask[None, None] if mask.dim() == 2 else mask.unflatten(0, query.shape[:2]))
    if padding is not None:
        masks.append(padding[:, None, None])
    total: Tensor | None = None
    for x in masks:
        if x.dtype == torch.bool:
            x = torch.zeros_like(x, dtype=query.dtype).masked_fill(x, float("-inf"))
        total = x.to(query.dtype) if total is None else total + x.to(query.dtype)
    return total


CLASSES = {nn.MultiheadAttention: GraphMultiheadAttention}
HOOKS: dict = {}
