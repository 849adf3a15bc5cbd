"""attngraph's models and two of its tasks in lmms-eval, which finds the models by the entry point
``lmms_eval.models``. With ``RUN`` the folder of a finished run::

    lmms-eval --model attngraph --model_args pretrained=RUN \\
        --tasks attngraph_snli_ve --include_path .../attngraph/experiments/lmms_eval/tasks

The tasks read datasets that :func:`save_dataset` has written into ``data/lmms``, in the records of
:mod:`attngraph.experiments.data.records`. Tested with lmms-eval 0.7.3, which fails with filelock 4 without
requiring an earlier version: install ``filelock<4`` after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attngraph.experiments.tasks import tasks_named
from attngraph.extras import require

MODEL = "attngraph"


def manifest() -> Any:
    """The ``ModelManifest`` that lmms-eval gets from the entry point."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id=MODEL, simple_class_path="attngraph.experiments.lmms_eval._model.AttngraphModel"
    )


def save_dataset(task: str, data: str | Path, folder: str | Path, split: str = "test") -> Path:
    """Write a split of a task as a ``datasets.DatasetDict`` that lmms-eval loads from disk; returns its
    folder, ``FOLDER/TASK``.

    >>> save_dataset("snli_ve", "data/official", "data/lmms")

    Args:
        task: name of a task, such as ``snli_ve`` or ``vizwiz_caps``.
        data: folder of its data.
        folder: folder for the datasets of several tasks.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        UserError: the task or its data are not there, or the library ``datasets`` is missing.
    """
    require("datasets")
    import datasets

    (known,) = tasks_named([task]).values()
    known.check(Path(data))
    records = [
        {"id": one.id, "image": str(one.image), "text": one.prompt, "answer": list(one.references)}
        for one in known.examples(Path(data), split)
    ]
    table = datasets.Dataset.from_list(records).cast_column("image", datasets.Image())
    place = Path(folder) / known.name
    datasets.DatasetDict({"test": table}).save_to_disk(str(place))
    return place
