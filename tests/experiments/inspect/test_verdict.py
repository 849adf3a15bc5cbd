"""The three sentences of ``attngraph heterophily``, from a table written by hand."""

import numpy as np
import pandas as pd

from attngraph.experiments.inspect.verdict import verdict

COLUMNS = "layer kind weights head statistic labels value null_permuted excess excess_low excess_high".split()


def line(layer, kind, statistic, value, null, half, labels="", weights="M before", head="all"):
    excess = value - null
    return (layer, kind, weights, head, statistic, labels, value, null, excess, excess - half, excess + half)


LINES = [
    line("vision.layers.0.attn", "self", "cosine", 0.30, 0.10, 0.1),  # more
    line("vision.layers.1.attn", "self", "cosine", 0.10, 0.10, 0.1),  # neither
    line("text.layers.0.cross", "cross", "cosine", -0.40, -0.10, 0.1),  # less
    line("text.layers.1.cross", "cross", "cosine", 0.20, 0.10, 0.05),  # more
    line("text.layers.0.other", "self", "cosine", 0.10, 0.10, 0.05),
    line("text.layers.1.other", "self", "cosine", 0.10, 0.10, 0.05),
    line("text.layers.0.cross", "cross", "cosine", 9, 0, 0.1, weights="M after"),
    line("text.layers.0.cross", "cross", "cosine", 9, 0, 0.1, head="1"),
    line("text.layers.0.cross", "cross", "cosine", np.nan, 0, 0.1),
    line("text.layers.0.cross", "cross", "probe_auc", 0.9, 0.5, 0.1),
    line("text.layers.0.cross", "cross", "adjusted", 0.9, 0.1, 0.9, "token"),  # the interval holds 0
    line("text.layers.1.cross", "cross", "adjusted", -0.4, 0.001, 0.1, "cluster"),
    line("vision.layers.1.attn", "self", "adjusted", 0.2, 0.0, 0.1, "patch"),
]


def test_sentences():
    assert verdict(pd.DataFrame(LINES, columns=COLUMNS)).split(". ") == [
        "Compared with permuted nodes (null), connected nodes are "
        "more similar in 1 of 2 layers of vision self-attention (mean cosine 0.20, null 0.10), "
        "more similar in 1 and less similar in 1 of 2 layers of text cross-attention (mean cosine −0.10, "
        "null 0.00) and as similar in all 2 layers of text self-attention (mean cosine 0.10, null 0.10)",
        "A linear probe separates queries from values with AUC 0.90 in text cross-attention (null 0.50)",
        "Adjusted homophily differs most from its null by cluster, in layer 1 of text cross-attention "
        "(−0.40, null 0.00).",
    ]


def test_what_is_not_known_is_left_out_and_stacks_of_one_kind_have_their_names():
    lines = [
        line("text.a.0.attn", "self", "adjusted", 0.1, 0.1, 0.1, "token"),
        line("text.a.0.attn", "self", "cosine", 0.1, 0.1, 0.1),
        line("text.b.0.attn", "self", "cosine", 0.1, 0.1, 0.1),
    ]
    said = verdict(pd.DataFrame(lines, columns=COLUMNS))
    assert "layers of text.a.*.attn (" in said and "layers of text.b.*.attn (" in said
    assert "probe" not in said and said.endswith(
        "Adjusted homophily does not differ from its null for any of the labels."
    )
