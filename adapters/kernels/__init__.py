r"""Kernels: attention and one p-Laplacian step in one function, with a hand-written backward pass.

Written with tensor operations, a step of :class:`adapters.pgnn.PGNN` takes some ten passes over all edges of
the attention graph, and autograd keeps eight and more arrays of all edges for the backward pass. The kernels
start from queries, keys and values (:class:`attngraph.AttentionScores`) and compute the attention weights
themselves, so that they need less memory and time:

- :func:`adapters.kernels.native.native_step`: all edges of a head at a time, in C, on a processor and in
  single or half precision. Training takes it where it can, and evaluation without gradients.
- :func:`adapters.kernels.fused.fused_step`: all edges of a few heads at a time, in PyTorch operations; keeps
  two numbers per edge. It stands in for the others (``backend="eager"``: always).
- :func:`adapters.kernels.tiled.tiled_step`: a tile of edges at a time; keeps no array of all edges. For long
  sequences (``backend="tiled"``).
- :func:`adapters.kernels.decoding.decoding_step`: starts from weights that are known, without gradients. For
  decoding with a key/value cache.

All return the same numbers as the dense backend, also the attention output, and gradients for queries, keys,
values, separate features of the query nodes, p and :math:`2\mu/p`; the metric gets none. The tiled one takes
no dropout, whose draw is an array of all edges. Those in PyTorch operations run on every device. Second
derivatives (``create_graph=True``, ``hvp``), the transforms of ``torch.func``, forward-mode differentiation
and ``torch.export`` work too, in the plain tensor operations of :mod:`adapters.p_scheme`, which hold arrays
of all edges. Masks and draws of dropout are not copied: leave them as they are until the backward pass is done.
:mod:`adapters.kernels.step` and :mod:`adapters.kernels.distances` hold what they share.

Axes in comments: ``b`` examples, ``h`` heads, ``g = b·h`` heads of all examples, ``n`` queries, ``m`` values,
``d`` features per head.
"""

from collections.abc import Callable

from torch import Tensor

from adapters.kernels.decoding import decoding_step, decoding_step_takes
from adapters.kernels.fused import fused_step
from adapters.kernels.native import native_step, refusal
from adapters.kernels.tiled import tiled_step
from attngraph.errors import UserError
from attngraph.scores import AttentionScores

__all__ = ["decoding_step", "decoding_step_takes", "fused_step", "native_step", "step_of", "tiled_step"]


def step_of(backend: str, scores: AttentionScores) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The function that takes a step on a backend: this is the place to choose among those for ``"dense"``.

    Raises:
        UserError: ``"native"`` where the kernel in C cannot be used.
    """
    if backend == "tiled":
        return tiled_step
    if backend == "eager":
        return fused_step
    reason = refusal(scores)
    if reason is None:
        return native_step
    if backend == "native":
        raise UserError(f"backend='native' cannot be used, since {reason}: use 'dense', which does without")
    return fused_step
