"""Five reference captions for a downstream scene: the same things in the same order, in varied words.

The order is fixed (left to right, then top to bottom), so that a model can learn what comes first and scores
on word sequences mean something.
"""

from itertools import pairwise

from experiments.scenes.facts import BESIDE, NUMBERS, describe, related, short_place
from experiments.scenes.scene import DOMAINS, SPLITS, Scene, Thing, generator, sample_scene

_STREAM = 3


def caption_scenes(split: str, count: int, seed: int, start: int = 0):
    """Yields ``count`` downstream scenes with one to four things of different colour or shape.

    They are few enough to be named in one sentence.
    """
    for number in range(start, start + count):
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
    texts: list[str] = []
    writers = _WRITERS[min(len(things), 3)]
    if any(not related(a, "left", b) for a, b in pairwise(things)):
        writers = tuple(write for write in writers if write is not _from_left)
    for write in rng.sample(writers, 5):
        texts.append(write(things))
    if scene.curtain:  # one reference in five mentions it
        place = rng.randrange(5)
        if len(texts[place].split()) <= 14:
            texts[place] += f", beside a curtain at the {scene.curtain}"
    return texts


def ordered(scene: Scene) -> list[Thing]:
    """The things from left to right by grid column, and from top to bottom within one."""
    return sorted(scene.things, key=lambda thing: (thing.x * 3 // 64, thing.y))


def _names(things: list[Thing], form: str) -> list[str]:
    return [describe(thing, form).a() for thing in things]


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _full(things: list[Thing]) -> str:
    """All things with as many attributes as fit into a sentence."""
    return _list(_names(things, "size color shape" if len(things) <= 3 else "color shape"))


def _there_is(things):
    return f"there is {_full(things)}"


def _shows(things):
    return f"the picture shows {_full(things)}"


def _in_the_picture(things):
    return f"{_full(things)} in the picture"


def _can_be_seen(things):
    return f"{_full(things)} can be seen"


def _short(things):
    return (
        f"{_list(_names(things, 'color shape'))} are here"
        if len(things) > 1
        else f"the scene has {_full(things)}"
    )


def _related(things):
    """As in "A is to the left of B", or how A stands to B in one column; further things follow."""
    form = "size color shape" if len(things) <= 3 else "color shape"
    first, second, *rest = things
    relation = next(name for name in ("left", "above", "below", "right") if related(first, name, second))
    names = _names(things, form)
    text = f"{names[0]} is {BESIDE[relation]} {names[1]}"
    return text if not rest else f"{text}, with {_list(names[2:])}"


def _beside(things):
    first, second, *rest = _names(things, "color shape")
    return f"{first} beside {second}" + (f" and {_list(rest)}" if rest else "")


def _from_left(things):
    return f"from left to right there is {_full(things)}"


def _number_of(things):
    return f"{NUMBERS[len(things)]} things: {_full(things)}"


def _at(things):
    thing = things[0]
    return f"{_full(things)} at the {short_place(thing)} of the picture"


def _is_at(things):
    thing = things[0]
    return f"{_full(things)} is at the {short_place(thing)}"


def _only(things):
    return f"the only thing here is {_full(things)}"


_MANY = (_there_is, _shows, _in_the_picture, _short, _related, _beside, _number_of)
_WRITERS = {
    1: (_there_is, _shows, _can_be_seen, _short, _at, _is_at, _only),
    2: _MANY + (_can_be_seen,),
    3: _MANY + (_from_left,),
}
