"""Every kind of model that a command loads: the right words and patches, in any batch, in all commands."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from attngraph import capture
from attngraph.analysis.patches import patch_grid
from attngraph.analysis.relevance import image_nodes, route, valid_nodes
from attngraph.errors import UserError
from attngraph.experiments.base.arguments import asked
from attngraph.experiments.cli import options_of
from attngraph.experiments.commands import attention, heterophily, tsne
from attngraph.experiments.inspect.words import words_of
from tests.experiments.inspect.looking import source
from tests.experiments.tiny import ALL, IMAGE_ALONE, TEXT_ALONE

#: One of each way in which text and image meet; the others run among the slow tests.
QUICK = ("bert", "t5", "clip", "vilt", "donut", "mplug", "blip-vqa", "llava", "qwen2.5-vl", "blip2", "siglip")
#: Image tokens that are no patches.
NO_PATCHES = [family for family in ALL if "blip2" in family or family == "instructblip"]


def quick_first(families):
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in families]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Two pictures of other shapes and two texts of other lengths."""
    folder = tmp_path_factory.mktemp("given")
    for k, size in enumerate(((24, 16), (16, 16))):
        noise = np.random.default_rng(k).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{k}.png")
    (folder / "texts.txt").write_text("red\na red ball\n")
    return folder


@pytest.fixture(scope="module")
def options(saved, given):
    """``options(family)``: what a command is told, so that it runs this model on those."""

    def of(family: str) -> list[str]:
        words = ["--model", saved(family)]
        words += [] if family in TEXT_ALONE else ["--images", given / "0.png", given / "1.png"]
        words += [] if family in IMAGE_ALONE else ["--texts", given / "texts.txt"]
        return [str(word) for word in words]

    return of


@pytest.mark.parametrize("family", quick_first(ALL))
def test_a_batch_changes_neither_graphs_nor_words(family, options):
    ((batch, graphs),) = source(*options(family), "--batch", "2").graphs()
    for k, (single, own) in enumerate(source(*options(family), "--batch", "1").graphs()):
        assert list(own) == list(graphs)
        for name, graph in graphs.items():
            one = own[name]
            if graph.shape[0] != 2:  # windows of pictures
                continue
            there = [valid_nodes(graph, side)[k] for side in (0, 1)]
            for side in (0, 1):
                together, alone = words_of(batch, graph, side), words_of(single, one, side)
                images = image_nodes(graph, side)[k][there[side]], image_nodes(one, side)[0]
                assert torch.equal(*images), (name, side)
                assert (together is None) == (alone is None), (name, side)
                if alone is not None:
                    assert together.tokens[k][there[side]].tolist() == alone.tokens[0].tolist(), (name, side)
                    assert not together.padding[k][there[side]].any(), (name, side)
            whole = graph.weight[k]
            seen = whole[:, there[0]][:, :, there[1]]
            torch.testing.assert_close(seen, one.weight[0], rtol=1e-4, atol=1e-5)
            assert not whole[:, :, ~there[1]].any() and not whole[:, ~there[0]].any(), name


#: Output projections of image encoders' attention.
MIXERS = ("self_attn.projection", "attn.proj", "out_proj", "o_proj", "attention.output.dense")


@pytest.mark.parametrize(
    "family", quick_first([family for family in ALL if family not in (*TEXT_ALONE, *NO_PATCHES)])
)
def test_a_patch_is_the_node_that_changes_with_its_pixels(family, options, given):
    """Where image encoders mix nothing: their attention's output is set to 0."""
    found = source(*options(family))
    for name, part in found.model.named_modules():
        if name.endswith(MIXERS) and not any(word in name for word in ("decoder", "language", "text_model")):
            torch.nn.init.zeros_(part.weight)
    ((batch, graphs),) = found.graphs()
    last = route(graphs).hops[-1]
    same = graphs[last].kind, int(image_nodes(graphs[last], 1).sum())
    layer = next(
        name for name, graph in graphs.items() if (graph.kind, int(image_nodes(graph, 1).sum())) == same
    )
    image, before = image_nodes(graphs[layer], 1), graphs[layer].value
    grids = [patch_grid(int(image[k].sum()), batch.pictures.grids[k]) for k in range(2)]
    for row, column in ((0, 1), (1, 0), (grids[0][0] - 1, grids[0][1] - 1)):
        inputs = dict(batch.inputs)
        pixels = inputs["pixel_values"]
        if pixels.dim() == 2:  # packed patches: through the processor
            pictures = [np.array(Image.open(given / f"{k}.png")) for k in range(2)]
            for picture in pictures:
                picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] ^= 255
            inputs |= found.family.processor.image_processor(
                [Image.fromarray(picture) for picture in pictures], return_tensors="pt"
            )
        else:
            inputs["pixel_values"] = pixels = pixels.clone()
            size = pixels.shape[-2] // grids[0][0]
            pixels[..., size * row : size * (row + 1), size * column : size * (column + 1)] += 1
        after = capture(found.model, inputs)[layer].value
        for k, (rows, columns, others) in enumerate(grids):
            if row < rows and column < columns:
                moved = (after[k] - before[k]).abs().sum((0, 2))[image[k]]
                assert moved.nonzero()[:, 0].tolist() == [others + row * columns + column], (row, column, k)


def test_vilt_computes_the_same_with_its_patches_in_order(options):
    found = source(*options("vilt"))
    (batch,) = found.batches()
    embeddings = found.model.embeddings
    ordered = found.model(**batch.inputs)
    embeddings.__class__ = type(embeddings).__mro__[1]
    torch.manual_seed(1)
    dealt = found.model(**batch.inputs)
    assert not torch.allclose(ordered.last_hidden_state, dealt.last_hidden_state)
    # the words and [CLS]
    torch.testing.assert_close(ordered.last_hidden_state[:, :6], dealt.last_hidden_state[:, :6])
    torch.testing.assert_close(ordered.pooler_output, dealt.pooler_output)


COMMANDS = {
    "heterophily": (heterophily, "heterophily.csv", ["--clusters", "2"]),
    "tsne": (tsne, "coordinates.csv", ["--method", "pca", "--layers", "*"]),
    "attention": (attention, "maps.csv", []),
}
QUICK_COMMANDS = {
    "heterophily": ("mplug",),
    "tsne": ("bart", "blip2"),
    "attention": ("llama", "donut", "llava", "siglip"),
}


@pytest.mark.parametrize(
    "family, command",
    [
        pytest.param(family, command, marks=[pytest.mark.slow] * (family not in QUICK_COMMANDS[command]))
        for family in ALL
        for command in COMMANDS
    ],
)
def test_every_command_runs_whatever_the_batch(command, family, options, tmp_path, monkeypatch):
    module, file, more = COMMANDS[command]
    quick = partial(heterophily.Settings, permutations=1, replicates=20)
    monkeypatch.setattr(heterophily, "Settings", quick)
    monkeypatch.setattr(heterophily, "draw_figures", lambda *_: [])  # which take most of the time
    monkeypatch.setattr(tsne, "draw", lambda *_: None)
    monkeypatch.setattr(attention, "draw_queries", lambda *_: [])

    def table(batch: str) -> pd.DataFrame:
        words = [*options(family), *more, "--batch", batch, "--out", str(tmp_path / batch)]
        assert module.run(asked(options_of(command), words)) == 0
        return pd.read_csv(tmp_path / batch / file)

    if command == "attention" and family in TEXT_ALONE:
        with pytest.raises(UserError, match="attention maps need images"):
            table("1")
        return
    one, two = table("1"), table("2")
    keys = [column for column in one.columns if one[column].dtype != float]
    pd.testing.assert_frame_equal(one[keys], two[keys])
    for column in one.columns.difference(keys):
        np.testing.assert_allclose(one[column], two[column], rtol=2e-3, atol=2e-4, err_msg=column)
