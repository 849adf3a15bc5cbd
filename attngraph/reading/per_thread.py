"""State of a running forward pass, of which each thread has its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

State = TypeVar("State")


class PerThread(Generic[State]):
    """One object for each thread, made when the thread first asks for it.

    Args:
        make: makes one.
    """

    def __init__(self, make: Callable[[], State]):
        self._make, self._own = make, threading.local()

    def __reduce__(self):  # copies of a model start empty
        return PerThread, (self._make,)

    def get(self) -> State:
        """The calling thread's object."""
        if torch.compiler.is_dynamo_compiling():
            return self._get_outside()
        try:
            return self._own.state
        except AttributeError:
            self._own.state = self._make()
            return self._own.state

    def known(self) -> bool:
        """Whether the calling thread has asked before."""
        return self._known_outside() if torch.compiler.is_dynamo_compiling() else hasattr(self._own, "state")

    # torch.compile would take what one thread has for constant
    _get_outside, _known_outside = map(torch.compiler.disable, (get, known))
