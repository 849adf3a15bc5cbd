"""The word list: phrases that README, docs, changelog and Python code should not use.

    python -m tests.docs.words [--tally] [PATH ...]

Without paths, all pages and the Python files of ``CLEAN`` are checked. In Markdown and
notebooks, prose and headings are read, without code, targets of links and formulas; in Python files,
docstrings and all other strings (such as error messages and help texts), through ``ast``. Exit code 1 if a
phrase is found. A phrase that is right in one file goes into ``ALLOWED``.
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
    r"(?<!there.)(is|are|was|were) (?-i:no|none)(?! (longer|more|less|worse|better))": "is not a",
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
#: File -> phrases that are right there, such as names from other sources and data that others depend on.
ALLOWED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(  # the word of the protocol as committed before the runs
        (f"experiments/results/full/{name}.md" for name in ("README", "protocol", "deviations")),
        ("not told apart",),
    ),
    "docs/_ext/notebook_pages.py": ("cell", "cells"),
    "docs/examples/third_party.py": ("Nobody told",),
    "docs/examples/icons.py": ("what is", "how many"),  # questions for the model
    "docs/examples/p_adapter.py": ("what colour",),
    "experiments/commands/evaluate.py": ("train/cells",),  # a folder of runs
    # Texts in the files of synthetic datasets.
    "experiments/data/layouts.py": ("drawn scenes", "a drawn scene", "the picture", "it says", "a picture"),
    "experiments/inspect/attention.py": ("what color", "what shape"),  # questions for the model
    "experiments/models/blip.py": ("what does the image describe",),
    "experiments/studies/bench.py": ("texts to a picture",),  # titles in committed results
    "experiments/studies/bench_runs.py": ("grouped pictures",),
    "experiments/studies/distances.py": ("What R sees",),
    "experiments/studies/pretrain.py": ("is no not",),  # words of easy-VQA
    "experiments/studies/pretrain_texts.py": ("are they alike", "beside", "what is"),  # names of wordings
    # Texts about scenes, and their words.
    "experiments/scenes/captions.py": ("picture", "beside"),
    "experiments/scenes/hypotheses.py": ("picture", "{beside}"),
    "experiments/scenes/questions.py": ("picture", "{beside}", "how many", "what"),
    "experiments/scenes/words.py": ("picture", "drawing", "drawn", "beside", "tell", "it they"),
    "experiments/metrics/vqa.py": ("somebody",),  # contractions of the evaluators
    "experiments/tasks/kinds.py": ("a picture of",),  # BLIP's prompt
    "experiments/tasks/official.py": ("data set", "left out"),  # fields in config.json of runs
}
#: Folders and files of Python code that are checked.
CLEAN = """
.ci
adapters
analysis
attngraph
docs/_ext
docs/examples
experiments
setup.py
tests/experiments/examples
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
_ARGUMENTS = re.compile(r"^ +\w+(?:, \w+)*: ", re.MULTILINE)  # of a docstring's "Args"


def blanked(match: re.Match[str]) -> str:
    """As many lines and characters without words."""
    return re.sub(r"[^\n]", "·", match[0])


def markdown(text: str) -> Iterator[tuple[int, str]]:
    """The prose of a page, from its first line on."""
    yield 1, _HIDDEN.sub(blanked, _FENCE.sub(blanked, text))


def python(text: str) -> Iterator[tuple[int, str]]:
    """Every string of a module that has at least two words, with its first line; without arguments' names."""
    nodes = [*ast.walk(ast.parse(text))]
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            value = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            value = node.value
        else:
            continue
        if " " in value.strip():
            yield node.lineno, _ARGUMENTS.sub(blanked, _HIDDEN.sub(blanked, value))


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
    allowed = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in ALLOWED.get(name, ()))
    for first, prose in READERS.get(path.suffix, markdown)(text):
        prose = re.sub(allowed, blanked, prose) if allowed else prose
        for pattern, right in _PATTERNS.items():
            for match in pattern.finditer(prose):
                line = first + prose.count("\n", 0, match.start())
                yield line, " ".join(match[0].split()), right
        for wrong, right in BEGINNINGS.items() if is_python else ():
            if begun := re.match(wrong, prose.strip(), re.IGNORECASE):
                yield first, begun[0].strip(), right


def pages() -> Iterable[Path]:
    """README, changelog, contributing, and the pages, notebooks, appendices and code that are checked."""
    named = [ROOT / "CHANGELOG.md", *PAGES, *NOTEBOOKS]
    return sorted([*named, *files(ROOT / name for name in CLEAN)])


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files, and the Python files of folders."""
    for path in paths:
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main(argv: list[str]) -> int:
    tally = "--tally" in argv
    given = [*files(Path(word).resolve() for word in argv if word != "--tally")]
    counts: Counter[str] = Counter()
    for path in given or pages():
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
