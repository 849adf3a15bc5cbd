"""The library of C kernels: which file is used, and which is refused."""

import shutil

import pytest
import torch

from attngraph import UserError
from attngraph.native import library as native

built = native._find("native")[0] is not None
needs_library = pytest.mark.skipif(not built, reason="no C compiler when attngraph was installed")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A copy of the folder, which tests may damage."""
    copy = tmp_path / "native"
    shutil.copytree(native.FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(native, "FOLDER", copy)
    yield copy
    native._find.cache_clear()


def refusal(monkeypatch, wanted: str = "native") -> str:
    monkeypatch.setenv(native.VARIABLE, wanted)
    native._find.cache_clear()
    with pytest.raises(UserError) as error:
        native.library()
    return str(error.value)


@needs_library
def test_a_damaged_library_is_refused_before_it_is_loaded(folder, monkeypatch):
    for path in folder.glob("_kernels_*[!6]"):  # a byte of code that loading would not notice
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert "its hash differs" in refusal(monkeypatch)
    monkeypatch.delenv(native.VARIABLE)
    assert native.library() is None and "hash" in native.status()


@needs_library
def test_a_library_of_other_sources_is_refused(folder, monkeypatch):
    folder.joinpath("runtime.c").write_text("/* changed since */", encoding="ascii")
    assert "other sources" in refusal(monkeypatch)


@needs_library
def test_a_library_that_computes_something_else_is_refused(folder, monkeypatch):
    """As one would that was built with a compiler option that reorders sums."""
    monkeypatch.setattr(native, "EXACT", 1e-10)
    assert "does not compute the same" in refusal(monkeypatch)


def test_without_a_library_torch_computes(folder, monkeypatch, caplog):
    for path in folder.glob("_kernels_*"):
        path.unlink()
    assert "not built" in refusal(monkeypatch)
    monkeypatch.delenv(native.VARIABLE)
    native._find.cache_clear()
    with caplog.at_level("INFO", "attngraph"):
        assert native.library() is None and "make setup" in native.status()
    assert [line.getMessage()[:12] for line in caplog.records] == ["no C kernels"]  # slow runs have a reason


@pytest.mark.parametrize("wanted", ["eager", "fast"])
def test_the_variable_chooses(wanted, monkeypatch):
    if wanted == "fast":
        assert "choose native, eager, avx2" in refusal(monkeypatch, wanted)
    else:
        monkeypatch.setenv(native.VARIABLE, wanted)
        assert native.library() is None and wanted in native.status()


@needs_library
@pytest.mark.parametrize("variant", native.VARIANTS)
def test_powers_and_logarithms_over_their_whole_range(variant):
    """Against torch in float64; also where a polynomial's pieces meet, and for NaN."""
    if (found := native._find(variant)[0]) is None:
        pytest.skip("not for this processor")
    edges = torch.arange(-126, 127) + 0.5
    x = torch.cat(
        [
            torch.linspace(-125.9, 126.9, 100_003),
            edges,
            edges.nextafter(torch.tensor(999.0)),
            edges[:1] * torch.nan,
        ]
    )
    power, logarithm = torch.empty_like(x), torch.empty_like(x)
    found.functions.attngraph_powers(*map(native.pointer, (x, power, logarithm)), len(x))
    assert power[-1].isnan()
    right = x[:-1].double().exp2()
    assert ((power[:-1].double() - right).abs() <= 2e-7 * right).all()
    exact = power[:-1].double().log2()
    assert ((logarithm[:-1].double() - exact).abs() <= 1.5e-7 + 1e-7 * exact.abs()).all()
