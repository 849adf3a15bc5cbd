"""How the nodes of other kinds of models are labelled."""

import torch

from attngraph import AttentionGraph
from attngraph.experiments.inspect.points import node_labels
from attngraph.experiments.models.batch import Batch, Sample, Text


def graph_of(n, m, **more):
    return AttentionGraph(torch.randn(2, 1, n, 3), torch.randn(2, 1, m, 3), torch.rand(2, 1, n, m), **more)


def text_batch(**inputs):
    tokens = [["[CLS]", "red", "[SEP]"], ["[CLS]", "[SEP]", "[PAD]"]]
    special = torch.tensor([[True, False, True], [True, True, True]])
    padding = torch.tensor([[False, False, False], [False, False, True]])
    text = Text(tokens, torch.zeros(2, 3, dtype=torch.long), special, padding)
    return Batch([Sample("a", None), Sample("b", None)], inputs, text)


def test_text_nodes_of_a_mixed_sequence_get_the_tokens_in_order():
    image = torch.tensor([[True, False, False, True, False]] * 2)
    labels, valid = node_labels(text_batch(), graph_of(5, 5, query_modality=image), 0)
    assert labels["token"].tolist() == [
        ["", "[CLS]", "red", "", "[SEP]"],
        ["", "[CLS]", "[SEP]", "", "[PAD]"],
    ]
    assert labels["class"][0].tolist() == ["image", "special token", "word", "image", "special token"]
    assert valid.tolist() == [[True] * 5, [True, True, True, True, False]]


def test_a_sequence_that_holds_the_images_places_gets_the_tokens_of_the_text():
    image = torch.tensor([[False, True, False]] * 2)
    labels, valid = node_labels(text_batch(), graph_of(3, 3, query_modality=image), 0)
    assert labels["token"].tolist() == [["[CLS]", "", "[SEP]"], ["[CLS]", "", "[PAD]"]]
    assert valid.tolist() == [[True] * 3, [True, True, False]]


def test_nodes_that_are_no_tokens_stay_without():
    labels, valid = node_labels(text_batch(), graph_of(4, 4, query_modality="text"), 0)
    assert (labels["token"] == "").all() and valid.all()
