"""Compile all Triton kernels for a GPU that is not there: ``python triton_compile.py 80`` (or 90)."""

import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from attngraph.adapters.kernels import _triton_launch

CAPABILITY = int(sys.argv[1])
SHARED = 99 * 1024  # bytes that a block of threads may have at 8.6 and 8.9, the least of all from 8.0 on


class AbsentGPU:
    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_active_torch_device(self):
        return torch.device("cpu")


def compile_only(call, kernel, blocks, heads, *arrays):
    compiled = kernel.warmup(*arrays, meta=call.meta, grid=(blocks, heads), **call.options)
    print(kernel.fn.__name__, compiled.metadata.shared, call.meta, flush=True)
    assert compiled.metadata.shared <= SHARED


def compile_step(dtype, d, context, sizes=(2, 2, 40, 77), **more):
    capability = divmod(CAPABILITY, 10)
    blocks = next(
        x for (least, width), x in _triton_launch.BLOCKS.items() if capability >= least and d <= width
    )
    _triton_launch._target = lambda query, d: (blocks, "tf32x3", False)
    b, h, n, m = sizes
    query, key, value = (torch.zeros(b, h, k, d, dtype=dtype) for k in (n, m, m))
    numbers = torch.tensor(1.5), torch.tensor(0.1)
    given = dict(feature=None, mask=None, query_mask=None, metric=None, past=None, degree_scale=None) | more
    given = _triton_launch.Attention(
        query, key, value, p=numbers[0], residual=numbers[1], scale=0.125, **given
    )
    _, _, results = _triton_launch.forward(given, context)
    _triton_launch.backward(given, results, query, query if context else None)


driver.set_active(AbsentGPU())
_triton_launch._Call.launch = compile_only
compile_step(
    torch.float32,
    128,
    True,
    causal=True,
    triangular=True,
    metric=torch.zeros(2, 128, 128),
    mask=torch.zeros(2, 1, 1, 77),
    past=torch.zeros(2, 2, 77),
    degree_scale=torch.ones(2, 1, 40, 1),
)
compile_step(
    torch.bfloat16,
    64,
    False,
    causal=False,
    triangular=False,
    feature=torch.zeros(2, 2, 40, 64, dtype=torch.bfloat16),
    mask=torch.ones(1, 1, 40, 77, dtype=torch.bool),
    query_mask=torch.ones(2, 40, dtype=torch.bool),
    degree_scale=torch.ones(2, 1, 1, 1),
)
# sizes and strides of 1 are constants to the compiler
compile_step(torch.float16, 1, True, sizes=(1, 1, 1, 1), causal=True, triangular=True)
