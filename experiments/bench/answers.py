"""Ranking a list of answers with the mini-BLIP: from the prompts' cache, and each answer in full."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

from experiments.bench.measure import Run
from experiments.models import Ranking, Sample, load_family
from experiments.models.batch import token_losses
from experiments.models.family import ModelFamily
from experiments.models.ranking import PAIRS, shortlist

BASELINE = "the short-listed answers each in full, as in BLIP's code"
CACHED = "from the prompts' cache"
TARGETS = {CACHED: 0.5}
LONGEST = 4  # words of an answer
QUANTITIES = ("questions", "answers", "k")


def runs(options: dict) -> dict[str, Run]:
    """Rank made lists for made questions.

    Args:
        options: ``questions``, ``answers``, ``k``, ``seed``, ``tiny``.
    """
    questions, answers, k = (2, 9, 3) if options.get("tiny") else (options[x] for x in QUANTITIES)
    family, draw = load_family(), random.Random(options["seed"])
    torch.manual_seed(options["seed"])
    words = words_of(family)
    image = torch.randn_like(family.blank_image())
    samples = [
        Sample(str(number), image, " ".join(draw.choices(words, k=draw.randint(4, 12))))
        for number in range(questions)
    ]
    ranking = Ranking(made_answers(words, answers, draw), k)
    return {
        BASELINE: lambda: in_full(family, samples, ranking),
        CACHED: lambda: family.rank(samples, ranking),
    }


def words_of(family: ModelFamily) -> list[str]:
    """The words that its tokenizer knows."""
    return sorted(word for word in family.tokenizer.get_vocab() if word.isalpha())


def made_answers(words: list[str], count: int, draw: random.Random) -> tuple[str, ...]:
    """So many different answers of up to :data:`LONGEST` words."""
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(draw.choices(words, k=draw.randint(1, LONGEST)))] = None
    return tuple(made)


@torch.no_grad()
def in_full(family: ModelFamily, samples: list[Sample], ranking: Ranking) -> torch.Tensor:
    """The best answer's place for each sample: the same short list, then each answer of it with its prompt in
    passes of as many pairs as :mod:`experiments.models.ranking` takes without a cache."""
    listed = [torch.empty(0)] * len(samples)
    for part in family.openings(samples, ranking.answers):
        logits, _ = part.begin()
        firsts = torch.tensor([answer[0] for answer in part.answers])
        for sample, places in zip(part.samples, shortlist(logits.log_softmax(-1)[:, firsts], ranking.k)):
            listed[sample] = places
    pairs = [
        replace(sample, answer=ranking.answers[place])
        for sample, places in zip(samples, listed)
        for place in places.tolist()
    ]
    scores = []
    for start in range(0, len(pairs), PAIRS):
        inputs = family.to_device(family.training_inputs(pairs[start : start + PAIRS]))
        labels = inputs.pop("labels")
        scores.append(-token_losses(family.logits(inputs), labels).sum(1))
    best = torch.cat(scores).view(len(samples), -1).argmax(1, keepdim=True)
    return torch.stack(listed).gather(1, best)[:, 0]
