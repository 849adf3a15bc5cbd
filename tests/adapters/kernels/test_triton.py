"""The step on a GPU: what takes it, that the host reads no number of it, and, where Triton is installed, its
numbers in Triton's interpreter and its compilation for GPUs that are not there."""

import ast
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from attngraph import AttentionScores, PastDegree
from attngraph.adapters.kernels import gpu

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton: pip install triton"
)


def run(*words, cwd, **environment):
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | dict(PYTHONPATH=paths, TRITON_CACHE_DIR=str(cwd / "cache")) | environment
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_numbers_in_the_interpreter(tmp_path):
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    out = run(*words, str(HERE / "triton_checks.py"), cwd=tmp_path, TRITON_INTERPRET="1")
    assert "skipped" not in out


@needs_triton
@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile(capability, tmp_path):
    """The interpreter lets pass what the compiler refuses; and a tile may need more memory than there is."""
    out = run(str(HERE / "triton_compile.py"), str(capability), cwd=tmp_path, TRITON_INTERPRET="0")
    assert "_to_keys" in out


def test_the_kernels_can_be_published_alone():
    """They import PyTorch and Triton, and each other relatively; the standard library aside."""
    folder = Path(gpu.__file__).parent
    for name in ("_triton_launch.py", "_triton_kernels.py"):
        for node in ast.walk(ast.parse((folder / name).read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [] if node.level == 1 else [node.module]
            else:
                continue
            for module in modules:
                assert module.partition(".")[0] in {"torch", "triton", *sys.stdlib_module_names}


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Triton and an H100, so far as anything but the kernels sees them."""
    monkeypatch.setattr(gpu, "_has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu._runs_on.cache_clear()
    with FakeTensorMode():
        yield
    gpu._runs_on.cache_clear()


def empty_scores(dtype=torch.bfloat16, d=64, device="cuda", **more):
    query, key, value = (torch.empty(2, 3, k, d, dtype=dtype, device=device) for k in (4, 7, 7))
    return AttentionScores(query, key, value, **more)


def test_what_the_kernels_cover(on_a_gpu, monkeypatch):
    for given in (dict(), dict(dtype=torch.float16), dict(dtype=torch.float32, d=5)):
        assert gpu.covers(empty_scores(**given))
    kept = torch.ones(2, 3, 4, 7, dtype=torch.bool, device="cuda")
    for given in (
        dict(dtype=torch.float64),
        dict(d=129),
        dict(device="cpu"),
        dict(kept=kept, dropout=0.1),
    ):
        assert not gpu.covers(empty_scores(**given))
    mixed = empty_scores()
    assert not gpu.covers(replace(mixed, value=mixed.value.float()))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    gpu._runs_on.cache_clear()
    assert not gpu.covers(empty_scores())


def test_the_host_reads_no_number():
    """Tensors without data raise where one of their numbers is asked for, which on a GPU would wait for all
    work before it."""
    with FakeTensorMode():
        past = PastDegree(torch.empty(2, 3, 7), torch.empty(2, dtype=torch.long))
        scores = empty_scores(
            device="cpu",  # without a GPU there is no backward pass on one, not even without data
            past_degree=past,
            metric=torch.empty(3, 64, 64),
            mask=torch.empty(2, 1, 1, 7, dtype=torch.bfloat16),
            query_mask=torch.ones(2, 4, dtype=torch.bool),
            causal=True,
        )
        leaves = [x.requires_grad_() for x in (scores.query, scores.key, scores.value)]
        p = torch.empty((), requires_grad=True)
        for degree in ("sum", "mean"):
            out, context = gpu.triton_step(scores, p, 0.2 / p, degree, context=True)
            assert out.dtype == context.dtype == torch.bfloat16
            grads = torch.autograd.grad(out.sum() + context.sum(), [*leaves, p])
            for x, grad in zip([*leaves, p], grads):
                assert grad.shape == x.shape and grad.dtype == x.dtype
