"""VizWiz: ``[{"image": str, "answer": str}]``, or: ``[{"image": str, "answerable": float}]``.

The name of the image's file tells the question, since VizWiz's annotations have no question ids. One file
may hold both fields.
"""

from dataclasses import dataclass
from typing import Any

from experiments.datasets.reading import shown
from experiments.predictions.format import Format, kind


@dataclass(frozen=True)
class Confidences(Format):
    """Records with a number from 0 to 1: how sure it is that the question can be answered."""

    @property
    def value_sample(self) -> Any:
        """A value, for messages."""
        return 0.9

    def fault(self, value: Any, allow_empty: bool) -> str | None:
        """See :meth:`Format.fault`."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return f"is {kind(value)}; give a number from 0 to 1"
        if not 0 <= value <= 1:
            return f"is {shown(value)}; give a number from 0 to 1"
        return None


VIZWIZ = Format("VizWiz-VQA results", "image", str, "answer")
ANSWERABILITY = Confidences("VizWiz answerability results", "image", str, "answerable")
