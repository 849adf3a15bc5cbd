"""Is there such a thing?"""

from experiments.scenes.balance import YES_NO, Filler, Template
from experiments.scenes.facts import absent, describe

_WORDINGS = (
    "is there {a} in the picture?",
    "does the picture show {a}?",
    "are there any {many}?",
    "can you see {a} here?",
)


def exists(form: str) -> Filler:
    """Words for a thing that is in the scene, or for one that is not."""

    def fill(scene, rng, wanted):
        words = describe(rng.choice(scene.things), form) if wanted == "yes" else absent(scene, rng, form)
        return words and {"a": words.a(), "many": words.many()}

    return fill


TEMPLATES = tuple(
    Template("existence", _WORDINGS, YES_NO, exists(form))
    for form in ("shape", "color", "color shape", "size shape")
)
