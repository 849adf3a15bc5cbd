"""Training and scoring: recipes, the order of examples, cached image states, the Trainer, cells and the
processes that run them.
"""
