r"""Relevance of nodes to tokens: raw attention, attention rollout, and relevance weighted by gradients.

All three read the layers of a model in the order of their calls, for any node sets: an encoder and a
decoder with cross-attention, one sequence of text and image tokens, two streams that attend to each other
(LXMERT), or a single encoder. They give the relevance for the tokens at the end of the :class:`Route`. Axes:
``b`` examples, ``h`` heads, ``n`` tokens, ``m`` nodes that the tokens see last (image nodes if there are
any).

    >>> graphs, gradients = capture_with_gradients(model, inputs, lambda output: output.logits[:, 4, answer])
    >>> relevance(graphs, gradients).seen[:, 4]  # (b, m): relevance of each image node
"""

from attngraph.analysis.relevance.gradients import capture_with_gradients
from attngraph.analysis.relevance.operators import Relevance, raw, relevance, rollout
from attngraph.analysis.relevance.routes import Graphs, Nodes, Route, image_nodes, route, valid_nodes

__all__ = [
    "Graphs",
    "Nodes",
    "Relevance",
    "Route",
    "capture_with_gradients",
    "image_nodes",
    "raw",
    "relevance",
    "rollout",
    "route",
    "valid_nodes",
]
