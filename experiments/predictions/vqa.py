"""VQA v2: ``[{"question_id": int, "answer": str}]``, as the challenge's server and its evaluator take them.

The server wants an answer to every question of ``test2015`` (447,793), for ``test-dev`` too.
"""

from experiments.predictions.format import Format

VQA_RESULTS = Format("VQA v2 results", "question_id", int, "answer")
