"""METEOR (Denkowski & Lavie 2014) and SPICE (Anderson et al. 2016) of tokenized captions: Java programs that
``pycocoevalcap`` brings or, for SPICE, asks for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from pycocoevalcap.meteor import meteor
from pycocoevalcap.spice import spice

from attngraph.errors import UserError

Captions = dict[str, list[str]]

_MODELS = "stanford-corenlp-3.6.0.jar"
# Meteor 1.5's parameters for English: α, β, γ, δ; weights of exact, stem, synonym and paraphrase matches.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])


class _Recorded(meteor.Meteor):
    """Keeps what Meteor counts in each example."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__()

    def _stat(self, hypothesis_str: str, reference_list: list[str]) -> str:
        self.lines.append(super()._stat(hypothesis_str, reference_list))
        return self.lines[-1]

    def __del__(self) -> None:
        if hasattr(self, "meteor_p"):
            super().__del__()

    def close(self) -> None:
        """End the process. The base class would wait for ever at its own lock after a failure."""
        self.meteor_p.kill()
        self.meteor_p.communicate()
        if self.lock.locked():
            self.lock.release()


def meteor_statistics(references: Captions, generated: Captions) -> tuple[float, np.ndarray]:
    """METEOR of a corpus, and what it counts in each example.

    Args:
        references: example id -> tokenized references.
        generated: example id -> the one tokenized caption.

    Returns:
        The corpus score as the program gives it, and statistics ``(N, 23)`` for :func:`meteor_from_totals`.

    Raises:
        UserError: Java does not start, or the program fails.
    """
    try:
        program = _Recorded()
    except OSError as error:
        raise UserError(
            f"METEOR needs Java, which does not start ({error}); install a Java runtime"
        ) from None
    try:
        score, _ = program.compute_score(references, generated)
        counts = np.array([[float(number) for number in line.split()] for line in program.lines])
    except (OSError, ValueError):
        program.meteor_p.kill()
        said = program.meteor_p.stderr.read().decode(errors="replace").strip().splitlines()
        raise UserError(f"METEOR failed ({said[0] if said else 'no answer'}); mend Java") from None
    finally:
        program.close()
    whole = (counts[:, 20] == 1) & (counts[:, 21:23] == counts[:, 0:2]).all(axis=-1)
    counts[whole, 20] = 0  # the program takes a caption that is a reference for unbroken
    return score, counts


def meteor_from_totals(totals: np.ndarray) -> np.ndarray:
    r"""Corpus METEOR ``(...)`` from summed statistics ``(..., 23)``.

    .. math:: P = \frac{\sum_i w_i (\delta m_i^c + (1 - \delta) m_i^f)}{\delta |c| + (1 - \delta) |f|},\quad
        F = \frac{P R}{\alpha P + (1 - \alpha) R},\quad M = \bigl(1 - \gamma (\text{chunks} / m)^\beta\bigr) F

    over content words c and function words f of the captions; R is the same over the references. The numbers
    are the lengths of both, their function words, four counts of matches for each of four kinds (content
    words of caption and reference, function words of both), chunks, and matched words of both.
    """
    totals = np.asarray(totals, dtype=np.float64)
    matches = totals[..., 4:20].reshape(*totals.shape[:-1], 4, 2, 2)  # kind, content or function, side
    matched = np.einsum("...kws,k,w->...s", matches, _WEIGHTS, np.array([_DELTA, 1 - _DELTA]))
    lengths, function = totals[..., 0:2], totals[..., 2:4]
    weighed = _DELTA * (lengths - function) + (1 - _DELTA) * function
    share = np.divide(matched, weighed, out=np.zeros_like(matched), where=weighed > 0)
    precision, recall = share[..., 0], share[..., 1]
    below = _ALPHA * precision + (1 - _ALPHA) * recall
    f_score = np.divide(precision * recall, below, out=np.zeros_like(below), where=below > 0)
    words = totals[..., 21:23].mean(axis=-1)
    broken = np.divide(totals[..., 20], words, out=np.zeros_like(words), where=words > 0)
    return (1 - _GAMMA * broken**_BETA) * f_score


def spice_scores(references: Captions, generated: Captions) -> np.ndarray:
    """SPICE's F of each example, in the order of ``references``; the corpus score is their mean.

    The models of CoreNLP 3.6.0 must be there; nothing is downloaded here. It needs 8 GB of memory and Java 8
    to 11.

    Raises:
        UserError: the models are missing, or the program fails.
    """
    folder = Path(spice.__file__).parent / "lib"
    if not (folder / _MODELS).is_file():
        raise UserError(
            f"SPICE needs {_MODELS} in {folder}; to download it (600 MB) run python -c 'from "
            "pycocoevalcap.spice.get_stanford_models import get_stanford_models as get; get()'"
        )
    try:
        _, scores = spice.Spice().compute_score(references, generated)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"SPICE failed ({error}); it needs Java 8 to 11 and 8 GB of memory") from None
    f_scores = dict(zip(sorted(references), (score["All"]["f"] for score in scores), strict=True))
    return np.array([f_scores[id] for id in references])
