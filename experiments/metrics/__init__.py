"""Scores of generated texts, one metric in each module.

The arguments of a metric are ``predictions`` (example id → generated text) and ``references`` (example id →
accepted texts). It scores every example of ``references``, in their order. If ids differ, it raises a
:class:`~attngraph.errors.UserError`.

- :mod:`attngraph.experiments.metrics.vqa`: VQA accuracy against ten annotators, by the rules of VQA v2 and of
  VizWiz
- :mod:`attngraph.experiments.metrics.exact`: equality with the single reference answer, or the word for the
  gold label
- :mod:`attngraph.experiments.metrics.captions`: BLEU@4 and CIDEr, on tokens from
  :mod:`attngraph.experiments.metrics.ptb`
- :mod:`attngraph.experiments.metrics.scene`: facts about a known scene stated by a caption
- :mod:`attngraph.experiments.metrics.statistics`: common functions, and scores from sums over examples
"""
