"""Scores of generated texts, one metric in each module.

A metric takes ``predictions`` (example id → generated text) and ``references`` (example id → accepted texts)
and scores every example of ``references``, in their order. Ids that differ are a
:class:`~attngraph.errors.UserError`.

- :mod:`attngraph.experiments.metrics.vqa`: VQA accuracy against ten annotators, by the rules of VQA v2 and of
  VizWiz
- :mod:`attngraph.experiments.metrics.exact`: equality with the one reference answer, or the word for the one
  gold label
- :mod:`attngraph.experiments.metrics.captions`: BLEU@4 and CIDEr, on tokens from
  :mod:`attngraph.experiments.metrics.ptb`
- :mod:`attngraph.experiments.metrics.scene`: what a caption says of a known scene
- :mod:`attngraph.experiments.metrics.statistics`: what they share, and scores from sums over examples
"""
