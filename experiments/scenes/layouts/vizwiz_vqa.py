"""VizWiz-VQA: one question about each image; about bad pictures most annotators say "unanswerable"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.datasets.dataset import OFFICIAL
from experiments.scenes.layouts.annotators import UNANSWERABLE, most_common, ten_answers
from experiments.scenes.layouts.parts import Amounts, drawing, dump, own_seed
from experiments.scenes.layouts.quality import Photographs
from experiments.scenes.questions import questions
from experiments.scenes.records import answer_type
from experiments.scenes.scene import SPLITS, generator

NAME = "vizwiz_vqa"
GIVE_UP = {"good": (0, 0), "poor": (0, 4), "bad": (6, 10)}  # least and most annotators


def write(root: Path, amounts: Amounts, seed: int, advance: Callable[[int], object]) -> None:
    """Writes the data set; ``advance`` hears of each question."""
    chance = own_seed(NAME, seed)
    with drawing(root) as pictures:
        photographs = Photographs(root, pictures)
        for split, count in amounts.items():
            part = OFFICIAL[split]
            records = []
            for number, (scene, (sentence,)) in enumerate(questions(split, count, chance, per_scene=1)):
                rng = generator(chance, SPLITS.index(split), number)
                name, quality = photographs.take(scene, part, number, rng)
                record = {"image": name, "question": sentence.text}
                if split != "test":
                    give_up = rng.randint(*GIVE_UP[quality.level])
                    record |= _annotation(ten_answers(sentence.answer, rng, UNANSWERABLE, give_up))
                records.append(record)
                advance(1)
            dump(root / f"{part}.json", records)
        photographs.write()


def _annotation(answers: list[dict]) -> dict:
    common = most_common(answers)
    known = common != UNANSWERABLE
    return {
        "answers": answers,
        "answer_type": answer_type(common) if known else UNANSWERABLE,
        "answerable": int(known),
    }
