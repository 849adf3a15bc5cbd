"""Pre-training of the mini-BLIP and the mini-mPLUG from scratch on drawn scenes.

:mod:`~experiments.studies.pretraining.texts` writes texts about a scene,
:mod:`~experiments.studies.pretraining.minis` says how the models read them,
:mod:`~experiments.studies.pretraining.run` trains, and :mod:`~experiments.studies.pretraining.scoring`
measures what a model can do.
"""
