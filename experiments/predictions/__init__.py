"""Files of predictions in the formats that evaluation servers take, one format in each module.

A file is written and read as a whole: every example of a split has exactly one prediction
(:mod:`~experiments.predictions.files`). A task names its format (:attr:`experiments.tasks.Task.file_format`).

- :mod:`experiments.predictions.vqa`: ``[{"question_id": 1000, "answer": "yes"}]``
- :mod:`experiments.predictions.vizwiz`: ``[{"image": "VizWiz_val_00000000.jpg", "answer": "yes"}]``, and the
  same with ``"answerable": 0.9``
- :mod:`experiments.predictions.snli_ve`: ``[{"pairID": "1.jpg#0r1e", "label": "neutral"}]``
- :mod:`experiments.predictions.captions`: ``[{"image_id": 42, "caption": "a red ball"}]``, and with ids that
  are texts
- :mod:`experiments.predictions.plain`: ``[{"id": "test-0", "answer": "yes"}]``, for all other tasks
- :mod:`experiments.predictions.format`: what a format is
"""
