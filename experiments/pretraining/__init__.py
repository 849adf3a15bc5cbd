"""Pre-training of the mini-BLIP from scratch on drawn scenes.

:mod:`~experiments.pretraining.texts` writes texts about a scene, :mod:`~experiments.pretraining.packing`
makes batches of them, :mod:`~experiments.pretraining.run` trains by the recipe in
:mod:`~experiments.pretraining.recipe`, :mod:`~experiments.pretraining.scoring` measures what the model can
do, and :mod:`~experiments.pretraining.model_card` writes the checkpoint's card.
"""
