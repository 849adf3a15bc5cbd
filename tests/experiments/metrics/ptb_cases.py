"""Captions of many kinds for tokenizers, from a seed, and the fixture that the Java tokenizer makes of them.

``python -m tests.experiments.metrics.ptb_cases`` writes the fixture again (it needs Java).
"""

import gzip
import json
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path

from attngraph.experiments.scenes.captions import caption_scenes
from attngraph.experiments.scenes.captions import captions as wordings

FIXTURE = Path(__file__).with_name("ptb_pairs.json.gz")

PLAIN = "a the two man woman dogs red Blue circle left of is above standing holding ball street Water".split()
CONTRACTIONS = (
    "isn't can't CAN'T cannot Cannot gonna gotta lemme gimme wanna don’t don‘t won`t man's "
    "James' 'tis 'Twas 'em 'n' rock'n'roll o'clock O'Neill d'Angelo l'été y'all ma'am it's "
    "it’s I'd we've they're he'll 'cause '90s ’80s '99 'hello' ain't must've shouldn't've "
    "c'mon e'er ol' nat'l int'l more'n d'ye who'd've 's n't ’s boys' Hawai'i"
).split()
SHORTENED = (
    "Mr. mr. Mrs. st. St. dr. etc. u.s. U.S. U.S.A. a.m. p.m. e.g. i.e. vs. Inc. inc. Jan. "
    "No. no. pp. Co. Ph.D. Ave. approx. J. K. x. Calif. Mass. mass. Pty. Sgt. tel. ft. art. "
    "fig. U.S.-based Ph.D.s The An When However"
).split()
NUMBERS = (
    "3 10 1,000 1,000,000 3.5 .5 -3 +4 10:30 10:30pm 1/2 3/4 1⁄2 5-1/2 1st 22nd 80s 1980's "
    "50% 5kg 10km 3x4 2×4 5'11 5'10\" 6\" $5 US$5 £10 €3.50 50¢ ¥5 # #1 12-year-old 24/7 "
    "9/11/2001 01-02-03 555-1234 (555) 123-4567 +44 20 ½ ¼ ¾ ⅓ ⅔ 1½ 2² H₂O 5° 20°C 1e5 1.2.3 "
    "1,2 1: 7-eleven ٣٤ 1 1/2"
).split()
ADDRESSES = (
    "http://foo.com/bar https://a.b/c?d=e&f=g#h HTTP://X.org www.x.org www.a.co.uk/b-c "
    "foo.com foo.com/bar x.net ftp://a.b a.b@c.de first.last@example.co.uk mailto:a@b.c "
    "<a@b.c> @user @_a1 #tag #a1 #été file.txt IMG_1.jpg a.b.c node.js 1.jpg c++ C# f# AT&T "
    "R&B r&b H&M A+B B&amp;B and/or his/her/its km/h w/ a/b-c C:\\x foo_bar A$"
).split()
MARKUP = (
    "<b> </b> <br/> <br /> <a href=\"x y\"> <a href='x'> <img src=x> <3 <!-- x --> <?xml?> "
    "&amp; &lt; &gt; &quot; &nbsp; &mdash; &eacute; &#39; &#x27; &copy; &apos; -LRB- <x y z> "
    "<< >> <1>"
).split()
FOREIGN = (
    "café naïve Ünï ÀÉ Straße İstanbul ΟΔΟΣ Ελλάδα привет МИР 日本語 한국어 中文。 مرحبا שלום हिन्दी "
    "ไทย Ångström Ǆ ﬁn e\u0301 😀 👍🏽 ❤️ 👨\u200d👩\u200d👧 ★ ✓ → ♥ ™ ® ©"
    " 🇩🇪 ｆｕｌｌ ¿Qué? ¡Olé! „a“ «b» ‹c› ‚d‘"
).split()
FACES = ":) :( :-) ;-) :D :P :'( =) >:( <3 ^_^ -_- T_T o_O :3 :/ XD (^_^) >_< :] 8) :O".split()
SIGNS = (
    list(string.punctuation)
    + (
        "!!! ?? ?! ... .... .. -- --- ----- – — … “ ” ‘ ’ `` '' « » ` ´ ′ ″ · • § ¶ × ÷ ° ± ² ³ ¹ ¡ ¿ "
        "¢ £ ¤ ¥ € ₹ ₤ ™ 、 。 ！ （ ） \u00ad \u200b \u200d \u2060 \ufeff \u2010 \u2011 \u2012 \u2212"
    ).split()
)
SPACES = [
    " ",
    "  ",
    "\t",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\x00",
    "\x07",
    "\x1f",
    "\x7f",
    "\x85",
    "\x92",
    "\x96",
]
BREAKS = ["\r", "\n", "\r\n", "\v", "\f", "\u2028", "\u2029"]
TOKENS = [PLAIN, CONTRACTIONS, SHORTENED, NUMBERS, ADDRESSES, MARKUP, FOREIGN, FACES]
# Few characters each, so that every short arrangement of them comes up.
DENSE = (
    "ab'n t|aAb.- 1|12/- ()+|ab@.c-,;|<a =\"'>/b!|&amp;A#1 x|a-_'1.é|1.,:-a% $|no'lsd ’`|\"'`“”‘’ a|"
    ".!?- a|:;=()-oD>P ^_x|"
    "www.acom/ b?|ht:/p.a b|#@a_1é -|'0123s a|a.b.U S.|mr.st A.5|a\u00adb-c1_.|a-/b1.,c|Ab!c.- |o'd`ab-1|"
    "24.x jpgc-|"
    "$A12,.5% -|wa.com X/-¿1|T hea. AR|12 3-45/|é\u03010 a-|<!-a >?b|e.tc inJ,"
).split("|")


def captions(count: int, seed: int) -> Iterator[str]:
    """``count`` captions: one half of words and signs, the other of few characters, of any, or blank."""
    rng = random.Random(seed)
    kinds: list[Callable[[random.Random], str]] = [_sentence, _sentence, _joined, _dense, _dense, _any]
    for _ in range(count):
        text = rng.choice(kinds)(rng)
        if rng.random() < 0.05:
            place = rng.randint(0, len(text))
            text = text[:place] + rng.choice(BREAKS) + text[place:]
        yield text if rng.random() < 0.99 else rng.choice(("", " ", "\t", "\u00a0 ", "\n"))


def scene_captions(scenes: int) -> Iterator[str]:
    """The wordings of drawn scenes."""
    for scene in caption_scenes("train", scenes, 0):
        yield from wordings(scene)


def _sentence(rng: random.Random) -> str:
    """Words as people write them, with signs before, behind and between."""
    words = []
    for _ in range(rng.randint(0, 12)):
        word = _word(rng)
        if rng.random() < 0.15:
            word += rng.choice(SIGNS)
        if rng.random() < 0.06:
            word = rng.choice(SIGNS) + word
        if rng.random() < 0.06:
            word += rng.choice([*SIGNS, "-", "'", ".", "/"]) + _word(rng)
        words.append(word)
    return rng.choice((" ", " ", " ", "  ")).join(words)


def _joined(rng: random.Random) -> str:
    """Words, signs and spaces in any order."""
    parts = [_word, lambda rng: rng.choice(SIGNS), lambda rng: rng.choice(SPACES)]
    return "".join(rng.choice(parts)(rng) for _ in range(rng.randint(1, 12)))


def _dense(rng: random.Random) -> str:
    characters = rng.choice(DENSE)
    return "".join(rng.choice(characters) for _ in range(rng.randint(1, 10)))


def _any(rng: random.Random) -> str:
    """Characters from all of Unicode, most of them from its lower end."""
    limits = (0x7F, 0x7F, 0x17F, 0x5FF, 0x20FF, 0xFFFF, 0x1FFFF)
    codes = (rng.randint(1, rng.choice(limits)) for _ in range(rng.randint(1, 16)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


def _word(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.75:
        return rng.choice(rng.choice(TOKENS))
    letters = string.ascii_letters if kind < 0.92 else string.digits
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 6)))


def main() -> None:
    from attngraph.experiments.metrics.ptb import tokenize_java

    chosen = list(dict.fromkeys([*captions(3500, seed=1), *scene_captions(50)]))
    pairs = list(zip(chosen, tokenize_java(chosen), strict=True))
    data = json.dumps(pairs, ensure_ascii=True, indent=0).encode()
    FIXTURE.write_bytes(gzip.compress(data, mtime=0))
    print(f"{len(pairs)} pairs in {FIXTURE}")


if __name__ == "__main__":
    main()
