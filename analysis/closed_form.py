r"""pGNN without the query: the limit of its weights for values of small degree.

A value enters the message of pGNN (:class:`attngraph.adapters.pgnn.PGNN`) with the weight

.. math::
    w_{ij} = \frac{M_{ij}^{p/2} R_{ij}^{p-2}}{\sqrt{d_i e_{ij}}}, \qquad
    R_{ij}^2 = \frac{|\hat V_i|^2}{d_i} + \frac{|\hat V_j|^2}{e_{ij}}
               - \frac{2\, \hat V_i \cdot \hat V_j}{\sqrt{d_i e_{ij}}} .

Where few queries divide their weight among many values, as in cross-attention to an image,
:math:`e_{ij} \ll 1`. Then :math:`R_{ij}^2 \to |\hat V_j|^2/e_{ij}`, and up to one factor for each query

.. math:: w_{ij} \to M_{ij}^{p/2}\, e_{ij}^{(1-p)/2}\, |\hat V_j|^{p-2},

which depends on a power of M, the value's degree and the value's norm, but not on the query's features. The
limit fails where :math:`|\hat V_i|^2/d_i` is not small compared with :math:`|\hat V_j|^2/e_{ij}`: in
self-attention, where :math:`e_{ij}` is about 1, and at sinks, values of large degree and small norm.

``docs/concepts.md`` bounds the error of the limit and the change of the weights. The bounds of weights follow
from one lemma: if the logarithms of the ratios of two sets of positive weights are in an interval of length
:math:`h`, the total variation between the two, each scaled to sum to 1, is at most :math:`\tanh(h/4)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis.along import along_edges
from attngraph.analysis.bipartite import Bipartite, divide
from attngraph.analysis.sums import EdgeSums
from attngraph.edges import rsqrt


@dataclass(frozen=True, eq=False)
class ClosedForm:
    r"""How near pGNN is to the closed form, and how far from attention. All ``(b, h)``, NaN in a graph
    without edges.

    Args:
        r: Pearson's correlation, over the edges of a graph, of :math:`\log(w_{ij}/M_{ij})` of pGNN and of the
            closed form, each minus its mean over the query's edges. So the part that both share with M counts
            nothing, and neither does a query's own factor.
        variation: the total variation :math:`\frac12 \sum_j |\bar w_{ij} - \bar w'_{ij}|` between pGNN's
            weights and the closed form's, each scaled to sum to 1 over a query's edges; mean over queries.
        without_product: the same between pGNN's weights and those without the product
            :math:`\hat V_i \cdot \hat V_j` in :math:`R_{ij}^2`, which is then lengths and degrees alone.
        from_attention: the same between pGNN's weights and :math:`M_{ij}/d_i`.
    """

    r: Tensor
    variation: Tensor
    without_product: Tensor
    from_attention: Tensor

    @staticmethod
    def of(form: Tensor) -> ClosedForm:
        """From sums along edges, :attr:`attngraph.analysis.along.Along.form`."""
        xy, xx, yy, own, lengths, weight, queries = form.unbind(-1)
        variations = (divide(x, 2 * queries) for x in (own, lengths, weight))
        return ClosedForm(divide(xy, (xx * yy).sqrt()), *variations)


def closed_form(graph: AttentionGraph, p: float = 1.5, degree: str = "sum") -> ClosedForm:
    """pGNN's message weights and their closed form.

    Args:
        graph: an attention graph with all its weights; degrees are those that the scheme uses, in causal
            graphs those so far.
        p: exponent, at least 1.
        degree: of the values, ``"sum"`` or ``"mean"``, see :meth:`attngraph.AttentionGraph.value_degree`.

    Raises:
        ValueError: another name for ``degree``, p below 1, or a step of cached decoding.
    """
    view = Bipartite.of(graph)
    form = along_edges(view, p, view, roots=degree_roots(graph, degree)).form
    assert form is not None
    return ClosedForm.of(form)


def degree_roots(graph: AttentionGraph, degree: str, sums: EdgeSums | None = None) -> tuple[Tensor, Tensor]:
    r""":math:`1/\sqrt{d_i}`, ``(b, h, n)``, and :math:`1/\sqrt{e_{ij}}`, ``(b, h, 1, m)`` or, in a causal
    graph, ``(b, h, n, m)``.

    Args:
        graph, degree: as for :func:`closed_form`.
        sums: the graph's, where they are known: they hold the sums of its weights.
    """
    if sums is None or graph.causal or not isinstance(graph.stored, Tensor):
        return rsqrt(graph.query_degree()[..., 0]), rsqrt(graph.value_degree(degree))
    scale, total = graph.degree_scale(degree), sums.value_degree[:, :, None]
    return rsqrt(sums.query_degree), rsqrt(total if scale is None else total * scale)
