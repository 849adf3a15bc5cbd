"""The file itself, without a browser: what it holds, and what is refused."""

from dataclasses import replace

import pytest

from attngraph import UserError
from attngraph.analysis.viewer import viewer_page
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


def test_cells_are_stored_once_and_no_address(tmp_path):
    viewer_page(examples(encoder=True)[0], "once").save(tmp_path / "viewer.html")
    assert sorted(stored(tmp_path / "viewer.html")["sides"], key=len) == [TOKENS, NODES]
    text = (tmp_path / "viewer.html").read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text.replace("http-equiv", "") and "//" not in text.split('id="data">')[0]
    viewer_page(examples(encoder=True)[0], "few", edges=1).save(tmp_path / "viewer.html")
    layers = [layer for shown in stored(tmp_path / "viewer.html")["examples"] for layer in shown["layers"]]
    assert [layer["kept"] for layer in layers] == [1] * 6, "the strongest of each query"


def test_what_is_not_there_is_refused(tmp_path):
    (shown, second), _ = examples(encoder=True)
    one, two = shown.graphs.items()
    layers = f"encoder, {SELF}, {CROSS}"
    without = {name: graph for name, graph in second.graphs["M"].items() if name != SELF}

    def sides(cells, values=NODES):
        return dict(examples=[replace(shown, sides=SIDES | {ENCODER: (cells, values)})])

    def example(**fields):
        return dict(examples=[replace(shown, **fields)])

    for wrong, message in (
        (dict(examples=[]), "examples must hold at least one"),
        (
            dict(examples=[shown, replace(second, graphs={"M": second.graphs["M"]})]),
            "examples must all have the weights M, M\u0304",
        ),
        (example(graphs={"M": {}}), "graphs must hold at least one layer"),
        (
            dict(examples=[shown, replace(second, graphs=second.graphs | {"M": without})]),
            f"graphs must all have the layers {layers}, got encoder, {CROSS} for M",
        ),
        (
            example(graphs=dict([one]) | {two[0]: graphs()}),
            r"graphs must be of one example and have one shape, got \(2, 2, 10, 10\)",
        ),
        (dict(heads=[2]), r"heads must be in 0\.\.1 for encoder, got \[2\]"),
        (dict(first="vision"), f"first must be one of {layers}, got vision"),
        (example(sides={ENCODER: SIDES[ENCODER]}), f"sides must hold all layers, got none for {SELF}"),
        (
            sides(NODES, NODES[:-1]),
            "sides must hold 10 query nodes and 10 value nodes for encoder, got 10 and 9",
        ),
        (sides([*NODES[:-1], 10]), r"sides must number image nodes 0\.\.9 for encoder, got"),
        (sides([*NODES[:-1], 0]), "sides must name each image node once for encoder"),
        (sides([None] * 10), "sides must hold a query and a value that are shown for encoder"),
        (example(image=None), "image must be given for encoder"),
        (example(grid=None), "grid must be given for encoder"),
        (example(start={SELF: 4}), f"start must be a query that is shown, got 4 for {SELF}"),  # padding
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            viewer_page(title="wrong", **dict(examples=[shown]) | wrong).save(tmp_path / "viewer.html")
    shown.graphs["M"][SELF].weight[0, 1, 2, 1] = float("nan")
    with pytest.raises(UserError, match=rf"^{shown.name}, {SELF}: the weights M hold NaN"):
        viewer_page([shown], "wrong").save(tmp_path / "viewer.html")
    assert not (tmp_path / "viewer.html").exists()
