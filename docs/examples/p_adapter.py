"""The p-adapter in one file: BLIP's text decoder, p-Laplacian adapters in it, and a toy task to train them.

    python docs/examples/p_adapter.py      # less than a minute on a CPU

It needs only PyTorch. Read it from top to bottom: one step of message passing, the adapter around it, the
decoder that holds the adapters, a task, and the training loop. The package computes the same numbers, for
many models and with less memory (`GraphAdapterConfig(gnn="pgnn")`); tests/docs/test_p_adapter.py compares
the two.

The idea. Attention computes weights M = softmax(Q Kᵀ / √d) and the output U = M V. Read M as a graph: its
nodes are queries and values, and M_ij is the weight of the edge between query i and value j. Then U is a
graph convolution, the average over each query's neighbours, and the vanilla adapter after attention is a
graph network with this convolution. Averaging suits graphs in which neighbours are similar, but a query need
not be similar to the values that it attends to. So the p-adapter re-weights every edge by the distance
between its two nodes, and learns the exponent p:

    d_i      = Σ_j M_ij                                       degree of query i (1, because M is a softmax)
    e_ij     = Σ_{i' ≤ i} M_i'j                               degree of value j, counting the queries up to i
    R_ij     = | q_i / √d_i − v_j / √e_ij |                   distance, after the output projection W_o
    M_bar_ij = M_ij^(p/2) R_ij^(p−2)                          new weight of the edge
    α_i      = 1 / (Σ_j M_bar_ij / d_i + 2μ/p)
    β_i      = α_i 2μ/p
    U_bar_i  = α_i Σ_j M_bar_ij v_j / √(d_i e_ij) + β_i q_i   message, and a fraction of the query itself

The paper's value degrees sum over all queries. In a decoder such a sum would leak later words to query i, so
here it stops at i.

Axes. b: examples, h: heads, n: queries (words of the text), m: values (words, or patches of the image),
d: features of a head, w = h · d: width of the decoder, c: words in the vocabulary.

Source: Wu et al., "p-Laplacian Adaptation for Generative Pre-trained Vision-Language Models", AAAI 2024. The
paper replaces U by U_bar; the learned mixture of both, which starts at U, is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

# ---- the p-adapter --------------------------------------------------------------------------------------


def p_laplacian_step(M: Tensor, q: Tensor, v: Tensor, G: Tensor, p: Tensor, mu: float) -> Tensor:
    """One step of p-Laplacian message passing in a causal graph: U_bar, (b, h, n, d).

    Distances are those after W_o, yet no vector is wider than d: |x W_o|² = x G xᵀ with G = W_o W_oᵀ. One
    matrix product gives the distances of all pairs, since |x − y|² = |x|² + |y|² − 2 x·y.

    Args:
        M: attention weights, (b, h, n, m); 0 where there is no edge.
        q, v: projected queries (b, h, n, d) and values (b, h, m, d), biases included.
        G: (h, d, d), one matrix for each head.
        p: exponent, a tensor without dimensions.
        mu: weight of the query's own features.
    """
    edge = M > 0  # (b, h, n, m)

    def fill(x: Tensor) -> Tensor:  # where there is no edge: any number whose powers are harmless
        return x.masked_fill(x == 0, 1)

    # d_i = Σ_j M_ij,   e_ij = Σ_{i' ≤ i} M_i'j
    d = fill(M.sum(-1, keepdim=True))  # (b, h, n, 1)
    e = fill(M.cumsum(-2))  # (b, h, n, m)

    # R_ij² = |q_i / √d_i − v_j / √e_ij|² = |q_i|² / d_i + |v_j|² / e_ij − 2 q_i·v_j / √(d_i e_ij), after W_o
    q_square = ((q @ G) * q).sum(-1, keepdim=True)  # (b, h, n, 1)
    v_square = ((v @ G) * v).sum(-1)[:, :, None]  # (b, h, 1, m)
    product = q @ G @ v.transpose(-1, -2)  # (b, h, n, m)
    lengths = q_square / d + v_square / e  # (b, h, n, m)
    R_square = lengths - 2 * product / (d * e).sqrt()  # (b, h, n, m)
    # Below its rounding error the difference means nothing, and R^(p−2) would blow up near 0.
    R_square = torch.maximum(R_square, 8 * torch.finfo(M.dtype).eps * lengths)

    # M_bar_ij = M_ij^(p/2) R_ij^(p−2)
    M_bar = edge * fill(M) ** (p / 2) * R_square ** ((p - 2) / 2)  # (b, h, n, m)

    # α_i = 1 / (Σ_j M_bar_ij / d_i + 2μ/p),   β_i = α_i 2μ/p
    alpha = 1 / ((M_bar / d).sum(-1, keepdim=True) + 2 * mu / p)  # (b, h, n, 1)
    beta = alpha * 2 * mu / p  # (b, h, n, 1)

    # U_bar_i = α_i Σ_j M_bar_ij v_j / √(d_i e_ij) + β_i q_i
    return alpha * (M_bar / (d * e).sqrt() @ v) + beta * q  # (b, h, n, d)


class Bottleneck(nn.Module):
    """gelu(x W_down) W_up with biases. W_up starts at 0, so that a new bottleneck adds nothing."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.normal_(self.down.weight, std=width**-0.5)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(gelu(self.down(x)))


class PAdapter(nn.Module):
    """The adapter after the output projection of an attention layer.

    With a learned number g between the attention output U and U_bar,

        H = (U + g (U_bar − U)) W_o + b_o,    output = H + gelu(H W_down) W_up.

    g starts at 0, where the decoder is unchanged. If g stayed there, this would be the vanilla adapter.
    """

    def __init__(self, width: int, hidden: int, p: float, mu: float):
        super().__init__()
        self.bottleneck = Bottleneck(width, hidden)
        self.g = nn.Parameter(torch.tensor(0.0))
        self.p_logit = nn.Parameter(torch.tensor((p - 1) / 2).logit())
        self.mu = mu

    @property
    def p(self) -> Tensor:
        """The exponent, between 1 and 3."""
        return 1 + 2 * self.p_logit.sigmoid()

    def forward(self, U: Tensor, M: Tensor, q: Tensor, v: Tensor, output: nn.Linear) -> Tensor:
        _, h, _, d = q.shape
        W_o = output.weight.T.reshape(h, d, -1)  # (h, d, w)       the rows of W_o that belong to each head
        G = W_o @ W_o.transpose(-1, -2)  # (h, d, d)               frozen, so it could be computed once
        U_bar = p_laplacian_step(M, q, v, G, self.p, self.mu)  # (b, h, n, d)
        H = output(merge(U + self.g * (U_bar - U)))  # (b, n, w)
        return H + self.bottleneck(H)


# ---- BLIP's text decoder --------------------------------------------------------------------------------


@dataclass
class Config:
    """Sizes of a decoder. BLIP-base has 30524, 768, 768, 12, 12, 3072, 512."""

    vocabulary: int
    width: int = 64
    image_width: int = 48
    layers: int = 2
    heads: int = 4
    inner: int = 128
    positions: int = 16


def split(x: Tensor, heads: int) -> Tensor:
    """(b, n, h * d) as (b, h, n, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """(b, h, n, d) as (b, n, h * d)."""
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Attention from the text to itself or to image states, then residual and LayerNorm, as in BERT."""

    def __init__(self, config: Config, states_width: int):
        super().__init__()
        w, self.heads = config.width, config.heads
        self.query, self.output = nn.Linear(w, w), nn.Linear(w, w)
        self.key, self.value = nn.Linear(states_width, w), nn.Linear(states_width, w)
        self.norm = nn.LayerNorm(w, eps=1e-12)
        self.adapter: PAdapter | None = None

    def forward(self, x: Tensor, states: Tensor, visible: Tensor) -> Tensor:
        q = split(self.query(x), self.heads)  # (b, h, n, d)
        k, v = (split(f(states), self.heads) for f in (self.key, self.value))  # (b, h, m, d)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (b, h, n, m)
        scores = scores.masked_fill(~visible, torch.finfo(x.dtype).min)
        M = scores.softmax(-1) * visible  # (b, h, n, m)    padded queries have no edges at all
        U = M @ v  # (b, h, n, d)
        adapter = self.adapter
        u = self.output(merge(U)) if adapter is None else adapter(U, M, q, v, self.output)  # (b, n, w)
        return self.norm(x + u)


class FeedForward(nn.Module):
    """Two linear layers, then residual and LayerNorm. There is no graph here, so its adapter is vanilla."""

    def __init__(self, config: Config):
        super().__init__()
        self.inner = nn.Linear(config.width, config.inner)
        self.output = nn.Linear(config.inner, config.width)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)
        self.adapter: Bottleneck | None = None

    def forward(self, x: Tensor) -> Tensor:
        u = self.output(gelu(self.inner(x)))  # (b, n, w)
        if self.adapter is not None:
            u = u + self.adapter(u)
        return self.norm(x + u)


class Layer(nn.Module):
    """Self-attention, cross-attention to the image, feed-forward block."""

    def __init__(self, config: Config):
        super().__init__()
        self.self_attention = Attention(config, config.width)
        self.cross_attention = Attention(config, config.image_width)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, image: Tensor, sees_text: Tensor, sees_image: Tensor) -> Tensor:
        x = self.self_attention(x, x, sees_text)  # (b, n, w)
        x = self.cross_attention(x, image, sees_image)
        return self.feed_forward(x)


class TextDecoder(nn.Module):
    """Logits of the next word from the words so far and the states of an image. It has no dropout."""

    def __init__(self, config: Config):
        super().__init__()
        w = config.width
        self.words, self.positions = nn.Embedding(config.vocabulary, w), nn.Embedding(config.positions, w)
        self.norm = nn.LayerNorm(w, eps=1e-12)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.head, self.head_norm = nn.Linear(w, w), nn.LayerNorm(w, eps=1e-12)
        self.logits = nn.Linear(w, config.vocabulary)

    def forward(self, ids: Tensor, image: Tensor, valid: Tensor) -> Tensor:
        """Logits (b, n, c) from words (b, n), image states (b, m, image width), and which words are not
        padding, bool (b, n)."""
        n = ids.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=ids.device).tril()  # a word sees those before it
        sees_text = causal & valid[:, None, None, :] & valid[:, None, :, None]  # (b, 1, n, n)
        sees_image = valid[:, None, :, None]  # (b, 1, n, 1)    all patches
        x = self.norm(self.words(ids) + self.positions.weight[:n])  # (b, n, w)
        for layer in self.layers:
            x = layer(x, image, sees_text, sees_image)
        return self.logits(self.head_norm(gelu(self.head(x))))  # (b, n, c)

    def add_adapters(self, reduction: int = 8, p: float = 1.5, mu: float = 0.1) -> None:
        """Freeze the decoder and put an adapter after every attention layer and feed-forward block."""
        self.requires_grad_(False)
        w = self.words.embedding_dim
        for layer in self.layers:
            layer.self_attention.adapter = PAdapter(w, w // reduction, p, mu)
            layer.cross_attention.adapter = PAdapter(w, w // reduction, p, mu)
            layer.feed_forward.adapter = Bottleneck(w, w // reduction)


# ---- a toy task: what colour is a shape, in English and then in French -----------------------------------

SHAPES = "circle square star heart moon cross arrow ring".split()
ENGLISH = "red green blue black white yellow pink grey".split()
FRENCH = "rouge vert bleu noir blanc jaune rose gris".split()
WORDS = ["[pad]", "[start]", "[end]", "?", "what", "colour", "is", "the", *SHAPES, *ENGLISH, *FRENCH]
ID = {word: k for k, word in enumerate(WORDS)}


class Task:
    """Questions about images, long (`what colour is the star ?`) or short (`star ?`).

    An image has one patch for each shape, in random order. In place of an image encoder's output, the state
    of a patch is the sum of a vector for its shape, a vector for its colour, and noise.
    """

    def __init__(self, image_width: int):
        self.shape_vectors = torch.randn(len(SHAPES), image_width)
        self.colour_vectors = torch.randn(len(ENGLISH), image_width)

    def batch(self, size: int, language: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Image states (b, m, image width), words (b, n), and labels (b, n): at each word the next one if
        that belongs to the answer, otherwise -100."""
        shape = torch.rand(size, len(SHAPES)).argsort(-1)  # (b, m)
        colour = torch.randint(len(ENGLISH), shape.shape)  # (b, m)
        image = self.shape_vectors[shape] + self.colour_vectors[colour]  # (b, m, image width)
        image = image + 0.3 * torch.randn(image.shape)
        texts = []
        for k in range(size):
            question = f"{SHAPES[shape[k, 0]]} ?"  # the order is random, so the first patch is any shape
            if k % 2:
                question = f"what colour is the {question}"
            texts.append(f"[start] {question} {language[colour[k, 0]]} [end]".split())
        n = max(len(text) for text in texts)
        ids = torch.tensor([[ID[word] for word in text + ["[pad]"] * (n - len(text))] for text in texts])
        labels = torch.full_like(ids, -100)
        for k, text in enumerate(texts):  # `?` predicts the colour, and the colour predicts [end]
            labels[k, len(text) - 3 : len(text) - 1] = ids[k, len(text) - 2 : len(text)]
        return image, ids, labels


# ---- training -------------------------------------------------------------------------------------------


def make_optimizer(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, and with ten times the learning rate for single numbers.

    Decay would pull p to 2 and g to 0. And AdamW moves every parameter by about the learning rate per step,
    which is enough for the entries of a matrix, but too little for a number that has to get from 0 to 1.
    """
    trained = [x for x in model.parameters() if x.requires_grad]
    groups = [
        {"params": [x for x in trained if x.dim() == 2], "lr": learning_rate, "weight_decay": 0.05},
        {"params": [x for x in trained if x.dim() == 1], "lr": learning_rate, "weight_decay": 0.0},
        {"params": [x for x in trained if x.dim() == 0], "lr": 10 * learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups)


def train(model: TextDecoder, task: Task, language: list[str], steps: int, learning_rate: float) -> None:
    """Train all parameters that require gradients. The learning rate falls linearly to 0."""
    optimizer = make_optimizer(model, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(1, steps + 1):
        image, ids, labels = task.batch(64, language)
        logits = model(ids, image, ids != ID["[pad]"])  # (b, n, c)
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step == 1 or step % 50 == 0:
            print(f"  step {step:3d}   loss {loss.item():.3f}")


@torch.no_grad()
def accuracy(model: TextDecoder, task: Task, language: list[str]) -> float:
    """Fraction of 1,000 new questions with the right answer, [end] included."""
    image, ids, labels = task.batch(1000, language)
    words = model(ids, image, ids != ID["[pad]"]).argmax(-1)  # (b, n)
    return ((words == labels) | (labels == -100)).all(-1).double().mean().item()


def main() -> None:
    """Pre-train a decoder, then freeze it and train adapters in it."""
    torch.manual_seed(0)
    config = Config(vocabulary=len(WORDS))
    model, task = TextDecoder(config), Task(config.image_width)

    print("The whole decoder learns to answer in English:")
    train(model, task, ENGLISH, steps=200, learning_rate=2e-3)
    print(f"  accuracy in English {accuracy(model, task, ENGLISH):.1%}")

    model.add_adapters()
    learn = sum(x.numel() for x in model.parameters() if x.requires_grad)
    frozen = sum(x.numel() for x in model.parameters()) - learn
    print(f"Adapters learn to answer in French: {learn:,} trained parameters, {frozen:,} frozen")
    print(f"  accuracy in French {accuracy(model, task, FRENCH):.1%}")
    train(model, task, FRENCH, steps=250, learning_rate=5e-3)
    print(f"  accuracy in French {accuracy(model, task, FRENCH):.1%}")
    for k, layer in enumerate(model.layers):
        for name in ("self_attention", "cross_attention"):
            adapter = getattr(layer, name).adapter
            p, g = adapter.p.item(), adapter.g.item()
            print(f"  layer {k}, {name:15}   p {p:.2f} (from 1.50)   g {g:+.2f} (from 0)")


if __name__ == "__main__":
    main()
