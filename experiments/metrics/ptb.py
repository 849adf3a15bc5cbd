r"""The PTB tokenizer of CoreNLP 3.4.1, with the options of caption metrics, in Python without a Java runtime.

:func:`tokenize` returns the same tokens as the ``PTBTokenizer`` of ``pycocoevalcap``
(``stanford-corenlp-3.4.1.jar``, ``-preserveLines -lowerCase``, punctuation dropped): in lower case, joined by
single spaces. :func:`tokenize_java` calls that program.

The rules were determined by testing that program as a black box, string by string, which
``tests/experiments/metrics/ptb_probe.py`` reproduces. It writes ``ptb_observed.json``, from which the
characters of words, the ends of addresses and the lists of abbreviations are read here; the rules below
describe the observed tokens (its ``SHAPES`` has examples of most rules, and of similar strings that are
split).

This is a rule-based scanner. At each position the rule that matches the most characters wins, of equally long
ones the first in :func:`_rules`; lookahead characters (after the group ``t`` of a rule) count as matched but
are scanned again. Characters without a rule (emoji, control characters, recent additions to Unicode) are
dropped and end a token.

Known difference: a capital sigma in a word of several scripts or with digits, for which Java finds another
end of the word (about 2 of 300,000 random captions).

Here the tokens of a caption never depend on other captions. In the Java program they do, which
:func:`tokenize_java` prevents: a line break inside a caption (see :func:`one_line`) shifts all captions after
it, whether "No." or "J." at the end of a line keeps its period depends on the beginning of the next line, and
a tag with an open quote continues in the next captions.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from attngraph.errors import UserError
from attngraph.extras import optional

ptbtokenizer = optional("pycocoevalcap.tokenizer.ptbtokenizer")

_WITHOUT = "remove it from the PATH: captions are then tokenised in Python"
_QUOTES = dict(zip("“”«»\x93\x94‘‛‹\x91’›\x92`", "`` '' `` '' `` '' ` ` ` ` ' ' ' `".split(), strict=True))
_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_SYMBOLS = (
    {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", '"': "''"}
    | {"¢": "cents", "£": "#", "€": "$", "¤": "$", "\x80": "$", "₠": "$"}
    | _BRACKETS
)
_ACCENTED = "&(?i:[aeiou](?:acute|grave|uml));"  # a letter, as pages write it
_PTE = re.compile("[pP]{1,2}(?:[tT]e[sS]?|[tT]y[sS]?)")  # companies: Pte., Ptys., never "pTE."
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "nbsp": "", "quot": "''", "apos": "'"} | dict.fromkeys(
    ("md", "mdash", "ndash"), "--"
)
_SPACES = r" \t\u00a0\u2000-\u200a\u3000"
_SPACE = re.compile(f"[{_SPACES}]+")
_PLAIN = re.compile(r"[A-Za-z]+(?=,?[ \n])")
_COMPOUNDS = frozenset("cannot gonna gotta lemme gimme wanna".split())
_WORD_REST = re.compile(r"[\w.\u2010\u2011-]*")
_BREAKS = re.compile("\r\n|[\r\n\v\f\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_PROGRAM = "edu.stanford.nlp.process.PTBTokenizer"
_LAST = "last caption"
# Between any two captions. Without it a caption's tokens depend on how the next one begins: "No." before a
# number, "J." before "The", and a tag whose attribute is never closed swallows captions up to the next quote.
_SEPARATOR = "\" ' ,"


def one_line(caption: str) -> str:
    r"""The caption with a space instead of each line break of the Java program (``\r``, ``\n``, VT, FF,
    U+2028, U+2029; but not U+0085, which it reads as an ellipsis), and without unpaired surrogates.
    """
    return _SURROGATE.sub("\0", _BREAKS.sub(" ", caption))


def tokenize(captions: Sequence[str]) -> list[str]:
    """The tokens of each caption, in lower case, without punctuation, joined by single spaces."""
    return [_joined(scan(one_line(caption))) for caption in captions]


def tokenize_java(captions: Sequence[str]) -> list[str]:
    """The same by the Java program in pycocoevalcap (one process for all captions).

    Raises:
        UserError: Java does not start, or the program fails.
    """
    lines = [one_line(caption) for caption in captions]
    wanted = [i for i, line in enumerate(lines) if line.strip()]
    asked = [text for i in wanted for text in (lines[i], _SEPARATOR)] + [_LAST]
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["java", "-cp", str(jar), _PROGRAM, "-preserveLines", "-lowerCase"]
    try:
        done = subprocess.run(command, input="\n".join(asked).encode(), capture_output=True)
    except OSError as error:
        raise UserError(
            f"the PTB tokenizer needs Java, which does not start ({error}); "
            f"install a Java runtime, or {_WITHOUT}"
        ) from None
    found = done.stdout.decode().split("\n")
    if found[len(asked) - 1 : len(asked)] != [_LAST]:
        message = done.stderr.decode(errors="replace").strip().splitlines() or ["wrong number of lines"]
        raise UserError(f"the PTB tokenizer failed ({message[0]}); repair Java, or {_WITHOUT}")
    result = [""] * len(lines)
    for place, line in zip(wanted, found[::2]):
        tokens = line.rstrip().split(" ")
        result[place] = " ".join(token for token in tokens if token not in _dropped())
    return result


@cache
def _dropped() -> frozenset[str]:
    """Tokens dropped by pycocoevalcap. Brackets are kept, since they are lower-cased before ("-lrb-"),
    as are sequences such as "!!".
    """
    return frozenset(ptbtokenizer.PUNCTUATIONS)


def _joined(tokens: list[str]) -> str:
    line = " ".join(map(_lower, tokens)).rstrip()  # may take a control character off a token
    return " ".join(token for token in line.split(" ") if token not in _dropped())


def _lower(token: str) -> str:
    """Lower case as in Java: σ is final if no cased letter follows in the word."""
    if "Σ" not in token or "ς" not in (lower := token.lower()):
        return token.lower()
    for match in re.finditer("Σ", token):
        rest = _WORD_REST.match(token, match.end())[0]
        if rest.lower() != rest.upper():
            lower = f"{lower[: match.start()]}σ{lower[match.end() :]}"
    return lower


def scan(caption: str) -> list[str]:
    """All tokens of a caption without line breaks, punctuation and capitals included."""
    text, end, place, tokens = caption + "\n\n", len(caption), 0, []
    rules = _rules()
    while place < end:
        plain = _PLAIN.match(text, place)
        if plain and plain[0].lower() not in _COMPOUNDS:
            tokens.append(plain[0])
            place = plain.end()
            continue
        longest, best, written = place, None, _same
        for rule in rules:
            match = rule.pattern.match(text, place)
            if match and match.end() > longest:
                longest, best, written = match.end(), match, rule.written
        if best is None:
            space = _SPACE.match(text, place)
            place = space.end() if space else place + 1
            continue
        token = (best.groupdict().get("t") if best.re.groups else None) or best[0]
        place += len(token)
        if token := written(token):
            tokens.append(token)
    return tokens


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    written: Callable[[str], str]


def _same(token: str) -> str:
    return token


def _without_soft_hyphens(token: str) -> str:
    return token.replace("\xad", "") or "-"


def _mapped(table: dict[str, str]) -> Callable[[str], str]:
    return lambda token: "".join(table.get(character, character) for character in token)


def _entity(token: str) -> str:
    return _ENTITIES.get(token[1:-1].lower(), token)


def _plain_and(token: str) -> str:
    return re.sub("&(?i:amp);", "&", token)


def _glued(token: str) -> str:
    """A token of several words is written with no-break spaces."""
    return _round(token).replace(" ", "\xa0")


_round = _mapped({bracket: _BRACKETS[bracket] for bracket in "()"})
_marks = _mapped({"’": "'", "\x92": "'", "‘": "`", "‛": "`", "\x91": "`"})


def _straight(token: str) -> str:
    return _marks(token.replace("&apos;", "'"))


def _observed() -> tuple[dict[str, str], dict[str, str], dict[str, list[str]]]:
    """Observations of the Java program (``ptb_probe.py`` among the tests explains each): kind of characters
    and position in an address -> content of a character class of a regular expression; and lists of words.
    """
    content = json.loads(Path(__file__).with_name("ptb_observed.json").read_text(encoding="utf-8"))
    characters = {}
    for kind, lines in content["characters"].items():
        spans = [span.split("-") for span in " ".join(lines).split()]
        characters[kind] = "".join("-".join(rf"\u{int(code, 16):04x}" for code in span) for span in spans)
    stops = {place: re.escape(found) + r"\n" for place, found in content["stops"].items()}
    return characters, stops, {name: " ".join(lines).split() for name, lines in content["words"].items()}


def _any(words: Sequence[str]) -> str:
    """Any of the words, in any case, the longest first."""
    return "(?i:" + "|".join(sorted(words, key=len, reverse=True)).replace(".", r"\.") + ")"


@cache
def _rules() -> list[_Rule]:
    """Patterns of tokens with functions for their written form; the token is the group ``t``, or all."""
    kinds, stops, lists = _observed()
    a = "A-Za-z"
    letter, mark, digit = a + kinds["letters"], kinds["marks"], "0-9" + kinds["digits"]
    apostrophe, quote = r"(?:['’\x92]|&apos;)", r"(?:['’‘‛`\x92\x91]|&apos;)"
    word = rf"(?:[{letter}{mark}\xad]|{_ACCENTED})(?:[{letter}{mark}{digit}\xad]|{_ACCENTED})*"
    piece = rf"(?:[{letter}{mark}{digit}\xad]|{_ACCENTED})+"  # a word that may begin with a digit
    words = rf"{word}(?:[.!?]{word})*"  # "node.js" and "go!now" too
    alphanumeric = f"[{letter}{digit}]+"
    part = rf"(?:[dDoOlL]{quote}[{letter}{digit}])?{alphanumeric}"  # also "O'Ne" of "O'Neill-x"
    hyphenated = rf"{part}(?:[-_\u058a\u2010\u2011]{part})+"
    compound = rf"[{a}0-9][{a}0-9.,\xad]*(?:-(?:(?:[{a}]\.){{2,}}|[{a}0-9\xad]+))+"  # "1,000-a", "x-U.S."
    initials = r"[A-Z]+(?:(?:&|&(?i:amp);|\+)[A-Z]+)+"  # "AT&T"
    clitic = rf"{apostrophe}(?:[dDmMsS]|[lL][lL]|[rR][eE]|[vV][eE])"
    ending, title = _abbreviations(lists)
    after_a_word = rf"(?![{letter}{mark}{digit}])"
    tag, beginnings = _tag(), _any([*lists["beginnings"], "mr.", "ms."])
    rules: list[tuple[str, Callable[[str], str]]] = [
        (tag, lambda token: token.replace(" ", "\xa0")),
        (r"-(?i:[lr][crs]b)-", _same),
        (rf"&(?i:{'|'.join(_ENTITIES)}|ht|tl|ur|lr|q[clr]|[oc]dq|#[0-9]+);", _entity),
        # "gonna" and its like are two tokens, if no word goes on; "'tis" is "'t" and "is"
        *(
            (rf"(?P<t>(?i:{one[:-2]}))(?i:{one[-2:]}){after_a_word}", _same)
            for one in _COMPOUNDS - {"cannot"}
        ),
        (rf"(?P<t>(?i:can))(?i:not){after_a_word}", _same),
        (r"(?P<t>'[tT])(?i:is|was)", _same),
        # "isn't" is "is" and "n't", "man's" is "man" and "'s"
        (rf"(?P<t>[{a}\xad]*?[A-MO-Za-mo-z]\xad*)[nN]{quote}[tT]", _without_soft_hyphens),
        (rf"(?P<t>{words}|{alphanumeric}){clitic}", _without_soft_hyphens),
        (rf"[nN]{quote}[tT]", _straight),
        (rf"(?P<t>{clitic})[^{a}]", _straight),
        # an apostrophe begins "'em", "'cause", "'n'", "'20s", "'99 "; else it is a token before a longer word
        (rf"{apostrophe}(?i:em|till?|cause|n{apostrophe})", _same),
        (rf"(?P<t>')[{a}][^ \t\n\u00a0]", _same),
        (clitic, _straight),
        (rf"{apostrophe}(?:[nN]|[2-9]0s)", _same),
        (rf"(?P<t>{apostrophe}[0-9][0-9])[\n\x85{_SPACES}]", _same),
        # words, alone and with periods inside
        (word, _without_soft_hyphens),
        (alphanumeric, _same),
        (
            rf"{piece}(?:\.{piece})*\.{_any([*lists['files'], 'mp3'])}"
            rf"(?=[.!?,\n\x85{_SPACES}])",
            _same,
        ),
        (words, _without_soft_hyphens),
        *((pattern, _same) for pattern in _mail(stops)),
        # an abbreviation that may close a sentence takes its period from a rest of one character: "etc.a"
        (rf"(?s:(?P<t>{ending}\.)..)", _same),
        (hyphenated, _same),
        (compound, _without_soft_hyphens),
        # before a comma, colon or semicolon a word leaves its period, where it is longer than its parts
        *(
            (rf"(?P<t>{item}\.)[,;:、]", _without_soft_hyphens)
            for item in (words, part, hyphenated, compound)
        ),
        (_number(digit), _without_soft_hyphens),
        # periods of "U.S.", "J." and abbreviations stay; not that of "J." before the beginning of a sentence
        (rf"(?:[{a}]\.){{2,}}", _same),
        (
            rf"(?P<t>[{a}])\.[\x85{_SPACES}]+(?:(?=[A-Z]){beginnings}|{tag})[\n\x85{_SPACES}]",
            _same,
        ),
        (rf"(?:[{a}]|{ending}|{title})\.", _same),
        (rf"(?P<t>{_any([*lists['numbered'], 'p'])}\.)[\x85{_SPACES}]?[{digit}]", _same),
        # up to two slashes, with or without a backslash, and up to two hyphens between them
        (rf"[{a}0-9]+(?:-[{a}]+){{0,2}}(?:\\?/[{a}0-9]+(?:-[{a}]+){{0,2}}){{1,2}}", _same),
        *((pattern, _glued) for pattern in _figures(digit)),
        (r"[0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2,4}", _same),
        *((pattern, _same) for pattern in _web(stops, lists["sites"])),
        (r"@[A-Za-z_][A-Za-z0-9_]*", _same),
        (rf"#(?:[{letter}{mark}\xad]|{_ACCENTED})+", _same),
        (initials, _plain_and),
        (rf"(?P<t>{initials}\.)[,;:、]", _plain_and),
        (r"[cC]\+\+|[cCfF]#|[A-Z]+\$", _same),
        *((pattern, _round) for pattern in _faces()),
        # apostrophes inside of names ("O'Neill", "Hawai'i"), of short words, and after an article ("d'")
        (rf"[dDlLoO]{quote}[{letter}{digit}]{{2,}}|[A-HJ-XZn]{quote}[{letter}]{{2,}}", _same),
        (rf"[{letter}]+[aeiouyAEIOUY]{quote}[aeiouA-Z][{letter}]*|[oO]{quote}[oO]", _same),
        (
            rf"c'mon|e'er|[nN]at'l|[oO][lL]{apostrophe}|[dDlLjJ]{apostrophe}|(?P<t>[yY]{apostrophe})[{letter}]",
            _same,
        ),
        # signs: an ellipsis, dashes, the same sign again, raised and lowered figures, quotes, any other sign
        (r"\.{3,5}|\. \. \.(?: \.)*|…|\x85", lambda token: "..."),
        (r"-{2,4}|[–—―\x96\x97]", lambda token: "--"),
        (r"-{5,}|[!?]+|<<|>>|''|``|\*+|_+|#+|@+|\\\*", _same),
        (r"[⁺⁻₊₋]?(?:[¹²³⁰⁴-⁹]+|[₀-₉]+)", _same),
        (r"[“”„‟‘’‚‛«»‹›`\x91-\x94]{1,2}", _mapped(_QUOTES)),
        (rf"[!-/:-@\[-`{{-~{kinds['symbols']}]", _mapped(_SYMBOLS)),
        ("[¢£€¤\x80₠½¼¾⅓⅔]", _mapped(_SYMBOLS)),
    ]
    return [_Rule(re.compile(pattern), written) for pattern, written in rules]


def _abbreviations(words: dict[str, list[str]]) -> tuple[str, str]:
    """Abbreviations that keep their period and may end a sentence ("etc."), and those that do not ("Mr.")."""
    cased = [word for word in words["closing"] if not _PTE.fullmatch(word)]
    capitals = "|".join(f"{word[0].upper()}(?i:{word[1:]})" for word in words["capitals"])
    titles = [word for word in words["titles"] if word not in ("mfg", "mtg")]  # never "mFg"
    return f"(?:{_any([*cased, 'ph.d'])}|{capitals}|{_PTE.pattern})", f"(?:{_any(titles)}|[mM][ft][gG])"


def _number(digit: str) -> str:
    """A sign, and digits with single periods, commas and colons between them, or before the first digit."""
    digits, between = rf"[{digit}](?:\xad?[{digit}])*", r"[.,:\u066b\u066c]"
    return rf"[+-]?(?:\xad?{digits}(?:{between}{digits})*|(?:{between}{digits})+)"


def _figures(digit: str) -> list[str]:
    """Fractions, also after an integer, and telephone numbers: one token that includes the spaces.

    A telephone number is one or two groups of two to four digits, or an area in brackets, and a line: six to
    nine digits, or three or four and three to five.
    """
    few, gap = rf"[{digit}]{{1,4}}", r"[- \u00a0]"
    area = r"\([0-9]{2,3}\)[ \u00a0]?"
    line = rf"(?:[0-9]{{6,9}}|[0-9]{{3,4}}{gap}[0-9]{{3,5}})"
    return [
        rf"(?:{few}{gap})?{few}[/⁄]{few}",
        rf"(?:{area}|\+{{0,2}}(?:[0-9]{{2,4}}{gap}){{1,2}}){line}",
    ]


def _tag() -> str:
    """An HTML tag: a name, and attributes with or without values in quotes; or ``<!...>``, ``<?...>``."""
    name = r"[A-Za-z][A-Za-z0-9_:.-]*"
    value = r"""(?: *= *(?:"[^"\n]*"|'[^'\n]*'))?"""
    return rf"<(?:[!?][A-Za-z-][^>\n]*|(?:{name} */?|/{name}) *|{name}(?: +{name}{value})+ */? *)>"


def _mail(stops: dict[str, str]) -> list[str]:
    """A mail address, in angle brackets or not: a letter or digit first, and no empty part after the @."""
    before, host = f"[^{stops['mail']}]", f"[^.{stops['mail']}]"
    return [rf"(?:<|&lt;)?(?:(?i:mailto):)?[A-Za-z0-9]{before}*@(?:{host}+\.)*{host}+(?:>|&gt;)?"]


def _web(stops: dict[str, str], sites: list[str]) -> list[str]:
    """Web addresses: after http:// anything; after www. parts with periods; others only if they end in "com"
    or similar, and contain neither capitals nor digits. A path may follow the last two.
    """
    last, path_last = f"[^{stops['web']}{stops['web, last']}]", f"[^{stops['path']}{stops['path, last']}]"
    path = f"/[^{stops['path']}]+{path_last}"
    part, bare = f"[^.{stops['www']}]+", f"[^.{stops['host alone']}]+"
    site = "(?:" + "|".join(f"[{site[0]}{site[0].upper()}]{site[1:]}" for site in sites) + ")"
    return [
        rf"(?i:https?)://[^{stops['web']}]+{last}",
        *(rf"(?i:www)\.(?:{part}\.){rest}" for rest in ("+[a-zA-Z]{2,4}", f"+?[a-zA-Z]{{2,4}}{path}")),
        *(rf"(?:{bare}\.){rest}" for rest in (f"+{site}", f"+?{site}{path}")),
    ]


def _faces() -> list[str]:
    """Horizontal emoticons (a brow, eyes, a nose, a mouth) and upright ones (a mouth between eyes)."""
    eye = r"['<=>^x~-]"
    return [
        r"[<>]?[:;=]['*o-]?[()@DOP[\\\]dp{|](?![A-Za-z0-9])|:[038](?![A-Za-z0-9])",
        rf"\({eye}_?{eye}\)|{eye}_{eye}",
    ]
