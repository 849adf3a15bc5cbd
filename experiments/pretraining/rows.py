"""Pre-training batches of mPLUG: a row for each text.

The states of image and question that the decoder looks at are a text's own, so texts cannot share a row as
BLIP's do (:mod:`~experiments.pretraining.packing`). What the image encoder sees is repeated instead.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.models.batch import IGNORED
from experiments.models.generation import sequence_batch
from experiments.models.mplug.family import question_batch
from experiments.pretraining.texts import CAPTION_PROMPTS
from experiments.pretraining.words import Prompt


def rows(tokenizer: PreTrainedTokenizerBase, texts: list[list[Prompt]]) -> dict[str, Tensor]:
    """Each image's (prompt, answer) texts, one in a row: captions, whose prompt is left out, and questions.

    Returns:
        For captions, and where there are any for questions: ``image`` ``(b,)``, the image that each text is
        about; what :func:`~experiments.models.generation.sequence_batch` makes of the answers; and their
        ``weights``, as in :func:`~experiments.pretraining.packing.pack`. For questions also what
        :func:`~experiments.models.mplug.family.question_batch` returns. Keys begin with ``caption.`` or
        ``question.``.
    """
    numbered = [(image, *text) for image, row in enumerate(texts) for text in row]
    captions = [text for text in numbered if text[1] in CAPTION_PROMPTS]
    questions = [text for text in numbered if text[1] not in CAPTION_PROMPTS]
    batch = {}
    for name, chosen in (("caption", captions), ("question", questions)):
        if not chosen:
            continue
        images, prompts, answers = map(list, zip(*chosen, strict=True))
        written = sequence_batch(tokenizer, [""] * len(answers), answers)
        targets = written["labels"] != IGNORED
        written["weights"] = targets * targets.sum(1, keepdim=True) ** -0.5
        asked = question_batch(tokenizer, prompts, training=True) if name == "question" else {}
        for key, value in {"image": torch.tensor(images), **written, **asked}.items():
            batch[f"{name}.{key}"] = value
    return batch


def group(batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The part of :func:`rows` of this name, without the names before its keys."""
    return {key.removeprefix(f"{name}."): value for key, value in batch.items() if key.startswith(f"{name}.")}
