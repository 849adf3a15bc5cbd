"""A number per edge that is not computed yet: an expression that can be evaluated on any tile of the edges.

Schemes are written with ordinary arithmetic on ``edges.weight``, degrees and products. Here that arithmetic
is recorded (operators, methods and torch functions alike) and replayed tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

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


class Leaf(NamedTuple):
    """A tensor inside an expression, and how a tile cuts it: its dimensions that run over queries and over
    values."""

    tensor: Tensor
    query_dim: int | None
    value_dim: int | None

    def cut(self, tile: Tile) -> tuple[slice, ...]:
        """The tile's part of the tensor."""
        index: list[slice] = [slice(None)] * self.tensor.dim()
        if self.query_dim is not None:
            index[self.query_dim] = tile.rows
        if self.value_dim is not None:
            index[self.value_dim] = tile.columns
        return tuple(index)


class Space(NamedTuple):
    """The edges of all examples and heads, and in which form numbers on them come."""

    shape: torch.Size  # (b, h, n, m)
    dtype: torch.dtype
    device: torch.device


class Values:
    """What an expression is evaluated with.

    Args:
        tile: the edges.
        parts: the tile's part of each leaf, by the leaf's ``id``.
        carry: in causal graphs, the sums of the weights of earlier queries, ``(b, h, 1, columns)``.

    Attributes:
        after: those sums after the tile, once a running degree has been evaluated.
    """

    def __init__(self, tile: Tile, parts: dict[int, Tensor], carry: Tensor | None):
        self.tile, self.parts, self.carry = tile, parts, carry
        self.after: Tensor | None = None
        self._known: dict[int, Tensor] = {}

    def of(self, x: Any) -> Any:
        """A leaf's or subexpression's value on the tile (each is computed once); anything else as it is."""
        if isinstance(x, Tensor):
            return self.parts[id(x)]
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
            and other values.
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

    def leaves(self) -> Iterator[Leaf]:
        """The expression's tensors (some more than once)."""
        seen: set[int] = set()
        stack: list[Any] = [self]
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

    def __getattr__(self, name: str):
        """Record a method of tensors."""
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"a number per edge has no attribute {name!r}")
        method = getattr(Tensor, name)
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
