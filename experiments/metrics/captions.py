"""Caption metrics by ``pycocoevalcap``: BLEU@1 to 4 (Papineni et al. 2002), CIDEr (Vedantam et al. 2015),
ROUGE-L (Lin 2004), METEOR and SPICE (:mod:`experiments.metrics.java_metrics`).

A task names those it wants, keys of :data:`METRICS`, and gets of each the score of the corpus and statistics
of each example, whose sums give the score of any resample (:attr:`Metric.score`), so a bootstrap does not
touch text again. CIDEr weighs n-grams by their frequency in the whole reference corpus: a resample keeps
these weights and averages the CIDEr of the examples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from attngraph.errors import UserError
from experiments.metrics.alignment import aligned
from experiments.metrics.java_metrics import Captions, meteor_from_totals, meteor_statistics, spice_scores
from experiments.metrics.statistics import Score, mean_score, mean_statistics
from experiments.metrics.tokenizers import JAVA, PYTHON, java_found, tokenize

NO_JAVA = (
    "Java not found: captions are split by the PTB tokenizer in Python instead of the Java program; "
    "their tokens are the same but for rare arrangements of signs"
)


@dataclass(frozen=True)
class CaptionScores:
    """Scores of one run on N examples.

    Args:
        ids: the examples, in the order of the references.
        values: metric -> score of the corpus, 0 to 1 (CIDEr 0 to 10); tables print 100 times this. CIDEr is
            0 for a corpus of one image, where every n-gram weighs log(1) = 0.
        statistics: metric -> ``(N, K)``; :attr:`Metric.score` of their sum is the value.
        tokenizer: which one was used, :data:`~experiments.metrics.tokenizers.JAVA` or
            :data:`~experiments.metrics.tokenizers.PYTHON`.
    """

    ids: tuple[str, ...]
    values: dict[str, float]
    statistics: dict[str, np.ndarray]
    tokenizer: str

    @property
    def bleu4(self) -> float:
        return self.values["bleu4"]

    @property
    def cider(self) -> float:
        return self.values["cider"]

    @property
    def bleu_counts(self) -> np.ndarray:
        """``(N, 10)`` integers, see :func:`bleu_from_counts`."""
        return self.statistics["bleu4"]

    @property
    def cider_examples(self) -> np.ndarray:
        """``(N,)`` CIDEr of each example."""
        return self.statistics["cider"][:, 0]


def caption_scores(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    use_java: bool | None = None,
    metrics: Sequence[str] = ("bleu4", "cider"),
) -> CaptionScores:
    """Scores of one generated caption per example against its reference captions.

    Args:
        predictions: example id -> caption; an empty caption scores 0.
        references: example id -> reference captions, at least one.
        use_java: PTB tokenizer in Java (``True``) or Python (``False``), or Java where it is installed
            (``None``).
        metrics: keys of :data:`METRICS`. METEOR and SPICE need Java whichever tokenizer is used.

    Raises:
        UserError: ids differ, an example has no reference caption, a metric is unknown, or a Java program
            that is needed cannot run.
    """
    pairs = aligned(predictions, references)
    for id, captions in references.items():
        if isinstance(captions, str) or not any(caption.strip() for caption in captions):
            raise UserError(f"example {id} needs a list with at least one non-empty reference caption")
    if unknown := [name for name in metrics if name not in METRICS]:
        raise UserError(f"unknown caption metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    if use_java is None:
        use_java = java_found()
        if not use_java:
            warnings.warn(NO_JAVA, stacklevel=2)

    texts = [text for id, prediction in pairs for text in (prediction, *references[id])]
    tokens = tokenize(texts, use_java)
    generated = {id: [tokens[prediction]] for id, prediction in pairs}
    accepted = {id: [tokens[caption] for caption in references[id]] for id in references}
    if not any(caption for captions in accepted.values() for caption in captions):
        raise UserError("the reference captions contain punctuation only; check the annotation file")

    computed: dict[Callable, dict[str, tuple[float, np.ndarray]]] = {}
    for name in metrics:
        compute = METRICS[name].compute
        if compute not in computed:
            computed[compute] = compute(accepted, generated)
    results = {name: computed[METRICS[name].compute][name] for name in metrics}
    return CaptionScores(
        tuple(references),
        {name: value for name, (value, _) in results.items()},
        {name: statistics for name, (_, statistics) in results.items()},
        JAVA if use_java else PYTHON,
    )


def bleu_from_counts(totals: np.ndarray, n: int) -> np.ndarray:
    """Corpus BLEU@n from summed counts, equal to pycocoevalcap's.

    Args:
        totals: ``(..., 10)`` sums over the (re)sampled examples of clipped n-gram matches for n = 1..4,
            n-grams in the caption for n = 1..4, length of the caption, and length of the closest reference
            (of two equally close ones the shorter).
        n: longest n-gram, 1 to 4.

    Returns:
        ``(...)`` BLEU@n between 0 and 1.
    """
    totals = np.asarray(totals, dtype=np.float64)
    matches, ngrams, length, closest = totals[..., :n], totals[..., 4 : 4 + n], totals[..., 8], totals[..., 9]
    tiny, small = 1e-15, 1e-9  # pycocoevalcap's guards against 0/0
    precision = np.prod((matches + tiny) / (ngrams + small), axis=-1) ** (1 / n)
    ratio = (length + tiny) / (closest + small)
    return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def bleu4_from_counts(totals: np.ndarray) -> np.ndarray:
    """:func:`bleu_from_counts` for n = 4."""
    return bleu_from_counts(totals, 4)


Computed = dict[str, tuple[float, np.ndarray]]


def _bleu(references: Captions, generated: Captions) -> Computed:
    scores, _ = Bleu(4).compute_score(references, generated, verbose=0)
    counts = np.array([_bleu_counts(generated[id][0], references[id]) for id in references], dtype=np.int64)
    return {f"bleu{n}": (float(scores[n - 1]), counts) for n in (1, 2, 3, 4)}


def _bleu_counts(caption: str, references: list[str]) -> list[int]:
    counts = cook_test(caption, cook_refs(references))
    length = counts["testlen"]
    closest = min(counts["reflen"], key=lambda other: (abs(other - length), other))
    return [*counts["correct"], *counts["guess"], length, closest]


def _cider(references: Captions, generated: Captions) -> Computed:
    score, examples = Cider().compute_score(references, generated)
    return {"cider": (float(score), mean_statistics(examples))}


def _rouge(references: Captions, generated: Captions) -> Computed:
    score, examples = Rouge().compute_score(references, generated)
    return {"rouge_l": (float(score), mean_statistics(examples))}


def _meteor(references: Captions, generated: Captions) -> Computed:
    return {"meteor": meteor_statistics(references, generated)}


def _spice(references: Captions, generated: Captions) -> Computed:
    examples = spice_scores(references, generated)
    return {"spice": (float(np.mean(examples)), mean_statistics(examples))}


@dataclass(frozen=True)
class Metric:
    """A caption metric: its name in tables, and how it is computed.

    Args:
        title: as tables print it.
        compute: from tokenized references and captions to the values and statistics of a family of metrics.
        score: from statistics summed over examples to the score.
    """

    title: str
    compute: Callable[[Captions, Captions], Computed]
    score: Score = mean_score


#: What a caption task can choose from.
METRICS = {
    **{f"bleu{n}": Metric(f"BLEU@{n}", _bleu, partial(bleu_from_counts, n=n)) for n in (1, 2, 3)},
    "bleu4": Metric("BLEU@4", _bleu, bleu4_from_counts),
    "cider": Metric("CIDEr", _cider),
    "rouge_l": Metric("ROUGE-L", _rouge),
    "meteor": Metric("METEOR", _meteor, meteor_from_totals),
    "spice": Metric("SPICE", _spice),
}
