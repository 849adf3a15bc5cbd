"""Five reference captions for a downstream scene: the same things in the same order, in varied words.

The order is fixed (left to right, then top to bottom), so that a model can learn it and scores of word
sequences are meaningful.
"""

from itertools import pairwise

from attngraph.experiments.scenes.facts import BESIDE, NUMBERS, describe, related, short_place
from attngraph.experiments.scenes.scene import DOMAINS, SPLITS, Scene, Thing, generator, sample_scene

_STREAM = 3
_SEEN = "{all} can be seen"
_FROM_LEFT = "from left to right there is {all}"
_ANY = ("there is {all}", "the picture shows {all}")
_MANY = (
    *_ANY,
    "{all} in the picture",
    "{briefly} are here",
    "{related}",
    "{beside}",
    "{number} things: {all}",
)
#: Number of things (3 for more) → wordings; see :func:`_words`.
_WORDINGS = {
    1: (
        *_ANY,
        _SEEN,
        "the scene has {all}",
        "{all} at the {place} of the picture",
        "{all} is at the {place}",
        "the only thing here is {all}",
    ),
    2: (*_MANY, _SEEN),
    3: (*_MANY, _FROM_LEFT),
}


def caption_scenes(split: str, count: int, seed: int):
    """Yield ``count`` downstream scenes with one to four things of different colour or shape.

    Their number is small enough for one sentence.
    """
    for number in range(count):
        rng = generator(seed, DOMAINS.index("downstream"), SPLITS.index(split), number, _STREAM)
        while True:
            scene = sample_scene(rng, "downstream", number, amount=rng.choice((1, 2, 2, 3, 3, 4)))
            if len({(thing.color, thing.shape) for thing in scene.things}) == len(scene.things):
                break
        yield scene


def captions(scene: Scene, seed: int = 0) -> list[str]:
    """Five different captions of a scene, of at most 20 words; the same for the same arguments."""
    rng = generator(seed, scene.id, scene.background.seed, _STREAM)
    things = ordered(scene)
    wordings = _WORDINGS[min(len(things), 3)]
    if any(not related(a, "left", b) for a, b in pairwise(things)):
        wordings = tuple(wording for wording in wordings if wording != _FROM_LEFT)
    words = _words(things)
    texts = [wording.format(**words) for wording in rng.sample(wordings, 5)]
    if scene.curtain:  # one reference in five mentions it
        place = rng.randrange(5)
        if len(texts[place].split()) <= 14:
            texts[place] += f", beside a curtain at the {scene.curtain}"
    return texts


def ordered(scene: Scene) -> list[Thing]:
    """The things from left to right by grid column, and from top to bottom within one."""
    return sorted(scene.things, key=lambda thing: (thing.x * 3 // 64, thing.y))


def _words(things: list[Thing]) -> dict[str, str]:
    """Values for the wordings: all things with as many attributes as fit into a sentence, and briefly; the
    place of a single thing; the relation of the first of several to the second, followed by further things.
    """
    brief = [describe(thing, "color shape").a() for thing in things]
    names = [describe(thing, "size color shape").a() for thing in things] if len(things) <= 3 else brief
    words = {"all": _list(names), "briefly": _list(brief), "number": NUMBERS[len(things)]}
    if len(things) == 1:
        return words | {"place": short_place(things[0])}
    first, second = things[:2]
    relation = next(name for name in ("left", "above", "below", "right") if related(first, name, second))
    words["related"] = f"{names[0]} is {BESIDE[relation]} {names[1]}"
    words["beside"] = f"{brief[0]} beside {brief[1]}"
    if len(things) > 2:
        words["related"] += f", with {_list(names[2:])}"
        words["beside"] += f" and {_list(brief[2:])}"
    return words


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
