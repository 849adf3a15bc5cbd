"""SNLI-VE: ``[{"pairID": str, "label": "entailment" | "neutral" | "contradiction"}]``.

SNLI-VE has no evaluation server, and so no format of its own: the fields have their names in the
annotations. A generated text that names no label is written as ``-``, the annotations' mark for a pair
without one; it is wrong for every pair.
"""

from dataclasses import dataclass
from typing import Any

from experiments.datasets.reading import shown
from experiments.metrics.exact import ENTAILMENT_WORDS, named_label
from experiments.predictions.format import Format, kind

NO_LABEL = "-"


@dataclass(frozen=True)
class Labels(Format):
    """Records with a label."""

    @property
    def value_sample(self) -> Any:
        """A value, for messages."""
        return "neutral"

    def value(self, prediction: Any) -> Any:
        """The label that a generated text names, such as "correct" entailment."""
        return named_label(prediction) or NO_LABEL

    def fault(self, value: Any, allow_empty: bool) -> str | None:
        """See :meth:`Format.fault`."""
        labels = (*ENTAILMENT_WORDS, NO_LABEL)
        if not isinstance(value, str):
            return f"is {kind(value)}; give one of {', '.join(labels)}"
        if value not in labels:
            return f"is {shown(value)}; give one of {', '.join(labels)} (no label)"
        return None


SNLI_VE = Labels("SNLI-VE labels", "pairID", str, "label")
