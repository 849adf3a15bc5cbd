"""The file itself, without a browser: what it holds, and what is refused."""

from dataclasses import replace

import pytest

from analysis.viewer import ViewerExample, write_viewer
from attngraph import UserError
from tests.analysis.viewer.page_reading import (
    CROSS,
    ENCODER,
    NODES,
    SELF,
    SIDES,
    TOKENS,
    examples,
    graphs,
    stored,
)


def test_cells_are_stored_once(tmp_path):
    shown, _ = examples(encoder=True)
    write_viewer(tmp_path / "viewer.html", shown, "once")
    assert sorted(stored(tmp_path / "viewer.html")["sides"], key=len) == [TOKENS, NODES]


def test_the_page_holds_no_address(tmp_path):
    write_viewer(tmp_path / "viewer.html", examples()[0], "addresses")
    text = (tmp_path / "viewer.html").read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text.replace("http-equiv", "") and "//" not in text.split('id="data">')[0]


def test_what_is_not_there_is_refused(tmp_path):
    (shown, second), _ = examples(encoder=True)

    def refused(message: str, *shown_examples: ViewerExample, **options):
        with pytest.raises(ValueError, match=f"^{message}"):
            write_viewer(tmp_path / "viewer.html", shown_examples, "wrong", **options)

    def sides(**changes):
        return replace(shown, sides=SIDES | changes)

    refused("examples must hold at least one")
    refused(
        "examples must all have the weights M, M\u0304",
        shown,
        replace(second, graphs={"M": second.graphs["M"]}),
    )
    refused("graphs must hold at least one layer", replace(shown, graphs={}))
    refused("graphs must hold at least one layer", replace(shown, graphs={"M": {}}))
    for missing in (0, 1):  # in another kind of weights, in another example
        kinds = {
            kind: {
                name: graph for name, graph in graphs.items() if name != SELF or (kind == "M" and not missing)
            }
            for kind, graphs in second.graphs.items()
        }
        refused(
            f"graphs must all have the layers encoder, {SELF}, {CROSS}, got encoder, {CROSS} for M",
            shown,
            replace(second, graphs=kinds),
        )
    refused(
        r"graphs must be of one example and have one shape, got \(2, 2, 10, 10\)",
        replace(shown, graphs={"M": shown.graphs["M"], "M\u0304": graphs()}),
    )
    refused(r"heads must lie in 0\.\.1 for encoder, got \[2\]", shown, heads=[2])
    refused(r"heads must lie in 0\.\.1 for encoder, got \[\]", shown, heads=[])
    refused(f"first must be one of encoder, {SELF}, {CROSS}, got vision", shown, first="vision")
    refused(
        f"sides must hold all layers, got none for {SELF}", replace(shown, sides={ENCODER: SIDES[ENCODER]})
    )
    refused(
        "sides must hold 10 query cells and 10 value cells for encoder, got 10 and 9",
        sides(encoder=(NODES, NODES[:-1])),
    )
    for wrong in (-1, 10):
        refused(
            r"sides must number image nodes 0\.\.9 for encoder, got",
            sides(encoder=([*NODES[:-1], wrong], NODES)),
        )
    refused("sides must name each image node once for encoder", sides(encoder=([*NODES[:-1], 0], NODES)))
    refused(
        "sides must hold a query and a value that are drawn for encoder", sides(encoder=([None] * 10, NODES))
    )
    refused("image must be given for encoder", replace(shown, image=None))
    refused("grid must be given for encoder", replace(shown, grid=None))
    refused(
        f"start must be a query that is drawn, got 4 for {SELF}", replace(shown, start={SELF: 4})
    )  # padding
    weight = shown.graphs["M"][SELF].weight
    weight[0, 1, 2, 1] = float("nan")
    with pytest.raises(UserError, match=rf"^{shown.name}, {SELF}: the weights M hold NaN"):
        write_viewer(tmp_path / "viewer.html", [shown], "wrong")
    assert not (tmp_path / "viewer.html").exists()
