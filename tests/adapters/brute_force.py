"""The formulas as loops over the nodes of the square graph, in float64, with W_o applied to the features.

Nothing here is fast or clever, and nothing is shared with the package. Node features are vectors of the
model's width, ``V̂ = [Q; V] W_o`` for one head. ``A`` is the square, symmetric weight matrix.

In a causal graph each query has its own square graph: the queries up to it (or those of its span), and the
values; it receives messages from values only, and values keep their features.
"""

import math

import numpy as np
import torch
from torch import Tensor

from attngraph import AttentionGraph

WIDE = torch.float64


def per_head(graph: AttentionGraph, output: Tensor, one) -> Tensor:
    """``one(features, weight, n, scale of degrees, head=...)`` for every example and head (and query, if
    causal)."""
    b, h, n, m, _ = graph.shape
    out = torch.zeros(b, h, n, output.shape[-1], dtype=WIDE)
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
                scale = visible / max(1, sum(valid))
                rows = one(torch.cat([query, value]), _square(weight, n, m), n, scale, head=head)
                out[k, head] = torch.stack(rows[:n])
                continue
            for i in range(n):
                if not valid[i]:
                    continue
                first, last = (0, i) if graph.span is None else graph.span[k, i].tolist()
                seen = slice(max(0, first), last + 1)
                count = seen.stop - seen.start
                scale = sum(sees[i]) / max(1, sum(valid[seen]))
                nodes = torch.cat([query[seen], value])
                only = i - seen.start
                rows = one(nodes, _square(weight[seen], count, m), count, scale, only=only, head=head)
                out[k, head, i] = rows[only]
    return out


def _sees(graph: AttentionGraph, k: int, i: int, j: int) -> bool:
    mask = graph.value_mask
    if mask is None:
        return True
    return bool(mask[k, j]) if mask.dim() == 2 else bool(mask[k, i, j])


def _square(weight: list[list[float]], n: int, m: int) -> list[list[float]]:
    square = [[0.0] * (n + m) for _ in range(n + m)]
    for i in range(n):
        for j in range(m):
            square[i][n + j] = square[n + j][i] = weight[i][j]
    return square


def _degrees(square, n: int, degree: str, scale: float) -> list[float]:
    degrees = [sum(row) for row in square]
    return [d if degree == "sum" or k < n else d * scale for k, d in enumerate(degrees)]


def gcn(scheme, graph: AttentionGraph, output: Tensor) -> Tensor:
    def one(x, square, n, scale, only=None, head=0):
        if not scheme.normalize:
            return [
                sum((square[i][j] * x[j] for j in range(len(x))), torch.zeros_like(x[0]))
                for i in range(len(x))
            ]
        loops = [[w + (i == j) for j, w in enumerate(row)] for i, row in enumerate(square)]
        d = [sum(row) for row in loops]
        return [
            sum(loops[i][j] / math.sqrt(d[i] * d[j]) * x[j] for j in range(len(x))) for i in range(len(x))
        ]

    return per_head(graph, output, one)


def pagerank(scheme, graph: AttentionGraph, output: Tensor) -> Tensor:
    """APPNP, and GCNII before its bottleneck."""

    def one(x, square, n, scale, only=None, head=0):
        d = _degrees(square, n, scheme.degree, scale)
        z = list(x)
        for _ in range(scheme.steps):
            new = list(z)
            for i in range(len(x)) if only is None else [only]:
                new[i] = scheme.alpha * x[i]
                for j in range(len(x)):
                    if square[i][j] > 0:
                        new[i] = new[i] + (1 - scheme.alpha) * square[i][j] / math.sqrt(d[i] * d[j]) * z[j]
            z = new
        return z

    return per_head(graph, output, one)


def residual(scheme, graph: AttentionGraph, output: Tensor) -> Tensor:
    def one(x, square, n, scale, only=None, head=0):
        return [
            (1 - scheme.alpha) * sum(square[i][j] * x[j] for j in range(len(x))) + scheme.alpha * x[i]
            for i in range(len(x))
        ]

    return per_head(graph, output, one)


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

    def one(x, square, n, scale, only=None, head=0):
        d = _degrees(square, n, scheme.degree, scale)
        f = list(x)
        for _ in range(scheme.steps):
            new = list(f)
            seen = [turned(head, f[k]) if k < n else f[k] for k in range(len(x))]
            for i in range(len(x)) if only is None else [only]:
                total, message = 2 * mu / p, (2 * mu / p) * x[i]
                for j in range(len(x)):
                    if square[i][j] > 0:
                        weight = weigh(square[i][j], d[i], d[j], seen[i], seen[j], p)
                        total += weight / d[i]
                        message = message + weight / math.sqrt(d[i] * d[j]) * f[j]
                new[i] = message / total if total > 0 else torch.zeros_like(x[i])
            f = new
        return f

    return per_head(graph, output, one)
