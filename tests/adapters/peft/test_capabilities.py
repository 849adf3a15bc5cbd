"""Every line of the page on PEFT's features holds: what works does, what does not ends as it is said."""

import re
import warnings

import pytest

from tests.adapters.peft.capabilities import FEATURES, PAGE, page

ROWS = [
    pytest.param(
        feature,
        family,
        id=f"{feature.check.__name__}-{family}",
        marks=pytest.mark.slow if feature.check.__name__ == "compiled" else [],
    )
    for feature in FEATURES
    for family in feature.families
]


@pytest.mark.parametrize("feature, family", ROWS)
def test_feature(feature, family, tmp_path):
    with warnings.catch_warnings():
        if not feature.ends:
            feature.check(family, tmp_path)
            return
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(Exception) as caught:
            feature.check(family, tmp_path)
    assert re.search(feature.ends, f"{type(caught.value).__name__}: {caught.value}")


def test_the_page_is_what_is_checked():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.adapters.peft.capabilities"
