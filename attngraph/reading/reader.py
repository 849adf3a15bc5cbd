"""Reading the attention layers of a model as graphs, while it runs.

>>> graphs = capture(model, **tokenizer("the cat sat on the mat", return_tensors="pt"))
>>> graphs["encoder.layer.0.attention.self"]
AttentionGraph(batch=1, heads=12, queries=9, values=9, features=64, bidirectional, self, text to text)
>>> with record(model, layers="*cross*", top_k=8) as graphs:
...     model.generate(**inputs)
"""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from inspect import signature
from itertools import count
from operator import index
from threading import get_ident
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from attngraph.errors import UserError
from attngraph.graph import AttentionGraph
from attngraph.names import did_you_mean
from attngraph.reading.calls import Call
from attngraph.reading.instrument import Site, instrument, unread_attention, why_unread, wildcards
from attngraph.reading.modality import Modalities
from attngraph.sparsify import keep
from attngraph.streaming import heaviest

Layers = str | Iterable[str] | None
OnGraph = Callable[[str, AttentionGraph], None]
Item = TypeVar("Item")
logger = logging.getLogger(__name__)


def capture(
    model: nn.Module,
    inputs: Mapping | Tensor | None = None,
    *,
    layers: Layers = None,
    heads: int | Iterable[int] | None = None,
    top_k: int | None = None,
    threshold: float | None = None,
    mass: float | None = None,
    detach: bool = True,
    stream: bool = False,
    **keywords: Any,
) -> dict[str, AttentionGraph]:
    """One graph per attention layer of a model, from one forward pass.

    The model's mode (training or evaluation) does not change; weights are those before dropout. The model
    runs its eager attention, even if it is set to another implementation such as SDPA, and is restored
    afterwards. The model's inputs are keyword arguments or a mapping:

    >>> capture(model, input_ids=ids, attention_mask=mask, layers="*.0.*")
    >>> capture(model, {"input_ids": ids, "attention_mask": mask}, layers="*.0.*")  # the same

    Args:
        model: any transformers model, or a part of one.
        inputs: all keyword arguments of the model in a mapping, as returned by a tokenizer or processor, or
            the model's first argument.
        layers: names of layers or patterns (``"*cross*"``), one or several. Default: all.
        heads: which heads, one or several. Default: all.
        top_k, threshold, mass: keep only the strongest edges, see :func:`attngraph.sparsify.keep`. The graphs
            then hold nothing else in memory.
        detach: detach the graphs from the computation. With False, and gradients enabled, gradients flow back
            through them; not together with a rule for edges. The model itself continues with the weights
            before a graph masks them, so for the derivative of its output with respect to M see
            ``attngraph.analysis.relevance.capture_with_gradients``.
        stream: never hold, nor let the model compute, all weights of a layer. A model that is set to SDPA
            runs SDPA, and its output is bitwise unchanged; the graphs are computed from its queries and keys,
            strip by strip (:mod:`attngraph.streaming`). ``graph.totals`` has degrees and entropies of all
            edges. With ``top_k`` the graphs keep these edges; without it they keep none, and compute weights
            whenever they are read. The model's mask is kept as ``value_mask``; causal layers without a mask
            have no ``value_mask``. Layers that compute their weights outside transformers'
            ``AttentionInterface`` are read from these: without ``top_k`` their graphs hold all weights, and
            have no totals. Not together with ``threshold``, ``mass`` or ``detach=False``.
        keywords: keyword arguments of the model. An argument with the name of an option above can be passed
            in a mapping only.

    Returns:
        ``{module name: graph}`` in the order of the calls. A module that attends several times in one pass
        (LXMERT's cross-attention, in both directions; Qwen2-VL's vision tower, once per image; ALBERT's
        shared layer) has further graphs named ``"name#2"``, ``"name#3"``... A layer whose output
        projection was not found has no metric; if a model has a gate or a norm between attention and its
        output projection, the metric is that of the latter alone. Query features are those before rotary
        embedding; if these could not be read, the graph is ``rotated``.

    Raises:
        UserError: no inputs, a mapping together with keyword arguments, or a misspelled option; an unknown
            layer or head; a layer that ran without being seen, or no layer that ran; query and value features
            of different widths; weights with NaN or Inf, or that are not a distribution.
    """
    positional, named = _inputs(model, inputs, keywords)
    graphs: PerCall[AttentionGraph] = PerCall()
    with record(model, layers, heads, top_k, threshold, mass, detach, graphs.add, stream):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            model(*positional, **named)
    return graphs.items


class PerCall(Generic[Item]):
    """Items by layer and call: ``name`` for the first call of a module, then ``name#2``, ``name#3``..."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self._calls: Counter[str] = Counter()

    def add(self, name: str, item: Item) -> None:
        self._calls[name] += 1
        self.items[name if self._calls[name] == 1 else f"{name}#{self._calls[name]}"] = item


@contextmanager
def record(
    model: nn.Module,
    layers: Layers = None,
    heads: int | Iterable[int] | None = None,
    top_k: int | None = None,
    threshold: float | None = None,
    mass: float | None = None,
    detach: bool = True,
    on_graph: OnGraph | None = None,
    stream: bool = False,
) -> Iterator[dict[str, list[AttentionGraph]]]:
    """Collect the graphs of every call while a model runs: several forward passes, or ``generate``.

    In cached decoding each step's graph has that step's queries, all values so far, and in ``past_degree``
    what earlier queries left on them, so that its degrees are the rows of the whole text's graph. Recording
    must begin with an empty cache, and sparse graphs get what sparse graphs left.

    Args:
        on_graph: called with name and graph in place of collecting them, so that memory stays bounded.
        stream: as in :func:`capture`.

    Yields:
        ``{module name: [graph of the first call, of the second, ...]}``

    Raises:
        UserError: as :func:`capture`; for layers that were not seen, at the end of the with block; in a
            thread that runs the model while another does.
    """
    rules: dict[str, Any] = {"top_k": top_k, "threshold": threshold, "mass": mass}
    if all(rule is None for rule in rules.values()):
        rules = {}
    else:
        keep(torch.ones(1, 1), **rules)  # raises errors before the model runs
        if not detach:
            raise UserError(
                "sparse graphs keep no gradients: remove detach=False, or sparsify them afterwards"
            )
    if stream and (threshold is not None or mass is not None or not detach):
        raise UserError(
            "a stream of edges has no gradients, and keeps the heaviest edges of each query only: remove "
            "threshold, mass and detach=False, or read the model without stream"
        )
    if not detach:
        check_gradients(model)
    reader = _Reader(model, layers, _head_numbers(heads), rules, detach, on_graph, stream)
    try:
        yield reader.graphs
    finally:
        reader.remove()
    reader.check()


class _Reader:
    """Listens to the chosen layers, and notes which others ran."""

    _numbers = count()

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        heads: list[int] | None,
        rules: dict[str, Any],
        detach: bool,
        on_graph: OnGraph | None,
        stream: bool,
    ):
        self.heads, self.rules, self.detach, self.on_graph = heads, rules, detach, on_graph
        self.stream = stream
        self.graphs: dict[str, list[AttentionGraph]] = {}
        self.owner = f"record {next(self._numbers)}"
        self.ran: dict[str, nn.Module] = {}
        self.seen: set[str] = set()
        self.handle = instrument(model, fused=stream)
        self.modalities = Modalities(model)
        self._running: dict[str, int] = {}
        self._undo: list[Callable[[], None]] = [
            self.modalities.remove,
            self.handle.remove,
            model.register_forward_pre_hook(self._enter).remove,
            model.register_forward_hook(self._leave, always_call=True).remove,
        ]
        sites = self.handle.sites
        others = unread_attention(model, (site.module for site in sites.values()))
        try:
            chosen = _choose(layers, [*sites, *others])
        except UserError:
            self.remove()
            raise
        self.chosen = chosen
        for name in chosen:
            module = sites[name].module if name in sites else others[name]
            self._undo.append(module.register_forward_pre_hook(partial(self._note, name)).remove)
            if name in sites:
                self.graphs[name] = []
                listener = partial(self._listen, sites[name])
                sites[name].listeners.append(listener)
                self._undo.append(partial(sites[name].listeners.remove, listener))

    def remove(self) -> None:
        """Stop listening, and put the model back as it was."""
        for undo in reversed(self._undo):
            undo()

    def check(self) -> None:
        """Make sure that nothing was missed.

        Raises:
            UserError: a layer ran unseen, or none ran.
        """
        missing = {name: module for name, module in self.ran.items() if name not in self.seen}
        if missing:
            seen = [name for name in self.graphs if name in self.seen]
            unread = [name for name in self.chosen if name not in self.graphs or name in missing]
            patterns = wildcards(seen, unread)
            choice = "layers=..."
            if patterns:
                choice = f"layers={patterns} (--layers {shlex.join(patterns)} on the command line)"
            raise UserError(
                f"no attention was seen in {why_unread(missing)}; choose the layers that can be read, "
                f"{choice}, or add a file for the family"
            )
        if not self.ran:
            raise UserError(
                "no attention layer ran: run the model inside the with block, on inputs that reach the "
                "chosen layers (cross-attention needs an encoder's states)"
            )

    def _enter(self, model: nn.Module, args: tuple) -> None:
        """The model is about to run.

        Raises:
            UserError: it runs in another thread already.
        """
        if self._running.setdefault("thread", get_ident()) != get_ident():
            raise UserError(
                "two threads run a model while its graphs are recorded, and graphs cannot be assigned to "
                "threads: run one at a time"
            )

    def _leave(self, model: nn.Module, args: tuple, output: object) -> None:
        """The model has run, or failed."""
        if self._running.get("thread") == get_ident():
            del self._running["thread"]

    def _note(self, name: str, module: nn.Module, args: tuple) -> None:
        """A chosen layer is about to run."""
        self.ran[name] = module

    def _listen(self, site: Site, call: Call) -> None:
        """A chosen layer was read."""
        name = site.name
        first = name not in self.seen
        self.seen.add(name)
        sides: dict[str, Any] = dict(
            zip(("query_modality", "value_modality"), self.modalities.of(name, call))
        )
        if self.heads is not None:
            _check_heads(name, call.query.shape[1], self.heads)
        top_k = self.rules.get("top_k")
        try:
            if self.stream:
                graph = call.streamed(self.heads, top_k, site.adapted_metric(call.query), **sides)
                if first and graph.totals is None:
                    logger.info("%s cannot be streamed: all its weights are in memory at once", name)
            else:
                graph = call.graph(metric=site.adapted_metric(call.query), **sides)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{name} is not a graph ({error}): exclude it (layers=...)") from error
        check_weights(name, graph, site.module)
        if self.heads is not None and not self.stream:
            graph = graph[:, self.heads]
        if self.detach:
            graph = graph.detach()
        if self.rules and not self.stream:
            graph = graph.sparsify(**self.rules)
        if self.stream and top_k is not None:
            graph = heaviest(graph, top_k)
        graph = call.remember(graph, self.owner)
        if self.rules and not self.stream:
            graph = graph.compact()
        if torch._C._current_graph_task_id() != -1:
            return  # gradient checkpointing computes a layer again in the backward pass
        if self.on_graph is None:
            self.graphs[name].append(graph)
        else:
            self.on_graph(name, graph)


def _inputs(
    model: nn.Module, inputs: Mapping | Tensor | None, keywords: Mapping[str, Any]
) -> tuple[tuple[Tensor, ...], Mapping[str, Any]]:
    """Positional and keyword arguments of the model's forward pass.

    Raises:
        UserError: as in :func:`capture`.
    """
    options = [p.name for p in signature(capture).parameters.values() if p.kind is p.KEYWORD_ONLY]
    own = signature(model.forward).parameters
    for name in keywords:  # a model that accepts any keyword would ignore a misspelt option
        if name not in own and (hint := did_you_mean(name, options, cutoff=0.8)):
            raise UserError(
                f"capture has no option {name!r}{hint}; if it is an input of the model, pass the inputs as a "
                f"mapping: capture(model, {{{name!r}: ...}})"
            )
    if inputs is None:
        if not keywords:
            raise UserError(
                "the model has no inputs: use capture(model, input_ids=...) or capture(model, inputs)"
            )
        return (), keywords
    if not isinstance(inputs, Mapping):
        return (inputs,), keywords
    if keywords:
        raise UserError(
            f"the model's inputs are a mapping and also keyword arguments ({', '.join(keywords)}): put them "
            "in the mapping, or use capture(model, **inputs, ...)"
        )
    return (), inputs


def check_gradients(model: nn.Module) -> None:
    """Raise UserError if gradients cannot flow through graphs, because layers run again in the backward
    pass."""
    if any(
        module.training and getattr(module, "gradient_checkpointing", False) for module in model.modules()
    ):
        raise UserError(
            "gradient checkpointing computes layers again in the backward pass, so their graphs have no "
            "gradients: call model.eval() or model.gradient_checkpointing_disable()"
        )


def check_weights(name: str, graph: AttentionGraph, module: nn.Module) -> None:
    """Make sure that a layer's weights are a distribution.

    Rows of M must sum to 1, or to less with attention sinks (a parameter of that name); rows without a
    visible value are 0.

    Raises:
        UserError: NaN or Inf, or rows that are not a distribution; the message names the layer.
    """
    totals = graph.totals
    numbers = [graph.weight.detach()] if totals is None else totals
    if not all(x.isfinite().all() for x in numbers):
        raise UserError(
            f"{name}: the attention weights hold NaN or Inf. Check for inputs or parameters that are not "
            "finite, and for overflow in float16 (bfloat16 and float32 avoid it)"
        )
    if totals is not None:  # of a softmax
        return
    weight = numbers[0]
    sums = weight.float().sum(-1)
    slack = 1e-3 if weight.dtype in (torch.float32, torch.float64) else 2e-2
    sinks = any("sink" in part for part, _ in module.named_parameters())
    fits = (sums <= 1 + slack) & ((sums >= 1 - slack) | sinks)
    if graph.visible is not None:
        fits = fits | ~graph.visible.any(-1)[:, None]
    if not fits.all() or (weight < 0).any():
        worst = float((sums - 1).abs().masked_fill(fits, 0).max())
        raise UserError(
            f"{name}: the attention weights are not a distribution (a row sum is {worst:.3g} away from 1, "
            "or a weight is negative), as edge weights must be: exclude this layer (layers=...), or "
            "normalise what its eager attention returns"
        )


def _head_numbers(heads: int | Iterable[int] | None) -> list[int] | None:
    """The numbers of heads, or None for all.

    Raises:
        UserError: another type than an integer or a list of integers, or an empty list.
    """
    if heads is None:
        return None
    try:
        numbers = [index(head) for head in (heads if isinstance(heads, Iterable) else [heads])]
    except TypeError:
        numbers = []
    if not numbers:
        raise UserError(f"heads must be a head's number or several, such as [0, 3], got {heads!r}")
    return numbers


def _check_heads(name: str, count: int, heads: list[int]) -> None:
    wrong = [head for head in heads if not 0 <= head < count]
    if wrong:
        raise UserError(
            f"{name} has heads 0..{count - 1}, not {', '.join(map(str, wrong))}: choose heads that all "
            "recorded layers have, or record them separately (layers=...)"
        )


def _choose(layers: Layers, names: list[str]) -> list[str]:
    """The names that are listed or match a pattern, in their own order."""
    if layers is None:
        return names
    patterns = [layers] if isinstance(layers, str) else list(layers)
    if not patterns:
        raise UserError(f"layers must name at least one layer, got {layers!r}; None means all layers")
    for pattern in patterns:
        if not any(name == pattern or fnmatchcase(name, pattern) for name in names):
            raise UserError(f"no attention layer is called {pattern!r}; choose from {', '.join(names)}")
    return [name for name in names if any(name == x or fnmatchcase(name, x) for x in patterns)]
