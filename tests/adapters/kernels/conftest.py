import pytest


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several blocks of heads, and several chunks and strips of queries."""
    monkeypatch.setattr("attngraph.adapters.kernels.fused.BLOCK", 100)
    monkeypatch.setattr("attngraph.adapters.kernels.strips.ROWS", 2)
    monkeypatch.setattr("attngraph.backends.chunks.MOST", 2)
