"""The figure of maps: which panel stands where, what is written in it, and what its points look like."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from attngraph.analysis.embedding import quality
from attngraph.analysis.plots.embedding import draw
from attngraph.analysis.plots.style import files


def tables(panels, points=12, **labels):
    """Made-up maps: ``panels`` are dicts of what differs."""
    draw_ = np.random.default_rng(0)
    frames, measures = [], []
    common = dict(layer="block.0.attention", kind="self", head="all", state="frozen")
    common |= dict(method="tsne", perplexity=30.0, seed=0)
    nodes = pd.DataFrame(dict(role=["query", "value"] * (points // 2), modality="text", token="red"))
    nodes["class"] = ["word", "special token", "word"] * (points // 3)
    nodes = nodes.assign(example="picture", node=range(points)).assign(**labels)
    named = {name: nodes[name] for name in ("role", "class")}
    for number, about in enumerate(panels):
        keys = common | dict(map=number, panel=number) | about
        place = draw_.normal(size=(points, 2))
        frames.append(nodes.assign(x=place[:, 0], y=place[:, 1], **keys))
        measures.append(quality(place, place, named, neighbours=3).assign(**keys))
    return pd.concat(frames, ignore_index=True), pd.concat(measures, ignore_index=True)


@pytest.fixture
def figure_of(drawn, tmp_path):
    """The figure that draw() made, without writing it."""

    def make(table, measures, colour="role", **more):
        draw(table, measures, tmp_path / "a", colour, **more)
        return drawn[-1]

    return make


def headings(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def captions(folder):
    """What the caption says of each panel, by its letter."""
    text = " ".join((folder / "a.caption.txt").read_text(encoding="utf-8").split())
    parts = re.split(r"\(([a-z])\) ", text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def corners(figure):
    """Row and column of each panel, from where it stands."""
    lefts = sorted({round(axes.get_position().x0, 6) for axes in figure.axes})
    tops = sorted({round(axes.get_position().y0, 6) for axes in figure.axes}, reverse=True)
    return [
        (tops.index(round(axes.get_position().y0, 6)), lefts.index(round(axes.get_position().x0, 6)))
        for axes in figure.axes
    ]


def test_self_and_cross_attention_of_a_block_are_side_by_side(figure_of, tmp_path):
    layers = [("vision.0", "self"), ("vision.1", "self"), ("text.0.self", "self"), ("text.0.cross", "cross")]
    long = "text_decoder.bert.encoder.layer.of.a.model.with.a.long.name.2.self"
    layers += [("text.1.cross", "cross"), (long, "self")]
    figure = figure_of(*tables([{"layer": layer, "kind": kind} for layer, kind in layers]))
    assert corners(figure) == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 0)]
    texts = captions(tmp_path)
    for letter, (layer, kind), heading in zip("abcdef", layers, headings(figure), strict=True):
        assert heading == f"({letter}) {kind}-attention"
        assert texts[letter].startswith(f"{layer}, all heads, 12 points")


def test_heads_and_states_are_columns_and_settings_rows(figure_of, tmp_path):
    panels = [
        {"head": head, "state": state, "perplexity": perplexity, "map": 2 * head + (perplexity > 10)}
        for head in (0, 1)
        for perplexity in (5.0, 30.0)
        for state in ("frozen", "adapted")
    ]
    figure = figure_of(*tables(panels))
    assert corners(figure) == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    texts = captions(tmp_path)
    assert [heading[1] for heading in headings(figure)] == list("abefcdgh"), "in reading order"
    for about, heading in zip(panels, headings(figure), strict=True):
        assert heading.endswith(f"self-attention, head {about['head']}, {about['state']}")
        assert f"perplexity {about['perplexity']:g}, 12 points" in texts[heading[1]]
    frames = [(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes]
    assert frames[0] == frames[1] != frames[2]  # states on one map share its frame


def test_the_caption_has_the_measures_of_each_map(figure_of, tmp_path):
    table, measures = tables([{}, {"layer": "block.1"}])
    figure_of(table, measures, "class")
    texts = captions(tmp_path)
    for panel, text in enumerate(texts.values()):
        own = measures[measures.panel == panel].set_index(["measure", "label", "space"]).sort_index().value
        assert f"trustworthiness {own['trustworthiness', '', 'map']:.3f}" in text
        for label in ("role", "class"):
            values = own["purity", label]
            assert f"purity by {label}: V̂ {values['features']:.2f}, map {values['map']:.2f}, chance" in text
    assert texts["a"] != texts["b"]
    figure_of(table, measures)
    assert "by class" not in captions(tmp_path)["a"]


def points_of(figure):
    """``{(x, y): (colour, marker)}`` of the first panel."""
    points = {}
    for marker, dots in zip(("query", "value"), figure.axes[0].collections):
        for place, colour in zip(dots.get_offsets(), dots.get_facecolors()):
            points[tuple(place)] = to_hex(colour), marker
    return points


def test_every_point_has_its_labels_colour_and_its_roles_shape(figure_of):
    classes = ["word"] * 6 + [f"rare {k}" for k in range(5)] + [""]
    table, measures = tables([{}], **{"class": classes})
    figure = figure_of(table, measures, "class")
    handles = zip(figure.legends[0].get_texts(), figure.legends[0].legend_handles)
    legend = {text.get_text(): to_hex(handle.get_markerfacecolor()) for text, handle in handles}
    seen = points_of(figure)
    assert len(seen) == len(table)
    for place, role, label in zip(zip(table.x, table.y), table.role, table["class"]):
        assert seen[place] == (legend[label or "no label"], role)
    assert len(set(legend.values())) == len(legend) - 1  # both shapes have one colour
    shapes = {path.get_paths()[0].vertices.tobytes() for path in figure.axes[0].collections}
    assert len(shapes) == 2
    tokens = ["often"] * 2 + [f"token {k}" for k in range(10)]
    figure = figure_of(*tables([{}], token=tokens), "token")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "often" and labels[-3:] == ["other", "query", "value"] and len(labels) == 12
    with pytest.raises(ValueError, match="colour"):
        figure_of(table, measures, "shape")
    with pytest.raises(ValueError, match="no rows"):
        figure_of(table[:0], measures)


def test_the_files_hold_the_text(tmp_path):
    table, measures = tables([{}], token=["$x$"] * 12)
    draw(table, measures, tmp_path / "map", "token", "A model", ["Read this."])
    assert {file.name for file in tmp_path.iterdir()} == set(files("map"))
    assert "$x$" in (tmp_path / "map.svg").read_text(encoding="utf-8")
    first, *_, last = (tmp_path / "map.caption.txt").read_text(encoding="utf-8").splitlines()
    assert (first, last) == ("A model", "Read this.")
