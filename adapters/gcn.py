"""GCN: the vanilla adapter, seen as a graph convolution."""

from __future__ import annotations

from torch import Tensor

from attngraph.adapters.scheme import Scheme, check_switch, register
from attngraph.edges import Edges, rsqrt
from attngraph.scores import AttentionScores


@register("gcn")
class GCN(Scheme):
    r"""Graph convolution on the attention graph.

    .. math:: \bar U_i = \sum_j M_{ij} \hat V_j

    With the aggregation matrix :math:`\tilde M` unnormalised, as in the paper, this *is* the attention
    output: the GCN adapter is the vanilla adapter, the bottleneck adapter of Houlsby et al. (2019).
    ``normalize=True`` gives the form of Kipf & Welling (2017), with self-loops and symmetric normalisation:

    .. math:: \bar U_i = \sum_j \frac{M_{ij} \hat V_j}{\sqrt{(d_i + 1)(e_j + 1)}} + \frac{\hat V_i}{d_i + 1} .

    Args:
        normalize: the form of Kipf & Welling. Default: ``False``.

    Raises:
        ValueError: ``normalize`` is neither True nor False.

    Source: Wu et al., "p-Laplacian Adaptation for Generative Pre-trained Vision-Language Models", AAAI 2024.
    """

    def __init__(self, normalize: bool = False):
        super().__init__()
        self.normalize = check_switch("normalize", normalize)

    @property
    def is_attention(self) -> bool:  # type: ignore[override]
        return not self.normalize

    def aggregate_and_context(
        self, scores: AttentionScores, backend: str = "dense", context: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Without normalisation both outputs are the same, but for padded queries."""
        if self.normalize or not context:
            return super().aggregate_and_context(scores, backend, context)
        output, _ = super().aggregate_and_context(scores.without_query_mask(), backend, context=False)
        return scores.without_padded(output), output

    def propagate(self, edges: Edges) -> Tensor:
        out = edges.to_queries(self.edge_weights(edges), edges.value)
        return out + self.residual_share(edges) * edges.query if self.normalize else out

    def edge_weights(self, edges: Edges) -> Tensor:
        if not self.normalize:
            return edges.weight
        return edges.weight * rsqrt(edges.query_degree() + 1) * rsqrt(edges.value_degree("sum") + 1)

    def residual_share(self, edges: Edges) -> Tensor | float:
        """The self-loop's; 0 without normalisation."""
        return 1 / (edges.sum_at_queries(edges.weight) + 1) if self.normalize else 0.0
