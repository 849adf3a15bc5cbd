"""Folders of drawn scenes: a seed gives the same files always, whole or not at all, and each data set's own
reader gives back what was drawn."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image

from attngraph.errors import UserError
from attngraph.experiments.data import layouts
from attngraph.experiments.data.dataset import DATA_SETS, split_examples
from attngraph.experiments.data.drawn import Sizes, make_scenes, scene_of, write_scenes
from attngraph.experiments.data.layouts import LAYOUTS, QUALITY, Amounts, own_seed
from attngraph.experiments.data.questions import Drawn
from attngraph.experiments.metrics.vqa import agreement
from attngraph.experiments.scenes import noise
from attngraph.experiments.scenes.captions import caption_scenes
from attngraph.experiments.scenes.captions import captions as describe
from attngraph.experiments.scenes.drawing import draw
from attngraph.experiments.scenes.facts import Description
from attngraph.experiments.scenes.hypotheses import hypotheses
from attngraph.experiments.scenes.questions import questions
from attngraph.experiments.scenes.scene import generator
from attngraph.experiments.scenes.words import all_words

SIZES = Sizes(questions=(30, 10, 20), hypotheses=(24, 9, 12), captions=(12, 4, 5))
SIZE, SEED = 60, 3
AMOUNTS = Amounts.of(SIZE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", seed=5, sizes=SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("data") / "six", SEED, SIZE)


def read(folder: Path, name: str, split: str, form: str | None = None) -> list:
    """The examples of a split; damaged ones are errors."""
    data_set = DATA_SETS[name]
    return split_examples(data_set, folder / name, split, data_set.reader(folder / name, split, form))


def content(folder: Path, name: str):
    return json.loads((folder / name).read_text())


# ---- folders ----------------------------------------------------------------------------------------------


def digest(folder: Path) -> str:
    """Of the names and texts of all files, and of the pixels of PNG: other versions pack them otherwise."""
    found = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        found.update(str(file.relative_to(folder)).encode())
        if file.suffix == ".png":
            found.update(Image.open(file).tobytes())
        elif file.suffix != ".jpg":
            found.update(file.read_bytes())
    return found.hexdigest()


def test_a_seed_writes_what_it_always_wrote(plain, folder):
    """Whoever changes the scenes or texts of a seed raises ``attngraph.experiments.data.drawn.VERSION``, and
    these."""
    assert digest(plain) == "f0a88f229ade7c00210219588b298d78e2039fb5751aed14fb518fa8ededf1a9"
    assert digest(folder) == "a922ae481e40516a2bfd3374e5393a46edc853ca9a1cf53d9dcb4e79379a65e9"


def test_a_finished_folder_is_reused_and_another_one_refused(plain, tmp_path):
    before = (plain / "manifest.json").stat().st_mtime_ns
    assert write_scenes(plain, seed=5, sizes=SIZES) == plain
    assert (plain / "manifest.json").stat().st_mtime_ns == before
    for again in (lambda: write_scenes(plain, seed=6, sizes=SIZES), lambda: make_scenes(plain, 5, 10)):
        with pytest.raises(UserError, match="other settings.*choose another folder"):
            again()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="not a folder of synthetic scenes"):
        write_scenes(tmp_path / "mine", seed=5, sizes=SIZES)
    assert [file.name for file in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, error):
    def stop(*_):
        raise error

    monkeypatch.setitem(layouts.TASKS, "karpathy", (stop, "captions"))
    with pytest.raises(error):
        write_scenes(tmp_path / "scenes", seed=5, sizes=SIZES)
    assert not list(tmp_path.iterdir())


def test_the_plain_data_sets_come_back(plain):
    readers = {"vqa_v2": ("vqa2", Drawn()), "snli_ve": ("snli_ve", None), "karpathy": ("coco", None)}
    sizes = {"vqa_v2": SIZES.questions, "snli_ve": SIZES.hypotheses, "karpathy": SIZES.captions}
    for place, (name, reader) in readers.items():
        for split, size in zip(("train", "val", "test"), sizes[place]):
            examples = split_examples(DATA_SETS[name], plain / place, split, reader)
            assert len({example.id for example in examples}) == len(examples) == size
            for example in examples:
                assert Image.open(example.image).tobytes() == draw(scene_of(example.image)).tobytes()
            counts = {(len(e.references), len(set(e.references))) for e in examples}
            assert counts == {{"vqa_v2": (10, 1), "snli_ve": (1, 1), "karpathy": (5, 5)}[place]}


# ---- six official layouts ----------------------------------------------------------------------------------


def test_every_picture_shows_its_scene_and_no_two_data_sets_share_one(folder):
    seen: set[str] = set()
    for name in LAYOUTS:
        shown = content(folder, f"{name}/scenes.json")
        quality = folder / name / "quality.json"
        qualities = json.loads(quality.read_text()) if quality.exists() else {}
        for file in (folder / name).rglob("*.jpg"):
            scene, about = scene_of(file), shown.get(file.name, {})
            taken = noise.Quality(**qualities.get(file.name, {"level": "good"}))
            assert (scene is None) == (taken.fault in ("cut", "turned")), (
                "things do not stand where they stood"
            )
            if scene is None:
                continue
            picture = noise.taken(draw(scene), taken)
            if name == "textcaps":
                picture = layouts.with_word(picture, about["word"], about["ink"], about["side"])
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=QUALITY, subsampling=0)
            assert Image.open(file).tobytes() == Image.open(stream).tobytes()
        scenes = {repr(scene_of(file)) for file in (folder / name).rglob("*.jpg")} - {"None"}
        assert scenes and not scenes & seen
        seen |= scenes


def test_a_folder_that_is_written_again_has_its_new_scenes(tmp_path):
    """In one process, which remembers the files that it has read."""
    scenes = []
    for seed in (0, 1):
        rmtree(tmp_path / "data", ignore_errors=True)
        write_scenes(tmp_path / "data", seed, Sizes((4, 4, 4), (4, 4, 4), (4, 4, 4)))
        image = min((tmp_path / "data").rglob("*.png"), key=lambda file: file.name)
        scenes.append((image, scene_of(image)))
    assert scenes[0][0] == scenes[1][0] and None not in scenes[0] and scenes[0][1] != scenes[1][1]


def test_texts_come_back(folder):
    """Of the training split; VQA v2 in Karpathy's, whose files have train2014 first."""
    train = AMOUNTS.train
    asked = read(folder, "vqa2", "train", "karpathy")
    asked.sort(key=lambda example: scene_of(example.image).id)
    drawn = [one for _, some in questions("train", train, own_seed("vqa2", SEED)) for one in some]
    assert [example.prompt for example in asked] == [sentence.text for sentence in drawn]
    for example, sentence in zip(asked, drawn):
        assert len(example.references) == 10 and sentence.answer in example.references
        assert example.groups["question type"] == layouts.question_type(sentence.text)
    claimed = hypotheses("train", train, own_seed("snli_ve", SEED))
    expected = [(scene, one.text, (one.answer,)) for scene, some in claimed for one in some]
    found = read(folder, "snli_ve", "train")
    assert [(scene_of(one.image), one.prompt, one.references) for one in found] == expected
    chance = own_seed("coco", SEED)
    for number, (example, scene) in enumerate(
        zip(read(folder, "coco", "train"), caption_scenes("train", train, chance), strict=True)
    ):
        assert scene_of(example.image) == scene
        assert list(example.references[:5]) == describe(scene, chance)
        assert len(set(example.references)) == len(example.references) == (6 if number % 7 == 0 else 5)


def test_question_types_are_the_longest_beginning():
    assert len(set(layouts.QUESTION_TYPES)) == 65
    assert layouts.question_type("What color is the circle ?") == "what color is the"
    assert layouts.question_type("whatever is it") == layouts.question_type("") == "none of the above"


def test_bad_pictures_cannot_be_described(folder):
    """Most annotators give up a question about them, and most captions of them are precanned."""
    levels = content(folder, "vizwiz_vqa/quality.json")
    asked = read(folder, "vizwiz_vqa", "train")
    assert len(asked) == AMOUNTS.train and {"bad", "good"} <= {one["level"] for one in levels.values()}
    for example in asked:
        counts = Counter(example.references)
        given_up = example.groups["answerable"] == "0"
        assert given_up == (example.kind == "unanswerable")
        assert given_up <= (counts["unanswerable"] == max(counts.values()))
        assert given_up or levels[example.id]["level"] != "bad"
    levels = content(folder, "vizwiz_caps/quality.json")
    file = content(folder, "vizwiz_caps/annotations/train.json")
    precanned = Counter(one["image_id"] for one in file["annotations"] if one["is_precanned"])
    for image in file["images"]:
        assert (precanned[image["id"]] >= 3) == (levels[image["file_name"]]["level"] == "bad")
    kept = read(folder, "vizwiz_caps", "train")
    assert {int(example.id) for example in kept} < {image["id"] for image in file["images"]}
    assert not {layouts.PRECANNED, layouts.SPAM} & {text for example in kept for text in example.references}


def test_textcaps_name_the_word_and_what_is_around_it(folder):
    shown = content(folder, "textcaps/scenes.json")
    for example in read(folder, "textcaps", "train"):
        about, scene = shown[example.image.name], scene_of(example.image)
        top = 0 if about["side"] == "top" else 44
        assert all(  # nothing is behind the paper
            thing.y + thing.radius < top or thing.y - thing.radius >= top + 20 for thing in scene.things
        )
        near, far = ("above", "below") if about["side"] == "top" else ("below", "above")
        said = " ".join(example.references)
        assert f"{about['word']} in {about['ink']} {near} " in said
        assert f" {far} the name {about['word']}" in said
        things = [Description(None, thing.color, thing.shape).a() for thing in scene.things]
        for caption in example.references:
            assert about["word"] in caption.split() and all(thing in caption for thing in things)


def test_words_of_textcaps_can_be_told_apart_and_said():
    blank = Image.new("RGB", (64, 64))
    pictures = {layouts.with_word(blank.copy(), word, "red", "top").tobytes() for word in layouts.WORDS}
    assert len(pictures) == len(layouts.WORDS) == 17
    (scene,) = caption_scenes("train", 1, 0)
    for word in layouts.WORDS:
        strip = np.asarray(layouts.with_word(blank.copy(), word, "blue", "bottom"), int)[44:]
        ink = np.abs(strip - layouts.PAPER).sum(2) > 100
        assert not ink[:, [0, -1]].any() and not ink[[0, -1]].any()  # it fits
        assert ink.sum() > 25
        for caption in layouts.captions_with_word(scene, word, "red", "top"):
            assert set(caption.split()) <= set(all_words())


@pytest.mark.parametrize("split", ["train", "test"])
def test_vizwiz_caps(folder, split):
    """Ids run on; of bad pictures most captions are precanned; what is kept is read."""
    chance = own_seed("vizwiz_caps", SEED)
    drawn = list(caption_scenes(split, getattr(AMOUNTS, split), chance))
    file = content(folder, f"vizwiz_caps/annotations/{split}.json")
    qualities = content(folder, "vizwiz_caps/quality.json")
    examples = {example.id: example for example in read(folder, "vizwiz_caps", split)}
    before = 0 if split == "train" else AMOUNTS.train + AMOUNTS.validation
    assert [image["id"] for image in file["images"]] == list(range(before, before + len(drawn)))
    if split == "test":
        assert len(examples) == len(drawn) and not any(one.references for one in examples.values())
        return
    kept = {}
    for image, scene in zip(file["images"], drawn):
        own = [record for record in file["annotations"] if record["image_id"] == image["id"]]
        texts = describe(scene, chance)
        for record, text in zip(own, texts, strict=True):
            assert record["is_rejected"] or record["caption"] in (text, layouts.PRECANNED)
            assert record["is_precanned"] == (record["caption"] == layouts.PRECANNED)
        used = [not (record["is_precanned"] or record["is_rejected"]) for record in own]
        if any(used):
            kept[str(image["id"])] = tuple(text for text, is_used in zip(texts, used) if is_used)
        level = qualities[image["file_name"]]["level"]
        assert (sum(record["is_precanned"] for record in own) >= 3) == (level == "bad")
    assert {id: example.references for id, example in examples.items()} == kept
    assert len(kept) < len(drawn)


def test_annotators_differ_as_people_do():
    """Half of the questions are unanimous; a wrong answer that three give counts in full, one counts less."""
    scores, unanimous = Counter(), 0
    for number in range(2000):
        records = noise.ten_answers("2" if number % 2 else "red", generator(number))
        given = [record["answer"] for record in records]
        assert len(given) == 10
        unanimous += len(set(given)) == 1
        for answer in set(given) - {noise.most_common(records)}:
            scores[round(agreement("", [other == answer for other in given]), 2)] += 1
    assert 0.4 < unanimous / 2000 < 0.6
    assert {0.3, 0.6, 0.9} <= set(scores)
    given = [record["answer"] for record in noise.ten_answers("red", generator(0), "unanswerable", 8)]
    assert given.count("unanswerable") >= 8 and len(given) == 10


def test_qualities_do_what_they_say():
    (scene,) = caption_scenes("train", 1, 0)
    picture = draw(scene)
    kinds = Counter(noise.any_quality(generator(number)).level for number in range(2000))
    assert {level: round(count / 20) for level, count in kinds.items()} == pytest.approx(noise.LEVELS, abs=3)
    assert noise.taken(picture, noise.Quality("good")) is picture
    dark = noise.taken(picture, noise.Quality("bad", "dark", 0.03))
    assert np.asarray(dark).max() <= 8
    for fault, (poor, _) in noise.FAULTS.items():
        changed = noise.taken(picture, noise.Quality("poor", fault, poor[0]))
        assert changed.size == picture.size and changed.tobytes() != picture.tobytes()
