"""Parts of speech of any text, by a pipeline of spaCy's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from attngraph.errors import UserError
from experiments.errors import first_line

# universaldependencies.org/u/pos
UNIVERSAL = tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())


class Tagger:
    """Gives each word of a text its universal part of speech.

    Args:
        name: of an installed pipeline (``en_core_web_sm``), or a folder with one.

    Raises:
        UserError: no spaCy, or no such pipeline.
    """

    def __init__(self, name: str):
        try:
            import spacy
        except ImportError:
            raise UserError("--tagger needs spaCy: pip install 'attngraph[tagger]'") from None
        try:
            self.pipeline = spacy.load(name)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--tagger {name} cannot be loaded ({first_line(error)}): give a pipeline's folder, or "
                "install one (python -m spacy download en_core_web_sm)"
            ) from None
        self.tag = lru_cache(maxsize=4096)(self._tag)  # the same text comes in every layer

    def __call__(self, words: Sequence[str]) -> list[str]:
        """The part of speech of each word of a text, one of ``UNIVERSAL``."""
        return list(self.tag(tuple(words)))

    def _tag(self, words: tuple[str, ...]) -> tuple[str, ...]:
        from spacy.tokens import Doc

        return tuple(
            word.pos_ if word.pos_ in UNIVERSAL else "X"
            for word in self.pipeline(Doc(self.pipeline.vocab, words=list(words)))
        )
