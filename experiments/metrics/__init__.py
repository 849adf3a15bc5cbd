"""Scores of generated texts, one metric in each module.

A metric takes ``predictions`` (example id → generated text) and ``references`` (example id → accepted texts)
and scores every example of ``references``, in their order. Ids that differ are a
:class:`~attngraph.errors.UserError`.

- :mod:`experiments.metrics.vqa`: VQA accuracy against ten annotators, by the rules of VQA v2 and of VizWiz
- :mod:`experiments.metrics.exact`: equality with the one reference answer, or the word for the one gold label
- :mod:`experiments.metrics.captions`: BLEU@4 and CIDEr, on tokens from :mod:`experiments.metrics.ptb`
- :mod:`experiments.metrics.scene`: what a caption says of a known scene
- :mod:`experiments.metrics.statistics`: what they share, and scores from sums over examples
"""
