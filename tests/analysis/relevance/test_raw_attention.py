"""Raw attention: means over heads, and products of hops."""

import pytest
import torch

from analysis.relevance import raw
from tests.analysis.relevance.made_up_graphs import encoder_and_decoder


def test_raw_is_the_mean_over_heads_of_the_last_layer():
    graphs, _ = encoder_and_decoder()
    torch.testing.assert_close(raw(graphs), (graphs["c1"].weight[:, 0] + graphs["c1"].weight[:, 1]) / 2)
    torch.testing.assert_close(raw(graphs, "c0"), graphs["c0"].weight.mean(1))
    torch.testing.assert_close(raw(graphs, heads=[1]), graphs["c1"].weight[:, 1])
    with pytest.raises(ValueError, match=r"heads must lie in 0\.\.1 for c1, got \[2\]"):
        raw(graphs, heads=[2])
    with pytest.raises(ValueError, match="layer must be one of c0, c1, got 'c2'"):
        raw(graphs, "c2")
