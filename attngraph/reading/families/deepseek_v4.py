"""DeepSeek-V4's attention, of which only layers without compressed entries are graphs of tokens."""

from __future__ import annotations

from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Attention

from attngraph.errors import UserError
from attngraph.reading.hub import hub_of


class GraphDeepseekV4Attention(DeepseekV4Attention):
    """Self-attention, ordered in time, in a window."""

    def forward(self, *args, **kwargs) -> tuple:
        """As the original.

        Raises:
            UserError: the layer has listeners, and attends to compressed entries too.
        """
        hub = hub_of(self)
        if self.compressor is not None and hub.listeners:
            raise UserError(
                f"{hub.site.name} attends to tokens and to compressed runs of tokens in one softmax, so that "
                "its values are of two kinds: leave the layer out (layers=...; for adapters "
                "exclude_modules=...)"
            )
        return super().forward(*args, **kwargs)


CLASSES = {DeepseekV4Attention: GraphDeepseekV4Attention}
HOOKS: dict = {}
