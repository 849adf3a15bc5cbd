"""Scores of generated texts, one metric in each module.

A metric takes ``predictions`` (example id → generated text) and ``references`` (example id → accepted texts)
and scores every example of ``references``, in their order. Ids that differ are a
:class:`~attngraph.errors.UserError`.

- :mod:`experiments.metrics.vqa`: VQA accuracy against ten annotators
- :mod:`experiments.metrics.vizwiz`: VizWiz-VQA accuracy, which is another
- :mod:`experiments.metrics.answerability`: which of VizWiz's questions cannot be answered
- :mod:`experiments.metrics.exact`: equality with the one reference answer
- :mod:`experiments.metrics.entailment`: the word for the one gold label
- :mod:`experiments.metrics.captions`: BLEU, CIDEr, ROUGE-L, and METEOR and SPICE of
  :mod:`experiments.metrics.java_metrics`, on tokens from :mod:`experiments.metrics.tokenizers` (Java) or
  :mod:`experiments.metrics.ptb`
- :mod:`experiments.metrics.scene_captions`: what a caption says of a known scene, read by
  :mod:`experiments.metrics.caption_tuples`
- :mod:`experiments.metrics.alignment`: what they share
- :mod:`experiments.metrics.statistics`: scores from sums over examples, for intervals and paired comparisons
"""
