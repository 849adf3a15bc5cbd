"""Shipped figures are those that the code draws today from the results next to them."""

import matplotlib
import pytest

from docs.figures.stored import figures
from tests.docs.pages import RESULTS, ROOT

DRAWN = ("full/ablation", "tables/p/p", "attention/mass")


@pytest.mark.parametrize("name", DRAWN)
def test_a_shipped_figure_is_drawn_again_to_the_byte(name, tmp_path):
    path = (RESULTS / name).relative_to(ROOT)
    shipped = (ROOT / path).with_suffix(".svg").read_bytes()
    if f"Matplotlib v{matplotlib.__version__}," not in shipped.decode():
        pytest.skip("drawn by another version of matplotlib, whose files differ")
    figures()[path](ROOT / path, tmp_path / "figure")
    assert (tmp_path / "figure.svg").read_bytes() == shipped


def test_every_shipped_figure_has_its_caption():
    missing = [file for file in RESULTS.rglob("*.png") if not file.with_suffix(".caption.txt").is_file()]
    assert not missing
