"""Pictures that several examples of a batch look at: what depends on a picture alone is computed once for it.

Keys and values of cross-attention are projections of the states that are looked at, whoever looks: b examples
of u pictures need u of them. They are copied to the examples, so that all that follows is as with b
pictures; the copy costs a few per cent of a projection.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from attngraph.functorch import transformed

ATTRIBUTE = "attngraph_pictures"
"""Of the storage of all examples' states: what they were made from, which is found from every tensor in the
same memory, such as those that a backward pass computes again with. Of the different pictures' states: which
of them each example looks at."""


class Repeated(NamedTuple):
    """What the states of examples were made from; see :func:`states_of_examples`."""

    distinct: Tensor
    picture: Tensor
    shape: torch.Size
    grad_fn: object
    version: int | None

    def made(self, states: Tensor) -> bool:
        """Whether states are those that were made: of this shape, not changed in place since, and not cut off
        from the computation, or made a leaf of one of their own, whose gradient somebody waits for."""
        return (
            states.shape == self.shape
            and states.requires_grad == self.distinct.requires_grad
            and states.grad_fn is self.grad_fn
            and _version(states) == self.version
        )


def _version(states: Tensor) -> int | None:
    """How often a tensor was changed in place; None where nobody counts."""
    return None if states.is_inference() else states._version


def states_of_examples(distinct: Tensor, picture: Tensor) -> Tensor:
    """The states that each example looks at, ``(b, m, width)``, of which :func:`project_once` and
    :func:`first_of_picture` know which are the same.

    Args:
        distinct: states of different pictures, ``(u, m, width)``.
        picture: which of them each example looks at, int64 ``(b,)``, numbered in the order in which examples
            first do.
    """
    if len(distinct) == len(picture):
        return distinct
    distinct = distinct.view_as(distinct)  # a tensor of our own, which gets an attribute
    setattr(distinct, ATTRIBUTE, picture)
    states = distinct.index_select(0, picture)
    made = Repeated(distinct, picture, states.shape, states.grad_fn, _version(states))
    setattr(states.untyped_storage(), ATTRIBUTE, made)
    return states


def _repeated(states: Tensor) -> Repeated | None:
    """What states were made from, if :func:`states_of_examples` made them."""
    if transformed():  # such tensors have no storage
        return None
    made: Repeated | None = getattr(states.untyped_storage(), ATTRIBUTE, None)
    return made if made is not None and made.made(states) else None


def first_of_picture(states: Tensor) -> Tensor | None:
    """For each example the place of the first one that looks at the same picture, int64 ``(b,)``; None where
    no two are known to."""
    made = _repeated(states)
    if made is None:
        return None
    place = torch.arange(len(states), device=states.device)
    first = place.new_full((len(made.distinct),), len(place))
    return first.scatter_reduce(0, made.picture, place, "amin")[made.picture]


def project_once(projection: nn.Module) -> None:
    """Let a projection of keys or values run once for each picture. What is put around it later (LoRA) sees
    all examples. Of one that does so already nothing changes."""
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
