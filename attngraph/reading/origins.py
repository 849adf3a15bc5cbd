"""Which of its arguments a module computes a tensor from.

The names of arguments do not always say what an attention module attends to. A :class:`Origins` is a torch
function mode around the module's forward that follows its states through every operation: where queries and
keys come from different ones, the call is cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary


class Origins(TorchFunctionMode):
    """Follows states through a module while it runs, in one thread.

    Args:
        states: the states that the module received.
    """

    def __init__(self, states: Iterable[Tensor]):
        super().__init__()
        self.states = list(states)
        self._of = WeakTensorKeyDictionary()
        for place, x in enumerate(self.states):
            self._of[x] = frozenset([place])

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        found = frozenset().union(*(self._of.get(x, ()) for x in _tensors([*args, *given.values()])))
        if found:
            for x in _tensors([out]):
                self._of[x] = found
        return out

    def source(self, query: Tensor, key: Tensor) -> Tensor | None:
        """The states that keys come from, if there is one such argument and queries come from others; None if
        both come from the same, or if where either comes from is unknown."""
        queries, keys = (self._of.get(x, frozenset()) for x in (query, key))
        if not queries or len(keys) != 1 or queries & keys:
            return None
        return self.states[next(iter(keys))]


def _tensors(several: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors, also those in lists and tuples."""
    for x in several:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, (list, tuple)):
            yield from _tensors(x)
