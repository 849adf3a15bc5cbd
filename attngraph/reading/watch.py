r"""Watching a module's forward pass to find the product that is attention.

Attention that does not go through transformers' ``AttentionInterface`` is read without code for its class. A
:class:`Watch` is a torch function mode around the module's forward, and sees every operation in it:

- a product of two matrices, :math:`Q K^\top`, is followed through additions and multiplications up to
- a softmax over the last dimension, whose output is the weights M. Scores at the minimum of their dtype hide
  an edge, whether they were added, filled in or selected;
- the product of M, after dropout, with the values V is the call. The graph's M is that before dropout.

A softmax whose weights are not multiplied with values (a router's, a pooling head's) is not attention.
PyTorch's fused attention, ``scaled_dot_product_attention``, is computed by its formula here, so that its
weights can be seen, and its ``multi_head_attention_forward`` step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from attngraph.errors import UserError
from attngraph.reading.projection import shared

PRODUCTS = {"matmul": 0, "__matmul__": 0, "bmm": 0, "baddbmm": 1}
"""Functions that multiply matrices: at which place the left one is among their arguments."""
OPERANDS = ("batch1", "batch2", "mat2", "other")
"""Names of these arguments."""
SOFTMAX = ("softmax", "_softmax")
LAYOUT = """
    view reshape view_as reshape_as contiguous clone transpose permute swapaxes movedim unsqueeze squeeze
    flatten unflatten expand to type type_as float half bfloat16 double detach nan_to_num
""".split()
"""Functions that change the layout or precision of a tensor, but not its numbers."""
CHANGES = ("mul", "__mul__", "__rmul__", "mul_", "__imul__", "masked_fill", "masked_fill_", "where")
"""Functions that remove weights from M: masks of heads, of padded queries."""
MULTIPLIES = ("mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply")
DIVIDES = ("div", "div_", "__truediv__", "__itruediv__", "true_divide")
ADDS = """
    add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __isub__ masked_fill masked_fill_ where max maximum
""".split()
"""Functions that add biases and masks to scores."""
HEADS = """
    num_heads num_attention_heads n_heads n_head num_head heads attention_heads num_attn_heads
""".split()
"""Attributes of modules that say how many heads they have."""


@dataclass(eq=False)
class Scores:
    r"""Factors of scores :math:`s Q K^\top + \mathrm{bias}`.

    Attributes:
        query, key: ``(*, n, d)`` and ``(*, m, d)``, the operands of the product.
        unscaled: both before scaling, and their factors; NaN for a factor that is not a number.
        scale: factor of their product; NaN if that is not a single number.
    """

    query: Tensor
    key: Tensor
    unscaled: tuple[tuple[Tensor, float], tuple[Tensor, float]]
    scale: float = 1.0


@dataclass(eq=False)
class Weights:
    """Weights of a softmax, in their current layout.

    Attributes:
        undropped: the weights without dropout.
        made: the factors of their scores.
        scores: input of the softmax.
        dropout: its probability.
    """

    undropped: Tensor
    made: Scores
    scores: Tensor
    dropout: float = 0.0


class Attended(NamedTuple):
    """One call of attention, as :class:`Watch` saw it: ``b`` examples, ``h`` heads, ``n`` queries, ``m``
    values.

    Attributes:
        query, key, value: ``(b, h, n, d)``, ``(b, h, m, d)``, ``(b, h, m, d)``.
        weight: weights before dropout, ``(b, h, n, m)``, with which the module continues.
        dropped: weights after dropout; the same tensor as ``weight`` without dropout.
        context: result of the module's own product, ``(b, h, n, d)``.
        scores: input of the softmax, ``(b, h, n, m)``.
        scale: factor of products of queries and keys in the scores; NaN if it is not a single number.
        dropout: its probability.
        again: whether the module has attended to the same keys before, with other queries.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    weight: Tensor
    dropped: Tensor
    context: Tensor
    scores: Tensor
    scale: float
    dropout: float
    again: bool

    def compute(self, query: Tensor, key: Tensor, value: Tensor, mask: None) -> tuple[Tensor, Tensor]:
        """The call from its queries, and from keys and values to which others may be added before its own,
        with a bias and mask of 0: context ``(b, n, h, d)`` and weights.

        Raises:
            UserError: keys were added, and how queries and keys are scaled is unknown.
        """
        more = key.shape[2] - self.key.shape[2]
        if more and math.isnan(self.scale):
            raise UserError(
                "no keys can be added to an attention layer that scales queries and keys by more than a "
                "number: exclude it"
            )
        scale = 0.0 if math.isnan(self.scale) else self.scale
        bias = self.scores - scale * (self.query @ self.key.transpose(-1, -2))
        scores = scale * (query @ key.transpose(-1, -2)) + nn.functional.pad(bias, (more, 0))
        weight = scores.softmax(-1).to(self.weight.dtype)
        return (weight @ value).transpose(1, 2), weight


class Fused(NamedTuple):
    """A call of ``scaled_dot_product_attention``.

    Attributes:
        query, key, value: ``(b, h, n, d)``, and ``(b, g, m, d)`` of keys and values.
        mask: its mask.
        is_causal: query i sees values up to i only.
        dropout: its probability.
        scale: of the scores.
        again: whether the module has attended to the same keys before, with other queries.
        compute: PyTorch's own result, ``(b, h, n, d)``.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    is_causal: bool
    dropout: float
    scale: float
    again: bool
    compute: Callable[[], Tensor]


class Watch(TorchFunctionMode):
    """Observes a module while it runs, in one thread.

    Args:
        module: the module.
        states: dimensions of the states that it received, if known.
        attended: called with each call of attention; its result replaces ``context``.
        fused: the same for calls of PyTorch's fused attention; it returns their context ``(b, h, n, d)``.
    """

    def __init__(
        self,
        module: nn.Module,
        states: Sequence[int] | None,
        attended: Callable[[Attended], Tensor],
        fused: Callable[[Fused], Tensor],
    ):
        super().__init__()
        self.states, self.attended, self.fused = states, attended, fused
        self.heads = next((x for x in (getattr(module, k, None) for k in HEADS) if isinstance(x, int)), None)
        self.calls = 0
        self.trouble: str | None = None  # why a softmax was taken for none of attention
        self.unread: str | None = None  # why a call of attention was not read
        self._scores = WeakTensorKeyDictionary()
        self._weights = WeakTensorKeyDictionary()
        self._unscaled = WeakTensorKeyDictionary()
        self._seen: list[tuple[Tensor, Tensor]] = []  # queries and keys
        self._strides = WeakTensorKeyDictionary()  # of what was copied, before

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._run_fused(*args, **given)
        if name == "multi_head_attention_forward":
            with self:  # a function in Python, whose operations are hidden from modes
                return _opened(func)(*args, **given)
        product = _product(name, args, given, self._weights.__contains__)
        if product is not None and product.left in self._weights:
            return self._attend(func, args, given, product)
        tensors = [x for x in args if isinstance(x, Tensor)]
        found = next((x for x in tensors if x in self._weights), None)
        weights = None if found is None else self._weights[found]
        out = func(*args, **given)
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        if product is not None:
            self._note_product(product, given.get("alpha", 1), out)
        elif name in SOFTMAX:
            self._note_softmax(args, given, out)
        elif weights is not None and found is not None:
            self._follow_weights(func, name, args, given, found, weights, out)
        else:
            if name in LAYOUT and tensors and tensors[0].shape == out.shape:
                self._strides[out] = self._strides.get(tensors[0], tensors[0].stride())
            self._follow_scores(name, args, tensors, out)
            self._follow_queries(func, name, args, given, out)
        return out

    def _note_product(self, product: Product, scale: float, out: Tensor) -> None:
        if product.orders is not None and product.orders[2] != sorted(product.orders[2]):
            return
        left, right = (self._unscaled.get(x, (x, 1.0)) for x in (product.left, product.right))
        self._scores[out] = Scores(
            product.as_left(product.left),
            product.as_right(product.right).transpose(-1, -2),
            (
                (product.as_left(left[0]), left[1]),
                (product.as_right(right[0]).transpose(-1, -2), right[1]),
            ),
            scale,
        )

    def _note_softmax(self, args: tuple, given: dict, out: Tensor) -> None:
        scores = args[0] if args else given["input"]
        dim = given.get("dim", args[1] if len(args) > 1 else None)
        if scores.dim() < 3 or dim not in (-1, scores.dim() - 1):
            self.trouble = "the softmax is not over the last of three or more dimensions"
            return
        made = self._scores.get(scores)
        if made is None:
            self.trouble = "the scores of its softmax are not a product of queries and keys"
            return
        self.trouble = "the weights of its softmax are not multiplied with values"
        self._weights[out] = Weights(out, made, scores)

    def _follow_scores(self, name: str, args: tuple, tensors: Sequence[Tensor], out: Tensor) -> None:
        """Follow scores through an operation that keeps their number."""
        for x in tensors:
            made = self._scores.get(x)
            if made is not None and x.numel() == out.numel():
                if _turned(x, out):
                    made = Scores(made.key, made.query, made.unscaled[::-1], made.scale)
                factor = 1.0 if name in (*ADDS, *LAYOUT) else _factor(name, args)
                self._scores[out] = replace(made, scale=made.scale * factor)
                return

    def _follow_queries(self, func: Any, name: str, args: tuple, given: dict, out: Tensor) -> None:
        """Remember a tensor before it is multiplied by a number or normalised (cosine attention): a graph's
        features are not scaled."""
        x = args[0] if args else None
        if not isinstance(x, Tensor) or out is x or x in self._scores:
            return
        factor = _factor(name, args)
        if not math.isnan(factor) and x.dim() > 1:
            own, before = self._unscaled.get(x, (x, 1.0))
            self._unscaled[out] = own, before * factor
        elif name == "normalize":
            self._unscaled[out] = self._unscaled.get(x, (x, 1.0))[0], math.nan
        elif name in LAYOUT and x in self._unscaled:
            own, before = self._unscaled[x]
            self._unscaled[out] = func(own, *args[1:], **given), before

    def _follow_weights(
        self, func: Any, name: str, args: tuple, given: dict, x: Tensor, weights: Weights, out: Tensor
    ) -> None:
        """Follow weights through an operation before they are multiplied with the values."""
        if "dropout" in name and out.shape == x.shape:
            active = given.get("training", args[2] if len(args) > 2 else True)
            if active and not torch.equal(out, x):
                dropout = given.get("p", args[1] if len(args) > 1 else 0.5)
                self._weights[out] = replace(weights, dropout=dropout)
            else:
                self._weights[out] = replace(weights, undropped=out)
        elif name in MULTIPLIES and out.shape == x.shape and bool((out > x).any()):
            self.trouble = (
                "the weights of its softmax are multiplied by more than 1 before the product with values, as "
                "custom dropout does in training (switch that off: model.eval())"
            )
        elif name in (*LAYOUT, *CHANGES) and out.numel() == x.numel() and _rows_stay(x, out):
            same = weights.undropped is x
            again = [weights.undropped if y is x else y for y in args]
            self._weights[out] = replace(weights, undropped=out if same else func(*again, **given))
        else:
            self.trouble = f"the weights of its softmax are mixed or turned ({name}) before the values"

    def _attend(self, func: Any, args: tuple, given: dict, product: Product) -> Tensor:
        """The product of weights and values, or its replacement."""
        found: Weights = self._weights[product.left]
        left, value = product.as_left(product.left), product.as_right(product.right)
        kept = found.undropped is product.left  # there is no dropout
        weight = left if kept else product.as_left(found.undropped)
        layout = self._layout(left.shape, value.shape, (value, found.made.query, found.made.key))
        last = product.orders is None or product.orders[0][-1] == left.dim() - 1
        if layout is None:
            self.trouble = "the layout of its weights by examples and heads is unknown"
            return func(*args, **given)
        if not last or left.shape[-1] != value.shape[-2]:
            self.trouble = "the weights of its softmax are multiplied by something other than values per head"
            return func(*args, **given)
        split = layout.split(weight)
        if kept:  # the module continues with the shown weights, so that gradients reach them
            args = tuple(product.as_given(layout.join(split)) if x is product.left else x for x in args)
        out = func(*args, **given)
        own = layout.split(product.as_out(out))
        unscaled, factor = found.made.unscaled[0]
        try:
            query, key, scores = (layout.split(x) for x in (unscaled, found.made.key, found.scores))
        except (RuntimeError, ValueError):
            self.trouble = "the layout of its queries and keys differs from that of its weights"
            return out
        self.calls += 1
        context = self.attended(
            Attended(
                query,
                key,
                layout.split(value),
                split,
                split if kept else layout.split(left),
                own,
                scores,
                found.made.scale * factor,
                found.dropout,
                self._again(found.made.query, found.made.key),
            )
        )
        return out if context is own else product.as_out(layout.join(context), back=True)

    def _layout(
        self, weights: Sequence[int], values: Sequence[int], projected: Sequence[Tensor]
    ) -> Layout | None:
        """Dimensions of examples and heads, from the shapes of weights ``(*, n, m)`` and values ``(*, m, d)``
        and from the memory layout of queries, keys or values."""
        *lead, n, _ = weights
        heads_first = any(_heads_first(x, self._strides.get(x, x.stride())) for x in projected)
        examples = None if self.states is None else _examples(self.states, n)
        width = None if self.states is None else self.states[-1]
        return _layout(lead, values, self.heads, width, examples, heads_first)

    def _again(self, query: Tensor, key: Tensor) -> bool:
        """Whether other queries have met these keys."""
        again = any(_same(key, k) and not _same(query, q) for q, k in self._seen)
        self._seen.append((query, key))
        return again

    def _run_fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """PyTorch's fused attention."""
        layout = self._layout((*query.shape[:-1], key.shape[-2]), value.shape, (query, key, value))
        unsplit, given = key, (query, key, value, attn_mask, dropout_p, is_causal)
        own = partial(scaled_dot_product_attention, *given, scale=scale, enable_gqa=enable_gqa)
        if layout is None or (attn_mask is not None and query.dim() != 4):
            self.unread = "the layout of scaled_dot_product_attention by examples and heads is unknown"
            return own()
        if not enable_gqa:
            key, value = layout.split(key), layout.split(value)
        self.calls += 1
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        again = self._again(query, unsplit)
        context = self.fused(
            Fused(
                layout.split(query),
                key,
                value,
                attn_mask,
                is_causal,
                dropout_p,
                scale,
                again,
                compute=lambda: layout.split(own()),
            )
        )
        return layout.join(context)


class Product(NamedTuple):
    """A product of matrices: its operands, and the permutations of dimensions that make them ``(*, n, k)``
    and ``(*, k, d)``, with the result ``(*, n, d)``; None for no permutation."""

    left: Tensor
    right: Tensor
    orders: tuple[list[int], list[int], list[int]] | None = None

    def as_left(self, x: Tensor) -> Tensor:
        return x if self.orders is None else x.permute(self.orders[0])

    def as_right(self, x: Tensor) -> Tensor:
        return x if self.orders is None else x.permute(self.orders[1])

    def as_given(self, x: Tensor) -> Tensor:
        """The opposite of :meth:`as_left`."""
        return x if self.orders is None else x.permute(_inverse(self.orders[0]))

    def as_out(self, x: Tensor, back: bool = False) -> Tensor:
        """The product in that order; with ``back`` from there."""
        if self.orders is None:
            return x
        return x.permute(_inverse(self.orders[2]) if back else self.orders[2])


def _inverse(order: list[int]) -> list[int]:
    return [order.index(k) for k in range(len(order))]


def _product(name: str, args: tuple, given: dict, weighted: Callable[[Tensor], bool]) -> Product | None:
    """The operands of a function that multiplies matrices; None for others.

    Args:
        name, args, given: the function and its arguments.
        weighted: whether an operand holds the weights of a softmax; it is then the left one.
    """
    if name == "einsum":
        return _einsum(args, weighted)
    place = PRODUCTS.get(name)
    if place is None:
        return None
    operands = [*args[place:], *(given[x] for x in OPERANDS if x in given)][:2]
    several = all(isinstance(x, Tensor) and x.dim() > 2 for x in operands)
    return Product(*operands) if several and len(operands) == 2 else None


def _einsum(args: tuple, weighted: Callable[[Tensor], bool]) -> Product | None:
    """An einsum of two operands that multiplies matrices; None for others."""
    operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if not isinstance(args[0], str) or len(operands) != 2 or "." in args[0] or "->" not in args[0]:
        return None
    inputs, output = args[0].replace(" ", "").split("->")
    (one, first), (two, second) = zip(inputs.split(","), operands)
    if weighted(second) or (not weighted(first) and output[-1] in set(one) - set(two)):
        one, first, two, second = two, second, one, first
    summed = [x for x in one if x in two and x not in output]
    rows, columns = ([x for x in a if x not in b] for a, b in ((one, two), (two, one)))
    if [len(x) for x in (summed, rows, columns)] != [1, 1, 1] or len(output) < 3:
        return None
    lead = [x for x in (one if weighted(first) else output) if x in one and x in two and x in output]
    kinds = [*lead, *rows, *summed], [*lead, *summed, *columns], [*lead, *rows, *columns]
    names = one, two, output
    if any(sorted(name) != sorted(kind) for name, kind in zip(names, kinds)):
        return None
    orders = [[name.index(x) for x in kind] for name, kind in zip(names, kinds)]
    return Product(first, second, (orders[0], orders[1], orders[2]))


class Layout(NamedTuple):
    """Arrangement of examples and heads in the first dimensions of a tensor.

    Attributes:
        lead: these dimensions.
        order: permutation to examples first and heads second.
        b, h: numbers of examples and heads.
    """

    lead: tuple[int, ...]
    order: list[int]
    b: int
    h: int

    def split(self, x: Tensor) -> Tensor:
        """The tensor as ``(b, h, n, d)``; entries shared by several heads or examples are repeated."""
        rest = x.shape[-2:]
        if tuple(x.shape[:-2]) != self.lead:
            count = x.shape[:-2].numel()
            if count == self.b * self.h:
                x = x.reshape(*self.lead, *rest)
            else:
                x = x.expand(*self.lead, *rest)
        k = len(self.lead)
        return x.permute(*self.order, k, k + 1).reshape(self.b, self.h, *rest)

    def join(self, x: Tensor) -> Tensor:
        """The opposite of :meth:`split`."""
        k = len(self.lead)
        x = x.reshape(*(self.lead[i] for i in self.order), *x.shape[-2:])
        return x.permute(*_inverse(self.order), k, k + 1)


def _examples(states: Sequence[int], n: int) -> int | None:
    """Number of examples of states with ``n`` queries each; None if unknown."""
    if math.prod(states[1:-1]) == n or (len(states) > 3 and math.prod(states[2:]) == n):
        return states[0]
    return states[1] if states[0] == n else None


def _heads_first(x: Tensor, strides: Sequence[int]) -> bool:
    """Whether the first of four dimensions are heads and the second examples: in memory, heads are adjacent
    within positions and examples."""
    if x.dim() != 4:
        return False
    first, second, position, feature = strides
    return feature < first < min(second, position)


def _layout(
    lead: Sequence[int],
    values: Sequence[int],
    heads: int | None,
    width: int | None,
    examples: int | None,
    heads_first: bool,
) -> Layout | None:
    """Arrangement of examples and heads in the first dimensions of weights; None if unknown.

    Args:
        lead: the dimensions before queries and values.
        values: all dimensions of the values, one of which may be 1 for several heads.
        heads: number of heads of the module, if known.
        width: width of the states that it received, if known.
        examples: number of examples of these states, if known.
        heads_first: for two dimensions of the same size: whether heads are the first.
    """
    lead, order = tuple(lead), list(range(len(lead)))
    if heads == 1:
        return Layout(lead, order, math.prod(lead), 1)
    if len(lead) == 1:
        (count,) = lead
        if heads is None and values[-1] != width:
            if examples is None or count % examples:
                return None
            return Layout(lead, order, examples, count // examples)
        h = 1 if heads is None or count % heads or values[-1] == width else heads
        return Layout(lead, order, count // h, h)
    told = len(lead) == 2 and heads in (None, lead[0]) and lead[1] == examples
    if told and (heads_first if lead[0] == lead[1] else lead[0] > 1):
        return Layout(lead, [1, 0], lead[1], lead[0])
    places = [k for k in order if k > 0 and lead[k] == heads]
    if heads is None or places == order[-1:]:
        several = 1
    elif len(values) == len(lead) + 2 and values[-3] == 1 < lead[-1] and lead[-2] * lead[-1] == heads:
        several = 2  # groups of heads, and the heads of each
    else:  # windows after the heads
        if len(places) != 1:
            return None
        several, order = 1, [k for k in order if k not in places] + places
    h = math.prod(lead[k] for k in order[-several:])
    return Layout(lead, order, math.prod(lead) // max(h, 1), h)


@cache
def _opened(func: Any) -> Callable:
    """A function of PyTorch in Python that does not hand itself over to modes, but what it calls."""
    names = func.__globals__ | {"has_torch_function": lambda *_: False}
    opened = FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


def _factor(name: str, args: tuple) -> float:
    """The number by which a function multiplies its first argument; NaN if it does something else."""
    if len(args) != 2 or name not in (*MULTIPLIES, *DIVIDES):
        return math.nan
    number = args[1] if isinstance(args[0], Tensor) and args[0].dim() > 0 else args[0]
    if not isinstance(number, (int, float)) and not (isinstance(number, Tensor) and number.numel() == 1):
        return math.nan
    return 1 / float(number) if name in DIVIDES else float(number)


def _turned(x: Tensor, out: Tensor) -> bool:
    """Whether ``out`` is ``x`` with its last two dimensions exchanged."""
    if x.dim() < 2 or out.dim() < 2 or not shared(x, out):
        return False
    sizes = x.shape[-1], x.shape[-2]
    strides = x.stride(-1), x.stride(-2)
    return tuple(out.shape[-2:]) == sizes and (out.stride(-2), out.stride(-1)) == strides != strides[::-1]


def _same(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same memory."""
    return shared(x, y) and x.data_ptr() == y.data_ptr() and x.shape == y.shape


def _rows_stay(x: Tensor, out: Tensor) -> bool:
    """Whether the last dimension is still the same."""
    return x.shape[-1] == out.shape[-1] and (
        x.shape[-1] == 1 or not shared(x, out) or x.stride(-1) == out.stride(-1)
    )
