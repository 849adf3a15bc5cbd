"""Readers of data sets in their official files; all give
:class:`~attngraph.experiments.data.example.Example`. A data set registers itself
(:mod:`~attngraph.experiments.data.dataset`).

A reader checks what it reads (:mod:`~attngraph.experiments.base.reading`): what is missing or damaged is a
:class:`~attngraph.errors.UserError` that names the file, the field and what to do.
"""

from attngraph.experiments.data import captions, questions, snli_ve  # noqa: F401
