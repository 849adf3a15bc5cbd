"""The page of captured graphs: which nodes are words, and which are patches; and what is refused."""

import base64
import json
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from transformers import BertConfig, BertModel

from attngraph import UserError, capture, show
from attngraph.adapters import GraphAdapterConfig
from tests.analysis.viewer.page_reading import (
    CROSS,
    ENCODER,
    PICTURE,
    SELF,
    drawn,
    expected,
    graph,
    graphs,
    softmax,
)

WORDS = ["[DEC]", "what", "color", "?", "[PAD]"]


def data(page) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.text, re.DOTALL)[1])


def sides(page) -> list[tuple[list, list]]:
    """The cells of queries and values of each layer."""
    found = data(page)
    layers = found["examples"][0]["layers"]
    return [(found["sides"][layer["query"]], found["sides"][layer["value"]]) for layer in layers]


def test_words_and_patches_are_put_to_their_nodes():
    """Values of cross-attention are the image also where the model did not say so; padding is hidden in all
    layers; a side with another number of nodes keeps its numbers."""
    shown = graphs(b=1)
    mask = torch.tensor([[True] * 4 + [False]])
    shown = {
        ENCODER: graph(shown[ENCODER].weight, query_modality="image", value_modality="image"),
        SELF: graph(shown[SELF].weight, query_mask=mask, value_mask=mask, kind="self"),
        CROSS: graph(shown[CROSS].weight, query_mask=mask, kind="cross"),
    }
    page = show(shown, image=PICTURE, tokens=WORDS)
    text, patches = WORDS[:4], list(range(10))
    assert sides(page) == [(patches, patches), (text, text), (text, patches)]
    assert data(page)["examples"][0]["others"] == 1
    assert sides(show(shown[SELF], tokens=["a", "b", "c", "d", "e"]))[0][0] == ["a", "b", "c", "d"]
    without = sides(show(shown, tokens=WORDS))
    assert without[0][0] == [f"image {k}" for k in range(10)]
    assert without[2][1] == [str(k) for k in range(10)]


@pytest.mark.parametrize("words", [["<s>", "what", "?"], ["<s>", *"....", "what", "?"]])
def test_a_sequence_of_words_and_patches(words):
    """Words may be those of the text alone or of all nodes, as a tokenizer with image tokens gives them."""
    image = torch.tensor([[False] + 4 * [True] + 2 * [False]])
    one = graph(softmax(1, 2, 7, 7, seed=3), query_modality=image, value_modality=image, kind="self")
    expected = ["<s>", 0, 1, 2, 3, "what", "?"]
    assert sides(show({"lm": one}, image=PICTURE, tokens=words)) == [(expected, expected)]


def test_two_texts_by_their_lengths_and_a_text_for_each_example():
    two = graph(softmax(2, 2, 3, 4, seed=1), kind="cross")
    page = show(two, tokens=[list("abcd"), list("xyz")], example=1)
    assert sides(page) == [(list("xyz"), list("abcd"))]
    assert data(page)["examples"][0]["name"] == "example 1"
    of_examples = np.array([list("abcd"), list("wxyz")])
    assert sides(show(two, tokens=of_examples, example=1))[0][1] == list("wxyz")


def adapted():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=8, **sizes)).eval()
    model = get_peft_model(model, GraphAdapterConfig(gnn="pgnn"))
    inputs = {"input_ids": torch.tensor([[1, 2, 3, 4]])}
    return model, inputs


@pytest.mark.parametrize("inside", [False, True])  # the names of layers differ
def test_the_weights_of_adapters_are_a_choice(inside):
    model, inputs = adapted()
    captured = capture(model.get_base_model() if inside else model, inputs)
    ((name, one),) = captured.items()
    (adapter,) = model.base_model.layers().values()
    page = show(captured, tokens=list("abcd"), model=model)
    assert data(page)["weights"] == ["M", "M\u0304"]
    kinds = data(page)["examples"][0]["layers"][0]["weights"]
    assert kinds[0] != kinds[1]
    same = show({name: graph(adapter.scheme.reweight(one).detach())}, tokens=list("abcd"))
    assert kinds[1] == data(same)["examples"][0]["layers"][0]["weights"][0]


def test_what_cannot_be_shown_is_refused(tmp_path):
    one = graph(softmax(1, 2, 3, 7, seed=1), kind="cross")
    broken = graph(torch.full((1, 1, 2, 2), float("nan")))
    for wrong, message in (
        (dict(graphs={}), "there are no graphs to show"),
        (dict(graphs={"layer": [one]}), "there are no graphs to show"),
        (dict(graphs=[one]), "there are no graphs to show"),
        (dict(example=1), "example must be 0 to 0 for attention, got 1"),
        (dict(tokens=["a", "b"]), "tokens has 2 words, but the graphs have 3 or 7 text nodes a side"),
        (dict(tokens=[["a"], ["b"]]), "tokens has lists of one length"),
        (dict(image=tmp_path / "no.png"), f"{tmp_path / 'no.png'} is not a readable image"),
        (dict(image=PICTURE), r"7 image nodes form no square: pass grid=\(rows, columns\)"),
        (dict(image=PICTURE, grid=(5, 5)), "7 image nodes form no grid of 5 x 5"),
        (dict(graphs=graph(one.weight[..., :3]), image=PICTURE), "these graphs have no image nodes"),
        (dict(model=torch.nn.Linear(1, 1)), "model has no active graph adapter on these layers"),
        (dict(graphs=broken), "example 0, attention: the weights M hold NaN"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            show(**{"graphs": one} | wrong)


def test_a_notebook_runs_the_page_in_a_frame(page, tmp_path):
    """The frame holds the whole page, escaped, and its script runs without the rights of the page around."""
    weight = softmax(1, 2, 3, 3, seed=4)
    shown = show(graph(weight), tokens=["<b>", '"', "&amp;"], height=321)
    file = tmp_path / "notebook.html"
    file.write_text(f"<!DOCTYPE html><title>notebook</title>{shown._repr_html_()}", encoding="utf-8")
    tab = page(file)
    frame = tab.wait_for_selector("iframe").content_frame()
    frame.wait_for_selector("#edges line", state="attached")
    assert drawn(frame) == expected(weight[0, :, 0], 3)
    assert frame.eval_on_selector_all("#queries button", "all => all.map(x => x.textContent)") == [
        "<b>",
        '"',
        "&amp;",
    ]
    assert tab.eval_on_selector("iframe", "x => x.offsetHeight") == 321


def test_a_graph_in_a_notebook():
    """The image has a pixel block for each weight, black where a query's weight is largest."""
    weight = torch.tensor([[[[0.5, 0.25], [0.0, 1.0]]]])
    text = graph(weight)._repr_html_()
    assert "AttentionGraph(batch=1" in text
    assert pixels(text, [60, 180]) == [[0, 128], [255, 0]]
    assert "<img" not in graph(torch.zeros(1, 1, 0, 2))._repr_html_()


def pixels(text: str, places: list[int]) -> list[list[int]]:
    coded = re.search(r"base64,([^\"]*)", text)[1]
    picture = Image.open(BytesIO(base64.b64decode(coded)))
    return [[picture.getpixel((x, y)) for x in places] for y in places]
