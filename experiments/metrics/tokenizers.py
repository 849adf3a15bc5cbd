"""Tokenizers for caption metrics: the official PTB tokenizer (Java), and a regular expression like it.

Both turn captions into lower-case tokens joined by single spaces, without punctuation.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from pycocoevalcap.tokenizer import ptbtokenizer

from attngraph.errors import UserError

_LAST = "last caption"


def ptb_tokenize(captions: Sequence[str]) -> list[str]:
    """Captions through pycocoevalcap's PTBTokenizer (one Java process for all of them).

    The class writes its input beside its jar. It is pointed to a temporary folder that links to the jar, so
    an installation that cannot be written to works and nothing stays behind after an interrupt.
    """
    lines = [" ".join(caption.split()) for caption in captions]  # a line break inside would shift later lines
    wanted = [i for i, line in enumerate(lines) if line]
    request = {i: [{"caption": lines[i]}] for i in wanted} | {_LAST: [{"caption": _LAST}]}
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / jar.name).symlink_to(jar)
        except OSError:  # no right to make links (Windows)
            shutil.copy(jar, folder)
        log = Path(folder) / "java.log"
        with log.open("wb") as stderr:
            quiet = SimpleNamespace(Popen=partial(subprocess.Popen, stderr=stderr), PIPE=subprocess.PIPE)
            here = str(Path(folder) / "ptbtokenizer.py")
            with mock.patch.multiple(ptbtokenizer, __file__=here, subprocess=quiet):
                try:
                    tokens = ptbtokenizer.PTBTokenizer().tokenize(request)
                except OSError as error:
                    raise UserError(
                        f"the PTB tokenizer needs Java, which does not start ({error}); "
                        "install a Java runtime or score with use_java=False"
                    ) from None
        if tokens.get(_LAST) != [_LAST]:
            message = log.read_text(errors="replace").strip().splitlines() or ["wrong number of lines"]
            raise UserError(
                f"the PTB tokenizer failed ({message[0]}); mend Java or score with use_java=False"
            )
    result = [""] * len(lines)
    for i in wanted:
        result[i] = tokens[i][0]
    return result


_TOKEN = re.compile(r"n't\b|'(?:s|d|m|ll|re|ve)\b|[^\W_]+?(?=n't\b)|[^\W_]+(?:[-.,:/][^\W_]+)*")


def regex_tokenize(captions: Sequence[str]) -> list[str]:
    """The PTB tokenizer's result for plain English captions, without Java.

    Words and numbers, with inner hyphens, points or colons ("t-shirt", "3.5") kept whole, ``n't`` and ``'s``
    split off; punctuation is dropped. Symbols, bracket codes, "cannot" and abbreviations with a final point
    differ from PTB.
    """
    return [" ".join(_TOKEN.findall(caption.lower().replace("’", "'"))) for caption in captions]
