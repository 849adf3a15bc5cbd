r"""Kernels: attention and one p-Laplacian step in one function, with a hand-written backward pass.

Written with tensor operations, a step of :class:`attngraph.adapters.pgnn.PGNN` takes some ten passes over all
edges of the attention graph, and autograd keeps eight and more arrays of all edges for the backward pass. The
kernels start from queries, keys and values (:class:`attngraph.AttentionScores`) and compute the attention
weights themselves, so that they need less memory and time:

- :func:`attngraph.adapters.kernels.native.native_step`: all edges of a head at a time, in C, on a processor
  and in single or half precision. Training takes it where it can, and so does evaluation without gradients.
- :func:`attngraph.adapters.kernels.fused.fused_step`: all edges of a few heads at a time, in PyTorch
  operations; keeps two numbers per edge. It replaces the one in C where that cannot run.
- :func:`attngraph.adapters.kernels.decoding.decoding_step`: in PyTorch operations, from weights that are
  known, without gradients. It replaces the one in C while a model decodes with a key/value cache.
- :func:`attngraph.adapters.kernels.gpu.triton_step`: in Triton, for NVIDIA GPUs, where
  :func:`~attngraph.adapters.kernels.gpu.covers` says so.
- :func:`attngraph.adapters.kernels.strips.strip_step`: some queries at a time, in C; keeps no array of all
  edges. For long sequences (``backend="tiled"``); :mod:`attngraph.backends.chunks` is its fallback.

All return the same numbers as the dense backend, also the attention output, and gradients for queries, keys,
values, separate features of the query nodes, p and :math:`2\mu/p`; the metric gets none. Strips take no
dropout, since its random mask is an array of all edges. Those in PyTorch operations run on every device.
Second derivatives (``create_graph=True``, ``hvp``), the transforms of ``torch.func``, forward-mode
differentiation and ``torch.export`` work too, in the plain tensor operations of
:mod:`attngraph.adapters.p_scheme`, which hold arrays of all edges. Masks, including those of dropout, are not
copied: do not change them until the backward pass is done. :mod:`attngraph.adapters.kernels.step` and
:mod:`attngraph.adapters.kernels.distances` hold the code that they share.

Axes in comments: ``b`` examples, ``h`` heads, ``g = b·h`` heads of all examples, ``n`` queries, ``m`` values,
``d`` features per head.
"""

from collections.abc import Callable

from torch import Tensor

from attngraph.adapters.kernels import decoding, gpu, native
from attngraph.adapters.kernels.decoding import decoding_step
from attngraph.adapters.kernels.fused import fused_step
from attngraph.adapters.kernels.gpu import triton_step
from attngraph.adapters.kernels.native import native_step
from attngraph.adapters.kernels.strips import strip_step
from attngraph.backends import check_backend
from attngraph.scores import AttentionScores

__all__ = [
    "decoding_step",
    "fused_step",
    "native_step",
    "step_of",
    "strip_step",
    "triton_step",
]


def step_of(
    backend: str, scores: AttentionScores, context: bool = False
) -> Callable[..., tuple[Tensor, Tensor | None]] | None:
    """The function that takes a step on a backend; None if there is none but the general way of schemes.

    Args:
        backend: see :meth:`attngraph.adapters.scheme.Scheme.forward`.
        scores: the attention.
        context: whether the attention output is wanted.

    Raises:
        ValueError: an unknown backend.
    """
    check_backend(backend)
    if backend == "sparse":
        return None
    tiled, in_c = backend == "tiled", native.covers(scores)
    if in_c and not tiled:
        return native_step
    if in_c and scores.kept is None:
        return strip_step
    if gpu.covers(scores):
        return triton_step
    if tiled:
        return None
    return decoding_step if decoding.covers(scores) and not context else fused_step
