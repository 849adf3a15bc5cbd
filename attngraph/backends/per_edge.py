"""A number per edge that is not computed yet: an expression that can be evaluated on any tile of the edges.

Schemes are written with ordinary arithmetic on ``edges.weight``, degrees and products. Here that arithmetic
is recorded (operators, methods and torch functions alike) and replayed tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from attngraph.backends.tiles import Tile

ELEMENTWISE = frozenset(
    """
    abs add addcdiv addcmul and ceil clamp clamp_max clamp_min clip cos cosh div eq erf exp exp2 expm1
    floor fmax fmin ge gelu gt hypot invert le leaky_relu lerp log log10 log1p log2 logaddexp logical_and
    logical_not logical_or logical_xor logit logsigmoid lt masked_fill maximum minimum mul nan_to_num ne
    neg ones_like or pow radd rand rdiv reciprocal relu rmul ror round rpow rsqrt rsub rtruediv sgn
    sigmoid sign silu sin sinh softplus sqrt square sub tan tanh true_divide truediv where xlogy
    zeros_like isfinite isnan isinf double float to type_as detach relu6 elu celu selu
    """.split()
)
OPERATORS = """
    add radd sub rsub mul rmul truediv rtruediv pow rpow neg abs invert and or rand ror lt le gt ge eq ne
""".split()


@dataclass(frozen=True, eq=False)
class Leaf:
    """A tensor inside an expression, and its dimensions that run over queries and over values."""

    tensor: Tensor
    query_dim: int | None
    value_dim: int | None

    def cut(self) -> Cut:
        """How a tile cuts it."""
        return Cut(self.tensor.dim(), self.query_dim, self.value_dim)


class Cut(NamedTuple):
    """How a tile cuts a tensor of so many dimensions."""

    dims: int
    query_dim: int | None
    value_dim: int | None

    def at(self, tile: Tile) -> tuple[slice, ...]:
        """The tile's part of the tensor."""
        index: list[slice] = [slice(None)] * self.dims
        if self.query_dim is not None:
            index[self.query_dim] = tile.rows
        if self.value_dim is not None:
            index[self.value_dim] = tile.columns
        return tuple(index)


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in an expression from which the tensors were taken."""

    index: int


class Space(NamedTuple):
    """The edges of all examples and heads, and in which form numbers on them come."""

    shape: torch.Size  # (b, h, n, m)
    dtype: torch.dtype
    device: torch.device


class Values:
    """What an expression is evaluated with.

    Args:
        tile: the edges.
        parts: the tile's part of each of the expression's tensors; see :meth:`PerEdge.apart`.
        carry: in causal graphs, the sums of the weights of earlier queries, ``(b, h, 1, columns)``.

    Attributes:
        after: those sums after the tile, once a running degree has been evaluated.
    """

    def __init__(self, tile: Tile, parts: Sequence[Tensor], carry: Tensor | None):
        self.tile, self.parts, self.carry = tile, parts, carry
        self.after: Tensor | None = None
        self._known: dict[int, Tensor] = {}

    def of(self, x: Any) -> Any:
        """A tensor's or subexpression's value on the tile (each is computed once); anything else as it is."""
        if isinstance(x, Slot):
            return self.parts[x.index]
        if isinstance(x, (tuple, list)):
            return type(x)(map(self.of, x))
        if not isinstance(x, PerEdge):
            return x
        if id(x) not in self._known:
            self._known[id(x)] = x.evaluate(self)
        return self._known[id(x)]


class PerEdge:
    """An expression: a number per edge that can be evaluated on any tile.

    It takes arithmetic, comparisons, and elementwise functions and methods of tensors, and becomes a larger
    expression.

    Args:
        space: the edges.
        args: what the expression is made of: expressions, tensors that broadcast against ``(b, h, n, m)``,
            other tensors as :class:`Leaf`, and other values.
        kwargs: the same by name.

    Raises:
        TypeError: when asked for an operation that is not edge by edge.
        ValueError: a tensor among the arguments does not fit.
    """

    def __init__(self, space: Space, args: tuple = (), kwargs: dict[str, Any] | None = None):
        self.space, self.args, self.kwargs = space, args, kwargs or {}
        self.shape, self.dtype, self.device = space

    def evaluate(self, values: Values) -> Tensor:
        """The numbers on a tile, broadcastable to ``(b, h, rows, columns)``."""
        raise NotImplementedError

    def apart(self) -> tuple[PerEdge, list[Tensor], list[Cut]]:
        """The expression with a :class:`Slot` where each tensor was, which can be evaluated, and the tensors:
        so that autograd may keep these in its own way, and nothing else does."""
        leaves: dict[tuple, Leaf] = {}
        expression = self._strip(self, leaves, {})
        return expression, [x.tensor for x in leaves.values()], [x.cut() for x in leaves.values()]

    def _strip(self, x: Any, leaves: dict[tuple, Leaf], done: dict[int, PerEdge]) -> Any:
        """``x`` with slots; adds its tensors to ``leaves`` and its subexpressions to ``done``."""
        if isinstance(x, Tensor):
            x = self._operand(x)
        if isinstance(x, Leaf):
            key = (id(x.tensor), x.cut())
            leaves.setdefault(key, x)
            return Slot(list(leaves).index(key))
        if isinstance(x, (tuple, list)):
            return type(x)([self._strip(y, leaves, done) for y in x])
        if not isinstance(x, PerEdge):
            return x
        if id(x) not in done:
            done[id(x)] = stripped = copy(x)
            stripped.args = self._strip(x.args, leaves, done)
            stripped.kwargs = {name: self._strip(y, leaves, done) for name, y in x.kwargs.items()}
        return done[id(x)]

    def running(self) -> bool:
        """Whether degrees of ordered queries occur, so that tiles must be visited in order."""
        return any(x.running() for x in [*self.args, *self.kwargs.values()] if isinstance(x, PerEdge))

    def _operand(self, x: Tensor) -> Leaf:
        n, m = self.shape[-2:]
        rows, columns = (1, 1, *x.shape)[-2:]
        if x.dim() > 4 or rows not in (1, n) or columns not in (1, m):
            raise ValueError(
                f"a tensor of shape {tuple(x.shape)} does not broadcast to the edges {tuple(self.shape)}"
            )
        query_dim = -2 if x.dim() > 1 and rows == n > 1 else None
        return Leaf(x, query_dim, -1 if x.dim() and columns == m > 1 else None)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """Record a function of tensors."""
        name = function.__name__.strip("_")
        in_place = function.__name__.endswith("_") and not function.__name__.startswith("__")
        if name not in ELEMENTWISE or in_place:
            raise TypeError(
                f"{function.__name__} does not work edge by edge: on the tiled backend, sum over edges with "
                "edges.to_queries, to_values, sum_at_queries and sum_at_values only"
            )
        kwargs = kwargs or {}
        like = next(x for x in _flat([*args, *kwargs.values()]) if isinstance(x, PerEdge))
        return Applied(function, like.space, tuple(args), kwargs)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "numbers per edge are not known yet on the tiled backend, so they cannot decide what Python "
            "does next (if, and, or, not, max): choose edge by edge with torch.where, torch.maximum, & and |"
        )

    def __getattr__(self, name: str):
        """Record a method of tensors."""
        method = None if name.startswith("_") else getattr(Tensor, name, None)
        if not callable(method):
            raise AttributeError(f"a number per edge has no attribute {name!r} on the tiled backend")
        return lambda *args, **kwargs: self.__torch_function__(method, (), (self, *args), kwargs)


class Applied(PerEdge):
    """A function of tensors, applied to expressions."""

    def __init__(self, function: Callable[..., Tensor], space: Space, args: tuple, kwargs: dict[str, Any]):
        super().__init__(space, args, kwargs)
        self.function = function

    def evaluate(self, values: Values) -> Tensor:
        return self.function(*map(values.of, self.args), **{k: values.of(v) for k, v in self.kwargs.items()})


class Operand(PerEdge):
    """A tensor as an expression."""

    def __init__(self, tensor: Tensor, space: Space):
        super().__init__(space, (tensor,))

    def evaluate(self, values: Values) -> Tensor:
        return values.of(self.args[0])


def _flat(items: Sequence) -> Iterator:
    for x in items:
        if isinstance(x, (tuple, list)):
            yield from _flat(x)
        else:
            yield x


def _operator(name: str) -> Callable[..., PerEdge]:
    method = getattr(Tensor, name)

    def operator(self, *args):
        return self.__torch_function__(method, (), (self, *args))

    return operator


for _name in OPERATORS:
    setattr(PerEdge, f"__{_name}__", _operator(f"__{_name}__"))
PerEdge.__hash__ = object.__hash__  # type: ignore[method-assign]  # == makes an expression: without it, no hash
