"""Images that several examples of a batch share: results that depend on an image alone are computed once for
it.

Keys and values of cross-attention are projections of the image states and independent of the queries: b
examples of u images need u of them. They are copied to the examples, so that all later operations are the
same as with b images; the copy costs a few per cent of a projection.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from attngraph.functorch import transformed

ATTRIBUTE = "attngraph_pictures"
"""Attribute of the storage of all examples' states: the states that they were copied from, which can be found
from every tensor in the same memory, such as those of a backward pass that recomputes. On the states of the
distinct images: which of them each example uses."""


class Repeated(NamedTuple):
    """Source of the states of examples; see :func:`states_of_examples`."""

    distinct: Tensor
    picture: Tensor
    shape: torch.Size
    grad_fn: object
    version: int | None

    def made(self, states: Tensor) -> bool:
        """Whether states are the copied ones: of the same shape, not changed in place since, not detached
        from the computation, and not a leaf whose gradient is needed."""
        return (
            states.shape == self.shape
            and states.requires_grad == self.distinct.requires_grad
            and states.grad_fn is self.grad_fn
            and _version(states) == self.version
        )


def _version(states: Tensor) -> int | None:
    """Number of in-place changes of a tensor; None if PyTorch does not count them."""
    return None if states.is_inference() else states._version


def states_of_examples(distinct: Tensor, picture: Tensor) -> Tensor:
    """The states that each example attends to, ``(b, m, width)``; :func:`project_once` and
    :func:`first_of_picture` know which of them are the same.

    Args:
        distinct: states of distinct images, ``(u, m, width)``.
        picture: number of the image of each example, int64 ``(b,)``, in the order in which examples first use
            them.
    """
    if len(distinct) == len(picture):
        return distinct
    distinct = distinct.view_as(distinct)  # a separate tensor, which gets an attribute
    setattr(distinct, ATTRIBUTE, picture)
    states = distinct.index_select(0, picture)
    made = Repeated(distinct, picture, states.shape, states.grad_fn, _version(states))
    setattr(states.untyped_storage(), ATTRIBUTE, made)
    return states


def _repeated(states: Tensor) -> Repeated | None:
    """Source of states, if :func:`states_of_examples` made them."""
    if transformed():  # such tensors have no storage
        return None
    made: Repeated | None = getattr(states.untyped_storage(), ATTRIBUTE, None)
    return made if made is not None and made.made(states) else None


def first_of_picture(states: Tensor) -> Tensor | None:
    """For each example the number of the first one with the same image, int64 ``(b,)``; None if no two are
    known to share an image."""
    made = _repeated(states)
    if made is None:
        return None
    place = torch.arange(len(states), device=states.device)
    first = place.new_full((len(made.distinct),), len(place))
    return first.scatter_reduce(0, made.picture, place, "amin")[made.picture]


def project_once(projection: nn.Module) -> None:
    """Let a projection of keys or values run once for each image. Layers that wrap it later (LoRA) receive
    all examples. A second call has no effect."""
    if _take_distinct in projection._forward_pre_hooks.values():
        return
    projection.register_forward_pre_hook(_take_distinct)
    projection.register_forward_hook(_give_to_examples)


def _take_distinct(projection: nn.Module, args: tuple) -> tuple | None:
    made = _repeated(args[0])
    return None if made is None else (made.distinct, *args[1:])


def _give_to_examples(projection: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
    picture: Tensor | None = getattr(args[0], ATTRIBUTE, None)
    return None if picture is None else output.index_select(0, picture)
