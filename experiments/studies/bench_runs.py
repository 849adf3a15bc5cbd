"""Benchmarked functions: attention graphs alone, and training of or generation by a text decoder.

A run is a function without arguments; functions here make runs, by name, from sizes: ``b`` examples, ``h``
heads, ``n`` queries, ``m`` values, ``d`` features of a head. Queries, keys and values have the layout of
models, ``(b, h, n, d)`` as a transposed view of a projection's ``(b, n, h, d)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from peft import get_peft_model
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch_geometric.nn import MessagePassing
from transformers import BlipTextConfig, LlamaConfig, LlamaModel
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from attngraph import AttentionGraph, AttentionScores, capture
from attngraph.adapters import PGNN, GraphAdapterConfig
from attngraph.adapters.peft import optimizer_groups
from attngraph.analysis.heterophily import Heterophily
from attngraph.analysis.labels import Labels
from attngraph.reading.heads import split_heads
from attngraph.reading.pictures import project_once, states_of_examples
from attngraph.scores import HIDDEN

Run = Callable[[], object]
WIDTH = 12  # heads whose features make the model's width

# ---- one step of message passing, at BLIP-base's cross-attention -------------------------------------------

ATTENTION = "attention, softmax(QKᵀ)V"
OURS, OURS_CAUSAL, DENSE = "ours", "ours, causal", "ours, dense backend"
WITH_MV = ", and MV"
PER_EDGE, SQUARE = "per edge (PyG: gather, norm, scatter)", "(N1+N2)²×d"
FUSED, TILED = "attention, PyTorch's fused", "ours, tiled"


def _draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Normally distributed numbers, the same in every run."""
    draw = _draw()
    return [torch.randn(*shape, generator=draw) for shape in shapes]


def projected(*shapes: tuple[int, int, int, int]) -> list[Tensor]:
    """Normally distributed numbers ``(b, h, n, d)`` in the layout of a projection's heads."""
    return [split_heads(x, d) for (*_, d), x in zip(shapes, drawn(*((b, n, h * d) for b, h, n, d in shapes)))]


def metric_of(output: Tensor) -> Tensor:
    """The metric of an output projection, ``(h, d, width)``."""
    return output @ output.transpose(-1, -2)


def step(
    b: int,
    h: int,
    n: int,
    m: int,
    d: int,
    frozen: bool = False,
    triangular: bool = False,
    peers: bool = False,
) -> dict[str, Run]:
    """Forward and backward of one step; gradients for queries, keys, values and p.

    Args:
        frozen: no gradients for keys and values, as in cross-attention to a frozen image encoder.
        triangular: a decoder's self-attention, in which query i sees values up to i.
        peers: whether to include implementations that need gigabytes at full size.
    """
    query, key, value, above = projected((b, h, n, d), (b, h, m, d), (b, h, m, d), (b, h, n, d))
    (output,) = drawn((h, d, WIDTH * d))
    metric = metric_of(output / (WIDTH * d) ** 0.5)
    factor = torch.linalg.cholesky(metric)
    scheme = PGNN(p=1.5, mu=0.1)
    nodes = [query] if frozen else [query, key, value]
    leaves = [*(x.requires_grad_() for x in nodes), scheme.p_logit.stored]
    mask = torch.full((n, m), HIDDEN).triu(m - n + 1) if triangular else None

    def scores(causal: bool = False) -> AttentionScores:
        return AttentionScores(query, key, value, causal=causal, triangular=triangular, metric=metric)

    def both(outputs: Tensor | tuple[Tensor | None, ...]) -> None:
        outputs = [outputs] if isinstance(outputs, Tensor) else [x for x in outputs if x is not None]
        torch.autograd.grad(outputs, leaves, [above] * len(outputs), allow_unused=True)

    def peer(function: Callable[..., Tensor]) -> Run:
        return lambda: both(function(query, key, value, factor, scheme.p, 2 * scheme.mu / scheme.p))

    ways: dict[str, Run] = {
        ATTENTION: lambda: both(plain_attention(query, key, value, mask)),
        FUSED: lambda: both(scaled_dot_product_attention(query, key, value, is_causal=triangular)),
    }
    for name, causal in ((OURS, False), (OURS_CAUSAL, True)):
        if causal or not triangular:
            ways |= {
                name: lambda causal=causal: both(scheme.aggregate_and_context(scores(causal), context=False)),
                f"{name}{WITH_MV}": lambda causal=causal: both(scheme.aggregate_and_context(scores(causal))),
            }
    ways[DENSE] = lambda: both(scheme(scores(triangular).graph()))
    if peers:
        ways["ours, sparse backend, top-k 16"] = lambda: both(
            scheme(scores().graph().sparsify(top_k=16), "sparse")
        )
        ways |= {PER_EDGE: peer(per_edge), SQUARE: peer(square)}
    return ways


# ---- long sequences, against PyTorch's fused attention -----------------------------------------------------


def long(h: int, n: int, d: int, causal: bool) -> dict[str, Run]:
    """Forward and backward of self-attention; gradients for queries, keys, values and p."""
    query, key, value, above = projected(*[(1, h, n, d)] * 4)
    (output,) = drawn((h, d, 2 * d))
    leaves = [x.requires_grad_() for x in (query, key, value)]
    scheme = PGNN(p=1.5, mu=0.1)
    metric = metric_of(output / (2 * d) ** 0.5)

    def plain() -> None:
        torch.autograd.grad(scaled_dot_product_attention(query, key, value, is_causal=causal), leaves, above)

    def ours() -> None:
        scores = AttentionScores(query, key, value, causal=causal, triangular=causal, metric=metric)
        torch.autograd.grad(
            scheme.aggregate_and_context(scores, "tiled", context=False)[0],
            [*leaves, scheme.p_logit.stored],
            above,
        )

    return {FUSED: plain, TILED: ours}


# ---- heterophily statistics of a layer ---------------------------------------------------------------------

IMAGE_ATTENTION = "the image's self-attention itself"


def statistics(b: int, h: int, n: int, m: int, d: int) -> dict[str, Run]:
    """All statistics of one layer except spectra, nulls and bootstrap included, of ``n`` words and ``m``
    image nodes with two sets of labels; and the layer's own attention, forward."""
    sizes = {"text": n, "image": m}

    def graph(queries: str, values: str) -> AttentionGraph:
        query, key, value = drawn(*((b, h, sizes[side], d) for side in (queries, values, values)))
        causal = queries == values == "text"
        scores = AttentionScores(2 * query, key, value, triangular=causal, causal=causal)
        kind = "self" if queries == values else "cross"
        return replace(scores.graph(), kind=kind, query_modality=queries, value_modality=values)

    def statistics_of(queries: str, values: str) -> Run:
        layer, draw = graph(queries, values), torch.Generator().manual_seed(0)
        labels = {}
        for name, classes, heads in (("class", 6, 1), ("cluster", 8, h)):
            of = [torch.randint(0, classes, (b, heads, sizes[x]), generator=draw) for x in (queries, values)]
            labels[name] = Labels(of[0], of[0] if queries == values else of[1])
        return lambda: Heterophily().add("layer", layer, labels)

    def attention_of(queries: str, values: str) -> Run:
        tensors = drawn(*((b, h, sizes[side], d) for side in (queries, values, values)))
        return lambda: plain_attention(*tensors)

    return {
        IMAGE_ATTENTION: attention_of("image", "image"),
        "statistics of the image's self-attention": statistics_of("image", "image"),
        "cross-attention itself": attention_of("text", "image"),
        "statistics of cross-attention": statistics_of("text", "image"),
        "the text's self-attention itself": attention_of("text", "text"),
        "statistics of the text's self-attention": statistics_of("text", "text"),
    }


# ---- a model that runs SDPA, with and without its graphs ---------------------------------------------------

MODEL, STREAM = "the model alone, SDPA", "with a stream of its graphs, top-k 32"


def stream(n: int, layers: int, heads: int, width: int) -> dict[str, Run]:
    """A forward pass of a text model of ``layers`` layers over ``n`` words."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=50, hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width)
    sizes |= dict(num_attention_heads=heads, max_position_embeddings=n, use_cache=False)
    model = LlamaModel(LlamaConfig(**sizes)).eval()
    inputs = {"input_ids": torch.randint(50, (1, n))}

    def alone() -> None:
        with torch.no_grad():
            model(**inputs)

    return {MODEL: alone, STREAM: lambda: capture(model, inputs, stream=True, top_k=32)}


# ---- a text decoder: p-adapters against vanilla adapters, and against none ---------------------------------

NONE, VANILLA, P_ADAPTERS = "no adapters", "vanilla adapters", "p-adapters"
SCHEMES = {VANILLA: "gcn", P_ADAPTERS: "pgnn"}
GROUPED = ", grouped pictures"


def training(
    b: int, n: int, m: int, layers: int, width: int, heads: int, words: int, pictures: int | None = None
) -> dict[str, Run]:
    """Forward, backward and an AdamW step of a decoder with BLIP's layers and random weights, with ``n`` of
    ``words`` words and ``m`` image tokens; with ``pictures`` also with this number of images, each common to
    ``b / pictures`` examples, whose keys and values are computed once. Without adapters only the position
    embeddings are trained, so that the backward pass goes through all layers.
    """
    text, image = torch.randint(3, words, (b, n), generator=_draw()), *drawn((b, m, width))
    states = {"": image}
    if pictures is not None:
        of_examples = torch.arange(pictures).repeat_interleave(b // pictures)
        states[GROUPED] = states_of_examples(image[:pictures], of_examples)

    def step_of(gnn: str | None, image: Tensor) -> Run:
        adapted = _decoder(gnn, layers, width, heads, words).train()
        for name, module in adapted.named_modules():
            if name.endswith(("crossattention.self.key", "crossattention.self.value")):
                project_once(module)
        optimizer = torch.optim.AdamW(optimizer_groups(adapted, 5e-4, 0.05))

        def step() -> None:
            optimizer.zero_grad()
            adapted(text, encoder_hidden_states=image, labels=text, is_decoder=True).loss.backward()
            optimizer.step()

        return step

    return {NONE: step_of(None, image)} | {
        f"{name}{ending}": step_of(gnn, image)
        for ending, image in states.items()
        for name, gnn in SCHEMES.items()
    }


def generation(
    b: int, n: int, m: int, layers: int, width: int, heads: int, words: int, beams: int
) -> dict[str, Run]:
    """Generation of ``n`` words by a decoder like that of :func:`training`, with a key/value cache."""
    start, image = torch.ones(b, 1, dtype=torch.long), *drawn((b, m, width))

    def writing(gnn: str) -> Run:
        adapted = _decoder(gnn, layers, width, heads, words).eval()
        limits = dict(max_new_tokens=n, min_new_tokens=n, num_beams=beams, do_sample=False)
        return torch.no_grad()(lambda: adapted.generate(start, encoder_hidden_states=image, **limits))

    return {name: writing(gnn) for name, gnn in SCHEMES.items()}


def _decoder(gnn: str | None, layers: int, width: int, heads: int, words: int) -> torch.nn.Module:
    """With adapters of a scheme, which join by ``blend``; the same weights in each call."""
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        is_decoder=True,
        attn_implementation="eager",
        bos_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = BlipTextLMHeadModel(config)
    if gnn is not None:
        return get_peft_model(model, GraphAdapterConfig(gnn=gnn, join="blend"))
    model.requires_grad_(False)
    model.bert.embeddings.position_embeddings.requires_grad_()
    return model


# ---- the same step as others compute it, written from their equations, and attention itself ----------------
#
# All take projected queries ``(b, h, n, d)``, keys and values ``(b, h, m, d)``, a factor L of the metric
# G = L L^T ``(h, d, d)``, the exponent p and the residual r = 2 mu/p, and use column-sum degrees.

NORM_FLOOR = 1e-12


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """``softmax(QKᵀ/√d + mask) V``, step by step as in eager attention."""
    return weights(query, key, mask) @ value


def weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return (scores if mask is None else scores + mask).softmax(-1)


class PLaplacian(MessagePassing):
    """The per-edge computation of PyG layers: features of both nodes are gathered for every edge, the norm of
    their difference is computed, and messages are scattered to the queries.
    """

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
    """The computation of the released p-adapter code: the square matrix of all nodes, and the differences of
    all pairs of nodes, ``(b, h, n+m, n+m, d)``.
    """
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
