"""All heterophily statistics of a stream of attention graphs, in one pass, as a table.

    >>> heterophily(capture(model, inputs), settings=Settings(permutations=4))  # a pandas data frame

:func:`heterophily` measures given graphs, :class:`Heterophily` graphs that arrive batch by batch.
"""

from attngraph.analysis.heterophily.collector import COLUMNS, Heterophily, heterophily
from attngraph.analysis.heterophily.measurement import (
    CLOSED_FORM_STATISTICS,
    CLOUD_STATISTICS,
    FEATURE_STATISTICS,
    LABEL_STATISTICS,
    REGION_STATISTICS,
    STATISTICS,
    WEIGHT_STATISTICS,
    Settings,
)

__all__ = [
    "CLOSED_FORM_STATISTICS",
    "CLOUD_STATISTICS",
    "COLUMNS",
    "FEATURE_STATISTICS",
    "LABEL_STATISTICS",
    "REGION_STATISTICS",
    "STATISTICS",
    "WEIGHT_STATISTICS",
    "Heterophily",
    "Settings",
    "heterophily",
]
