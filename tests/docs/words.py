"""The word list: phrases that README, docs, changelog and, where asked, Python code should not use.

    python -m tests.docs.words [--tally] [PATH ...]

Without paths, all pages except ``LATER`` are checked. In Markdown and notebooks, prose and headings are read,
without code, targets of links and formulas; in Python files, docstrings and all other strings (such as error
messages and help texts), through ``ast``. Exit code 1 if a phrase is found. A phrase that is right on one
page goes into ``ALLOWED``.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.docs.pages import NOTEBOOKS, PAGES, ROOT

#: Regular expression -> what to write instead. Matched in running text, across line ends, in any case.
WORDS = {
    r"(tell|tells|told|telling)": "report, state, document; 'no significant difference' for 'not told apart'",
    r"beside": "next to, in addition to, compared with",
    r"anew": "again",
    r"(deal|deals|dealt|dealing)( out)?": "permuted, assigned",
    r"alike": "similar, identical",
    r"likewise": "also",
    r"of (its|their|your|my|our|one's|a file's) own": "'its own folder', 'a custom task'",
    r"one's own": "your own, custom",
    r"(stands?|stood) (in|at|on|under|there|beside|behind|before|side|apart|by)": "is, appears, is stored",
    r"(lie|lies|lay) (in|at|on|under|there|beside|next|between|elsewhere|below|above)": "is, is stored",
    r"(go|goes|going|went) on": "continues, resumes",
    r"(come|comes|came) about": "is produced",
    r"as (it|they) (is|are|stands?|were)": "state the condition: 'by default', 'unchanged'",
    r"(?<!there.)(is|are|was|were) (no|none)(?! (longer|more|less|worse|better))": "is not a",
    r"(names?|has|have|gives?|needs?) none": "does not name any",
    r"pictures?": "image",
    r"(drawn|draws?|drawing)": "synthetic (data), sampled (random), plotted (figures)",
    r"made-up": "simulated",
    r"cells?": "run",
    r"ceilings?": "upper reference",
    r"what (a|an|the|each|every|one|it|they|that|this|attention|theory|runs?)( \w+)? "
    r"(is|are|does|do|says?|said|names?|joins?|means?|holds?|equals|takes?|owes?|knows|shows)": "a noun",
    r"what equals what": "reproducibility",
    r"once more": "again; 're-evaluate'",
    r"(one|a) line( that)?(?= (names?|says|with))|in one line|are one line": "an error message",
    r"(refuse|refuses|refused|refusing)": "raises an error, is not supported",
    r"(left|leave|leaves|leaving) (it |them |all )?out": "skipped, omitted, excluded",
    r"where it pays": "if the device supports it",
    r"whatever": "regardless of",
    r"so (it|they) (is|are|does|do|has|have)": "state the condition",
    r"(or|else) leave it": "use X, or remove the option",
    r"give one": "provide, use",
    r"so (many|often)": "this many; 'number of …'",
    r"(busy|loaded) machine|other work shared?|idle machine": "omit machine load",
    r"p values?": "p-value",
    r"set-ups?": "setup",
    r"data sets?": "dataset",
    r"\d?[½¼¾]": "decimals",
    r"(nobody|somebody)( else)?('s)?": "name the subject",
    r"misspelt": "misspelled",
}
#: Only at the beginning of a docstring or of another string in Python.
BEGINNINGS = {
    r"what ": "a noun: 'Result of …'",
    r"how (the|a|an|many) ": "a noun: 'Number of …'",
    r"its? ": "name the subject",
    r"(take|put|draw|look) ": "a noun phrase: 'Folder of …'",
}
#: Page -> phrases that are right there, such as names from other sources.
ALLOWED: dict[str, tuple[str, ...]] = dict.fromkeys(  # the word of the protocol as committed before the runs
    (f"experiments/results/full/{name}.md" for name in ("README", "protocol", "deviations")),
    ("not told apart",),
)
#: Pages that are not checked yet.
LATER = """
docs/protocol-distances.md
""".split()

_PATTERNS = {  # a space matches line ends too
    re.compile(rf"\b(?:{wrong})(?!\w)".replace(" ", r"\s+"), re.IGNORECASE | re.DOTALL): right
    for wrong, right in WORDS.items()
}
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
_HIDDEN = re.compile(
    r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)"  # code
    r"|\$\$.+?\$\$|\$[^$\n]+\$"  # formulas
    r"|(?<=\])\([^)\s]*\)|<[^>\n]+>|\{[\w:-]+\}",  # links' targets, HTML, roles
    re.DOTALL,
)


def blanked(match: re.Match[str]) -> str:
    """As many lines and characters without words."""
    return re.sub(r"[^\n]", "·", match[0])


def markdown(text: str) -> Iterator[tuple[int, str]]:
    """The prose of a page, from its first line on."""
    yield 1, _HIDDEN.sub(blanked, _FENCE.sub(blanked, text))


def python(text: str) -> Iterator[tuple[int, str]]:
    """Every string of a module that has at least two words, with its first line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, _HIDDEN.sub(blanked, node.value)


def notebook(text: str) -> Iterator[tuple[int, str]]:
    """The Markdown cells of a notebook, numbered from 1 among all cells."""
    for number, cell in enumerate(json.loads(text)["cells"], 1):
        if cell["cell_type"] == "markdown":
            yield from ((number, prose.replace("\n", " ")) for _, prose in markdown("".join(cell["source"])))


READERS = {".py": python, ".ipynb": notebook}


def found(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, phrase and remedy of each phrase that a file should not use."""
    text, is_python = path.read_text(encoding="utf-8"), path.suffix == ".py"
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    for phrase in ALLOWED.get(name, ()):
        text = re.sub(r"\s+".join(map(re.escape, phrase.split())), blanked, text)
    for first, prose in READERS.get(path.suffix, markdown)(text):
        for pattern, right in _PATTERNS.items():
            for match in pattern.finditer(prose):
                line = first + prose.count("\n", 0, match.start())
                yield line, " ".join(match[0].split()), right
        for wrong, right in BEGINNINGS.items() if is_python else ():
            if begun := re.match(wrong, prose.strip(), re.IGNORECASE):
                yield first, begun[0].strip(), right


def pages() -> Iterable[Path]:
    """README, changelog, contributing, and the pages, notebooks and appendices that are checked."""
    named = [ROOT / "CHANGELOG.md", *PAGES, *NOTEBOOKS]
    return sorted(page for page in named if page.relative_to(ROOT).as_posix() not in LATER)


def main(argv: list[str]) -> int:
    tally = "--tally" in argv
    given = [Path(word).resolve() for word in argv if word != "--tally"]
    files = [file for path in given for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    counts: Counter[str] = Counter()
    for path in files or pages():
        for line, phrase, remedy in sorted(found(path)):
            counts[phrase.lower()] += 1
            if not tally:
                shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
                print(f"{shown}:{line}: {phrase!r}: {remedy}")
    if tally:
        print("\n".join(f"{count:5} {phrase}" for phrase, count in counts.most_common()))
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
