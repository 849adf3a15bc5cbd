"""A number per edge that is not computed yet: an expression that can be evaluated on any tile of the edges.

Schemes are written with ordinary arithmetic on ``edges.weight``, degrees and products. Here that arithmetic is recorded
(operators, methods and torch functions alike) and replayed tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.backends.tiles import Tile

ELEMENTWISE = frozenset(
    """
    abs add addcdiv addcmul and ceil clamp clamp_max clamp_min clip cos cosh div eq erf exp exp2 expm1 floor fmax fmin ge gelu
    gt hypot invert le leaky_relu lerp log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor logit
    logsigmoid lt masked_fill maximum minimum mul nan_to_num ne neg ones_like or pow radd rand rdiv reciprocal relu rmul ror
    round rpow rsqrt rsub rtruediv sgn sigmoid sign silu sin sinh softplus sqrt square sub tan tanh true_divide truediv where
    xlogy zeros_like isfinite isnan isinf double float to type_as detach relu6 elu celu selu
""".split()
)


class Leaf(NamedTuple):
    """A tensor inside an expression, and how a tile cuts it: its dimensions that run over queries and over values."""

    tensor: Tensor
    query_dim: int | None
    value_dim: int | None

    def index(self, tile: Tile) -> tuple[slice, ...]:
        index = [slice(None)] * self.tensor.dim()
        if self.query_dim is not None:
            index[self.query_dim] = tile.rows
        if self.value_dim is not None:
            index[self.value_dim] = tile.columns
        return tuple(index)


class Values:
    """What an expression is evaluated with: a tile, its part of each leaf, and (in causal graphs) the sums of the weights of
    earlier queries; ``after`` then holds those after the tile."""

    def __init__(self, tile: Tile, parts: dict[int, Tensor], carry: Tensor | None):
        self.tile, self.parts, self.carry, self.after = tile, parts, carry, None
        self.known: dict[int, Tensor] = {}

    def of(self, x):
        """A leaf's or subexpression's value on the tile (each is computed once); anything else as it is."""
        if isinstance(x, Tensor):
            return self.parts[id(x)]
        if isinstance(x, (tuple, list)):
            return type(x)(map(self.of, x))
        if not isinstance(x, PerEdge):
            return x
        if id(x) not in self.known:
            self.known[id(x)] = x.evaluate(self)
        return self.known[id(x)]


class PerEdge:
    """A recorded expression.

    Args:
        function: what to call on a tile.
        args, kwargs: its arguments: expressions, tensors that broadcast against ``(b, h, n, m)``, and other values.
        shape: ``(b, h, n, m)``.
        dtype, device: of the numbers.

    Raises:
        TypeError: when asked for an operation that is not edge by edge.
        ValueError: a tensor among the arguments does not fit.
    """

    def __init__(
        self, function: Callable, args: tuple, kwargs: dict, shape: torch.Size, dtype: torch.dtype, device
    ):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.shape, self.dtype, self.device = shape, dtype, device

    def evaluate(self, values: Values) -> Tensor:
        return self.function(*map(values.of, self.args), **{k: values.of(v) for k, v in self.kwargs.items()})

    def leaves(self) -> Iterator[Leaf]:
        """The expression's tensors (some more than once)."""
        seen: set[int] = set()
        stack = [self]
        while stack:
            x = stack.pop()
            if isinstance(x, Tensor):
                yield self._operand(x)
            elif isinstance(x, (tuple, list)):
                stack.extend(x)
            elif isinstance(x, PerEdge) and id(x) not in seen:
                seen.add(id(x))
                yield from x.own_leaves()
                stack.extend([*x.args, *x.kwargs.values()])

    def own_leaves(self) -> Iterator[Leaf]:
        """Tensors that :meth:`evaluate` looks at and that are cut in another way than operands are."""
        return iter(())

    def running(self) -> bool:
        """Whether degrees of ordered queries occur, so that tiles must be visited in order."""
        return any(x.running() for x in [*self.args, *self.kwargs.values()] if isinstance(x, PerEdge))

    def _operand(self, x: Tensor) -> Leaf:
        n, m = self.shape[-2:]
        sizes = (1, 1, *x.shape)[-2:]
        if x.dim() > 4 or sizes[0] not in (1, n) or sizes[1] not in (1, m):
            raise ValueError(
                f"a tensor of shape {tuple(x.shape)} does not broadcast to the edges {tuple(self.shape)}"
            )
        return Leaf(
            x,
            -2 if x.dim() > 1 and sizes[0] == n > 1 else None,
            -1 if x.dim() and sizes[1] == m > 1 else None,
        )

    # ---- recording --------------------------------------------------------------------------------------------

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = function.__name__.strip("_")
        if name not in ELEMENTWISE or (
            function.__name__.endswith("_") and not function.__name__.startswith("__")
        ):
            raise TypeError(
                f"{function.__name__} does not work edge by edge: on the tiled backend, sum over edges with "
                "edges.to_queries, to_values, sum_at_queries and sum_at_values only"
            )
        kwargs = kwargs or {}
        like = next(x for x in _flat([*args, *kwargs.values()]) if isinstance(x, PerEdge))
        return PerEdge(function, tuple(args), kwargs, like.shape, like.dtype, like.device)

    def __getattr__(self, name: str):
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"a number per edge has no attribute {name!r}")
        method = getattr(Tensor, name)
        return lambda *args, **kwargs: self.__torch_function__(method, (), (self, *args), kwargs)


def _flat(items: list) -> Iterator:
    for x in items:
        if isinstance(x, (tuple, list)):
            yield from _flat(x)
        else:
            yield x


def _operator(name: str) -> Callable:
    method = getattr(Tensor, name)

    def operator(self, *args):
        return self.__torch_function__(method, (), (self, *args))

    return operator


for _name in (
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "rtruediv",
    "pow",
    "rpow",
    "neg",
    "abs",
    "invert",
    "and",
    "or",
    "rand",
    "ror",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
):
    setattr(PerEdge, f"__{_name}__", _operator(f"__{_name}__"))
PerEdge.__hash__ = object.__hash__
