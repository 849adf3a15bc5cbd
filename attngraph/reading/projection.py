r"""Projected queries :math:`Q W_q + b_q`, before rotary embedding and before scaling.

A graph's distances compare queries and values, and values are neither rotated nor scaled, so query features
must not be either. Therefore the outputs of a module's query projection and query norm are recorded while it
runs. An output is used as the features if it matches the queries that are compared with keys: rotary
embedding, partial or not, keeps the Euclidean norm of every head's vector, or scales all by one factor, that
of the module's cosines and sines; and some models (OPT, Whisper) multiply queries by :math:`1/\sqrt d` before
attention.
"""

from __future__ import annotations

import inspect
import math
import re
import threading
from collections.abc import Callable, Hashable, Iterator
from functools import cache, partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attngraph.precision import widen
from attngraph.reading.per_thread import PerThread

PARTS = re.compile(r"rotary|rotate|(^|_)rope")
"""Attributes of modules that rotate, and what their methods call."""
ARGUMENTS = re.compile(r"rotary|(^|_)rope|freqs|^(cos|sin)$")
"""Arguments of their forward passes, other than a pair of cosines and sines as ``position_embeddings``."""
SCALES = ("scaling", "scale")
"""Attributes of modules by which they may multiply queries."""
QUERY = re.compile(r"(^|_)w?q", re.IGNORECASE)
"""Children that project queries or norm them: q_proj, Wqkv, to_q, q_norm."""
SLACK = 1e-5
"""By which norms may differ, as a share; in half precision four of its steps."""


class _Running:
    """State of :class:`Projections` during a forward pass.

    Attributes:
        rotates: whether the module seems to rotate: it has a submodule of such a name, calls a function of
            such a name, or received cosines and sines.
        outputs: outputs of projection and norm.
        turn: cosines and sines, if it received such a pair.
        scales: factors by which it may multiply queries.
        start: number of queries that have called attention.
    """

    def __init__(self):
        self.rotates = False
        self.outputs: tuple[Tensor, ...] = ()
        self.turn: object = None
        self.scales: tuple[float, ...] = ()
        self.start = 0


class Projections:
    """Outputs of an attention module's query projection and query norm in the current forward pass."""

    _lock = threading.Lock()

    def __init__(self):
        self._own = PerThread(_Running)
        self._built: bool | None = None
        self._children: list[nn.Module | None] = []  # those of the module when hooks were put on them
        self._hooks: list[RemovableHandle] = []

    @property
    def _now(self) -> _Running:
        return self._own.get()

    def begin(self, module: nn.Module, given: dict) -> None:
        """Before the module runs on the arguments ``given``: put hooks on the children that it has now."""
        if self._built is None:
            parts = (
                *vars(module),
                *module._modules,
                *module._buffers,
                *_called(cast(Hashable, type(module))),
            )
            self._built = any(PARTS.search(name) for name in parts)
        now = self._now
        now.turn = given.get("position_embeddings")
        told = any(x is not None and _is_rotary(name) for name, x in given.items())
        now.rotates = self._built or told or isinstance(now.turn, tuple)
        scales = (getattr(module, name, None) for name in SCALES)
        now.scales = tuple(scale for scale in scales if isinstance(scale, float))
        now.outputs, now.start = (), 0
        if list(module._modules.values()) != self._children:
            with self._lock:
                if list(module._modules.values()) != self._children:
                    self.remove()
                    queries = [x for name, x in module.named_children() if QUERY.search(name)]
                    self._hooks = [child.register_forward_hook(self._note) for child in queries]
                    self._children = list(module._modules.values())

    def end(self) -> None:
        """After the module ran: discard the recorded outputs."""
        self._now.outputs, self._now.turn = (), None

    def remove(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._children = [], []

    def _note(self, child: nn.Module, args: tuple, output) -> None:
        """Record the output of a projection, or of a norm whose input is a recorded output. (It is not if the
        model rotates first.)"""
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if "norm" not in type(child).__name__.lower() or (
            args and any(shared(args[0], x) for x in self._now.outputs)
        ):
            self._now.outputs += (output,)

    def of(self, query: Tensor) -> Callable[[], tuple[Tensor | None, bool]]:
        """:func:`unrotated` for the queries of a call. A module that calls attention several times with
        slices of one projection calls it in their order."""
        now = self._now
        start, now.start = now.start, now.start + query.shape[0] * query.shape[2]
        scales = (*now.scales, query.shape[-1] ** -0.5)
        return partial(unrotated, query, now.outputs, start, now.turn, scales, now.rotates)


@cache
def _is_rotary(name: str) -> bool:
    """Whether an argument of such a name goes with rotary embedding."""
    return ARGUMENTS.search(name) is not None


@cache
def _called(kind: Hashable) -> frozenset[str]:
    """The names that a class's own methods look up, and the methods' own."""
    assert isinstance(kind, type)
    methods = [x for base in kind.__mro__[: kind.__mro__.index(nn.Module)] for x in vars(base).values()]
    functions = [inspect.unwrap(x) for x in methods if inspect.isfunction(x)]
    return frozenset(name for x in functions for name in (x.__name__, *x.__code__.co_names))


def unrotated(
    query: Tensor,
    outputs: tuple[Tensor, ...],
    start: int,
    turn: object,
    scales: tuple[float, ...],
    rotates: bool,
) -> tuple[Tensor | None, bool]:
    """Queries before rotary embedding, and before they are scaled.

    Args:
        query: ``(b, h, n, d)`` in the form compared with keys.
        outputs: outputs of projection and norm, in their order.
        start: the first row of an output (one per query) that belongs to this call, if it has more.
        turn: cosines and sines, if the module received such a pair.
        scales: factors by which the module may multiply them.
        rotates: whether the module seems to rotate.

    Returns:
        the last of the outputs that matches, ``(b, h, n, d)``, or None if it is ``query`` itself; and whether
        ``query`` may be rotated although no output matches.
    """
    if not outputs:
        return None, rotates
    if any(shared(output, query) for output in outputs):
        return None, False
    norms = _norms(query)
    for factor in _factors(turn, scales):
        for output in reversed(outputs):
            slack = max(SLACK, 4 * torch.finfo(output.dtype).eps, 4 * torch.finfo(query.dtype).eps)
            fit = [x for x in _layouts(output, start, query.shape) if _distance(norms, x, factor) <= slack]
            if fit:  # after a norm lengths may not distinguish layouts: rotation turns some places little
                feature = min(fit, key=lambda x: _apart(query, x, factor))
                return (None if torch.equal(feature, query) else feature.to(query.dtype)), False
    for output in reversed(outputs):
        for x in _layouts(output, start, query.shape):
            if _is_multiple(query, x):
                return x.to(query.dtype), False
    return None, rotates


def _layouts(output: Tensor, start: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Possible positions of queries ``(b, h, n, d)`` in an output, alone or together with keys and values."""
    b, h, n, d = shape
    if output.shape == (b, h, n, d):
        yield output
    width = h * d if output.shape[-1] == d else output.shape[-1]
    if width % d or width < h * d or output.numel() % width:
        return
    rows = output.reshape(-1, width)
    if len(rows) > b * n:
        rows = rows[start : start + b * n]
    if len(rows) != b * n:
        return
    rows = rows.unflatten(0, (b, n))
    yield rows[..., : h * d].unflatten(-1, (h, d)).transpose(1, 2)
    groups, odd = divmod(width // d - h, 2)
    if groups and not odd and h % groups == 0:  # each group of heads before its key and its value
        yield rows.unflatten(-1, (groups, -1, d))[..., :-2, :].flatten(2, 3).transpose(1, 2)
    if width == 2 * h * d:  # each head before its gate
        yield rows.unflatten(-1, (h, 2, d))[..., 0, :].transpose(1, 2)


@torch.no_grad()
def _norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(widen(x), dim=-1)


@torch.no_grad()
def _distance(norms: Tensor, x: Tensor, factor: float) -> float:
    """The largest difference of norms, as a share; NaN counts as infinite."""
    off = (norms - factor * _norms(x)).abs() / norms.clamp(min=torch.finfo(norms.dtype).tiny)
    return float(off.max().nan_to_num(torch.inf)) if off.numel() else 0.0


@torch.no_grad()
def _apart(query: Tensor, x: Tensor, factor: float) -> float:
    return float((query.float() - factor * x.float()).square().sum())


@torch.no_grad()
def _is_multiple(query: Tensor, x: Tensor) -> bool:
    """Whether the queries at each position are a multiple of ``x``, the same in all heads: some models scale
    queries by their position. (At position 0, which rotation does not change, a norm of each head's queries
    after rotation would look the same.)"""
    query, x = query.float(), x.float()
    factor = (query * x).sum((1, 3), keepdim=True) / x.square().sum((1, 3), keepdim=True)
    return float((query - factor * x).abs().max()) <= SLACK * float(query.abs().max())


@torch.no_grad()
def _factors(turn: object, scales: tuple[float, ...]) -> Iterator[float]:
    """Possible factors of queries: 1 first, then the factor in cosines and sines, then the others."""
    yield 1.0
    turned = _factor(turn) or 1.0
    for factor in dict.fromkeys((turned, *scales, *(scale * turned for scale in scales))):
        if factor != 1.0:
            yield factor


@torch.no_grad()
def _factor(turn: object) -> float | None:
    """The factor in cosines and sines: some models scale long contexts by it. None where there is none."""
    if not isinstance(turn, tuple) or len(turn) != 2:
        return None
    if not all(isinstance(x, Tensor) and x.is_floating_point() for x in turn):
        return None
    factor = math.sqrt(sum(float(x.double().square().mean()) for x in turn))
    return factor if abs(factor - 1) >= 1e-3 else None  # NaN of empty ones is not a factor


def shared(x: object, y: Tensor) -> bool:
    """Whether two tensors share memory."""
    return isinstance(x, Tensor) and x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
