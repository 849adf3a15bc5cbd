"""What every figure has in common."""

import hashlib

from attngraph.analysis.plots.style import files, new_figure, save, styled


def test_a_figure_and_its_caption_in_all_formats_always_with_the_same_bytes(tmp_path, monkeypatch):
    """Also at another time, which formats other than PNG would write into the file."""
    digests = []
    for seconds in ("0", "1000000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
        with styled():
            figure = new_figure(3.3, 2)
            figure.subplots().plot([1, 2], [3, 5], label="$x$")
            figure.legend()
        save(figure, tmp_path / "lines", "What is shown.\nA second paragraph.")
        names = files("lines")
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
        digests.append([hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names])
    assert digests[0] == digests[1]
    png, svg, pdf, caption = ((tmp_path / name).read_bytes() for name in names)
    assert png.startswith(b"\x89PNG") and b"<svg" in svg and pdf.startswith(b"%PDF")
    assert caption.decode() == "What is shown.\nA second paragraph.\n"
