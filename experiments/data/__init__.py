"""Readers of data sets in their official files, one module each; all give
:class:`~experiments.data.example.Example`. A data set registers itself
(:mod:`~experiments.data.dataset`).

A reader checks what it reads (:mod:`~experiments.base.reading`): what is missing or damaged is a
:class:`~attngraph.errors.UserError` that names the file, the field and what to do.
"""

from experiments.data import coco, snli_ve, textcaps, vizwiz_caps, vizwiz_vqa, vqa2  # noqa: F401
