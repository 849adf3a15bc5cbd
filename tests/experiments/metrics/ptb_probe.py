r"""What the Java tokenizer shows when it is asked string by string: the observations behind ptb.py.

``python -m tests.experiments.metrics.ptb_probe`` asks ``stanford-corenlp-3.4.1.jar``, as pycocoevalcap
ships it, and writes ``experiments/metrics/ptb_observed.json`` again. The program is a black box here: strings
go in, tokens come out, and what a string shows is whether it stays one token.

- *Characters*: each below U+10000 is put alone, beside letters, digits and itself (:func:`characters`).
- *Stops*: each is put into an address, at a place of each kind (:func:`stops`).
- *Words*: all of up to :data:`LONGEST` letters, and the longer ones of the file as it is (found among
  the words of a dictionary and their beginnings), are put before a period, as a file name's ending, and after
  "J." (:func:`words`).
- *Shapes*: :data:`SHAPES` holds strings of each rule that stay whole, and their neighbours that do not.
"""

import itertools
import json
import string
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pycocoevalcap.tokenizer import ptbtokenizer

from attngraph.experiments.metrics import ptb

OBSERVED = Path(ptb.__file__).with_name("ptb_observed.json")
APART = "\" ' ,"  # between two strings, so that none is read in view of the next
LETTERS, LONGEST = string.ascii_lowercase, 4

#: Rule -> strings that stay one token, and neighbours that are split.
SHAPES: dict[str, tuple[list[str], list[str]]] = {
    "telephone numbers: one or two groups of 2 to 4 digits, or an area of 2 or 3 in brackets; then 3 or 4 "
    "and 3 to 5 digits, apart or together": (
        ["(555) 123-4567", "(55)1234567", "555 123 4567", "12 34 567 890", "1234-123456789",
         "+44 20 7123 456", "++44 123 456", "12 123456", "1234 123 12345"],
        ["(5) 123-4567", "(5555) 123-4567", "5 123 4567", "12345 123 4567", "12 12 12", "12 12345", "12 1 1",
         "+++44 123 456", "+(55) 123 456"],
    ),
    "fractions of up to 4 digits with a slash, also after a whole number": (
        ["1/2", "1234/1234", "3⁄4", "5 1/2", "5-1/2", "1234 1234/1234"],
        ["5⁄12345", "12345 1/2", "5/1⁄2"],
    ),
    "dates: 1 or 2, 1 or 2, and 2 to 4 digits between slashes or hyphens": (
        ["9/11/2001", "9/11-01", "1/2-345"], ["9/11-1", "9/111-01", "1/2-34567"]),
    "numbers: signs before them, one of . , : between digits": (
        ["1,000.5", "+.5", "-3", "10:30", "1.2:3,4"], ["1..2", "5.", "+-3", "1,", "10: 30"]),
    "faces: a brow, eyes, a nose, a mouth": (
        [":)", ";-)", "=o(", ">:D", "<;*P", ":'[", ":3", ":0"],
        [":-3", ":/", ":-/", "x:)y", ">>:)", ":)a", ":3a"]),
    "eastern faces": (["^_^", "(^_^)", "(^^)", "x_x", "~_-", ">_<"], ["o_^", "^__^", "(^_)", "^-^"]),
    "names with an apostrophe": (
        ["o'neil", "d’angelo", "l'12", "O'O", "o'o", "K'xyz", "M'xyz", "n'xyz", "Hawai'i", "xya'Bcd", "nat'l",
         "c'mon", "ol'", "d'", "j'"],
        ["b'neil", "I'xyz", "Y'xyz", "xyb'ef", "xya'bc", "o'b", "e'"]),
    "contractions without their word": (
        ["n't", "N’T", "'em", "'till", "'cause", "'n'", "'ll", "’ve", "'20s"], ["'ems", "'n't", "'10s"]),
    "hyphens": (
        ["t-shirt", "a-b-c", "x_y", "12-year-old", "O'xy-ray", "é-a", "1,000-a"],
        ["a--b", "-a", "a-", "a-~"]),
    "slashes": (["and/or", "his/her/its", "a-b/c-d-e", r"a\/b"], ["a/b/c/d", "é/a", "a/", "a//b"]),
    "signs repeated": (
        ["!?!", "??", "##", "**", "__", "@@", "<<", ">>", "``", "''", "--", "---", "-------", "...", ".....",
         ". . .", r"\*"],
        [",,", ";;", "$$", "%%", "==", "~~", "&&", "((", "<<<", ".."]),
    "initials": (["AT&T", "A+B", "R&amp;B", "U.S.A.", "u.s."], ["r&b", "A&b", "A&&B"]),
    "letters with signs": (["c++", "C#", "f#", "US$"], ["d++", "c+", "g#", "us$"]),
    "names and tags": (["@user", "@_a1", "#tag", "#été"], ["@1a", "#1", "@é", "#$"]),
    "mail and web addresses": (
        ["a@b", "1+x@y.z", "a@~+~", "<a@b.c>", "mailto:a@b.c", "http://a,b", "HTTPS://x.y/z?q=1#a",
         "www.a~b.com", "www.a.com/x,y", "~.com", "~+~.org/a~b"],
        ["-a@b", "ftp://a.b", "http://a", "www.a~b.c", "~a.de", "A~.com", "http://a."],
    ),
    "markup": (
        ["<b>", "</b>", "<br/>", "<br />", '<a href="x y">', "<a b = 'c' d>", "<!-- x -->", "<?xml?>",
         "&amp;", "&#39;", "-LRB-"],
        ["<3>", "< b>", "<a b=c>", "<>", "&copy;", "&#x27;", "-LTB-"]),
    "superscripts and subscripts": (["¹²", "⁻¹", "₊₂", "²²"], ["²₂", "⁼²", "⁻⁻¹"]),
}  # fmt: skip


def ask(texts: Iterable[str]) -> list[str]:
    """The program's tokens of each text, capitals and punctuation kept, joined by spaces."""
    texts = list(texts)
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines"]
    lines = "".join(f"{text}\n{APART}\n" for text in texts).encode()
    said = subprocess.run(command, input=lines, capture_output=True, check=True).stdout.decode().split("\n")
    if len(said) != 2 * len(texts) + 1:
        raise ValueError(f"{len(texts)} texts gave {len(said)} lines: one of them holds a line break")
    return [line.strip(" ") for line in said[:-1:2]]


def whole(texts: Iterable[str]) -> list[str]:
    """Those of the texts that stay one token."""
    texts = list(texts)
    return [text for text, said in zip(texts, ask(texts), strict=True) if said and " " not in said]


def _places() -> list[str]:
    """Every character that can be asked for: no line breaks, no halves of surrogate pairs."""
    breaks = {*range(10, 14), 0x2028, 0x2029}
    return [chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000 and code not in breaks]


def characters() -> dict[str, list[str]]:
    """Kinds of characters beyond ASCII, as ranges.

    - letters stay in a word, in a number and in a #tag;
    - digits in a word and in a number, but end a #tag;
    - marks in a word and in a #tag, but end a number;
    - symbols are tokens of their own, as they are, two of them two tokens.
    """
    every = [place for place in _places() if ord(place) > 0x7F]
    forms = {
        "alone": "{0}",
        "word": "a{0}b",
        "number": "1{0}2",
        "tag": "#a{0}",
        "twice": "{0}{0}",
        "after": "a{0}",
    }
    said = {
        name: dict(zip(every, ask(form.format(place) for place in every), strict=True))
        for name, form in forms.items()
    }
    kinds: dict[str, list[int]] = {"letters": [], "marks": [], "digits": [], "symbols": []}
    for place in every:
        if said["alone"][place] != place:
            continue
        joined = {name: said[name][place] == form.format(place) for name, form in forms.items()}
        if joined["after"] and joined["word"]:
            kind = ("letters" if joined["tag"] else "digits") if joined["number"] else "marks"
            kinds[kind].append(ord(place))
        elif said["after"][place] == f"a {place}" and said["twice"][place] == f"{place} {place}":
            kinds["symbols"].append(ord(place))
    return {kind: _lines(_ranges(codes)) for kind, codes in kinds.items()}


def stops() -> dict[str, str]:
    """Place in an address -> the characters that may not stand there, or not at its end."""
    forms = {
        "mail": "a~{0}~b@c.de",
        "web": "http://~{0}~b",
        "web, last": "http://~b{0}",
        "www": "www.~{0}~.com",
        "path": "www.a.com/~{0}~b",
        "path, last": "www.a.com/~b{0}",
        "host alone": "~{0}~.com",
    }
    every = _places()
    found = {}
    for name, form in forms.items():
        kept = set(whole(form.format(place) for place in every))
        found[name] = "".join(place for place in every if form.format(place) not in kept)
    return found


def words(letters: int, more: Iterable[str]) -> dict[str, list[str]]:
    """Lists of words, shortest first.

    - closing: kept with their period in any place and case, and cut off from one letter after it ("etc.a");
    - titles: the same, but one word with a letter after it ("Mr.a");
    - capitals: closing, but only with a capital at their beginning;
    - numbered: kept with their period before a number only ("No. 5");
    - files: the ending of a file's name that begins with a digit ("1a.jpg");
    - beginnings: words before which the period of "J." is a token of its own;
    - sites: what ends an address without www ("~.com").
    """
    found: dict[str, list[str]] = {name: [] for name in ("closing", "titles", "capitals", "numbered")}
    asked: dict[str, Callable[[str], tuple[str, str]]] = {
        "files": lambda word: (f"1a.{word} x", f"1a.{word} x"),
        "beginnings": lambda word: (f"J. {word.capitalize()} x", f"J . {word.capitalize()} x"),
        "sites": lambda word: (f"~.{word}", f"~.{word}"),
    }
    found |= {name: [] for name in asked}
    for chunk in _chunks(letters, more):
        kept = {
            word
            for word, said in zip(chunk, ask(f"{word}. x" for word in chunk), strict=True)
            if said == f"{word}. x"
        }
        capital = [word for word in chunk if word not in kept]
        said = ask(f"{word.capitalize()}. x" for word in capital)
        capitals = [w for w, line in zip(capital, said, strict=True) if line == f"{w.capitalize()}. x"]
        inner = [word for word in chunk if word in kept and len(word) > 1]
        joined = set(whole(f"{word}.a" for word in inner))
        found["closing"] += [word for word in inner if f"{word}.a" not in joined]
        found["titles"] += [word for word in inner if f"{word}.a" in joined]
        found["capitals"] += capitals
        said = ask(f"{word}. 5" for word in capital)
        found["numbered"] += [w for w, line in zip(capital, said, strict=True) if line == f"{w}. 5"]
        for name, form in asked.items():
            pairs = [form(word) for word in chunk]
            said = ask(text for text, _ in pairs)
            found[name] += [w for w, (_, want), line in zip(chunk, pairs, said, strict=True) if line == want]
    return found


def _chunks(letters: int, more: Iterable[str]) -> Iterator[list[str]]:
    short = ("".join(word) for n in range(1, letters + 1) for word in itertools.product(LETTERS, repeat=n))
    longer = sorted({word for word in more if len(word) > letters}, key=lambda word: (len(word), word))
    every = itertools.chain(short, longer)
    while chunk := list(itertools.islice(every, 200_000)):
        yield chunk


def known_words() -> set[str]:
    """The words of the file as it is, lower-case letters and digits only."""
    lists = json.loads(OBSERVED.read_text(encoding="utf-8"))["words"].values()
    return {word for lines in lists for word in " ".join(lines).split()}


def _ranges(codes: list[int]) -> str:
    spans: list[list[int]] = []
    for code in codes:
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return " ".join(f"{low:x}" if low == high else f"{low:x}-{high:x}" for low, high in spans)


def _lines(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 100:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def main() -> None:
    lists = {name: _lines(" ".join(found)) for name, found in words(LONGEST, known_words()).items()}
    content = {"characters": characters(), "stops": stops(), "words": lists}
    OBSERVED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {OBSERVED}")


if __name__ == "__main__":
    main()
