"""Model families: loading, training, answering, and analysis of models.

A family is one file with a subclass of :class:`attngraph.experiments.models.family.ModelFamily`, which
registers itself. If several families accept a checkpoint, the one registered last is used.
"""

from attngraph.experiments.models.family import (
    FAMILIES,
    Answering,
    Checkpoint,
    Decoding,
    ModelFamily,
    register,
)  # isort: skip

from attngraph.experiments.models import image_text, blip, mplug  # isort: skip # noqa: F401
from attngraph.experiments.models.batch import IGNORED, Batch, Sample, Text
from attngraph.experiments.models.loading import load_family
from attngraph.experiments.models.ranking import Ranked, Ranking
from attngraph.experiments.models.weights import load_weights

__all__ = [
    "FAMILIES",
    "IGNORED",
    "Answering",
    "Batch",
    "Checkpoint",
    "Decoding",
    "ModelFamily",
    "Ranked",
    "Ranking",
    "Sample",
    "Text",
    "load_family",
    "load_weights",
    "register",
]
