"""Balanced texts: first the answer is chosen, then a scene for which it is correct.

A :class:`Job` fixes the template, its wording and the answer, independent of the scene. :func:`place` then
searches for scenes. Shapes, colours, sizes and directions are exchangeable in scenes, so that, given a
template, the words that fill it are equally likely under every answer: the text alone does not predict the
answer.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from attngraph.experiments.scenes.facts import absent, describe
from attngraph.experiments.scenes.scene import DOMAINS, SPLITS, Scene, generator, sample_scene

YES_NO = ("yes", "no")
WAITING = 60  # of the oldest jobs are tried on each scene

#: ``fill(scene, rng, wanted)`` gives the words for a wording, or ``None`` if the scene cannot have the
#: answer. A word named "answer" replaces ``wanted`` as the answer.
Filler = Callable[[Scene, random.Random, str], dict[str, str] | None]


@dataclass(frozen=True)
class Template:
    """A kind of sentence about a scene.

    Args:
        kind: the kind that scores are broken down by.
        wordings: format strings, chosen with equal probability regardless of the answer.
        answers: possible answers, each equally often.
        fill: function that returns the words for the wording, see :data:`Filler`.
    """

    kind: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...]
    fill: Filler


@dataclass(frozen=True)
class Job:
    """One sentence to generate: a wording of the template, the answer, and whether the scene must have a
    curtain (None: either).
    """

    template: Template
    wording: str
    wanted: str
    curtain: bool | None = None


@dataclass(frozen=True)
class Sentence:
    """A sentence (question or hypothesis) with its answer (or label)."""

    text: str
    answer: str
    kind: str


def one_of(found: Callable[..., Iterable[dict[str, str]]], *given: str | Callable) -> Filler:
    """A filler that randomly selects one of the values of ``found(*given, scene, wanted)``."""

    def fill(scene: Scene, rng: random.Random, wanted: str) -> dict[str, str] | None:
        words = list(found(*given, scene, wanted))
        return rng.choice(words) if words else None

    return fill


def shown(form: str, shown_by: str) -> Filler:
    """A filler for a visible thing if ``shown_by`` is the answer, or else for one that is not visible."""

    def fill(scene: Scene, rng: random.Random, wanted: str) -> dict[str, str] | None:
        seen = wanted == shown_by
        words = describe(rng.choice(scene.things), form) if seen else absent(scene, rng, form)
        return words and words.forms()

    return fill


def jobs(templates: tuple[Template, ...], count: int, rng: random.Random) -> list[Job]:
    """``count`` jobs in random order: kinds, templates of a kind and answers of a template equally often."""
    kinds = list(dict.fromkeys(template.kind for template in templates))
    turns = {
        kind: _cycle([template for template in templates if template.kind == kind], rng) for kind in kinds
    }
    answers = {id(template): _cycle(template.answers, rng) for template in templates}
    made = []
    for number in range(count):
        template = next(turns[kinds[number % len(kinds)]])
        made.append(Job(template, rng.choice(template.wordings), next(answers[id(template)])))
    rng.shuffle(made)
    return made


def _cycle(values, rng: random.Random) -> Iterator:
    """The values repeatedly, each round in a new random order."""
    while True:
        yield from rng.sample(values, len(values))


def place(
    todo: list[Job], per_scene: int, split: str, seed: int, stream: int
) -> Iterator[tuple[Scene, list[Sentence]]]:
    """Yield scenes with up to ``per_scene`` sentences each until every job is done.

    Scenes are sampled until one fits the oldest job; further pending jobs that fit are added to it.
    ``stream`` separates the random streams of different tasks.
    """
    waiting = list(todo)
    number = 0
    while waiting:
        rng = generator(seed, DOMAINS.index("downstream"), SPLITS.index(split), number, stream)
        first = waiting.pop(0)
        sentence = None
        while sentence is None:
            scene = sample_scene(rng, "downstream", number, first.curtain)
            sentence = _write(first, scene, rng)
        sentences = [sentence]
        for job in waiting[:WAITING]:
            if len(sentences) == per_scene:
                break
            if job.curtain in (None, scene.curtain is not None):
                sentence = _write(job, scene, rng)
                if sentence and sentence.text not in [other.text for other in sentences]:
                    sentences.append(sentence)
                    waiting.remove(job)
        yield scene, sentences
        number += 1


def _write(job: Job, scene: Scene, rng: random.Random) -> Sentence | None:
    words = job.template.fill(scene, rng, job.wanted)
    if words is None:
        return None
    return Sentence(job.wording.format(**words), words.get("answer", job.wanted), job.template.kind)
