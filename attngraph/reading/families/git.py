"""GIT's text attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.git.modeling_git import GitModel, GitSelfAttention

from attngraph.reading.arguments import check_known
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.families.eager import rooted_attention
from attngraph.reading.families.mixed import note_words, project
from attngraph.reading.heads import merge_heads
from attngraph.reading.hub import hub_of


class GraphGitSelfAttention(GitSelfAttention):
    """Self-attention over the image and then the words. Words are ordered in time and see the whole image."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        cache=None,
        past_key_values=None,
        **others,
    ) -> tuple:
        check_known(self, others)
        cache = past_key_values if cache is None else cache  # the argument's name changed between releases
        query, key, value = project(self, hidden_states)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        b, n = hidden_states.shape[:2]
        known = Known(is_causal=True, sides=self._sides(b, n, key.shape[2]))
        projected = Projected(query, key, value)
        call = attend(self, projected, attention_mask, rooted_attention, self.dropout.p, known)
        return merge_heads(call.context), call.recorded()

    def _sides(self, b: int, n: int, m: int) -> tuple[Tensor | None, Tensor | None]:
        """Which queries and values are of the image; it comes with the first tokens, those in the cache
        included."""
        notes = hub_of(self).notes
        if notes["words"] is None:
            return None, None
        if n == m or notes["image"] is None:
            notes["image"] = n - notes["words"]
        side = (torch.arange(m, device=self.query.weight.device) < notes["image"]).expand(b, -1)
        return side[:, m - n :], side


def _note_words(model: GitModel, args: tuple, kwargs: dict) -> None:
    layers: Any = model.encoder.layer
    note_words((layer.attention.self for layer in layers), args, kwargs)


CLASSES = {GitSelfAttention: GraphGitSelfAttention}
HOOKS = {GitModel: _note_words}
