"""Short prompts about pre-training scenes, one function for each visual skill.

A function takes ``(scene, rng)`` and returns (prompt, answer), or ``None`` if the scene offers nothing to
ask.
"""

from experiments.pretraining.prompts import attributes, comparison, negation, position

#: Name in the scores → the function, and how often it stands among those to draw from. Numbers and order are
#: part of the recipe: with others, the same seed gives other texts.
PROMPTS = {
    "existence": (attributes.existence, 2),
    "count": (attributes.how_many, 3),
    "attribute": (attributes.attribute, 3),
    "either": (attributes.either, 1),
    "all_of": (attributes.all_of, 1),
    "more": (comparison.more, 2),
    "compare_pair": (comparison.compare_pair, 2),
    "spatial": (position.spatial, 3),
    "extreme": (position.extreme, 1),
    "half": (position.half, 2),
    "place": (position.place, 3),
    "at": (position.what_is_at, 3),
    "map": (position.whole_map, 3),
    "negation": (negation.negation, 2),
    "curtain": (negation.curtain, 1),
}
