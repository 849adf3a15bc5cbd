"""Generator of synthetic scenes: images, and texts about them that are true by construction.

A scene is a description (:mod:`~attngraph.experiments.scenes.scene`), which
:mod:`~attngraph.experiments.scenes.drawing` renders, and :mod:`~attngraph.experiments.scenes.facts` evaluates
statements about it. :mod:`~attngraph.experiments.scenes.questions`,
:mod:`~attngraph.experiments.scenes.hypotheses` and :mod:`~attngraph.experiments.scenes.captions` generate
texts, balanced by :mod:`~attngraph.experiments.scenes.balance`. :mod:`attngraph.experiments.data.drawn`
writes datasets of them.
"""
