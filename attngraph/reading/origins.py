"""Which of a module's arguments its queries, keys and values are computed from.

The names of arguments do not always say what an attention module attends to. A :class:`Origins` is a torch
function mode around the module's forward that follows the states among its arguments: where queries come from
some of them, and keys and values from others, the call is cross-attention. It does not know how arguments are
related: two that the caller computed from the same tokens count as different ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

OF_FIRST = ("to", "type_as", "view_as", "reshape_as", "expand_as")
"""Functions whose other arguments are only examples of a shape or type; as the arguments of ``*_like``."""


class Origins(TorchFunctionMode):
    """Follows states through a module while it runs, in one thread.

    Args:
        states: the states that the module received.
    """

    def __init__(self, states: Iterable[Tensor]):
        super().__init__()
        self.states = list(states)
        self._of = WeakTensorKeyDictionary()
        places = [_place(x) for x in self.states]
        for x, place in zip(self.states, places):
            self._of[x] = frozenset([places.index(place)])

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given, name = kwargs or {}, getattr(func, "__name__", "")
        out = func(*args, **given)
        if name.endswith("_like"):
            return out
        sources = args[:1] if name in OF_FIRST else [*args, *given.values()]
        found = frozenset[int]().union(*(self._of.get(x, ()) for x in _tensors(sources)))
        if found:
            for x in _tensors([args[0] if name == "__setitem__" else out]):
                self._of[x] = found
        return out

    def compare(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[bool, Tensor | None]:
        """Whether queries are computed from other states than keys and values, as far as is known, and the
        states that these are computed from, if they are those of a single argument."""
        queries, keys, values = (self._of.get(x, frozenset()) for x in (query, key, value))
        if not (queries and keys and values) or queries & (keys | values):
            return False, None
        sources = keys | values
        return True, self.states[next(iter(sources))] if len(sources) == 1 else None


def _place(x: Tensor) -> tuple:
    """The same for tensors of the same numbers in the same memory."""
    try:
        return x.data_ptr(), x.shape, x.stride()
    except RuntimeError:  # without memory of its own: fake, or of a transform of torch.func
        return (id(x),)


def _tensors(several: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors, also those in lists and tuples."""
    for x in several:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, (list, tuple)):
            yield from _tensors(x)
