"""The generator of drawn scenes: pictures, and texts about them that are true by construction.

A scene is a description (:mod:`~attngraph.experiments.scenes.scene`),
:mod:`~attngraph.experiments.scenes.drawing` draws it, and :mod:`~attngraph.experiments.scenes.facts` says
what holds in it. :mod:`~attngraph.experiments.scenes.questions`,
:mod:`~attngraph.experiments.scenes.hypotheses` and :mod:`~attngraph.experiments.scenes.captions` write texts,
balanced by :mod:`~attngraph.experiments.scenes.balance`. :mod:`attngraph.experiments.data.drawn` fills
folders with them.
"""
