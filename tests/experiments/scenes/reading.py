"""An independent reading of the generator's texts: what a phrase means in a scene.

It parses finished sentences and looks at the scene as a plain dict, and shares no code with the modules that
write the sentences.
"""

import itertools

COLORS = "red green blue yellow purple orange cyan brown black gray teal".split()
SHAPES = "circle square triangle star cross diamond rectangle".split()
SIZES = "small large huge".split()
NUMBERS = {"no": 0, "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
ANYTHING = {"thing", "object", "item", "shape"}
NOUN = rf"((?:(?:{'|'.join(SIZES + COLORS)}) )*(?:{'|'.join(SHAPES)}|thing|object|item|shape)(?:es|s)?)"
AN = rf"(?:an? )?{NOUN}"
BESIDE = r"(to the left of|to the right of|above|below)"


def fits(words: str, thing: dict) -> bool:
    """Whether "small red circles" describes the thing."""
    for word in words.split():
        single = (
            word[:-2] if word == "crosses" else word[:-1] if word.endswith("s") and word != "cross" else word
        )
        if word in COLORS:
            ok = thing["color"] == word
        elif word in SIZES:
            ok = thing["size"] == word
        elif single in SHAPES:
            ok = thing["shape"] == single
        else:
            assert single in ANYTHING, word
            ok = True
        if not ok:
            return False
    return True


def find(words: str, things: list[dict]) -> list[dict]:
    return [thing for thing in things if fits(words, thing)]


def the(words: str, things: list[dict]) -> dict:
    fitting = find(words, things)
    assert len(fitting) == 1, f"'the {words}' is not unique in {things}"
    return fitting[0]


def stands(first: dict, beside: str, second: dict) -> bool:
    """Whether the relation holds; the text must not ask where the eye cannot tell."""
    axis = "x" if "left" in beside or "right" in beside else "y"
    gap = first[axis] - second[axis]
    assert abs(gap) >= 8, f"'{beside}' is not clear between {first} and {second}"
    return gap < 0 if beside in ("to the left of", "above") else gap > 0


def yes(value: bool) -> str:
    return "yes" if value else "no"


def counted(how: str, number: str, noun: str, things: list[dict]) -> bool:
    total, wanted = len(find(noun, things)), NUMBERS[number]
    return {"exactly": total == wanted, "at least": total >= wanted, "at most": total <= wanted}[how]


def all_are(shape: str, color: str, things: list[dict]) -> bool:
    return all(thing["color"] == color for thing in find(shape, things))


def worlds(text: str, scene: dict):
    """What there may be in all: the visible things and up to three hidden ones that matter for the text."""
    yield scene["things"]
    if scene["curtain"]:
        words = text.replace("crosses", "cross").split()
        colors = [word for word in words if word in COLORS][:1] + ["gray"]
        shapes = [word for word in SHAPES if word in words or word + "s" in words][:1] + ["rectangle"]
        kinds = [
            dict(zip(("color", "shape", "size"), kind))
            for kind in itertools.product(colors, shapes, SIZES[:2])
        ]
        for amount in (1, 2, 3):
            for hidden in itertools.combinations_with_replacement(kinds, amount):
                yield [*scene["things"], *hidden]
