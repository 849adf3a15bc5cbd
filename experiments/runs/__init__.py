"""Training and scoring: recipes, the order of examples, cached image features, the training loop, runs and
the processes that execute them.
"""
