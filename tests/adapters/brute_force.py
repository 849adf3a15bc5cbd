"""The formulas as loops over the nodes of the square graph, in float64, with W_o applied to the features.

Nothing here is fast or clever, and nothing is shared with the package. Node features are vectors of the
model's width, ``V̂ = [Q; V] W_o`` for one head. ``A`` is the square, symmetric weight matrix.

In a causal graph each query has its own square graph: the queries up to it (or those of its span), and the
values; it receives messages from values only, and values keep their features.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attngraph import AttentionGraph


class Square(NamedTuple):
    """One head's square graph: features of all nodes, ``A``, degrees, how many nodes are queries."""

    x: list[Tensor]
    weight: list[list[float]]
    degrees: list[float]
    n: int
    head: int


Update = Callable[[Square, list[Tensor], int], Tensor]


def per_head(
    graph: AttentionGraph, output: Tensor, update: Update, steps: int = 1, degree: str = "sum"
) -> Tensor:
    """``update(square graph, features now, node)`` of every node, so many times."""
    b, h, n, m, _ = graph.shape
    out = torch.zeros(b, h, n, output.shape[-1], dtype=torch.float64)
    for k in range(b):
        valid = [graph.query_mask is None or bool(graph.query_mask[k, i]) for i in range(n)]
        sees = [[_sees(graph, k, i, j) and valid[i] for j in range(m)] for i in range(n)]
        for head in range(h):
            query, value = graph.query[k, head] @ output[head], graph.value[k, head] @ output[head]
            weight = [
                [float(graph.weight[k, head, i, j]) if sees[i][j] else 0.0 for j in range(m)]
                for i in range(n)
            ]
            if not graph.causal:
                visible = sum(any(sees[i][j] for i in range(n)) for j in range(m))
                square = _square(query, value, weight, degree, visible / max(1, sum(valid)), head)
                out[k, head] = torch.stack(_repeated(square, update, steps, range(n + m))[:n])
                continue
            for i in range(n):
                if not valid[i]:
                    continue
                first, last = (0, i) if graph.span is None else graph.span[k, i].tolist()
                seen = slice(max(0, first), last + 1)
                scale = sum(sees[i]) / max(1, sum(valid[seen]))
                square = _square(query[seen], value, weight[seen], degree, scale, head)
                only = i - seen.start
                out[k, head, i] = _repeated(square, update, steps, [only])[only]
    return out


def _sees(graph: AttentionGraph, k: int, i: int, j: int) -> bool:
    mask = graph.value_mask
    if mask is None:
        return True
    return bool(mask[k, j]) if mask.dim() == 2 else bool(mask[k, i, j])


def _square(query: Tensor, value: Tensor, weight: list[list[float]], degree: str, scale: float, head: int):
    n, m = len(query), len(value)
    square = [[0.0] * (n + m) for _ in range(n + m)]
    for i in range(n):
        for j in range(m):
            square[i][n + j] = square[n + j][i] = weight[i][j]
    degrees = [sum(row) * (scale if degree == "mean" and k >= n else 1) for k, row in enumerate(square)]
    return Square([*query, *value], square, degrees, n, head)


def _repeated(square: Square, update: Update, steps: int, nodes) -> list[Tensor]:
    now = list(square.x)
    for _ in range(steps):
        new = list(now)
        for i in nodes:
            new[i] = update(square, now, i)
        now = new
    return now


def gcn(scheme, graph: AttentionGraph, output: Tensor) -> Tensor:
    def update(s: Square, now, i):
        total = torch.zeros_like(now[i])
        for j, w in enumerate(s.weight[i]):
            if scheme.normalize:  # with a loop at every node
                w = (w + (i == j)) / math.sqrt((s.degrees[i] + 1) * (s.degrees[j] + 1))
            total = total + w * now[j]
        return total

    return per_head(graph, output, update)


def pagerank(scheme, graph: AttentionGraph, output: Tensor) -> Tensor:
    """APPNP, and GCNII before its bottleneck."""

    def update(s: Square, now, i):
        total = scheme.alpha * s.x[i]
        for j, w in enumerate(s.weight[i]):
            if w > 0:
                total = total + (1 - scheme.alpha) * w / math.sqrt(s.degrees[i] * s.degrees[j]) * now[j]
        return total

    return per_head(graph, output, update, scheme.steps, scheme.degree)


def residual(scheme, graph: AttentionGraph, output: Tensor) -> Tensor:
    def update(s: Square, now, i):
        messages = sum(w * now[j] for j, w in enumerate(s.weight[i]))
        return (1 - scheme.alpha) * messages + scheme.alpha * s.x[i]

    return per_head(graph, output, update)


def pgnn(scheme, graph: AttentionGraph, output: Tensor) -> Tensor:
    return p_laplacian(scheme, graph, output, gradient_power)


def tempering(scheme, graph: AttentionGraph, output: Tensor) -> Tensor:
    return p_laplacian(scheme, graph, output, lambda w, di, dj, fi, fj, p: w ** (p / 2))


def rotated_queries(scheme, graph: AttentionGraph, output: Tensor) -> Tensor:
    """The query features are turned, in the model's width, within the span of the head's rows of W_o."""
    d = graph.query.shape[-1]
    q, r = torch.linalg.qr(torch.from_numpy(np.random.RandomState(scheme.seed).standard_normal((d, d))))
    turn = q * r.diagonal().sign()

    def turned(head: int, x: Tensor) -> Tensor:
        q, r = torch.linalg.qr(output[head].T)  # the span's basis that comes of Gram and Schmidt's method
        basis = (q * r.diagonal().sign()).T
        return x @ basis.T @ turn @ basis

    return p_laplacian(scheme, graph, output, gradient_power, turned)


def gradient_power(w: float, di: float, dj: float, fi: Tensor, fj: Tensor, p: float) -> float:
    """M ‖√(M/d_i) V̂_i − √(M/d_j) V̂_j‖^(p−2). R = 0 is a limit: an edge between equal nodes keeps its place
    in the average."""
    gradient = math.sqrt(w / di) * fi - math.sqrt(w / dj) * fj
    return w * max(float(gradient.norm()), 1e-12) ** (p - 2)


def p_laplacian(scheme, graph: AttentionGraph, output: Tensor, weigh, turned=lambda head, x: x) -> Tensor:
    """Fu et al. 2022, Algorithm 1: the factor α is that of the node that receives. Edges are weighed by
    ``weigh(M, d_i, d_j, features of i, features of j, p)``, with query features ``turned``."""
    p, mu = (float(x.detach() if isinstance(x, Tensor) else x) for x in (scheme.p, scheme.mu))

    def update(s: Square, now, i):
        def seen(k):
            return turned(s.head, now[k]) if k < s.n else now[k]

        d, total, message = s.degrees, 2 * mu / p, (2 * mu / p) * s.x[i]
        for j, w in enumerate(s.weight[i]):
            if w > 0:
                weight = weigh(w, d[i], d[j], seen(i), seen(j), p)
                total += weight / d[i]
                message = message + weight / math.sqrt(d[i] * d[j]) * now[j]
        return message / total if total > 0 else torch.zeros_like(s.x[i])

    return per_head(graph, output, update, scheme.steps, scheme.degree)
