"""Readers of datasets in their official files, which return
:class:`~attngraph.experiments.data.example.Example` objects. Each dataset registers itself
(:mod:`~attngraph.experiments.data.dataset`).

Readers check the files (:mod:`~attngraph.experiments.base.reading`): missing or damaged content is a
:class:`~attngraph.errors.UserError` that names the file, the field and the remedy.
"""

from attngraph.experiments.data import captions, questions, snli_ve  # noqa: F401
