"""Model families: how a model is loaded, trained on, asked, and looked at.

A family is one file behind :class:`attngraph.experiments.models.family.ModelFamily`; it registers itself. Of
several families that accept a checkpoint, the one that was registered last takes it.
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
