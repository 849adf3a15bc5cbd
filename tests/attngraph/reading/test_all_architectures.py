"""A sample of the architectures of transformers; :mod:`tests.attngraph.reading.survey` tries all of them."""

import pytest
from transformers import CONFIG_MAPPING

from tests.attngraph.reading.survey import share_read, survey

FIRST = "swin swinv2 sam led longformer perceiver tapas luke wavlm timesformer data2vec-text imagegpt".split()


@pytest.mark.slow
def test_a_sample_of_architectures():
    """Nothing is wrong, and most are read, those among them that no file here knows."""
    counts = survey(FIRST + [name for name in list(CONFIG_MAPPING)[::20] if name not in FIRST])
    assert not counts["wrong"] and counts["exact"] > 15 and share_read(counts) > 0.8, counts
