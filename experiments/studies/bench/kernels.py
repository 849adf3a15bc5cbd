"""Attention graphs on their own: a p-Laplacian step in all its forms and as peers compute it, long sequences,
sparse edges, and the statistics of a layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from adapters import PGNN
from adapters.scheme import attention
from analysis.heterophily import Heterophily
from analysis.labels import Labels
from attngraph import AttentionGraph, AttentionScores
from experiments.studies.bench import peers
from experiments.studies.bench.measure import Run

WIDTH = 12  # heads whose features make the model's width

# ---- one step of message passing, at BLIP-base's cross-attention -------------------------------------------

ATTENTION = "attention, softmax(QKᵀ)V"
OURS, OURS_CAUSAL = "ours, default", "ours, default, causal"
DENSE, PER_EDGE, SQUARE = "ours, dense backend", "per edge (PyG: gather, norm, scatter)", "(N1+N2)²×d"


def step(options: dict) -> dict[str, Run]:
    """Forward and backward of everything; gradients for queries, keys, values and p.

    Args:
        options: ``b, h, n, m, d``, ``seed``, ``compiled`` (default: yes) and ``peers`` (those that need
            gigabytes at full size, too).
    """
    b, h, n, m, d = (options[x] for x in "bhnmd")
    draw = torch.Generator().manual_seed(options["seed"])
    query, key, value = (torch.randn(b, h, k, d, generator=draw).requires_grad_() for k in (n, m, m))
    output = torch.randn(h, d, WIDTH * d, generator=draw) / (WIDTH * d) ** 0.5
    metric = output @ output.transpose(-1, -2)
    factor = torch.linalg.cholesky(metric)
    above = torch.randn(b, h, n, d, generator=draw)
    scheme = PGNN(p=1.5, mu=0.1)

    def scores(causal: bool) -> AttentionScores:
        return AttentionScores(query, key, value, causal=causal, metric=metric)

    def both(outputs: Tensor | tuple[Tensor, ...]) -> None:
        outputs = [outputs] if isinstance(outputs, Tensor) else [x for x in outputs if x is not None]
        leaves = [query, key, value, scheme.p_logit.stored]
        torch.autograd.grad(outputs, leaves, [above] * len(outputs), allow_unused=True)

    def dense(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return scheme(AttentionScores(query, key, value, causal=causal, metric=metric).graph())

    compiled = torch.compile(dense)

    def peer(function) -> Run:
        return lambda: both(function(query, key, value, factor, scheme.p, 2 * scheme.mu / scheme.p))

    ways: dict[str, Run] = {
        ATTENTION: lambda: both(peers.attention(query, key, value)),
        "attention, PyTorch's fused": lambda: both(scaled_dot_product_attention(query, key, value)),
    }
    for name, causal in ((OURS, False), (OURS_CAUSAL, True)):
        ways[name] = lambda causal=causal: both(scheme.attend(scores(causal), context=False))
    for name, causal in ((OURS, False), (OURS_CAUSAL, True)):
        ways[f"{name}, and MV"] = lambda causal=causal: both(scheme.attend(scores(causal)))
    for name, causal in (("", False), (", causal", True)):
        ways |= {
            f"{DENSE}{name}": lambda causal=causal: both(dense(query, key, value, causal)),
            f"ours, tiled{name}": lambda causal=causal: both(
                scheme.attend(scores(causal), "tiled", context=False)
            ),
        }
        if options.get("compiled", True):
            ways[f"{DENSE} compiled{name}"] = lambda causal=causal: both(compiled(query, key, value, causal))
    ways["(N1+N2)²×d, pooled to 24 tokens"] = peer(peers.pooled_square)
    if options.get("peers"):
        ways["ours, sparse backend, top-k 16"] = lambda: both(
            scheme(scores(False).graph().sparsify(top_k=16), "sparse")
        )
        ways[PER_EDGE] = peer(peers.per_edge)
        ways[SQUARE] = peer(peers.square)
    return ways


# ---- long sequences: a tile at a time, against PyTorch's fused attention -----------------------------------

FUSED, TILED = "attention, PyTorch's fused", "ours, tiled"


def long(options: dict) -> dict[str, Run]:
    """Forward and backward of self-attention; gradients for queries, keys, values and p.

    Args:
        options: ``n``, ``h``, ``d``, ``causal``, ``seed``.
    """
    h, n, d = (options[x] for x in "hnd")
    causal, ending = options["causal"], ", causal" * options["causal"]
    draw = torch.Generator().manual_seed(options["seed"])
    query, key, value, above = (torch.randn(1, h, n, d, generator=draw) for _ in range(4))
    leaves = [x.requires_grad_() for x in (query, key, value)]
    scheme = PGNN(p=1.5, mu=0.1)
    output = torch.randn(h, d, 2 * d, generator=draw) / (2 * d) ** 0.5
    metric = output @ output.transpose(-1, -2)

    def plain() -> None:
        torch.autograd.grad(scaled_dot_product_attention(query, key, value, is_causal=causal), leaves, above)

    def ours() -> None:
        scores = AttentionScores(query, key, value, causal=causal, triangular=causal, metric=metric)
        torch.autograd.grad(
            scheme.attend(scores, "tiled", context=False)[0], [*leaves, scheme.p_logit.stored], above
        )

    return {f"{FUSED}{ending}": plain, f"{TILED}{ending}": ours}


# ---- each query's k heaviest edges: time, and the error against the exact result ---------------------------

EXACT = "exact, dense backend"
TOP_K = (1, 4, 16, 64, 256)


def sparse(options: dict) -> dict[str, Run]:
    """Forward only: one step of pGNN, sparsification included.

    Args:
        options: ``b, h, n, m, d``, ``seed``.
    """
    b, h, n, m, d = (options[x] for x in "bhnmd")
    draw = torch.Generator().manual_seed(options["seed"])
    query, key, value = (torch.randn(b, h, k, d, generator=draw) for k in (n, m, m))
    # as peaked as trained attention: half the mass on some 20 of 577
    graph, scheme = AttentionScores(2 * query, key, value).graph(), PGNN()

    def run(k: int | None) -> Tensor:
        with torch.no_grad():
            return scheme(graph) if k is None else scheme(graph.sparsify(top_k=k), "sparse")

    return {
        EXACT: lambda: run(None),
        **{f"top-k {k}": lambda k=k: run(k) for k in TOP_K if k <= graph.shape[3]},
    }


def sparse_errors(options: dict) -> dict[str, float]:
    """Relative error (Frobenius norm) of every run of :func:`sparse`."""
    results = {name: run() for name, run in sparse(options).items()}
    exact = results[EXACT]
    return {name: float((result - exact).norm() / exact.norm()) for name, result in results.items()}


# ---- heterophily statistics of a layer ---------------------------------------------------------------------

CROSS_ATTENTION = "cross-attention itself"


def statistics(options: dict) -> dict[str, Run]:
    """All statistics of one layer except spectra, nulls and bootstrap included, with two sets of labels.

    Args:
        options: ``b, h, d``, ``n`` words, ``m`` image nodes, ``seed``.
    """
    b, h, d = (options[x] for x in "bhd")
    sizes = {"text": options["n"], "image": options["m"]}

    def scores(queries: str, values: str) -> AttentionScores:
        draw = torch.Generator().manual_seed(options["seed"])
        query, key, value = (
            torch.randn(b, h, sizes[side], d, generator=draw) for side in (queries, values, values)
        )
        causal = queries == values == "text"
        return AttentionScores(2 * query, key, value, triangular=causal, causal=causal)

    def run_on(queries: str, values: str) -> Run:
        found = scores(queries, values).graph()
        graph = AttentionGraph(
            found.query,
            found.value,
            found.weight,
            value_mask=found.value_mask,
            causal=found.causal,
            kind="self" if queries == values else "cross",
            query_modality=queries,
            value_modality=values,
        )
        b, h, n, m, _ = graph.shape
        draw = torch.Generator().manual_seed(options["seed"])
        labels = {
            name: Labels(*(torch.randint(0, classes, (b, heads, nodes), generator=draw) for nodes in (n, m)))
            for name, classes, heads in (("class", 6, 1), ("cluster", 8, h))
        }
        if queries == values:
            labels["class"] = Labels(labels["class"].query, labels["class"].query)
        return lambda: Heterophily().add("layer", graph, labels)

    cross = scores("text", "image")
    return {
        CROSS_ATTENTION: lambda: attention(cross),
        "statistics of cross-attention": run_on("text", "image"),
        "statistics of the text's self-attention": run_on("text", "text"),
        "statistics of the image's self-attention": run_on("image", "image"),
    }
