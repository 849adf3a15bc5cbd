"""LXMERT's attention."""

from __future__ import annotations

from torch import Tensor
from transformers.models.lxmert.modeling_lxmert import LxmertAttention, LxmertXLayer

from attngraph.calls import attend, read_mask
from attngraph.families.eager import merge_heads, rooted_attention, split_heads


class GraphLxmertAttention(LxmertAttention):
    """Self-attention (``context`` is ``hidden_states``) and cross-attention. A cross-modality layer runs one module for
    both directions: words that look at regions, then regions that look at words."""

    def forward(self, hidden_states: Tensor, context: Tensor, attention_mask: Tensor | None = None,
                output_attentions: bool = False) -> tuple[Tensor, ...]:
        query = split_heads(self.query(hidden_states), self.attention_head_size)
        key, value = (split_heads(project(context), self.attention_head_size) for project in (self.key, self.value))
        call = attend(self, query, key, value, attention_mask, rooted_attention, dropout=self.dropout.p)
        merged = merge_heads(call.context)
        return (merged, call.dropped) if output_attentions else (merged,)


def _note_masks(layer: LxmertXLayer, args: tuple, kwargs: dict) -> None:
    """The queries' own padding, which cross-attention is not told."""
    hub = layer.visual_attention.att.__dict__.get("attngraph")
    if hub is None:
        return
    names = ("lang_feats", "lang_attention_mask", "visual_feats", "visual_attention_mask")
    given = dict(zip(names, args)) | kwargs
    hub.turns = []
    for side in ("lang", "visual"):
        states, mask = given[f"{side}_feats"], given[f"{side}_attention_mask"]
        n = states.shape[1]
        hub.turns.append(read_mask(mask, (states.shape[0], 1, n, n)).queries)


CLASSES = {LxmertAttention: GraphLxmertAttention}
HOOKS = {LxmertXLayer: _note_masks}
