r"""Kernels: attention and one p-Laplacian step in one function, with a hand-written backward pass.

Written with tensor operations, a step of :class:`adapters.pgnn.PGNN` takes some ten passes over all edges of
the attention graph, and autograd keeps eight and more arrays of all edges for the backward pass. The kernels
start from queries, keys and values (:class:`attngraph.AttentionScores`) and compute the attention weights
themselves, so that they need less memory and time:

- :func:`adapters.kernels.fused.fused_step`: all edges of a few heads at a time; keeps two numbers per edge.
  Training takes it by default, and evaluation without gradients.
- :func:`adapters.kernels.strips.strip_step`: some queries at a time, in C; keeps no array of all edges. For
  long sequences (``backend="tiled"``) on processors, in single and half precision
  (:func:`adapters.kernels.strips.covered`); others take :mod:`attngraph.backends.chunks`.

Both return the same numbers as the dense backend, also the attention output, and gradients for queries, keys,
values, separate features of the query nodes, p and :math:`2\mu/p`; the metric gets none. The second takes
no dropout, whose draw is an array of all edges. The first is written with PyTorch operations, so it runs on
every device. Second derivatives (``create_graph=True``, ``hvp``), the transforms of ``torch.func``,
forward-mode differentiation and ``torch.export`` work too, in the plain tensor operations of
:mod:`adapters.p_scheme`, which hold arrays of all edges. Masks and draws of dropout are not copied: leave
them as they are until the backward pass is done. :mod:`adapters.kernels.step` and
:mod:`adapters.kernels.distances` hold what they share.

Axes in comments: ``b`` examples, ``h`` heads, ``g = b·h`` heads of all examples, ``n`` queries, ``m`` values,
``d`` features per head.
"""

from adapters.kernels.fused import fused_step
from adapters.kernels.strips import covered, strip_step

__all__ = ["covered", "fused_step", "strip_step"]
