"""BLEU@4 (Papineni et al. 2002) and CIDEr (Vedantam et al. 2015) of captions, by ``pycocoevalcap``.

The BLEU of a corpus can be computed from counts of its examples (:func:`bleu4_from_counts`), so a bootstrap
may resample examples without touching text again. CIDEr weighs n-grams by their frequency in the whole
reference corpus: a resample keeps these weights and averages the CIDEr of the examples.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider

from attngraph.errors import UserError
from experiments.metrics.alignment import aligned
from experiments.metrics.tokenizers import ptb_tokenize, regex_tokenize

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
        cider: corpus CIDEr, raw (0 to 10; tables print 100 times this); the mean of ``cider_examples``. It
            is 0 for a corpus of one image, where every n-gram weighs log(1) = 0.
        cider_examples: ``(N,)`` CIDEr of each example.
        bleu_counts: ``(N, 10)`` integers: clipped n-gram matches for n = 1..4, n-grams in the caption for
            n = 1..4, length of the caption, length of the closest reference. Corpus BLEU depends on their
            sum only.
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
        use_java: PTB tokenizer (``True``), regular expression (``False``), or PTB where Java is installed
            (``None``).

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
    generated = {id: [tokens[prediction]] for id, prediction in pairs}
    accepted = {id: [tokens[caption] for caption in references[id]] for id in references}
    if not any(caption for captions in accepted.values() for caption in captions):
        raise UserError("the reference captions contain punctuation only; check the annotation file")

    bleu, _ = Bleu(4).compute_score(accepted, generated, verbose=0)
    cider, cider_examples = Cider().compute_score(accepted, generated)
    counts = np.array([_bleu_counts(generated[id][0], accepted[id]) for id in references], dtype=np.int64)
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
        totals: ``(..., 10)`` sums of :attr:`CaptionScores.bleu_counts` over the (re)sampled examples.

    Returns:
        ``(...)`` BLEU@4 between 0 and 1.
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
