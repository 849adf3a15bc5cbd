"""Pre-training of the mini-BLIP and the mini-mPLUG from scratch on drawn scenes.

:mod:`~experiments.pretraining.texts` writes texts about a scene, :mod:`~experiments.pretraining.minis` says
how the models read them, :mod:`~experiments.pretraining.run` trains, and
:mod:`~experiments.pretraining.scoring` measures what a model can do.
"""
