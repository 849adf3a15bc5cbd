"""LXMERT's attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.lxmert.modeling_lxmert import LxmertAttention, LxmertEncoder, LxmertXLayer

from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.eager import rooted_attention
from attngraph.reading.heads import merge_heads, split_heads
from attngraph.reading.hub import hub_of
from attngraph.reading.masks import read_mask


class GraphLxmertAttention(LxmertAttention):
    """Self-attention (``context`` is ``hidden_states``) and cross-attention. A cross-modality layer runs one
    module for both directions: words that look at regions, then regions that look at words."""

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        projected = Projected(
            split_heads(self.query(hidden_states), self.attention_head_size),
            split_heads(self.key(context), self.attention_head_size),
            split_heads(self.value(context), self.attention_head_size),
        )
        known, notes = Known(is_causal=False), hub_of(self).notes
        if context is hidden_states:
            known = known._replace(sides=(notes["side"], notes["side"]))
        elif notes["turns"]:
            sides, query_mask = notes["turns"].pop(0)
            known = known._replace(sides=sides, query_mask=query_mask)
        call = attend(self, projected, attention_mask, rooted_attention, self.dropout.p, known)
        merged = merge_heads(call.context)
        return (merged, call.dropped) if output_attentions else (merged,)


def _note_sides(encoder: LxmertEncoder, args: tuple, kwargs: dict) -> None:
    """Which self-attention layers run over words and which over regions."""
    words = [
        *(layer.attention for layer in encoder.layer),
        *(layer.lang_self_att for layer in encoder.x_layers),
    ]
    regions = [
        *(layer.attention for layer in encoder.r_layers),
        *(layer.visn_self_att for layer in encoder.x_layers),
    ]
    sides: Any = (("text", words), ("image", regions))
    for side, layers in sides:
        for layer in layers:
            hub_of(layer.self).notes["side"] = side


def _note_turns(layer: LxmertXLayer, args: tuple, kwargs: dict) -> None:
    """The two directions of cross-attention, and the queries' own padding, which is not among its
    arguments."""
    names = ("lang_feats", "lang_attention_mask", "visual_feats", "visual_attention_mask")
    given = dict(zip(names, args)) | kwargs

    def valid(side: str) -> Tensor | None:
        b, n = given[f"{side}_feats"].shape[:2]
        return read_mask(given[f"{side}_attention_mask"], (b, 1, n, n)).queries

    hub_of(layer.visual_attention.att).notes["turns"] = [
        (("text", "image"), valid("lang")),
        (("image", "text"), valid("visual")),
    ]


CLASSES = {LxmertAttention: GraphLxmertAttention}
HOOKS = {LxmertEncoder: _note_sides, LxmertXLayer: _note_turns}
