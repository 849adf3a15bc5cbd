r"""Kernels: attention and one p-Laplacian step in one function, with a hand-written backward pass.

Written with tensor operations, a step of :class:`adapters.pgnn.PGNN` takes some ten passes over all edges of
the attention graph, and autograd keeps eight and more arrays of all edges for the backward pass. The kernels
start from queries, keys and values (:class:`attngraph.AttentionScores`) and compute the attention weights
themselves, so that they need less memory and time:

- :func:`adapters.kernels.fused.fused_step`: all edges of a few heads at a time; keeps two numbers per edge.
  Training takes it by default, and evaluation without gradients.
- :func:`adapters.kernels.tiled.tiled_step`: a tile of edges at a time; keeps no array of all edges. For long
  sequences (``backend="tiled"``).
- :func:`adapters.kernels.triton_step.triton_step`: the same in Triton, for NVIDIA GPUs, where
  :func:`~adapters.kernels.triton_step.covers` says so.

All return the same numbers as the dense backend, also the attention output, and gradients for queries, keys,
values, separate features of the query nodes, p and :math:`2\mu/p`; the metric gets none. The tiled one takes
no dropout, whose draw is an array of all edges. The first two are written with PyTorch operations, so they
run on every device. Second derivatives (``create_graph=True``, ``hvp``), the transforms of ``torch.func``,
forward-mode differentiation and ``torch.export`` work too, in the plain tensor operations of
:mod:`adapters.p_scheme`, which hold arrays of all edges. Masks and draws of dropout are not copied: leave
them as they are until the backward pass is done. :mod:`adapters.kernels.step` and
:mod:`adapters.kernels.distances` hold what they share.

Axes in comments: ``b`` examples, ``h`` heads, ``g = b·h`` heads of all examples, ``n`` queries, ``m`` values,
``d`` features per head.
"""

from adapters.kernels.fused import fused_step
from adapters.kernels.tiled import tiled_step

__all__ = ["fused_step", "tiled_step"]
