"""How a pre-trained model is adapted to a task. A method is one file behind :class:`Method`."""

from experiments.methods.adapter import Adapter
from experiments.methods.frozen import Frozen
from experiments.methods.full import FullFineTuning
from experiments.methods.majority import Majority
from experiments.methods.method import Method, Tuned

__all__ = ["Adapter", "Frozen", "FullFineTuning", "Majority", "Method", "Tuned"]
