"""What the benchmarks run: attention graphs by themselves, and a training step of a text decoder.

A run is a function without arguments; functions here make runs, by name, from options (sizes and a seed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from peft import get_peft_model
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, scaled_dot_product_attention
from torch_geometric.nn import MessagePassing
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from adapters import PGNN, GraphAdapterConfig
from adapters.peft import optimizer_groups
from adapters.scheme import attention
from analysis.heterophily import Heterophily
from analysis.labels import Labels
from attngraph import AttentionScores

Run = Callable[[], object]
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
        ATTENTION: lambda: both(plain_attention(query, key, value)),
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
    ways["(N1+N2)²×d, pooled to 24 tokens"] = peer(pooled_square)
    if options.get("peers"):
        ways["ours, sparse backend, top-k 16"] = lambda: both(
            scheme(scores(False).graph().sparsify(top_k=16), "sparse")
        )
        ways[PER_EDGE] = peer(per_edge)
        ways[SQUARE] = peer(square)
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
        kind = "self" if queries == values else "cross"
        graph = replace(
            scores(queries, values).graph(), kind=kind, query_modality=queries, value_modality=values
        )
        draw = torch.Generator().manual_seed(options["seed"])
        labels = {
            name: Labels(
                *(torch.randint(0, classes, (b, heads, n), generator=draw) for n in graph.shape[2:4])
            )
            for name, classes, heads in (("class", 6, 1), ("cluster", 8, h))
        }
        if kind == "self":
            labels["class"] = Labels(labels["class"].query, labels["class"].query)
        return lambda: Heterophily().add("layer", graph, labels)

    cross = scores("text", "image")
    return {
        CROSS_ATTENTION: lambda: attention(cross),
        "statistics of cross-attention": run_on("text", "image"),
        "statistics of the text's self-attention": run_on("text", "text"),
        "statistics of the image's self-attention": run_on("image", "image"),
    }


# ---- a training step of a text decoder: p-adapters against vanilla adapters --------------------------------

VANILLA, P_ADAPTERS = "vanilla adapters", "p-adapters"
SCHEMES = {VANILLA: "gcn", P_ADAPTERS: "pgnn"}


def training(options: dict) -> dict[str, Run]:
    """Forward, backward and an AdamW step of a decoder with BLIP's layers and random weights.

    Args:
        options: ``b``, ``n`` text tokens, ``m`` image tokens, ``layers``, ``width``, ``heads``, ``words``,
            ``join``, ``seed``; ``name`` of the only run to make: the memory of one holds no other's model.
    """
    names = [options["name"]] if "name" in options else SCHEMES
    return {name: _step(SCHEMES[name], options) for name in names}


def _step(gnn: str, options: dict) -> Run:
    width, words = options["width"], options["words"]
    torch.manual_seed(options["seed"])
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=options["layers"],
        num_attention_heads=options["heads"],
        is_decoder=True,
        attn_implementation="eager",
        bos_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
        pad_token_id=0,
    )
    adapted = get_peft_model(BlipTextLMHeadModel(config), GraphAdapterConfig(gnn=gnn, join=options["join"]))
    optimizer = torch.optim.AdamW(optimizer_groups(adapted, 5e-4, 0.05))
    text = torch.randint(3, words, (options["b"], options["n"]))
    image = torch.randn(options["b"], options["m"], width)
    adapted.train()

    def step() -> None:
        optimizer.zero_grad()
        adapted(text, encoder_hidden_states=image, labels=text, is_decoder=True).loss.backward()
        optimizer.step()

    return step


# ---- the same step as others compute it, written from their equations, and attention itself ----------------
#
# All take projected queries ``(b, h, n, d)``, keys and values ``(b, h, m, d)``, a factor L of the metric
# G = L L^T ``(h, d, d)``, the exponent p and the residual r = 2 mu/p, and use column-sum degrees.

NORM_FLOOR = 1e-12


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(QKᵀ/√d) V``, step by step as models do it."""
    return weights(query, key) @ value


def weights(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)


class PLaplacian(MessagePassing):
    """The per-edge way of PyG layers: both ends' features are gathered at every edge, their difference is
    normed, and messages are scattered to the queries."""

    def __init__(self):
        super().__init__(aggr="sum", node_dim=0)

    def forward(self, query, value, measured_query, measured_value, edge_index, weight, degrees, p, residual):
        source, target = edge_index  # values, queries
        d, e = degrees[0][target], degrees[1][source]
        gradient = (weight / d).sqrt()[:, None] * measured_query[target] - (weight / e).sqrt()[
            :, None
        ] * measured_value[source]
        weight = weight * gradient.norm(dim=-1).clamp(min=NORM_FLOOR) ** (p - 2)
        size = (len(value), len(query))
        total = self.propagate(
            edge_index, x=(torch.ones_like(value[:, :1]), None), weight=weight / d, size=size
        )
        message = self.propagate(edge_index, x=(value, None), weight=weight / (d * e).sqrt(), size=size)
        return (message + residual * query) / (total + residual)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return weight[:, None] * x_j


def per_edge(query: Tensor, key: Tensor, value: Tensor, factor: Tensor, p, residual) -> Tensor:
    """:class:`PLaplacian` on all pairs of queries and values of every head, as one edge list."""
    weight = weights(query, key)
    b, h, n, m = weight.shape
    group = torch.arange(b * h).view(-1, 1, 1)
    target = (group * n + torch.arange(n)[:, None]).expand(b * h, n, m)
    source = (group * m + torch.arange(m)).expand(b * h, n, m)
    nodes = [x.flatten(0, 2) for x in (query, value, query @ factor, value @ factor)]
    degrees = weight.sum(-1).flatten(), weight.sum(-2).flatten()
    out = PLaplacian()(
        *nodes, torch.stack([source.flatten(), target.flatten()]), weight.flatten(), degrees, p, residual
    )
    return out.view(query.shape)


def square(query: Tensor, key: Tensor, value: Tensor, factor: Tensor, p, residual) -> Tensor:
    """The way of the released p-adapter code: the square matrix of all nodes, and the differences of all
    pairs of them, ``(b, h, n+m, n+m, d)``."""
    weight = weights(query, key)
    b, h, n, m = weight.shape
    whole = weight.new_zeros(b, h, n + m, n + m)
    whole[:, :, :n, n:], whole[:, :, n:, :n] = weight, weight.transpose(-1, -2)
    x = torch.cat([query, value], 2)
    measured = x @ factor / whole.sum(-1, keepdim=True).sqrt()
    gradient = (measured[:, :, :, None] - measured[:, :, None]).norm(dim=-1).clamp(min=NORM_FLOOR)
    there = whole > 0
    power = torch.where(there, torch.where(there, whole, 1.0) ** (p / 2), 0.0) * gradient ** (p - 2)
    degree = whole.sum(-1, keepdim=True)
    alpha = 1 / ((power / degree).sum(-1, keepdim=True) + residual)
    out = alpha * (power / (degree * degree.transpose(-1, -2)).sqrt() @ x + residual * x)
    return out[:, :, :n]


def pooled_square(
    query: Tensor, key: Tensor, value: Tensor, factor: Tensor, p, residual, tokens: int = 24
) -> Tensor:
    """:func:`square` with keys and values average-pooled to a few tokens, so that it fits: another result."""
    key, value = (
        adaptive_avg_pool1d(x.flatten(0, 1).transpose(1, 2), tokens).transpose(1, 2).unflatten(0, x.shape[:2])
        for x in (key, value)
    )
    return square(query, key, value, factor, p, residual)
