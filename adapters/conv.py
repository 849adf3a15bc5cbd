"""Schemes as layers of PyG."""

import torch
from torch import Tensor
from torch_geometric.typing import OptPairTensor, OptTensor

from attngraph import checks
from attngraph.adapters.scheme import Scheme, check_switch
from attngraph.backends.message_passing import WeightedSum
from attngraph.backends.sparse import EdgeList
from attngraph.functorch import transformed


class SchemeConv(WeightedSum):
    r"""A scheme as a PyG layer over ``edge_index`` and ``edge_weight``.

    >>> conv = SchemeConv(PGNN(p=1.25, mu=0.1))
    >>> conv((x_value, x_query), edge_index, edge_weight)  # (queries, d)

    It computes the scheme's own equation, with :math:`M_{ij}` the weight of the edge from value j to query i,
    :math:`d_i` and :math:`e_j` the sums of weights at its ends, and the given node features :math:`\hat V`:
    there is no weight matrix, and no self-loops are added. So ``SchemeConv(GCN())`` is not PyG's ``GCNConv``;
    the common class name for all schemes, including custom ones, avoids confusion. GCNII returns the input of
    its bottleneck, :math:`H`.

    *One kind of nodes.* A tensor ``x`` stands for ``(x, x)``: every node is a value and a query. On an
    undirected graph (both directions in ``edge_index``, with equal weights) this is the scheme on that graph,
    as for the output of :meth:`attngraph.AttentionGraph.to_data`. On a directed one :math:`d_i` sums over
    edges that end in i and :math:`e_j` over those that begin in j.

    *Heads* are separate graphs, as ``to_data`` and ``to_hetero`` give them, in a ``Batch`` that runs at once.

    *Metric.* Distances are Euclidean, and features of a captured graph are those before :math:`W_o`. Give
    :math:`x L` with :math:`G = L L^\top` (``torch.linalg.cholesky(graph.metric)``) for distances after it.

    *Sampling.* Degrees are those of the edges that are given. A neighbour sampler drops edges, so it changes
    the degrees: of values even where all neighbours of a query are kept, since their edges to other queries
    are gone. ``GCN()`` and ``Residual`` use no degrees and are exact there.

    *Explanations.* An edge mask of ``torch_geometric.explain`` multiplies the messages along the edges.
    Degrees and what normalises a node's messages stay those of all edges, as in PyG's own layers.

    *Order.* The graph of a decoder is ``causal``: a value's degree as seen by query i sums over queries up to
    i, and messages flow from values to queries only, so that nothing leaks from later tokens. An edge list
    does not say so, so ``causal=True`` has to, and the numbers of the queries (of each graph of a batch) are
    their order; a sampler that renumbers them loses it. Blocks of queries (``span``) and earlier decoding
    steps (``past_degree``) need the graph itself: ``PGNN()(graph, backend="sparse")``.

    Args:
        scheme: the scheme; its parameters become the layer's. ``degree="mean"`` raises an error when it runs.
        causal: queries are ordered in time. Default: ``False``.

    Shapes:
        - x ``(nodes, d)``, or a pair of values ``(m, d)`` and queries ``(n, d)``; edge_index ``(2, e)`` with
          rows value (source) and query (target); edge_weight ``(e,)``, at least 0, 1 if not given
        - output ``(nodes, d)`` or ``(n, d)``, in the dtype of the queries

    Raises:
        ValueError: no query features, features of different widths, a sparse tensor as ``edge_index``, or
            weights of another shape, type or sign.
    """

    def __init__(self, scheme: Scheme, causal: bool = False):
        super().__init__()
        self.scheme, self.causal = scheme, check_switch("causal", causal)
        self._start = {name: x.clone() for name, x in scheme.state_dict().items()}

    def reset_parameters(self) -> None:
        """Give the scheme the parameters again that it had when the layer was made."""
        super().reset_parameters()
        self.scheme.load_state_dict(self._start)

    def forward(self, x: Tensor | OptPairTensor, edge_index: Tensor, edge_weight: OptTensor = None) -> Tensor:
        value, query = (x, x) if isinstance(x, Tensor) else x
        if (
            value is None
            or query is None
            or value.dim() != 2
            or query.dim() != 2
            or value.shape[1] != query.shape[1]
        ):
            shapes = [None if side is None else tuple(side.shape) for side in (value, query)]
            raise ValueError(
                "x must be (nodes, d), or a pair of value features (m, d) and query features (n, d) of the "
                f"same width, got {shapes[0]} and {shapes[1]}"
            )
        if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided:
            raise ValueError(
                "edge_index must be a tensor (2, edges): torch_geometric.utils.to_edge_index makes one, and "
                "its weights, from a sparse matrix"
            )
        if (
            edge_index.dim() != 2
            or len(edge_index) != 2
            or edge_index.dtype not in (torch.int64, torch.int32)
        ):
            raise ValueError(
                f"edge_index must be int64 (2, edges), got {edge_index.dtype} {tuple(edge_index.shape)}"
            )
        if edge_index.device.type == "cpu" and not (torch.compiler.is_compiling() or transformed()):
            for side, row, x in zip(("value", "query"), edge_index, (value, query)):
                if row.numel() and not (row.min() >= 0 and row.max() < len(x)):
                    raise ValueError(
                        f"edge_index names {side} {int(row.max())}, and there are {len(x)}: its first row is "
                        "the value (source) of each edge, its second the query (target)"
                    )
        checks.check_numbers("x", value)
        checks.check_numbers("x", query)
        if edge_weight is None:
            edge_weight = value.new_ones(edge_index.shape[1])
        checks.check_weight(edge_weight, (edge_index.shape[1],))
        with torch.autocast(query.device.type, enabled=False):
            edges = EdgeList(
                query[None, None],
                value[None, None],
                edge_index,
                edge_weight,
                self.weighted_sum,
                self.causal,
            )
            return self.scheme.propagate(edges)[0, 0].to(query.dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.scheme}{', causal=True' if self.causal else ''})"
