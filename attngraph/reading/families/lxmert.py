"""LXMERT's attention."""

from __future__ import annotations

from torch import Tensor
from transformers.models.lxmert.modeling_lxmert import LxmertAttention, LxmertEncoder, LxmertXLayer

from attngraph.reading.calls import attend, merge_heads, read_mask, split_heads
from attngraph.reading.families.eager import rooted_attention


class GraphLxmertAttention(LxmertAttention):
    """Self-attention (``context`` is ``hidden_states``) and cross-attention. A cross-modality layer runs one module for
    both directions: words that look at regions, then regions that look at words."""

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        query = split_heads(self.query(hidden_states), self.attention_head_size)
        key, value = (
            split_heads(project(context), self.attention_head_size) for project in (self.key, self.value)
        )
        notes, told = self.attngraph.notes, {}
        if context is hidden_states:
            told["sides"] = (notes.get("side"),) * 2
        elif notes.get("turns"):
            told["sides"], told["query_mask"] = notes["turns"].pop(0)
        call = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            rooted_attention,
            dropout=self.dropout.p,
            is_causal=False,
            **told,
        )
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
    for side, layers in (("text", words), ("image", regions)):
        for layer in layers:
            layer.self.attngraph.notes["side"] = side


def _note_turns(layer: LxmertXLayer, args: tuple, kwargs: dict) -> None:
    """The two directions of cross-attention, and the queries' own padding, which it is not told."""
    names = ("lang_feats", "lang_attention_mask", "visual_feats", "visual_attention_mask")
    given = dict(zip(names, args)) | kwargs

    def valid(side: str) -> Tensor | None:
        b, n = given[f"{side}_feats"].shape[:2]
        return read_mask(given[f"{side}_attention_mask"], (b, 1, n, n)).queries

    layer.visual_attention.att.attngraph.notes["turns"] = [
        (("text", "image"), valid("lang")),
        (("image", "text"), valid("visual")),
    ]


CLASSES = {LxmertAttention: GraphLxmertAttention}
HOOKS = {LxmertEncoder: _note_sides, LxmertXLayer: _note_turns}
