"""Folders of drawn scenes: a seed gives the same files always, whole or not at all, and each data set's own
reader gives back what was drawn."""

import errno
import hashlib
import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.data import layouts
from experiments.data.dataset import DATA_SETS, split_examples
from experiments.data.drawn import Sizes, make_scenes, scene_of, write_scenes
from experiments.data.layouts import LAYOUTS, QUALITY, Amounts, own_seed
from experiments.data.questions import Drawn
from experiments.metrics.vqa import agreement
from experiments.scenes import noise
from experiments.scenes.captions import caption_scenes
from experiments.scenes.captions import captions as describe
from experiments.scenes.drawing import draw
from experiments.scenes.facts import Description
from experiments.scenes.hypotheses import hypotheses
from experiments.scenes.questions import questions
from experiments.scenes.scene import SPLITS, Scene, generator
from experiments.scenes.words import all_words

SIZES = Sizes(questions=(30, 10, 20), hypotheses=(24, 9, 12), captions=(12, 4, 5))
SIZE, SEED = 60, 3
AMOUNTS = Amounts.of(SIZE)
OFFICIAL = dict(zip(SPLITS, ("train", "val", "test")))


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


def as_saved(picture: Image.Image) -> bytes:
    """The pixels of a picture that went through JPEG."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return Image.open(stream).tobytes()


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
    """Whoever changes what a seed gives raises ``experiments.data.drawn.VERSION``, and these."""
    assert digest(plain) == "40f64a7db18eda58b1649c468a52a9c1d63e93a9838326117d7607c49d463a28"
    assert digest(folder) == "457a8651c55ed7a315bd40eb3ad8d575f15362df9a8269dedb36de97f190aa25"


def test_a_finished_folder_is_reused_and_another_one_refused(plain, tmp_path):
    before = (plain / "manifest.json").stat().st_mtime_ns
    assert write_scenes(plain, seed=5, sizes=SIZES) == plain
    assert (plain / "manifest.json").stat().st_mtime_ns == before
    for again in (lambda: write_scenes(plain, seed=6, sizes=SIZES), lambda: make_scenes(plain, 5, 10)):
        with pytest.raises(UserError, match="other settings.*choose another folder"):
            again()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="no folder of drawn scenes"):
        write_scenes(tmp_path / "mine", seed=5, sizes=SIZES)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    assert not list(plain.parent.glob(".*")) and not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match="questions"):
        Sizes(questions=(0, 1, 1))


@pytest.mark.parametrize(
    "fault, error, said",
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), UserError, "cannot be written .*No space left.*"),
    ],
)
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, fault, error, said):
    def stop(*_):
        raise fault

    monkeypatch.setitem(layouts.TASKS, "karpathy", (stop, "captions"))
    with pytest.raises(error, match=said) as caught:
        write_scenes(tmp_path / "scenes", seed=5, sizes=SIZES)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_the_plain_data_sets_come_back(plain):
    shown = {name: content(plain, f"{name}/scenes.json") for name in ("vqa_v2", "snli_ve", "karpathy")}
    readers = {"vqa_v2": ("vqa2", Drawn()), "snli_ve": ("snli_ve", None), "karpathy": ("coco", None)}
    sizes = {"vqa_v2": SIZES.questions, "snli_ve": SIZES.hypotheses, "karpathy": SIZES.captions}
    for place, (name, reader) in readers.items():
        for split, size in zip(("train", "val", "test"), sizes[place]):
            examples = split_examples(DATA_SETS[name], plain / place, split, reader)
            assert len({example.id for example in examples}) == len(examples) == size
            for example in examples:
                image = Image.open(example.image)
                assert image.mode == "RGB"
                scene = Scene.from_dict(shown[place][example.image.name])
                assert image.tobytes() == draw(scene).tobytes() and scene_of(example.image) == scene
            counts = {len(set(example.references)) for example in examples}
            assert counts == ({5} if name == "coco" else {1})
    assert {
        len(e.references) for e in split_examples(DATA_SETS["vqa2"], plain / "vqa_v2", "test", Drawn())
    } == {10}


# ---- six official layouts ----------------------------------------------------------------------------------

QUESTION = "image_id question question_id"
ANNOTATION = "answer_type answers image_id multiple_choice_answer question_id question_type"
PARSED = " ".join(f"sentence{n}{end}" for n in (1, 2) for end in ("", "_parse", "_binary_parse"))
PICTURE = (
    "flickr_300k_url flickr_original_url image_classes image_height image_id image_name image_path "
    "image_width set_name"
)
CAPTIONED = f"{PICTURE} caption_id caption_str caption_tokens reference_strs reference_tokens"
KARPATHY = "cocoid filename filepath imgid sentences sentids split"
FIELDS = {  # file: the list of its records (None for a file that is one), the fields of each
    "vqa2/v2_OpenEnded_mscoco_train2014_questions.json": ("questions", QUESTION),
    "vqa2/v2_OpenEnded_mscoco_test-dev2015_questions.json": ("questions", QUESTION),
    "vqa2/v2_mscoco_val2014_annotations.json": ("annotations", ANNOTATION),
    "vizwiz_vqa/train.json": (None, "answer_type answerable answers image question"),
    "vizwiz_vqa/test.json": (None, "image question"),
    "snli_ve/snli_ve_dev.jsonl": (
        None,
        f"Flickr30K_ID annotator_labels captionID gold_label pairID {PARSED}",
    ),
    "coco/dataset_coco.json": ("images", KARPATHY),
    "vqa2/dataset_coco.json": ("images", KARPATHY),
    "textcaps/TextCaps_0.1_train.json": ("data", CAPTIONED),
    "textcaps/TextCaps_0.1_test.json": ("data", PICTURE),
    "vizwiz_caps/annotations/val.json": (
        "annotations",
        "caption id image_id is_precanned is_rejected text_detected",
    ),
    "vizwiz_caps/annotations/test.json": ("images", "file_name id text_detected vizwiz_url"),
}


def test_records_have_the_official_fields(folder):
    assert set(LAYOUTS) == set(DATA_SETS)
    for name, (part, fields) in FIELDS.items():
        if name.endswith(".jsonl"):
            records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        else:
            records = content(folder, name) if part is None else content(folder, name)[part]
        assert records and all(set(record) == set(fields.split()) for record in records), name


@pytest.mark.parametrize("split", ["train", "test"])
def test_vqa2_in_karpathys_split(folder, split):
    drawn = list(questions(split, getattr(AMOUNTS, split), own_seed("vqa2", SEED)))
    examples = read(folder, "vqa2", OFFICIAL[split], "karpathy")
    assert len(examples) == getattr(AMOUNTS, split)
    by_scene = {}
    for example in examples:
        by_scene.setdefault(example.image, []).append(example)
    # the files have train2014 first, so that scenes come in another order
    found = sorted((scene_of(image).id, scene_of(image), asked) for image, asked in by_scene.items())
    assert [scene for _, scene, _ in found] == [scene for scene, _ in drawn]
    for (_, scene, asked), (_, sentences) in zip(found, drawn):
        assert [example.prompt for example in asked] == [sentence.text for sentence in sentences]
        assert Image.open(asked[0].image).tobytes() == as_saved(draw(scene))
        for example, sentence in zip(asked, sentences):
            assert len(example.references) == 10 and sentence.answer in example.references
            assert example.groups["question type"] == layouts.question_type(sentence.text)


def test_vqa2_in_the_official_splits(folder):
    train, val, test, dev = (
        read(folder, "vqa2", split, "official") for split in ("train", "val", "test", "test-dev")
    )
    both = train + val
    assert len(both) == sum(AMOUNTS)
    karpathy = [read(folder, "vqa2", split, "karpathy") for split in ("train", "val", "test")]
    assert {example.id for example in both} == {example.id for some in karpathy for example in some}
    assert any("val2014" in example.image.name for example in karpathy[0])  # restval
    drawn = questions("test", AMOUNTS.test, own_seed("vqa2 test2015", SEED))
    asked = [sentence.text for _, sentences in drawn for sentence in sentences]
    assert [example.prompt for example in test] == asked and not any(one.references for one in test)
    assert set(dev) < set(test) and {example.image.parent.name for example in dev} == {"test2015"}
    assert not {example.image.name for example in both} & {example.image.name for example in test}


def test_question_types_are_the_longest_beginning():
    assert len(set(layouts.QUESTION_TYPES)) == 65
    assert layouts.question_type("What color is the circle ?") == "what color is the"
    assert layouts.question_type("whatever is it") == layouts.question_type("") == "none of the above"


@pytest.mark.parametrize("split", ["train", "test"])
def test_vizwiz_vqa(folder, split):
    chance, name = own_seed("vizwiz_vqa", SEED), OFFICIAL[split]
    drawn = list(questions(split, getattr(AMOUNTS, split), chance, per_scene=1))
    examples = read(folder, "vizwiz_vqa", name)
    assert [one.id for one in examples] == [f"VizWiz_{name}_{k:08d}.jpg" for k in range(len(drawn))]
    qualities = content(folder, "vizwiz_vqa/quality.json")
    for example, (scene, (sentence,)) in zip(examples, drawn):
        taken = noise.Quality(**qualities[example.id])
        assert example.prompt == sentence.text
        assert Image.open(example.image).tobytes() == as_saved(noise.taken(draw(scene), taken))
        assert scene_of(example.image) == (scene if taken.fault not in ("cut", "turned") else None)
        if split == "test":
            assert not example.references
            continue
        counts = Counter(example.references)
        if example.groups["answerable"] == "0":
            assert counts["unanswerable"] == max(counts.values()) and example.kind == "unanswerable"
        else:
            assert sentence.answer in counts and example.kind in ("yes/no", "number", "other")
        assert taken.level != "bad" or example.groups["answerable"] == "0"


def test_coco(folder):
    chance = own_seed("coco", SEED)
    drawn = list(caption_scenes("train", AMOUNTS.train, chance))
    examples = read(folder, "coco", "train")
    assert len(examples) == len(drawn)
    for number, (example, scene) in enumerate(zip(examples, drawn)):
        assert list(example.references[:5]) == describe(scene, chance)
        assert len(set(example.references)) == len(example.references) == (6 if number % 7 == 0 else 5)
        assert Image.open(example.image).tobytes() == as_saved(draw(scene))
        assert scene_of(example.image) == scene


def test_snli_ve(folder):
    drawn = hypotheses("train", AMOUNTS.train, own_seed("snli_ve", SEED))
    expected = [(scene, sentence) for scene, sentences in drawn for sentence in sentences]
    examples = read(folder, "snli_ve", "train")
    assert len(examples) == len(expected)
    for example, (scene, sentence) in zip(examples, expected):
        assert (example.prompt, example.references) == (sentence.text, (sentence.answer,))
        assert Image.open(example.image).tobytes() == as_saved(draw(scene))
        assert scene_of(example.image) == scene


@pytest.mark.parametrize("split", ["train", "test"])
def test_textcaps(folder, split):
    examples = read(folder, "textcaps", OFFICIAL[split])
    shown = content(folder, "textcaps/scenes.json")
    assert len(examples) == getattr(AMOUNTS, split)
    for example in examples:
        about = shown[example.image.name]
        scene, word, ink, side = (scene_of(example.image), about["word"], about["ink"], about["side"])
        written = layouts.with_word(draw(scene), word, ink, side)
        assert Image.open(example.image).tobytes() == as_saved(written)
        top = 0 if side == "top" else 44
        assert all(  # nothing is behind the paper
            thing.y + thing.radius < top or thing.y - thing.radius >= top + 20 for thing in scene.things
        )
        expected = set() if split == "test" else set(layouts.captions_with_word(scene, word, ink, side))
        assert set(example.references) == expected and len(expected) in (0, 5)
        above = side == "top"
        said = " ".join(example.references)
        assert split == "test" or f"{word} in {ink} {'above' if above else 'below'} " in said
        assert split == "test" or f" {'below' if above else 'above'} the name {word}" in said
        things = [Description(None, thing.color, thing.shape).a() for thing in scene.things]
        for caption in example.references:
            assert word in caption.split() and all(thing in caption for thing in things)


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
    chance, name = own_seed("vizwiz_caps", SEED), OFFICIAL[split]
    drawn = list(caption_scenes(split, getattr(AMOUNTS, split), chance))
    file = content(folder, f"vizwiz_caps/annotations/{name}.json")
    qualities = content(folder, "vizwiz_caps/quality.json")
    examples = {example.id: example for example in read(folder, "vizwiz_caps", name)}
    before = sum(getattr(AMOUNTS, other) for other in SPLITS[: SPLITS.index(split)])
    assert [image["id"] for image in file["images"]] == list(range(before, before + len(drawn)))
    skipped = 0
    for number, (image, scene) in enumerate(zip(file["images"], drawn)):
        taken = noise.Quality(**qualities[image["file_name"]])
        picture = folder / "vizwiz_caps" / name / f"VizWiz_{name}_{number:08d}.jpg"
        assert Image.open(picture).tobytes() == as_saved(noise.taken(draw(scene), taken))
        if split == "test":
            assert not examples[str(image["id"])].references
            continue
        own = [record for record in file["annotations"] if record["image_id"] == image["id"]]
        assert len(own) == 5
        kept = []
        for record, text in zip(own, describe(scene, chance)):
            if record["is_precanned"]:
                assert record["caption"] == layouts.PRECANNED and not record["is_rejected"]
            elif not record["is_rejected"]:
                assert record["caption"] == text
                kept.append(text)
        if kept:
            assert examples[str(image["id"])].references == tuple(kept)
            assert examples[str(image["id"])].image == picture
        skipped += not kept
        assert (sum(record["is_precanned"] for record in own) >= 3) == (taken.level == "bad")
    assert len(examples) == len(drawn) - skipped
    assert split != "train" or skipped


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


def test_no_two_data_sets_share_scenes(folder):
    seen: set[str] = set()
    for name in LAYOUTS:
        shown = content(folder, f"{name}/scenes.json").values()
        scenes = {json.dumps(Scene.from_dict(scene).to_dict()) for scene in shown}
        assert not scenes & seen
        seen |= scenes
