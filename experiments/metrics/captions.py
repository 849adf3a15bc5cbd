"""BLEU@4 and CIDEr of captions, with the `pycocoevalcap` classes.

The corpus BLEU can be recomputed from per-example counts (``bleu4_from_counts``), so a bootstrap may resample
examples without touching text again. CIDEr weighs n-grams by their frequency in the whole reference corpus: a
resample keeps these weights and averages the per-example CIDEr.
"""

import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer import ptbtokenizer

from attngraph.errors import UserError
from experiments.metrics.vqa import aligned

NO_JAVA = (
    "Java not found: captions are split by a regular expression instead of the PTB tokenizer; scores "
    "of plain captions are the same, others may differ slightly (install a Java runtime for the "
    "official ones)"
)


@dataclass(frozen=True)
class CaptionScores:
    """Scores of one run on N examples.

    Args:
        ids: the examples, in the order of the references.
        bleu4: corpus BLEU@4, 0 to 1.
        cider: corpus CIDEr, raw (0 to 10; tables print 100 times this); the mean of `cider_examples`. It is 0
            for a corpus of one image, where every n-gram weighs log(1) = 0.
        cider_examples: (N,) CIDEr of each example.
        bleu_counts: (N, 10) integers: clipped n-gram matches for n = 1..4, n-grams in the caption for n =
            1..4, length of the caption, length of the closest reference. Corpus BLEU depends on their sum
            only.
        tokenizer: "ptb" or "regex".
    """

    ids: tuple[str, ...]
    bleu4: float
    cider: float
    cider_examples: np.ndarray
    bleu_counts: np.ndarray
    tokenizer: str


def caption_scores(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], use_java: bool | None = None
) -> CaptionScores:
    """BLEU@4 and CIDEr of one generated caption per example against its reference captions.

    Args:
        predictions: example id -> caption; an empty caption scores 0.
        references: example id -> reference captions, at least one.
        use_java: PTB tokenizer (True), regular expression (False), or PTB where Java is found (None).
    Raises:
        UserError: ids differ, an example has no reference caption, or the PTB tokenizer cannot run.
    """
    pairs = aligned(predictions, references)
    for id, captions in references.items():
        if isinstance(captions, str) or not any(caption.strip() for caption in captions):
            raise UserError(f"example {id} needs a list with at least one non-empty reference caption")
    if use_java is None:
        use_java = shutil.which("java") is not None
        if not use_java:
            warnings.warn(NO_JAVA, stacklevel=2)

    texts = [text for id, prediction in pairs for text in (prediction, *references[id])]
    unique = list(dict.fromkeys(texts))
    tokens = dict(zip(unique, ptb_tokenize(unique) if use_java else regex_tokenize(unique), strict=True))
    found = {id: [tokens[prediction]] for id, prediction in pairs}
    wanted = {id: [tokens[caption] for caption in references[id]] for id in references}
    if not any(caption for captions in wanted.values() for caption in captions):
        raise UserError("the reference captions contain punctuation only; check the annotation file")

    bleu, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    cider, cider_examples = Cider().compute_score(wanted, found)
    counts = np.array([_bleu_counts(found[id][0], wanted[id]) for id in references], dtype=np.int64)
    return CaptionScores(
        tuple(references),
        float(bleu[3]),
        float(cider),
        np.asarray(cider_examples),
        counts,
        "ptb" if use_java else "regex",
    )


def bleu4_from_counts(totals: np.ndarray) -> np.ndarray:
    """Corpus BLEU@4 from summed counts, equal to pycocoevalcap's.

    Args:
        totals: (..., 10) sums of `CaptionScores.bleu_counts` over the (re)sampled examples.
    Returns:
        (...) BLEU@4 between 0 and 1.
    """
    totals = np.asarray(totals, dtype=np.float64)
    matches, ngrams, length, closest = totals[..., :4], totals[..., 4:8], totals[..., 8], totals[..., 9]
    tiny, small = 1e-15, 1e-9  # pycocoevalcap's guards against 0/0
    precision = np.prod((matches + tiny) / (ngrams + small), axis=-1) ** 0.25
    ratio = (length + tiny) / (closest + small)
    return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def _bleu_counts(caption: str, references: list[str]) -> list[int]:
    counts = cook_test(caption, cook_refs(references))
    length = counts["testlen"]
    closest = min(counts["reflen"], key=lambda other: (abs(other - length), other))
    return [*counts["correct"], *counts["guess"], length, closest]


# --- tokenizers: captions -> lower-case tokens joined by single spaces, punctuation dropped -------

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
