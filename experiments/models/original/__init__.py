"""Original checkpoints: files as a model's authors published them, turned into transformers' models.

A layout is one file: the rules from the authors' names of tensors to transformers', the arrangements that can
be made of a checkpoint, and its configuration. :mod:`experiments.models.original.layouts` knows them all.
"""
