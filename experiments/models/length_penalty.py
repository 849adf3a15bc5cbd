r"""How beam search compares texts of different lengths.

Of texts that have ended, with :math:`t` tokens (the end token among them) and log probability :math:`\log P`,
the best is that with the highest

.. math:: \log P / t \quad (\texttt{length}), \qquad
          \log P / \left(\frac{5 + t}{6}\right)^{0.6} \quad (\texttt{gnmt}).

The first is transformers' own, the second that of Wu et al., 2016 (arXiv:1609.08144, eq. 14), which mPLUG
takes (``models/predictor.py`` of github.com/X-PLUG/mPLUG). Their searches differ in one thing that remains:
mPLUG goes on from texts that have ended, with the end token among their words; transformers puts another beam
in their place.
"""

from __future__ import annotations

LENGTH, GNMT = LENGTH_PENALTIES = ("length", "gnmt")
ALPHA = 0.6


class Gnmt(float):
    """The exponent that transformers raises a length to, so that the second penalty comes out."""

    def __rpow__(self, length: float, modulus: None = None) -> float:
        return ((5 + length) / 6) ** float(self)


#: What transformers takes as ``length_penalty``.
EXPONENTS = {LENGTH: 1.0, GNMT: Gnmt(ALPHA)}
