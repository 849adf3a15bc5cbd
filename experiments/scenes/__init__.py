"""The generator of drawn scenes: pictures, and texts about them that are true by construction.

A scene is a description (:mod:`~experiments.scenes.scene`), :mod:`~experiments.scenes.drawing` draws it, and
:mod:`~experiments.scenes.facts` says what holds in it. :mod:`~experiments.scenes.questions`,
:mod:`~experiments.scenes.hypotheses` and :mod:`~experiments.scenes.captions` write texts, balanced by
:mod:`~experiments.scenes.balance`. :mod:`experiments.data.drawn` fills folders with
them.
"""
