r"""The PTB tokenizer of CoreNLP 3.4.1 in Python, as caption metrics call it: tokens without a Java runtime.

:func:`tokenize` gives for each caption the tokens that ``pycocoevalcap``'s ``PTBTokenizer`` gives
(``stanford-corenlp-3.4.1.jar``, ``-preserveLines -lowerCase``, punctuation dropped). It was written from the
tokenizer's documentation [1]_ and by observing what the program prints, character by character and rule by
rule; ``tests/experiments/metrics/test_ptb.py`` compares the two.

It is a scanner of rules. At each place the rule that matches most characters wins, of equally long ones the
first in :func:`_rules`; characters that a rule only looks at (what follows its group ``t``) count as matched
but are read again. Characters without a rule (emoji, control characters, letters added to Unicode late) are
dropped and end a token.

Known to differ: a capital sigma in a word of several scripts or with digits, where Java takes another end of
the word (about 2 of 300,000 random captions).

What a caption's tokens are never depends on other captions here. In the Java program it does, and
:func:`experiments.metrics.tokenizers.ptb_tokenize` takes that away: a line break inside a caption (see
:func:`one_line`) shifts all captions after it, "No." or "J." at the end of one line is kept with its period
or not by how the next line begins, and a tag with an open quote goes on in the next captions.

.. [1] https://nlp.stanford.edu/software/tokenizer.html and the Javadoc of
   ``edu.stanford.nlp.process.PTBTokenizer``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

# What pycocoevalcap drops. Brackets are lower-cased before ("-lrb-"), so they stay, as do runs such as "!!".
_DROPPED = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())

# Kept with their period; the first line also ends sentences, the second only with a capital.
_ENDING = (
    "al bhd ct ga jr ky md mo rd rt sq sr va vt ala apr aug co cos dak dec esq est etc ext feb fla fri "
    "inc ind jan jul jun kan ltd mar mon neb nev nov oct plc sep seq sys tel thu tue wed wis wyo ariz "
    "assn bldg blvd bros colo conn corp intl kans mich minn mont okla penn sept tenn tues univ wisc thurs "
    "assoc calif bancorp treas"
).split()
_CAPITAL = "az la pa ark del ill ore tex mass miss wash".split()
_TITLES = (
    "cf dr ft lt mr ms mt ph st vs wm adj adm adv ave cie col cpl det drs ens gen gov hon jos maj mme mrs "
    "pfc pvt rep rev sen sfc sgt spc ste alex asst atty brig capt cmdr dept elec govs insp invt mlle msgr "
    "natl pres prof reps sens supt supts attys comdr lieut messrs profs"
).split()
_BEFORE_NUMBERS = r"(?i:nos?|pp?|op|ca|art|fig|prop)"
_FILES = (
    "c h x gz pl ps py bat bmp cgi cpp dll doc exe gif htm jar jpg mov mp3 pdf php png ppt sql tar txt "
    "wav xml zip docx html java jpeg class"
).split()
# After a single letter with a period these begin a sentence: the period is not the letter's.
_BEGINNING = (
    "a an as at he if in it so we but her now one our she the yet you here last many more once some such "
    "that then they this what when about according after earlier however other since their there these "
    "while mr. ms."
).split()

_QUOTES = dict(zip("“”«»\x93\x94‘‛‹\x91’›\x92`", "`` '' `` '' `` '' ` ` ` ` ' ' ' `".split(), strict=True))
_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_SYMBOLS = (
    {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", '"': "''"}
    | {"¢": "cents", "£": "#", "€": "$", "¤": "$", "\x80": "$", "₠": "$"}
    | _BRACKETS
)
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


def one_line(caption: str) -> str:
    r"""The caption with a space for each line break that the Java program knows (``\r``, ``\n``, VT, FF,
    U+2028, U+2029; U+0085 is none, it reads it as an ellipsis), and without halves of surrogate pairs.
    """
    return _SURROGATE.sub("\0", _BREAKS.sub(" ", caption))


def tokenize(captions: Sequence[str]) -> list[str]:
    """The tokens of each caption, in lower case, without punctuation, joined by single spaces."""
    return [_joined(scan(one_line(caption))) for caption in captions]


def _joined(tokens: list[str]) -> str:
    line = " ".join(map(_lower, tokens)).rstrip()  # may take a control character off a token
    return " ".join(token for token in line.split(" ") if token not in _DROPPED)


def _lower(token: str) -> str:
    """In lower case as Java has it: σ is final where no letter with a case follows in the word."""
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


def _characters() -> dict[str, str]:
    """Kind of character -> ranges for a regular expression, as the Java program has them (all below
    U+10000)."""

    def escaped(span: str) -> str:
        return "-".join(f"\\u{int(bound, 16):04x}" for bound in span.split("-"))

    path = Path(__file__).with_name("ptb_characters.json")
    kinds = json.loads(path.read_text(encoding="utf-8"))
    return {kind: "".join(map(escaped, " ".join(lines).split())) for kind, lines in kinds.items()}


def _any(words: Sequence[str]) -> str:
    return "(?i:" + "|".join(sorted(words, key=len, reverse=True)).replace(".", r"\.") + ")"


@cache
def _rules() -> list[_Rule]:
    kinds = _characters()
    a = "A-Za-z"
    letter, mark, digit = a + kinds["letters"], kinds["marks"], "0-9" + kinds["digits"]
    apostrophe, quote = r"(?:['’\x92]|&apos;)", r"(?:['’‘‛`\x92\x91]|&apos;)"
    accented = "&(?i:[aeiou](?:acute|grave|uml));"
    hyphen, slash = "[-_\\u058a\\u2010\\u2011]", r"\\?/"
    word = rf"(?:[{letter}{mark}\xad]|{accented})(?:[{letter}{mark}{digit}\xad]|{accented})*"
    digits = rf"[{digit}](?:\xad?[{digit}])*"
    number = rf"[+-]?(?:\xad?{digits}(?:[.,:\u066b\u066c]{digits})*|(?:[.,:\u066b\u066c]{digits})+)"
    alphanumeric = f"[{letter}{digit}]+"
    part = rf"(?:[dDoOlL]{quote}[{letter}{digit}])?{alphanumeric}"  # a word, or one like O'Neill
    hyphenated = rf"{part}(?:{hyphen}{part})+"
    compound = rf"[{a}0-9][{a}0-9.,\xad]*(?:-(?:(?:[{a}]\.){{2,}}|[{a}0-9\xad]+))+"
    initials = "[A-Z]+(?:(?:&|&(?i:amp);|\\+)[A-Z]+)+"
    clitic = rf"{apostrophe}(?:[dDmMsS]|[lL][lL]|[rR][eE]|[vV][eE])"
    ending = rf"(?:{_any([*_ENDING, 'ph.d'])}|{'|'.join(f'{w[0].upper()}(?i:{w[1:]})' for w in _CAPITAL)}"
    ending += "|[pP]{1,2}(?:[tT]e[sS]?|[tT]y[sS]?))"  # companies: Pte., Ptys.
    title = rf"(?:{_any(_TITLES)}|[mM][ft][gG])"
    host = r"[^ \t\n\"<>|.!?(){},]+"
    bare = r"[^A-Z0-9 \t\n\"`'<>|.!?(){},_$:;=^\\@/\[\]-]+"
    last = r"[^ \t\n\"<>|.!?(){},-]"
    domain, path = "(?:[cC]om|[nN]et|[oO]rg|[eE]du)", rf"/[^ \t\n\"<>|()]+{last}"
    mailbox = r"[^ \t\n\"<>|(){}\u00a0]*@(?:[^ \t\n\"<>|(){}.\u00a0]+\.)*[^ \t\n\"<>|(){}.\u00a0]+"
    name = r"[A-Za-z][A-Za-z0-9_:.-]*"
    value = r"""(?: *= *(?:"[^"\n]*"|'[^'\n]*'))?"""
    tag = rf"<(?:[!?][A-Za-z-][^>\n]*|(?:{name} */?|/{name}) *|{name}(?: +{name}{value})+ */? *)>"
    face = r"[\^x=~<>'-]"
    rules: list[tuple[str, Callable[[str], str]]] = [
        # markup
        (tag, _glued_tag),
        (r"-(?i:[lr][crs]b)-", _same),
        (rf"&(?i:{'|'.join(_ENTITIES)}|ht|tl|ur|lr|q[clr]|[oc]dq|#[0-9]+);", _entity),
        # words of two tokens, contractions
        *(
            (rf"(?P<t>(?i:{c[:-2]}))(?i:{c[-2:]})(?![{letter}{mark}{digit}])", _same)
            for c in _COMPOUNDS - {"cannot"}
        ),
        (rf"(?P<t>(?i:can))(?i:not)(?![{letter}{mark}{digit}])", _same),
        (r"(?P<t>'[tT])(?i:is|was)", _same),
        (rf"(?P<t>[{a}\xad]*?[A-MO-Za-mo-z]\xad*)[nN]{quote}[tT]", _without_soft_hyphens),
        (rf"(?P<t>{word}(?:[.!?]{word})*|{alphanumeric}){clitic}", _without_soft_hyphens),
        (rf"[nN]{quote}[tT]", _straight),
        (rf"(?P<t>{clitic})[^{a}]", _straight),
        (rf"{apostrophe}(?i:em|till?|cause|n{apostrophe})", _same),
        (rf"(?P<t>')[{a}][^ \t\n\u00a0]", _same),
        (clitic, _straight),
        (rf"{apostrophe}(?:[nN]|[2-9]0s)", _same),
        (rf"(?P<t>{apostrophe}[0-9][0-9])[\n\x85{_SPACES}]", _same),
        # words, numbers, and what is joined by hyphens, periods, slashes
        (word, _without_soft_hyphens),
        (alphanumeric, _same),
        (
            rf"[{letter}{digit}\xad]+(?:\.[{letter}{digit}\xad]+)*\.{_any(_FILES)}(?=[.!?,\n\x85{_SPACES}])",
            _same,
        ),
        (rf"{word}(?:[.!?]{word})+", _without_soft_hyphens),
        (rf"(?:<|&lt;)?(?:(?i:mailto):)?[A-Za-z0-9]{mailbox}(?:>|&gt;)?", _same),
        (rf"(?s:(?P<t>{ending}\.)..)", _same),
        (hyphenated, _same),
        (compound, _without_soft_hyphens),
        *(
            (rf"(?P<t>{item}\.)[,;:、]", _without_soft_hyphens)
            for item in (rf"{word}(?:[.!?]{word})*", part, hyphenated, compound)
        ),
        (number, _without_soft_hyphens),
        (rf"(?:[{a}]\.){{2,}}", _same),
        (rf"(?P<t>[{a}])\.[{_SPACES}]+(?:(?=[A-Z]){_any(_BEGINNING)}|{tag})[\n{_SPACES}]", _same),
        (rf"(?:[{a}]|{ending}|{title})\.", _same),
        (rf"(?P<t>{_BEFORE_NUMBERS}\.)[\x85{_SPACES}]?[{digit}]", _same),
        (rf"[{a}0-9]+(?:-[{a}]+){{0,2}}(?:{slash}[{a}0-9]+(?:-[{a}]+){{0,2}}){{1,2}}", _same),
        (
            rf"[{digit}]{{1,4}}[- \u00a0][{digit}]{{1,4}}[/⁄][{digit}]{{1,4}}"
            rf"|[{digit}]{{1,4}}[/⁄][{digit}]{{1,4}}",
            _glued,
        ),
        (
            r"(?:\([0-9]{2,3}\)[ \u00a0]?|\+{0,2}(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
            r"[0-9]{3,4}[- \u00a0]?[0-9]{3,5}",
            _glued,
        ),
        (r"[0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2,4}", _same),
        # addresses, and names with signs
        (rf"(?i:https?)://[^ \t\n\"<>|(){{}}]+{last}", _same),
        *(
            (rf"(?i:www)\.(?:{host}\.){rest}", _same)
            for rest in ("+[a-zA-Z]{2,4}", f"+?[a-zA-Z]{{2,4}}{path}")
        ),
        *((rf"(?:{bare}\.){rest}", _same) for rest in (f"+{domain}", f"+?{domain}{path}")),
        (r"@[A-Za-z_][A-Za-z0-9_]*", _same),
        (rf"#(?:[{letter}{mark}\xad]|{accented})+", _same),
        (initials, _plain_and),
        (rf"(?P<t>{initials}\.)[,;:、]", _plain_and),
        (r"[cC]\+\+|[cCfF]#|[A-Z]+\$", _same),
        # faces
        (r"[<>]?[:;=][-o*']?[()\[\]{DPdpO@|\\](?![A-Za-z0-9])|:[308](?![A-Za-z0-9])", _round),
        (rf"\({face}_?{face}\)|{face}_{face}", _round),
        # apostrophes inside of names, and after an article
        (rf"[dDlLoO]{quote}[{letter}{digit}]{{2,}}|[A-HJ-XZn]{quote}[{letter}]{{2,}}", _same),
        (rf"[{letter}]+[aeiouyAEIOUY]{quote}[aeiouA-Z][{letter}]*|[oO]{quote}o", _same),
        (
            rf"c'mon|e'er|[nN]at'l|[oO][lL]{apostrophe}|[dDlLjJ]{apostrophe}|(?P<t>[yY]{apostrophe})[{letter}]",
            _same,
        ),
        # signs
        (r"\.{3,5}|\. \. \.(?: \.)*|…|\x85", lambda token: "..."),
        (r"-{2,4}|[–—―\x96\x97]", lambda token: "--"),
        (r"-{5,}|[!?]+|<<|>>|''|``|\*+|_+|#+|@+|\\\*|'|'", _same),
        (r"[⁺⁻₊₋]?(?:[¹²³⁰⁴-⁹]+|[₀-₉]+)", _same),
        (r"[“”„‟‘’‚‛«»‹›`\x91-\x94]{1,2}", _mapped(_QUOTES)),
        (rf"[!-/:-@\[-`{{-~{kinds['symbols']}]", _mapped(_SYMBOLS)),
        ("[¢£€¤\x80₠½¼¾⅓⅔⁄]", _mapped(_SYMBOLS)),
    ]
    return [_Rule(re.compile(pattern), written) for pattern, written in rules]


def _glued_tag(token: str) -> str:
    return token.replace(" ", "\xa0")
