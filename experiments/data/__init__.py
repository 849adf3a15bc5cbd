"""Readers of data sets in their official files; all give :class:`~experiments.data.example.Example`. A data
set registers itself (:mod:`~experiments.data.dataset`).

A reader checks what it reads (:mod:`~experiments.base.reading`): what is missing or damaged is a
:class:`~attngraph.errors.UserError` that names the file, the field and what to do.
"""

from experiments.data import captions, questions, snli_ve  # noqa: F401
