"""Training and scoring: recipes, the order of examples, cached image states, the training loop, cells and the
processes that run them.
"""
