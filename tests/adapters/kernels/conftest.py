import pytest


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several blocks of heads, and several tiles per head."""
    monkeypatch.setattr("adapters.kernels.fused.BLOCK", 100)
    monkeypatch.setattr("adapters.kernels.tiled.ROWS", 2)
    monkeypatch.setattr("adapters.kernels.tiled.TILE", 10)
