r"""Detectors of wrong answers: from a model's attention graphs to a score of each answer.

A model answers synthetic questions or statements; then it reads prompt and answer again, and the graphs of
its decoder are captured: self- and cross-attention of all layers and heads. Detectors are fitted on one part
of the images, their hyperparameters are chosen on a second, and answers of a third are scored: on the real
graphs, and on :func:`permuted` ones. ``docs/detect.md`` is the protocol;
:mod:`attngraph.experiments.studies.detect_report` compares the scores.

Axes: b examples, c channels (layers × heads), n queries, m values of cross-attention, f features, N examples
in all.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch_geometric.nn import GINEConv, HeteroConv

from attngraph import AttentionGraph, record
from attngraph.errors import UserError
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.data.example import Example
from attngraph.experiments.models.batch import IGNORED, Sample, token_losses
from attngraph.experiments.models.family import Answering, ModelFamily
from attngraph.experiments.tasks.task import SPLITS, Task

BATCH = 100  # examples in a forward pass, and graphs in a step of the GNN
EIGENVALUES = 8  # of each layer and head
COMPONENTS = 64  # of PCA
PENALTIES = (0.001, 0.01, 0.1, 1.0)  # C of logistic regression: the inverse strength
LEAST = 0.1  # weight of an edge of the GNN, in the channel where it is largest
WIDTH, LAYERS, EPOCHS, RATE = 16, 2, 60, 1e-2  # of the GNN
DIGITS = 6  # of scores
PROBABILITY, KIND = "probability", "kind"  # detectors without a graph
DETECTORS = ("heuristics", "spectrum", "gnn")
PERMUTED, ADDED = " permuted", " with probability"  # end the names of what is scored of a detector


# ---- graphs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Graphs:
    """The attention graphs of a decoder on some examples, all layers and heads as channels.

    Args:
        own: causal self-attention, ``(b, c, n, n)``, 0 beyond an example's queries.
        cross: cross-attention, ``(b, c, n, m)``.
        queries: number of queries of each example, ``(b,)``.
        begins: the first query that predicts a token of the answer, ``(b,)``; the others follow it.
        seen: whether values exist (are not padding), bool ``(b, m)``.
    """

    own: Tensor
    cross: Tensor
    queries: Tensor
    begins: Tensor
    seen: Tensor

    @property
    def rows(self) -> Tensor:
        """Whether queries exist (are not padding), bool ``(b, n)``."""
        return torch.arange(self.own.shape[2]) < self.queries[:, None]

    def example(self, number: int) -> Graphs:
        """The graphs of one example, without padding."""
        n, seen = int(self.queries[number]), self.seen[number]
        one = slice(number, number + 1)
        return Graphs(
            self.own[one, :, :n, :n],
            self.cross[one, :, :n][..., seen],
            self.queries[one],
            self.begins[one],
            self.seen[one][:, seen],
        )


@torch.no_grad()
def answer(
    family: ModelFamily, samples: Sequence[Sample], way: Answering
) -> tuple[list[str], Tensor, Graphs]:
    """A model's answers, their log-probabilities ``(b,)`` (including the end token, in nats), and its graphs
    while it reads prompt and answer; the end token is not a node, since it is not read during generation.
    """
    answers = family.answer(samples, way)
    inputs = family.training_inputs([replace(one, answer=text) for one, text in zip(samples, answers)])
    inputs = family.to_device(inputs)
    labels = inputs.pop("labels")
    kept: list[AttentionGraph] = []

    def keep(name: str, graph: AttentionGraph) -> None:
        if graph.causal:
            kept.append(graph)

    with record(family.model, [f"{side}*" for side in family.language_side()], on_graph=keep):
        logits = family.logits(inputs)
    own, cross = ([one.weight for one in kept if one.kind == kind] for kind in ("self", "cross"))
    if not own or not cross:
        raise UserError(f"{family.title}: no text decoder with self- and cross-attention: use another model")
    likelihood = -token_losses(logits, labels).sum(1)
    targets = (labels != IGNORED).int()
    begins = targets.argmax(1) - 1
    queries = begins + targets.sum(1)
    mask = next(one.value_mask for one in kept if one.kind == "cross")
    seen = torch.ones(len(samples), cross[0].shape[3], dtype=torch.bool)
    seen = seen if mask is None else mask if mask.dim() == 2 else mask.any(1)
    n = int(queries.max())
    rows = (torch.arange(n) < queries[:, None])[:, None, :, None]
    self_attention = torch.cat(own, 1)[:, :, :n, :n] * rows
    cross_attention = torch.cat(cross, 1)[:, :, :n] * rows
    return answers, likelihood, Graphs(self_attention, cross_attention, queries, begins, seen)


def permuted(graphs: Graphs, names: Sequence[str], seed: int) -> Graphs:
    r"""The null: in each row, weights are assigned to other visible nodes at random.

    .. math:: M'_{i \pi_i(j)} = M_{ij}

    with one permutation :math:`\pi_i` for all channels, of the nodes :math:`j \le i` in self-attention and of
    all values in cross-attention. It depends only on the seed and the example's name. A row's weights, and
    therefore its sum and entropy, are unchanged; the nodes that edges lead to are not.

    Args:
        graphs: graphs of some examples.
        names: names of the examples.
        seed: seed of the permutations.
    """
    b, _, n, m = graphs.cross.shape
    keys = torch.zeros(b, n, n + m, dtype=torch.float64)
    for k, (name, count) in enumerate(zip(names, graphs.queries.tolist(), strict=True)):
        values = int(graphs.seen[k].sum())
        drawn = np.random.default_rng([seed, zlib.crc32(name.encode())]).random((count, count + values))
        keys[k, :count, :count] = torch.from_numpy(drawn[:, :count])
        keys[k, :count, n:][:, graphs.seen[k]] = torch.from_numpy(drawn[:, count:])
    rows = graphs.rows[:, :, None]
    earlier = torch.ones(n, n, dtype=torch.bool).tril() & rows
    own = _moved(graphs.own, keys[..., :n], earlier)
    cross = _moved(graphs.cross, keys[..., n:], rows & graphs.seen[:, None])
    return replace(graphs, own=own, cross=cross)


def _moved(weight: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
    """Weights ``(b, c, n, m)``, with the visible ones ``(b, n, m)`` in the order of their keys."""
    hidden = (~visible).int()
    source = (keys + 2 * hidden).argsort(-1)
    target = hidden.argsort(dim=-1, stable=True)
    source, target = (places[:, None].expand_as(weight) for places in (source, target))
    return torch.zeros_like(weight).scatter(-1, target, weight.gather(-1, source))


# ---- features ----------------------------------------------------------------------------------------------


def heuristics(graphs: Graphs) -> Tensor:
    r"""Simple statistics of each channel, ``(b, 15 c)``.

    For each query: entropy :math:`-\sum_j M_{ij} \ln M_{ij}` in nats, largest weight, weight on the first
    node (the start token; the image encoder's first output), and in self-attention :math:`A_{ii}`; as means
    over all queries, and over those that predict the answer. In addition, the log-determinant of
    self-attention, which is triangular, per token:

    .. math:: \frac1n \ln \det A = \frac1n \sum_i \ln A_{ii}

    Sriramanan et al., LLM-Check: Investigating Detection of Hallucinations in Large Language Models, 2024.
    """
    rows = graphs.rows
    answering = rows & (torch.arange(rows.shape[1]) >= graphs.begins[:, None])
    diagonal = graphs.own.diagonal(dim1=-2, dim2=-1)
    parts = [diagonal]
    for weight in (graphs.own, graphs.cross):
        parts += [torch.special.entr(weight).sum(-1), weight.amax(-1), weight[..., 0]]
    found = [_mean(part, chosen) for part in parts for chosen in (rows, answering)]
    tiny = torch.finfo(diagonal.dtype).tiny
    return torch.cat([*found, _mean(diagonal.clamp(min=tiny).log(), rows)], dim=1)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Means of values ``(b, c, n)`` over chosen queries ``(b, n)``: ``(b, c)``."""
    chosen = chosen[:, None].to(values.dtype)
    return (values * chosen).sum(-1) / chosen.sum(-1)


def spectrum(graphs: Graphs) -> Tensor:
    """:data:`EIGENVALUES` eigenvalues of self-attention and singular values of cross-attention of each
    channel in descending order, padded with 0: ``(b, 2 c EIGENVALUES)``."""
    parts = (laplacian_eigenvalues(graphs, EIGENVALUES), singular_values(graphs, EIGENVALUES))
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def laplacian_eigenvalues(graphs: Graphs, count: int) -> Tensor:
    r"""The largest eigenvalues of each channel's Laplacian of self-attention, ``(b, c, count)``.

    .. math:: L = D - A, \qquad D_{jj} = \frac{1}{n - j} \sum_{i \ge j} A_{ij},

    with j counted from 0: the mean weight of node j over later queries and the node itself. A is lower
    triangular, so the eigenvalues are the diagonal.

    Binkowski et al., Hallucination Detection in LLMs Using Spectral Features of Attention Maps, 2025.
    """
    own, n = graphs.own.double(), graphs.own.shape[2]
    later = (graphs.queries[:, None] - torch.arange(n)).clamp(min=1)[:, None]
    values = own.sum(2) / later - own.diagonal(dim1=-2, dim2=-1)
    values = values.masked_fill(~graphs.rows[:, None], -torch.inf).sort(-1, descending=True).values
    values = values.masked_fill(values.isneginf(), 0)
    return nn.functional.pad(values, (0, max(0, count - n)))[..., :count]


def singular_values(graphs: Graphs, count: int) -> Tensor:
    r"""The largest singular values but the first of each channel's cross-attention, ``(b, c, count)``, after
    normalisation by query and value degrees,

    .. math:: S_{ij} = M_{ij} / \sqrt{d_i e_j}.

    :math:`1 \pm \sigma` are eigenvalues of the normalised Laplacian of the bipartite graph. The first is 1
    for any M. Because of rounding, singular values of 0 may be up to about 1e-8.
    """
    weight = graphs.cross.double()
    degrees = [weight.sum(axis, keepdim=True) for axis in (3, 2)]
    for degree in degrees:
        weight = weight * torch.where(degree > 0, degree, 1).rsqrt()
    values = torch.linalg.eigvalsh(weight @ weight.mT).clamp(min=0).sqrt().flip(-1)[..., 1:]
    return nn.functional.pad(values, (0, max(0, count - values.shape[-1])))[..., :count]


@dataclass(frozen=True, eq=False)
class Edges:
    """The graphs of some examples as input of the GNN, in the order of the examples.

    Args:
        own, cross: edges ``(E, 3)``: example, query, value.
        own_weight, cross_weight: their weights in each channel, ``(E, c)``.
        queries, begins: as in :class:`Graphs`, ``(N,)``.
        values: maximum number of value nodes of cross-attention in an example.
    """

    own: Tensor
    own_weight: Tensor
    cross: Tensor
    cross_weight: Tensor
    queries: Tensor
    begins: Tensor
    values: int

    @staticmethod
    def of(graphs: Graphs, least: float = LEAST) -> Edges:
        """The edges with a weight of at least ``least`` in some channel."""
        parts = []
        for weight in (graphs.own, graphs.cross):
            places = (weight.amax(1) >= least).nonzero()
            example, query, value = places.unbind(1)
            parts += [places, weight[example, :, query, value]]
        return Edges(*parts, graphs.queries, graphs.begins, graphs.cross.shape[3])

    @staticmethod
    def joined(parts: Sequence[Edges]) -> Edges:
        """The examples of all parts, one after the other."""
        moved, before = [], 0
        for part in parts:
            shift = torch.tensor([before, 0, 0])
            moved.append(replace(part, own=part.own + shift, cross=part.cross + shift))
            before += len(part.queries)
        names = [one.name for one in fields(Edges) if one.name != "values"]
        tensors = {name: torch.cat([getattr(part, name) for part in moved]) for name in names}
        return Edges(**tensors, values=max(part.values for part in parts))

    def batches(self, size: int = BATCH) -> list[Edges]:
        """Parts with ``size`` examples each."""
        found = []
        for start in range(0, len(self.queries), size):
            tensors = {}
            for name in ("own", "cross"):
                edges = getattr(self, name)
                example = edges[:, 0].contiguous()
                low, high = torch.searchsorted(example, torch.tensor([start, start + size])).tolist()
                tensors[name] = edges[low:high] - torch.tensor([start, 0, 0])
                tensors[f"{name}_weight"] = getattr(self, f"{name}_weight")[low:high]
            examples = slice(start, start + size)
            found.append(
                replace(self, **tensors, queries=self.queries[examples], begins=self.begins[examples])
            )
        return found


# ---- detectors ---------------------------------------------------------------------------------------------


class GraphNetwork(nn.Module):
    r"""A score of each graph: message passing in which an edge's weights in all channels are its features.

    .. math:: h_i' = \mathrm{ReLU} \sum_r f_r\Big((1 + \epsilon_r) h_i + \sum_{j \in N_r(i)}
              \mathrm{ReLU}(h_j + W_r a_{ij})\Big)

    over the relations r: from tokens to the queries that attend to them, from image features to queries, and
    back; f has one hidden layer. The only node features are roles: start token, prompt, answer, image. The
    score is linear in the mean over an example's tokens.

    GINE: Hu et al., Strategies for Pre-training Graph Neural Networks, 2020. Detection by message passing on
    attention graphs: Frasca et al., Neural Message-Passing on Attention Graphs for Hallucination Detection
    (CHARM), 2025.

    Args:
        channels: layers × heads.
    """

    RELATIONS = (("text", "to", "text"), ("image", "to", "text"), ("text", "to", "image"))

    def __init__(self, channels: int):
        super().__init__()
        self.role = nn.Embedding(4, WIDTH)
        self.layers = nn.ModuleList(
            HeteroConv({relation: _gine(channels) for relation in self.RELATIONS}) for _ in range(LAYERS)
        )
        self.readout = nn.Linear(WIDTH, 1)

    def forward(self, edges: Edges) -> Tensor:
        """Scores ``(b,)``, above 0 if the answer is likely to be right."""
        b, n, m = len(edges.queries), int(edges.queries.max()), edges.values
        place = torch.arange(n)
        role = (place > 0).int() + (place > edges.begins[:, None]).int()  # an answer's tokens follow `begins`
        nodes = {"text": self.role(role).flatten(0, 1), "image": self.role.weight[3].expand(b * m, -1)}
        example, query, value = edges.own.unbind(1)
        own = torch.stack([example * n + value, example * n + query])
        example, query, value = edges.cross.unbind(1)
        cross = torch.stack([example * m + value, example * n + query])
        index = dict(zip(self.RELATIONS, (own, cross, cross.flip(0))))
        weight = dict(zip(self.RELATIONS, (edges.own_weight, edges.cross_weight, edges.cross_weight)))
        for layer in self.layers:
            nodes = {name: x.relu() for name, x in layer(nodes, index, weight).items()}
        there = (place < edges.queries[:, None])[..., None].float()
        return self.readout((nodes["text"].view(b, n, -1) * there).sum(1) / there.sum(1))[:, 0]


def _gine(channels: int) -> GINEConv:
    hidden = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    return GINEConv(hidden, train_eps=True, edge_dim=channels)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Scores of a detector for the answers of two parts, higher for right ones.

    Args:
        validation, test: scores ``(N,)``.
        chosen: hyperparameters.
    """

    validation: np.ndarray
    test: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)


def fit_network(edges: Mapping[str, Edges], right: Mapping[str, np.ndarray], seed: int) -> Fitted:
    """Train the GNN on the first part, and keep the epoch with the highest AUROC on the second.

    Args:
        edges: edges of each part of ``SPLITS``.
        right: whether answers are right.
        seed: seed of the weights and of the order of the batches.
    """
    parts = {part: edges[part].batches() for part in SPLITS}
    targets = torch.from_numpy(right["train"]).float().split(BATCH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GraphNetwork(edges["train"].own_weight.shape[1])
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        best = -1.0
        for epoch in range(1, EPOCHS + 1):
            for k in torch.randperm(len(targets)).tolist():
                optimizer.zero_grad()
                binary_cross_entropy_with_logits(network(parts["train"][k]), targets[k]).backward()
                optimizer.step()
            with torch.no_grad():
                scores = {
                    part: torch.cat([network(batch) for batch in parts[part]]).double().numpy()
                    for part in SPLITS[1:]
                }
            area = roc_auc_score(right["validation"], scores["validation"])
            if area > best:
                best, found = area, Fitted(**scores, chosen={"epoch": epoch})
    return found


def fit_logistic(
    features: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], components: int | None = None
) -> Fitted:
    """Fit logistic regression on the first part, with the penalty that has the highest AUROC on the second.

    Args:
        features: features of each part of ``SPLITS``, ``(N, f)``; standardised here.
        right: whether answers are right.
        components: number of components of a preceding PCA; None for no PCA.
    """
    steps: list[Any] = [StandardScaler()]
    if components is not None:
        steps.append(PCA(min(components, *features["train"].shape), svd_solver="full"))
    prepare = make_pipeline(*steps).fit(features["train"])
    ready = {part: prepare.transform(features[part]) for part in SPLITS}
    best = -1.0
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=2000).fit(ready["train"], right["train"])
        scores = {part: model.decision_function(ready[part]) for part in SPLITS[1:]}
        area = roc_auc_score(right["validation"], scores["validation"])
        if area > best:
            best, found = area, Fitted(**scores, chosen={"C": penalty})
    return found


def combined(
    fitted: Fitted, probability: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Scores of the third part by logistic regression on a detector's score and the log-probability, fitted
    on the second part, since the detector was fitted on the first.
    """
    validation, test = (
        np.stack([getattr(fitted, part), probability[part]], axis=1) for part in ("validation", "test")
    )
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(validation, right["validation"])
    return model.decision_function(test)


# ---- one model and task ------------------------------------------------------------------------------------


@dataclass(eq=False)
class View:
    """Input of the detectors for one kind of graphs, real or permuted: ``heuristics`` and ``spectrum``, ``(N,
    f)``, and edges.
    """

    heuristics: Any = field(default_factory=list)
    spectrum: Any = field(default_factory=list)
    edges: Any = field(default_factory=list)

    def add(self, graphs: Graphs) -> None:
        """Add some examples."""
        self.heuristics.append(heuristics(graphs).numpy())
        self.spectrum.append(spectrum(graphs).numpy())
        self.edges.append(Edges.of(graphs))

    def close(self) -> None:
        """Concatenate the parts; nothing can be added afterwards."""
        self.heuristics, self.spectrum = np.concatenate(self.heuristics), np.concatenate(self.spectrum)
        self.edges = Edges.joined(self.edges)


@dataclass(eq=False)
class Part:
    """A model's answers to one part of a task's examples.

    Args:
        examples: the examples.
        right: whether the answer is right, ``(N,)``.
        probability: log-probabilities of the answers, ``(N,)``.
        views: real graphs with key None, those of each seed's permutations with the seed as key.
    """

    examples: Sequence[Example]
    right: np.ndarray
    probability: np.ndarray
    views: dict[int | None, View]


def look(
    family: ModelFamily, task: Task, data: Path, seeds: Sequence[int], doing: str | None = None
) -> dict[str, Part]:
    """Let a model answer all examples of a task, and capture its graphs.

    Args:
        family: the model.
        task: the task.
        data: folder of synthetic scenes.
        seeds: seeds of permutations.
        doing: text of a progress bar; None for no bar.

    Raises:
        UserError: all answers of a part are right, or all are wrong.
    """
    way, parts = task.way_of_type(task.answering(data), family.model.config.model_type), {}
    examples = {part: task.examples(data, part) for part in SPLITS}
    family.check([task.sample(one, family.name) for one in examples["test"][:1]])
    bar = Progress(total=sum(map(len, examples.values())), desc=doing, leave=False, disable=doing is None)
    with bar:
        for part in SPLITS:
            views: dict[int | None, View] = {view: View() for view in (None, *seeds)}
            answers, likelihoods = {}, []
            for samples in _batches(family, task, examples[part]):
                names = [one.name for one in samples]
                texts, likelihood, graphs = answer(family, samples, way)
                answers |= zip(names, texts)
                likelihoods.append(likelihood.double().numpy())
                for seed, view in views.items():
                    view.add(graphs if seed is None else permuted(graphs, names, seed))
                bar.update(len(samples))
            for view in views.values():
                view.close()
            scored = task.score(answers, examples[part]).statistics[task.selects]
            right = scored[:, 0] >= 0.5
            if right.all() or not right.any():
                kind = "right" if right.all() else "wrong"
                raise UserError(
                    f"{task.name}: all {len(right)} answers of the {part} part are {kind}, so there is "
                    "nothing to detect: use more --examples, or omit this task or model"
                )
            parts[part] = Part(examples[part], right, np.concatenate(likelihoods), views)
    return parts


def _batches(family: ModelFamily, task: Task, examples: Sequence[Example]) -> Iterator[list[Sample]]:
    """Samples, with image features if the model supports them."""
    for start in range(0, len(examples), BATCH):
        samples = [task.sample(one, family.name) for one in examples[start : start + BATCH]]
        if family.caches_features:
            images = list(dict.fromkeys(one.image for one in samples))
            states = dict(zip(images, family.encode_images(images)))
            samples = [replace(one, image=states[one.image]) for one in samples]
        yield samples


def detect(parts: Mapping[str, Part], seed: int) -> dict[str, Any]:
    """Fit all detectors on one seed's permutations and on the real graphs, and score the test part.

    Returns:
        ``answers``: number in each part; ``accuracy`` of those in the test part; ``chosen`` hyperparameters;
        and ``test``: ``id``, ``image``, ``kind`` and ``right`` of its examples, and their ``scores``
        ``{detector: list}``, higher for answers that are more likely to be right.
    """
    right = {name: part.right for name, part in parts.items()}
    probability = {name: part.probability for name, part in parts.items()}
    kinds = {name: np.array([[one.kind] for one in part.examples]) for name, part in parts.items()}
    code = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit(kinds["train"])
    found = {KIND: fit_logistic({name: code.transform(kind) for name, kind in kinds.items()}, right)}
    scores = {PROBABILITY: probability["test"], KIND: found[KIND].test}
    for name, fit in _fits(seed).items():
        for view, ending in ((None, ""), (seed, PERMUTED)):
            seen = {part: getattr(parts[part].views[view], _WHAT.get(name, name)) for part in SPLITS}
            fitted = found[name + ending] = fit(seen, right)
            scores[name + ending] = fitted.test
            if not ending:
                scores[name + ADDED] = combined(fitted, probability, right)
    test = parts["test"]
    return {
        "answers": {name: len(part.examples) for name, part in parts.items()},
        "accuracy": float(test.right.mean()),
        "chosen": {name: fitted.chosen for name, fitted in found.items()},
        "test": {
            "id": [one.id for one in test.examples],
            "image": [one.image.name for one in test.examples],
            "kind": [one.kind for one in test.examples],
            "right": test.right.astype(int).tolist(),
            "scores": {name: [float(f"{score:.{DIGITS}g}") for score in one] for name, one in scores.items()},
        },
    }


_WHAT = {"gnn": "edges"}  # detector -> what it sees of a view, where that is not its name


def _fits(seed: int) -> dict[str, Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Fitted]]:
    """The detectors of :data:`DETECTORS`, each as a function that fits it."""
    return {
        "heuristics": fit_logistic,
        "spectrum": lambda seen, right: fit_logistic(seen, right, COMPONENTS),
        "gnn": lambda seen, right: fit_network(seen, right, seed),
    }
