"""For tasks whose data came without a format of results: ``[{"id": str, "answer": str}]``."""

from experiments.predictions.format import Format

PLAIN = Format("answers", "id", str, "answer")
