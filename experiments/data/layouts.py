"""Files of synthetic datasets: in the layout of official archives, and in a simpler one for the three tasks.

A layout writes a dataset: :data:`LAYOUTS` has those of six benchmarks by the datasets' names, :data:`TASKS`
the simple ones, in which annotators agree and images are PNG. Splits without official annotations do not have
annotations here, either.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from attngraph.experiments.base.files import write_json, write_text
from attngraph.experiments.data.dataset import OFFICIAL
from attngraph.experiments.scenes.balance import Sentence
from attngraph.experiments.scenes.captions import caption_scenes, captions, ordered
from attngraph.experiments.scenes.drawing import draw
from attngraph.experiments.scenes.facts import describe
from attngraph.experiments.scenes.hypotheses import hypotheses
from attngraph.experiments.scenes.noise import (
    UNANSWERABLE,
    Quality,
    any_quality,
    most_common,
    taken,
    ten_answers,
)
from attngraph.experiments.scenes.questions import questions
from attngraph.experiments.scenes.scene import (
    CANVAS,
    COLORS,
    CURTAIN_WIDTH,
    SPLITS,
    Scene,
    generator,
    sample_scene,
)

SCENES = "scenes.json"  # what the pictures of a data set show
QUALITY = 95  # of JPEG, with colours at full resolution: pixels differ by a few of 256 levels


class Amounts(NamedTuple):
    """Number of examples of each split."""

    train: int
    validation: int
    test: int

    @staticmethod
    def of(size: int) -> Amounts:
        """A fifth as many for validation as for training, a third as many for test."""
        return Amounts(size, max(2, size // 5), max(2, size // 3))

    def items(self) -> Iterator[tuple[str, int]]:
        """Split -> amount."""
        yield from self._asdict().items()


Layout = Callable[["Folder", Amounts, int], None]  # writes a data set into a new folder, by a seed


def own_seed(name: str, seed: int) -> int:
    """A seed for a dataset (or a part of one), so that all of them have different scenes."""
    return int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0])


class Folder:
    """A dataset's folder, which writes images and records their scenes, and the degradations of VizWiz's."""

    def __init__(self, root: Path):
        self.root = root
        self.shown: dict[str, dict] = {}
        self.qualities: dict[str, dict] = {}
        root.mkdir()

    def save(self, picture: Image.Image, place: str, scene: Scene | None, **more: object) -> None:
        """Write an image; the suffix of its path is its format. ``more`` is recorded in addition to the
        scene, which is None if the shapes have been moved.
        """
        file = self.root / place
        file.parent.mkdir(exist_ok=True)
        if file.suffix == ".png":
            picture.save(file, compress_level=1)
        else:
            picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
        if scene is not None:
            self.shown[file.name] = {**scene.to_dict(), **more}

    def take(self, scene: Scene, part: str, number: int, rng: random.Random) -> tuple[str, Quality]:
        """Write VizWiz's image of this number in a split, in any quality; returns its name and quality."""
        quality, name = any_quality(rng), f"VizWiz_{part}_{number:08d}.jpg"
        known = scene if quality.keeps_places else None
        self.save(taken(draw(scene), quality), f"{part}/{name}", known)
        self.qualities[name] = asdict(quality)
        return name, quality

    def dump(self, name: str, content: object) -> None:
        """Write JSON."""
        write_json(self.root / name, content, indent=None)

    def finish(self) -> None:
        """Write the descriptions of the scenes."""
        self.dump(SCENES, self.shown)
        if self.qualities:
            self.dump("quality.json", self.qualities)


# ---- questions ---------------------------------------------------------------------------------------------


def _answer_type(answer: str) -> str:
    """The answer type of VQA v2."""
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"


DEV = 4  # one of so many images of test2015 is in test-dev2015, too
#: The beginnings by which the official files classify questions.
QUESTION_TYPES = tuple(
    name.strip()
    for name in """
    are, are the, are there, are there any, are these, are they, can you, could, do, do you, does the,
    does this, has, how, how many, how many people are, how many people are in, is, is he, is it, is that a,
    is the, is the man, is the person, is the woman, is there, is there a, is this, is this a,
    is this an, is this person, was, what, what animal is, what are, what are the, what brand,
    what color, what color are the, what color is, what color is the, what does the, what is,
    what is in the, what is on the, what is the, what is the color of the, what is the man,
    what is the name, what is the person, what is the woman, what is this, what kind of, what number is,
    what room is, what sport is, what time, what type of, where are the, where is the, which, who is,
    why, why is the, none of the above
    """.split(",")
)


def question_type(question: str) -> str:
    """The longest of :data:`QUESTION_TYPES` that a question begins with."""
    fitting = [name for name in QUESTION_TYPES if f"{question} ".lower().startswith(f"{name} ")]
    return max(fitting, key=len, default="none of the above")


def _vqa2(folder: Folder, amounts: Amounts, seed: int) -> None:
    """VQA v2: questions of COCO's train2014, val2014, test2015 and test-dev2015, and Karpathy's split.

    The images that Karpathy's ``dataset_coco.json`` divides are those of train2014 and val2014, as in the
    real files. test-dev2015 asks about every fourth image of test2015.
    """
    chance = own_seed("vqa2", seed)
    asked, annotated = defaultdict(list), defaultdict(list)
    described: list[dict] = []
    image_ids = count(1)
    for split, amount in amounts.items():
        for number, (scene, sentences) in enumerate(questions(split, amount, chance)):
            image_id = next(image_ids)
            source = _describe(described, split, number, captions(scene, chance), image_id, "jpg")
            folder.save(draw(scene), f"{source}/{described[-1]['filename']}", scene)
            asked[source] += _asked(image_id, sentences)
            annotated[source] += _annotated(image_id, sentences, chance)
    for scene, sentences in questions("test", amounts.test, own_seed("vqa2 test2015", seed)):
        image_id = next(image_ids)
        folder.save(draw(scene), f"test2015/COCO_test2015_{image_id:012d}.jpg", scene)
        asked["test2015"] += _asked(image_id, sentences)
        if scene.id % DEV == 0:
            asked["test-dev2015"] += _asked(image_id, sentences)
    _write_questions(folder, asked, annotated)
    folder.dump("dataset_coco.json", {"images": described, "dataset": "coco"})


def _plain_vqa(folder: Folder, amounts: Amounts, seed: int) -> None:
    """Questions in the files of VQA v2, with annotators who agree; types are the kinds of questions."""
    asked, annotated = defaultdict(list), defaultdict(list)
    image_ids = count(1)
    for split, amount in amounts.items():
        part = f"{OFFICIAL[split]}2014"
        for (scene, sentences), image_id in zip(questions(split, amount, seed), image_ids):
            folder.save(draw(scene), f"{part}/COCO_{part}_{image_id:012d}.png", scene)
            asked[part] += _asked(image_id, sentences)
            annotated[part] += _annotated(image_id, sentences, None)
    _write_questions(folder, asked, annotated)


def _write_questions(folder: Folder, asked: dict, annotated: dict) -> None:
    """Question and annotation files: part -> its records."""
    info = {"description": "drawn scenes in the format of VQA v2", "version": "1"}
    for part, records in asked.items():
        about = {"info": info, "license": {"name": "none needed"}}
        about |= {"data_type": "mscoco", "data_subtype": part}
        content = {**about, "task_type": "Open-Ended", "questions": records}
        folder.dump(f"v2_OpenEnded_mscoco_{part}_questions.json", content)
        if part in annotated:
            content = {**about, "annotations": annotated[part]}
            folder.dump(f"v2_mscoco_{part}_annotations.json", content)


def _asked(image_id: int, sentences: Sequence[Sentence]) -> list[dict]:
    return [
        {"image_id": image_id, "question": sentence.text, "question_id": image_id * 1000 + place}
        for place, sentence in enumerate(sentences)
    ]


def _annotated(image_id: int, sentences: Sequence[Sentence], chance: int | None) -> list[dict]:
    """Annotations of an image's questions. Annotators differ at random; without a random generator, they
    agree, and types are the questions' kinds.
    """
    records = []
    for place, sentence in enumerate(sentences):
        if chance is None:
            type_, answers = sentence.kind, [{"answer": sentence.answer, "answer_confidence": "yes"}] * 10
        else:
            type_ = question_type(sentence.text)
            answers = ten_answers(sentence.answer, generator(chance, image_id, place))
        common = most_common(answers)
        records.append(
            {
                "question_type": type_,
                "multiple_choice_answer": common,
                "answers": [{**answer, "answer_id": k} for k, answer in enumerate(answers, start=1)],
                "image_id": image_id,
                "answer_type": _answer_type(common),
                "question_id": image_id * 1000 + place,
            }
        )
    return records


GIVE_UP = {"good": (0, 0), "poor": (0, 4), "bad": (6, 10)}  # least and most annotators


def _vizwiz_vqa(folder: Folder, amounts: Amounts, seed: int) -> None:
    """VizWiz-VQA: one question about each image; for bad images most annotators answer "unanswerable"."""
    chance = own_seed("vizwiz_vqa", seed)
    for split, amount in amounts.items():
        part = OFFICIAL[split]
        records = []
        for number, (scene, (sentence,)) in enumerate(questions(split, amount, chance, per_scene=1)):
            rng = generator(chance, SPLITS.index(split), number)
            name, quality = folder.take(scene, part, number, rng)
            record = {"image": name, "question": sentence.text}
            if split != "test":
                give_up = rng.randint(*GIVE_UP[quality.level])
                answers = ten_answers(sentence.answer, rng, UNANSWERABLE, give_up)
                common = most_common(answers)
                kind = common if common == UNANSWERABLE else _answer_type(common)
                record |= {"answers": answers, "answer_type": kind, "answerable": int(kind != UNANSWERABLE)}
            records.append(record)
        folder.dump(f"{part}.json", records)


# ---- hypotheses --------------------------------------------------------------------------------------------


def _pairs(folder: Folder, amounts: Amounts, seed: int, official: bool) -> None:
    """SNLI-VE: a line for each hypothesis; official lines have a caption, others have the kind."""
    number, seed = 1_000_000_000, own_seed("snli_ve", seed) if official else seed
    for split, amount in amounts.items():
        lines = []
        for scene, sentences in hypotheses(split, amount, seed):
            number += 1
            name = f"{number}.{'jpg' if official else 'png'}"
            folder.save(draw(scene), f"flickr30k_images/{name}", scene)
            for place, sentence in enumerate(sentences):
                pair = {
                    "annotator_labels": [sentence.answer],
                    "captionID": f"{name}#0",
                    "gold_label": sentence.answer,
                    "pairID": f"{name}#0r{place}" + sentence.answer[0] * official,
                    "sentence1": captions(scene, seed)[0] if official else "a drawn scene",
                    "sentence2": sentence.text,
                    "Flickr30K_ID": str(number),
                }
                lines.append(json.dumps(pair if official else {**pair, "hypothesis_kind": sentence.kind}))
        part = "dev" if split == "validation" else split
        write_text(folder.root / f"snli_ve_{part}.jsonl", "\n".join(lines) + "\n")


# ---- captions ----------------------------------------------------------------------------------------------


def _describe(
    described: list[dict], split: str, number: int, texts: Sequence[str], coco_id: int, ending: str
) -> str:
    """Add an image, by its number in its split, to those of Karpathy's ``dataset_coco.json``; returns its
    folder. As in the real file, validation, test and the "restval" part of training are from ``val2014``.
    """
    label = "restval" if split == "train" and number % 4 == 3 else OFFICIAL[split]
    source = "train2014" if label == "train" else "val2014"
    place, first = len(described), described[-1]["sentids"][-1] + 1 if described else 0
    sentences = [
        {"tokens": re.findall(r"\w+", text), "raw": text, "imgid": place, "sentid": number}
        for number, text in enumerate(texts, start=first)
    ]
    described.append(
        {
            "filepath": source,
            "sentids": [sentence["sentid"] for sentence in sentences],
            "filename": f"COCO_{source}_{coco_id:012d}.{ending}",
            "imgid": place,
            "split": label,
            "sentences": sentences,
            "cocoid": coco_id,
        }
    )
    return source


SIX = 7  # one of so many images has six captions, as some have in the real file


def _karpathy(folder: Folder, amounts: Amounts, seed: int, official: bool) -> None:
    """COCO captions in Karpathy's split: five of each image; officially some have six."""
    seed = own_seed("coco", seed) if official else seed
    described: list[dict] = []
    for split, amount in amounts.items():
        for number, scene in enumerate(caption_scenes(split, amount, seed)):
            texts = captions(scene, seed)
            if official and number % SIX == 0:
                texts.append(_another(scene, texts))
            ending = "jpg" if official else "png"
            source = _describe(described, split, number, texts, len(described) + 1, ending)
            folder.save(draw(scene), f"{source}/{described[-1]['filename']}", scene)
    folder.dump("dataset_coco.json", {"images": described, "dataset": "coco"})


def _another(scene: Scene, texts: list[str]) -> str:
    """A caption that is not among these five; there are seven ways to write one."""
    return next(text for other in count() for text in captions(scene, other) if text not in texts)


WORDS = tuple("yes no true false one two three four five left right small large more same name half".split())
INKS = tuple(color for color in COLORS if color not in ("yellow", "cyan"))  # what can be read on paper
PAPER = (250, 250, 245)
LETTERS = 16  # points


def _textcaps(folder: Folder, amounts: Amounts, seed: int) -> None:
    """TextCaps: images with a word on them, which the captions contain."""
    chance = own_seed("textcaps", seed)
    caption_ids = count()
    for split, amount in amounts.items():
        part = OFFICIAL[split]
        items: list[dict] = []
        for number in range(amount):
            rng = generator(chance, SPLITS.index(split), number)
            scene, side = _scene_with_room(rng, number)
            word, ink = rng.choice(WORDS), rng.choice(INKS)
            image_id = f"{SPLITS.index(split)}{rng.getrandbits(28):07x}{number:08x}"
            picture = with_word(draw(scene), word, ink, side)
            place = "test_images" if split == "test" else "train_images"
            folder.save(picture, f"{place}/{image_id}.jpg", scene, word=word, ink=ink, side=side)
            about = {"image_id": image_id, "set_name": part, "image_path": f"{part}/{image_id}.jpg"}
            if split == "test":
                items.append(about)
                continue
            texts = captions_with_word(scene, word, ink, side)
            items += [
                {**about, "caption_id": next(caption_ids), "caption_str": text, "reference_strs": texts}
                for text in texts
            ]
        generator(chance, SPLITS.index(split)).shuffle(items)  # the captions of an image stand apart
        kind = {"dataset_type": part, "dataset_name": "textcaps", "dataset_version": "0.1"}
        folder.dump(f"TextCaps_0.1_{part}.json", {**kind, "data": items})


def with_word(picture: Image.Image, word: str, ink: str, side: str) -> Image.Image:
    """The image with a strip of paper at the top or bottom that has a word on it."""
    pen = ImageDraw.Draw(picture)
    top = 0 if side == "top" else CANVAS - CURTAIN_WIDTH
    pen.rectangle((0, top, CANVAS - 1, top + CURTAIN_WIDTH - 1), fill=PAPER)
    middle = (CANVAS // 2, top + CURTAIN_WIDTH // 2)
    pen.text(middle, word, fill=COLORS[ink], font=ImageFont.load_default(LETTERS), anchor="mm")
    return picture


def captions_with_word(scene: Scene, word: str, ink: str, side: str) -> list[str]:
    """Five captions that contain the word and the objects."""
    names = [describe(thing, "color shape").a() for thing in ordered(scene)]
    things = " and ".join(names)
    near, far = ("above", "below") if side == "top" else ("below", "above")
    return [
        f"the picture says {word} at the {side} and shows {things}",
        f"{word} in {ink} {near} {things}",
        f"it says {word} in {ink} and there is {things}",
        f"{things} {far} the name {word}",
        f"{things} in a picture that says {word}",
    ]


def _scene_with_room(rng: random.Random, number: int) -> tuple[Scene, str]:
    """One or two different objects, and the side with space for a word."""
    while True:
        scene = sample_scene(rng, "downstream", number, curtain=True, amount=rng.choice((1, 2, 2)))
        pairs = {(thing.color, thing.shape) for thing in scene.things}
        if scene.curtain in ("top", "bottom") and len(pairs) == len(scene.things):
            return replace(scene, curtain=None), scene.curtain


PRECANNED = "Quality issues are too severe to recognize visual content."
REJECTED, SPAM = 0.03, "a picture"  # share of captions that are rejected, and what they say
CANNED = {"good": (0, 0), "poor": (0, 1), "bad": (3, 5)}  # least and most of an image's five captions


def _vizwiz_caps(folder: Folder, amounts: Amounts, seed: int) -> None:
    """VizWiz-Captions: images of any quality, some captions precanned, some rejected.

    Ids are consecutive over all splits.
    """
    chance = own_seed("vizwiz_caps", seed)
    image_ids, caption_ids = count(), count()
    for split, amount in amounts.items():
        part = OFFICIAL[split]
        images, annotations = [], []
        for number, scene in enumerate(caption_scenes(split, amount, chance)):
            rng, image_id = generator(chance, SPLITS.index(split), number), next(image_ids)
            name, quality = folder.take(scene, part, number, rng)
            images.append({"file_name": name, "vizwiz_url": "", "id": image_id, "text_detected": False})
            texts, canned = captions(scene, chance), rng.randint(*CANNED[quality.level])
            for place, text in enumerate(texts):
                precanned = place >= len(texts) - canned
                rejected = not precanned and rng.random() < REJECTED
                annotations.append(
                    {
                        "caption": PRECANNED if precanned else SPAM if rejected else text,
                        "is_precanned": precanned,
                        "is_rejected": rejected,
                        "image_id": image_id,
                        "id": next(caption_ids),
                        "text_detected": False,
                    }
                )
        info = {"description": "drawn scenes in the format of VizWiz-Captions", "version": "1"}
        content = {"info": info, "images": images}
        if split != "test":
            content["annotations"] = annotations
        folder.dump(f"annotations/{part}.json", content)


#: Dataset -> writer of its official files.
LAYOUTS: dict[str, Layout] = {
    "vqa2": _vqa2,
    "vizwiz_vqa": _vizwiz_vqa,
    "snli_ve": partial(_pairs, official=True),
    "coco": partial(_karpathy, official=True),
    "textcaps": _textcaps,
    "vizwiz_caps": _vizwiz_caps,
}
#: Folder -> its writer, and the field of its sizes.
TASKS: dict[str, tuple[Layout, str]] = {
    "vqa_v2": (_plain_vqa, "questions"),
    "snli_ve": (partial(_pairs, official=False), "hypotheses"),
    "karpathy": (partial(_karpathy, official=False), "captions"),
}
