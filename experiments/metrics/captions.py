"""Caption metrics by ``pycocoevalcap``: BLEU@4 (Papineni et al. 2002) and CIDEr (Vedantam et al. 2015).

In addition to the scores of the corpus there are statistics of each example, whose sums give the score of any
resample, so a bootstrap does not process text again. CIDEr weights n-grams by their frequency in the whole
reference corpus: a resample keeps these weights and averages the CIDEr of the examples.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attngraph.errors import UserError
from attngraph.experiments.metrics import ptb
from attngraph.experiments.metrics.statistics import aligned
from attngraph.extras import optional

JAVA, PYTHON = "PTB tokenizer (Java)", "PTB tokenizer (Python)"
NO_JAVA = (
    "Java not found: captions are tokenised by the PTB tokenizer in Python instead of the Java program; "
    "tokens are identical except for rare combinations of characters"
)


@dataclass(frozen=True)
class CaptionScores:
    """Scores of one run on N examples, in the order of the references.

    Args:
        bleu4: BLEU@4 of the corpus, 0 to 1.
        cider: CIDEr of the corpus, 0 to 10; 0 for a corpus of one image, in which every n-gram has the weight
            log(1) = 0.
        bleu_counts: ``(N, 10)`` integers, see :func:`bleu4_from_counts`.
        cider_examples: ``(N,)`` CIDEr of each example.
        tokenizer: the tokenizer, :data:`JAVA` or :data:`PYTHON`.
    """

    bleu4: float
    cider: float
    bleu_counts: np.ndarray
    cider_examples: np.ndarray
    tokenizer: str


def java_found() -> bool:
    """Whether the command ``java`` exists."""
    return shutil.which("java") is not None


def caption_scores(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], use_java: bool | None = None
) -> CaptionScores:
    """Scores of one generated caption per example against its reference captions; an empty caption scores 0.

    Args:
        predictions, references: example id -> caption, and -> reference captions, at least one.
        use_java: PTB tokenizer in Java or Python; None for Java if it is installed.

    Raises:
        UserError: ids differ, or Java is needed and cannot run.
    """
    pairs = aligned(predictions, references)
    if use_java is None:
        use_java = java_found()
        if not use_java:
            warnings.warn(NO_JAVA, stacklevel=2)

    texts = list(dict.fromkeys(text for id, said in pairs for text in (said, *references[id])))
    tokens = dict(zip(texts, ptb.tokenize_java(texts) if use_java else ptb.tokenize(texts), strict=True))
    generated = {id: [tokens[prediction]] for id, prediction in pairs}
    accepted = {id: [tokens[caption] for caption in references[id]] for id in references}
    if not any(caption for captions in accepted.values() for caption in captions):
        raise UserError("the reference captions contain punctuation only; check the annotation file")

    bleu, _ = optional("pycocoevalcap.bleu.bleu").Bleu(4).compute_score(accepted, generated, verbose=0)
    cider, examples = optional("pycocoevalcap.cider.cider").Cider().compute_score(accepted, generated)
    counts = np.array([_bleu_counts(generated[id][0], accepted[id]) for id in accepted], dtype=np.int64)
    return CaptionScores(float(bleu[3]), float(cider), counts, examples, JAVA if use_java else PYTHON)


def bleu4_from_counts(totals: np.ndarray) -> np.ndarray:
    """Corpus BLEU@4 from summed counts, identical to pycocoevalcap's.

    Args:
        totals: ``(..., 10)`` sums over the (re)sampled examples of clipped n-gram matches for n = 1..4,
            n-grams in the caption for n = 1..4, length of the caption, and length of the closest reference
            (of two equally close ones the shorter).

    Returns:
        ``(...)`` BLEU@4 between 0 and 1.
    """
    totals = np.asarray(totals, dtype=np.float64)
    matches, ngrams, length, closest = totals[..., :4], totals[..., 4:8], totals[..., 8], totals[..., 9]
    tiny, small = 1e-15, 1e-9  # pycocoevalcap's guards against 0/0
    precision = np.prod((matches + tiny) / (ngrams + small), axis=-1) ** (1 / 4)
    ratio = (length + tiny) / (closest + small)
    return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def _bleu_counts(caption: str, references: list[str]) -> list[int]:
    bleu = optional("pycocoevalcap.bleu.bleu_scorer")
    counts = bleu.cook_test(caption, bleu.cook_refs(references))
    length = counts["testlen"]
    closest = min(counts["reflen"], key=lambda other: (abs(other - length), other))
    return [*counts["correct"], *counts["guess"], length, closest]
