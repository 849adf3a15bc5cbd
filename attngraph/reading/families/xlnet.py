"""XLNet's attention: scores of contents, relative positions and segments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.hub import hub_of


def _three_part_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    *,
    position_scores: Tensor,
    segment_scores: Tensor | float,
    own_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The mask is the module's own, which shows padded words themselves."""
    scores = torch.einsum("bnid,bnjd->bnij", query + module.r_w_bias[:, None], key)
    scores = (scores + position_scores + segment_scores) * module.scale
    if own_mask is not None:
        scores = scores + own_mask
    weight = torch.nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    return (weight @ value).transpose(1, 2), weight


class GraphXLNetRelativeAttention(XLNetRelativeAttention):
    """Self-attention of the content stream, whose keys and values may go on from those kept (``mems``). The
    query stream, where there is one, attends to the content stream after it: cross-attention."""

    def forward(self, h: Tensor, *args, **kwargs) -> tuple:
        hub_of(self).notes["calls"] = 0
        return super().forward(h, *args, **kwargs)

    def rel_attn_core(
        self,
        q_head: Tensor,
        k_head_h: Tensor,
        v_head_h: Tensor,
        k_head_r: Tensor,
        seg_mat: Tensor | None = None,
        attn_mask: Tensor | None = None,
        output_attentions: bool = False,
    ):
        notes = hub_of(self).notes
        cross, notes["calls"] = notes["calls"] > 0, notes["calls"] + 1
        query, key, value = (x.permute(1, 2, 0, 3) for x in (q_head, k_head_h, v_head_h))  # (b, h, n, d)
        positions = torch.einsum("ibnd,jbnd->bnij", q_head + self.r_r_bias, k_head_r)
        segments: Tensor | float = 0.0
        if seg_mat is not None:
            segments = torch.einsum("ibnd,snd->ibns", q_head + self.r_s_bias, self.seg_embed)
            segments = torch.einsum("ijbs,ibns->bnij", seg_mat, segments)
        mask = read = None
        if attn_mask is not None:
            low = 65500 if attn_mask.dtype == torch.float16 else 1e30
            mask = read = -low * attn_mask.permute(2, 3, 0, 1)
        valid = notes["valid"]
        if valid is not None and not cross and mask is not None:
            read = mask.masked_fill(~valid[:, None, :, None], torch.finfo(mask.dtype).min)
        call = attend(
            self,
            Projected(query, key, value),
            read,
            _three_part_attention,
            self.dropout.p,
            Known(cross=cross),
            position_scores=self.rel_shift_bnij(positions, klen=key.shape[2]),
            segment_scores=segments,
            own_mask=mask,
        )
        context = call.context.permute(2, 0, 1, 3)  # (n, b, h, d)
        return (context, call.dropped.permute(2, 3, 0, 1)) if output_attentions else context


def _note_valid(model: XLNetModel, args: tuple, kwargs: dict) -> None:
    """Which words are no padding: a padded word sees itself, so its attention mask does not say."""
    padding, given = (
        kwargs.get("input_mask"),
        kwargs.get("attention_mask", args[1] if len(args) > 1 else None),
    )
    valid = None if given is None else given > 0
    valid = padding == 0 if padding is not None else valid
    layers: Any = model.layer
    for layer in layers:
        hub_of(layer.rel_attn).notes["valid"] = valid


CLASSES = {XLNetRelativeAttention: GraphXLNetRelativeAttention}
HOOKS = {XLNetModel: _note_valid}
