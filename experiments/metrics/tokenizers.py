"""Tokenizers for caption metrics: the official PTB tokenizer (Java), and its equivalent in Python.

Both turn captions into lower-case tokens joined by single spaces, without punctuation. A line break inside a
caption (see :func:`experiments.metrics.ptb.one_line`) is a space for both.
"""

from __future__ import annotations

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
from experiments.metrics import ptb

JAVA, PYTHON = "PTB tokenizer (Java)", "PTB tokenizer (Python)"

_LAST = "last caption"
# Between any two captions. Without it a caption's tokens depend on how the next one begins: "No." before a
# number, "J." before "The", and a tag whose attribute is never closed swallows captions up to the next quote.
_SEPARATOR = "\" ' ,"


def java_found() -> bool:
    """Whether there is a ``java`` to call."""
    return shutil.which("java") is not None


def tokenize(captions: Sequence[str], use_java: bool) -> dict[str, str]:
    """Caption -> tokens, each different caption once."""
    unique = list(dict.fromkeys(captions))
    return dict(zip(unique, ptb_tokenize(unique) if use_java else ptb.tokenize(unique), strict=True))


def ptb_tokenize(captions: Sequence[str]) -> list[str]:
    """Captions through pycocoevalcap's PTBTokenizer (one Java process for all of them).

    The class writes its input beside its jar. It is pointed to a temporary folder that links to the jar, so
    an installation that cannot be written to works and nothing stays behind after an interrupt.

    Raises:
        UserError: Java does not start, or the tokenizer fails.
    """
    lines = [ptb.one_line(caption) for caption in captions]
    wanted = [i for i, line in enumerate(lines) if line.strip()]
    request = {i: [{"caption": lines[i]}, {"caption": _SEPARATOR}] for i in wanted}
    request |= {_LAST: [{"caption": _LAST}]}
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
