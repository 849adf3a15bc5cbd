"""Short prompts about pre-training scenes, one function for each visual skill.

A function returns (prompt, answer), or None if the scene offers nothing to ask. `SKILLS` lists them, some of
them several times, for a random choice.
"""

from experiments.pretraining.words import (
    BESIDE,
    NOUNS,
    ask,
    choose,
    palette,
    some_form,
    unique_pair,
    yes,
)
from experiments.scenes.facts import (
    COLUMNS,
    OPPOSITE,
    PLACES,
    RELATIONS,
    ROWS,
    Description,
    count,
    describe,
    place_of,
    plural,
    related,
    unique,
)


def _existence(scene, rng):
    present = rng.random() < 0.5
    words = choose(scene, rng, some_form(scene, rng), present)
    noun = rng.choice(NOUNS)
    prompt = ask(
        rng,
        (
            "any {one} here ?",
            "do you see {a} ?",
            "can you find {a} ?",
            "{a} , yes or no ?",
            "does one see any {many} ?",
            "have they drawn {a} ?",
            "would you say that {a} can be seen ?",
            "look for {a} . is it present ?",
            "among these , does {a} appear ?",
            "do these contain {a} ?",
            "does {a} show up ?",
        ),
        one=words.one(noun),
        a=words.a(noun),
        many=words.many(noun),
    )
    return prompt, yes(present)


def _count(scene, rng):
    noun = rng.choice(NOUNS)
    if rng.random() < 0.2:
        words, amount = Description(), len(scene.things)
    else:
        amounts = {}
        for _ in range(4):
            words = choose(scene, rng, some_form(scene, rng), rng.random() < 0.8)
            amounts[count(scene, words)] = words
        amount = rng.choice(sorted(amounts))
        words = amounts[amount]
    prompt = ask(
        rng,
        (
            "count the {many}",
            "number of {many} ?",
            "how many {many} do you see ?",
            "the {many} , counted :",
            "give the number of {many}",
            "total {many} ?",
            "say how many {many} have been drawn",
        ),
        many=words.many(noun),
    )
    return prompt, str(amount)


def _attribute(scene, rng):
    asked = rng.choice(("color", "shape", "size"))
    if asked == "size" and scene.things[0].size == "huge":
        return None
    given = {
        "color": ("shape", "size shape", "size", ""),
        "shape": ("color", "size color", "size", ""),
        "size": ("shape", "color", "color shape", ""),
    }[asked]
    found = unique(scene, rng.choice(given))
    if not found:
        return None
    thing, words = rng.choice(found)
    noun = rng.choice(NOUNS)
    prompt = ask(
        rng,
        (
            "name the {asked} of the {one}",
            "the {one} has which {asked} ?",
            "{asked} of the {one} :",
            "which {asked} does the {one} have ?",
            "tell me the {one} 's {asked}",
            "the {one} : what {asked} ?",
            "say the {asked} of the only {one}",
        ),
        asked=asked,
        one=words.one("thing" if asked == "shape" and noun == "shape" else noun),
    )
    return prompt, getattr(thing, asked)


def _either(scene, rng):
    asked = rng.choice(("color", "shape"))
    found = unique(scene, "shape" if asked == "color" else "color")
    if not found:
        return None
    thing, words = rng.choice(found)
    right = getattr(thing, asked)
    wrong = rng.choice([value for value in palette(scene)[asked + "s"] if value != right])
    first, second = rng.sample((right, wrong), 2)
    prompt = ask(
        rng,
        (
            "{first} or {second} : the {one} ?",
            "the {one} , is it {first} or {second} ?",
            "choose {first} or {second} for the {one}",
        ),
        first=first,
        second=second,
        one=words.one(),
    )
    return prompt, right


def _all_of(scene, rng):
    kind = rng.choice(("color", "shape"))
    values = []
    for thing in sorted(scene.things, key=lambda thing: (thing.x, thing.y)):
        if getattr(thing, kind) not in values:
            values.append(getattr(thing, kind))
    prompt = ask(
        rng,
        (
            "list the {many}",
            "which {many} do you see ?",
            "name all the {many} from left to right",
            "the {many} here :",
        ),
        many=plural(kind),
    )
    return prompt, " , ".join(values)


def _more(scene, rng):
    form = rng.choice(("shape", "color"))
    first, second = (choose(scene, rng, form, rng.random() < 0.7) for _ in range(2))
    a, b = count(scene, first), count(scene, second)
    if a == b and (first == second or rng.random() < 0.5):
        return None
    style = rng.randrange(3)
    noun = rng.choice(NOUNS)
    if style == 0 and a != b:
        prompt = ask(
            rng,
            ("more {first} or more {second} ?", "which is more common , {first} or {second} ?"),
            first=first.many(noun),
            second=second.many(noun),
        )
        return prompt, first.many(noun) if a > b else second.many(noun)
    if style == 1:
        prompt = ask(
            rng,
            (
                "do {first} outnumber {second} ?",
                "more {first} than {second} , yes or no ?",
                "compare : are {second} fewer than {first} ?",
            ),
            first=first.many(noun),
            second=second.many(noun),
        )
        if a <= b and rng.random() < 0.35:
            return None
        return prompt, yes(a > b)
    same = a == b
    prompt = ask(
        rng,
        ("the same number of {first} and {second} ?", "do you count as many {first} as {second} ?"),
        first=first.many(noun),
        second=second.many(noun),
    )
    return prompt, yes(same)


def _compare_pair(scene, rng):
    pair = unique_pair(scene, rng)
    if not pair:
        return None
    (a, first), (b, second) = pair
    asked = rng.choice(("size", "color", "shape"))
    if asked == "size" and a.size != b.size and rng.random() < 0.6:
        bigger = rng.random() < 0.5
        prompt = ask(
            rng,
            (
                "which is {more} , the {first} or the {second} ?",
                "the {more} of the {first} and the {second} :",
            ),
            more="bigger" if bigger else "smaller",
            first=first.one(),
            second=second.one(),
        )
        return prompt, "the " + (first if (a.size == "large") == bigger else second).one()
    if getattr(a, asked) != getattr(b, asked) and rng.random() < 0.4:
        return None
    prompt = ask(
        rng,
        (
            "do the {first} and the {second} share one {asked} ?",
            "the {first} and the {second} : same {asked} ?",
            "is the {asked} of the {first} that of the {second} ?",
        ),
        first=first.one(),
        second=second.one(),
        asked=asked,
    )
    return prompt, yes(getattr(a, asked) == getattr(b, asked))


def _spatial(scene, rng):
    pair = unique_pair(scene, rng)
    if not pair:
        return None
    (a, first), (b, second) = pair
    noun = rng.choice(NOUNS)
    relation = rng.choice([name for name in RELATIONS if related(a, name, b)])
    style = rng.randrange(3)
    if style == 0:
        holds = rng.random() < 0.5
        shown = relation if holds else OPPOSITE[relation]
        prompt = ask(
            rng,
            (
                "the {first} {beside} the {second} , yes or no ?",
                "do you see the {first} {beside} the {second} ?",
                "compared with the {second} , does the {first} lie {beside} it ?",
            ),
            first=first.one(noun),
            second=second.one(noun),
            beside=rng.choice(BESIDE[shown]),
        )
        return prompt, yes(holds)
    if style == 1:
        prompt = ask(
            rng,
            (
                "where is the {first} from the {second} : {one} or {other} ?",
                "from the {second} , the {first} is {one} or {other} ?",
            ),
            first=first.one(noun),
            second=second.one(noun),
            **dict(zip(("one", "other"), rng.sample((relation, OPPOSITE[relation]), 2))),
        )
        return prompt, relation
    there = [thing for thing in scene.things if related(thing, relation, b)]
    if len(there) != 1:
        return None
    asked = rng.choice(("color", "shape", "thing"))
    answer = getattr(there[0], asked) if asked != "thing" else describe(there[0], "color shape").a()
    prompt = ask(
        rng,
        (
            "what {asked} lies {beside} the {second} ?",
            "name the {asked} that is {beside} the {second}",
            "{beside} the {second} , which {asked} ?",
        ),
        asked=asked,
        second=second.one(noun),
        beside=rng.choice(BESIDE[relation]),
    )
    return prompt, answer


def _extreme(scene, rng):
    relation = rng.choice(RELATIONS)
    ends = [
        thing
        for thing in scene.things
        if all(related(thing, relation, other) for other in scene.things if other is not thing)
    ]
    if not ends:
        return None
    word = {"left": "leftmost", "right": "rightmost", "above": "highest", "below": "lowest"}[relation]
    asked = rng.choice(("color", "shape"))
    prompt = ask(
        rng,
        ("the {asked} of the {word} one :", "which {asked} is {word} ?", "{word} : name its {asked}"),
        asked=asked,
        word=word,
    )
    return prompt, getattr(ends[0], asked)


def _half(scene, rng):
    across = rng.random() < 0.5
    if rng.random() < 0.4:
        found = unique(scene, some_form(scene, rng))
        return _third(rng, *rng.choice(found), across) if found else None
    found = [
        (thing, words)
        for thing, words in unique(scene, some_form(scene, rng))
        if abs((thing.x if across else thing.y) - 31.5) > 10
    ]
    if not found:
        return None
    thing, words = rng.choice(found)
    sides = ("left", "right") if across else ("top", "bottom")
    first, second = rng.sample(sides, 2)
    prompt = ask(
        rng,
        (
            "the {one} , {first} or {second} side ?",
            "which half has the {one} , {first} or {second} ?",
            "{first} or {second} : where is the {one} ?",
        ),
        one=words.one(rng.choice(NOUNS)),
        first=first,
        second=second,
    )
    return prompt, sides[(thing.x if across else thing.y) > 31.5]


def _third(rng, thing, words, across):
    sides = COLUMNS if across else ROWS
    prompt = ask(
        rng,
        ("{sides} : where is the {one} ?", "the {one} , {sides} ?"),
        sides=f"{sides[0]} , {sides[1]} or {sides[2]}",
        one=words.one(rng.choice(NOUNS)),
    )
    return prompt, place_of(thing).split()[across]


def _place(scene, rng):
    found = unique(scene, some_form(scene, rng))
    if not found:
        return None
    thing, words = rng.choice(found)
    prompt = ask(
        rng,
        (
            "where does the {one} lie ?",
            "the {one} : where ?",
            "find the {one} . where have they drawn it ?",
            "say where the {one} is",
        ),
        one=words.one(rng.choice(NOUNS)),
    )
    return prompt, place_of(thing)


def _at(scene, rng):
    if rng.random() < 0.25:
        taken = {place_of(thing) for thing in scene.things}
        place = rng.choice([place for place in PLACES if place not in taken])
        answer = "none"
    else:
        thing = rng.choice(scene.things)
        place, answer = place_of(thing), describe(thing, "color shape").one()
    prompt = ask(
        rng,
        (
            "{place} : what is here ?",
            "what have they drawn {place} ?",
            "look {place} . what do you see ?",
            "name the {noun} that is {place} , or say none",
        ),
        place=place,
        noun=rng.choice(NOUNS),
    )
    return prompt, answer


def _map(scene, rng):
    noun = rng.choice(NOUNS)
    prompt = ask(
        rng,
        (
            "what is where ?",
            "where is every {noun} ?",
            "name all {nouns} and where they are",
            "the {nouns} and where they lie :",
        ),
        noun=noun,
        nouns=plural(noun),
    )
    things = sorted(scene.things, key=lambda thing: PLACES.index(place_of(thing)))
    return prompt, " , ".join(f"{describe(thing, 'color shape').one()} {place_of(thing)}" for thing in things)


def _negation(scene, rng):
    noun = rng.choice(NOUNS)
    style = rng.randrange(3)
    if style == 0:
        missing = rng.random() < 0.5
        words = choose(scene, rng, some_form(scene, rng), not missing)
        prompt = ask(
            rng,
            (
                "is {a} missing ?",
                "does it lack {a} ?",
                "are you without any {many} here ?",
                "not one {one} , right ?",
            ),
            a=words.a(noun),
            many=words.many(noun),
            one=words.one(noun),
        )
        return prompt, yes(missing)
    kind = rng.choice(("color", "shape"))
    words = choose(scene, rng, kind, rng.random() < 0.8)
    name = words.color or words.a()
    others = [thing for thing in scene.things if not words.fits(thing)]
    if style == 1:
        if len(others) > 2 and rng.random() < 0.5:
            return None
        prompt = ask(
            rng,
            (
                "count what is not {name}",
                "number of {nouns} other than {name} ?",
                "excluding any {name} , how many ?",
            ),
            name=name,
            nouns=plural(noun),
        )
        return prompt, str(len(others))
    if len(others) != 1:
        return None
    asked = "shape" if kind == "color" and rng.random() < 0.5 else "color"
    prompt = ask(
        rng,
        (
            "the one that is not {name} has which {asked} ?",
            "name the {asked} of the only {noun} that is not {name}",
        ),
        name=name,
        asked=asked,
        noun="thing" if noun == "shape" else noun,
    )
    return prompt, getattr(others[0], asked)


def _curtain(scene, rng):
    if rng.random() < 0.4 and scene.curtain:
        prompt = ask(
            rng,
            (
                "where is the curtain ?",
                "which side does the curtain hide ?",
                "the curtain hangs on which side ?",
            ),
        )
        return prompt, scene.curtain
    prompt = ask(
        rng,
        (
            "do you see a curtain ?",
            "is some part hidden behind a curtain ?",
            "a curtain , yes or no ?",
            "can the whole picture be seen ?",
        ),
    )
    return prompt, yes(bool(scene.curtain) != prompt.startswith("can the whole"))


# fmt: off
SKILLS = (
    _existence, _existence, _count, _count, _count, _attribute, _attribute, _attribute, _either, _all_of,
    _more, _more, _compare_pair, _compare_pair, _spatial, _spatial, _spatial, _extreme, _half, _half, _place, _place,
    _place, _at, _at, _at, _map, _map, _map, _negation, _negation, _curtain,
)
