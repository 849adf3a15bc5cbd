"""Scenes in six official layouts: each data set's own reader gives back what was drawn."""

import hashlib
import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.datasets.dataset import DATA_SETS, split_examples
from experiments.metrics.vqa import agreement
from experiments.scenes.captions import caption_scenes
from experiments.scenes.captions import captions as describe
from experiments.scenes.drawing import draw
from experiments.scenes.facts import Description
from experiments.scenes.hypotheses import hypotheses
from experiments.scenes.known import scene_of
from experiments.scenes.layouts import annotators, quality, textcaps, vizwiz_caps, vqa2
from experiments.scenes.layouts.make import LAYOUTS, make_scenes
from experiments.scenes.layouts.parts import QUALITY, Amounts, own_seed
from experiments.scenes.questions import questions
from experiments.scenes.scene import SPLITS, Scene, generator
from experiments.scenes.vocabulary import all_words

SIZE, SEED = 60, 3
AMOUNTS = Amounts.of(SIZE)
OFFICIAL = dict(zip(SPLITS, ("train", "val", "test")))


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


def test_there_is_a_layout_of_each_data_set():
    assert set(LAYOUTS) <= set(DATA_SETS) and len(LAYOUTS) == 6


@pytest.mark.parametrize("split", SPLITS)
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
            assert example.groups["question type"] == vqa2.question_type(sentence.text)


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
    assert [example.prompt for example in test] == [
        sentence.text for _, sentences in drawn for sentence in sentences
    ]
    assert not any(example.references for example in test)
    assert set(dev) < set(test) and {example.image.parent.name for example in dev} == {"test2015"}
    assert not {example.image.name for example in both} & {example.image.name for example in test}


def test_vqa2_has_the_official_fields(folder):
    file = content(folder, "vqa2/v2_mscoco_val2014_annotations.json")
    assert set(file) == {"info", "license", "data_type", "data_subtype", "annotations"}
    assert file["data_subtype"] == "val2014" and file["data_type"] == "mscoco"
    for record in file["annotations"]:
        assert set(record) == {
            "question_id",
            "image_id",
            "question_type",
            "answer_type",
            "multiple_choice_answer",
            "answers",
        }
        assert [set(answer) for answer in record["answers"]] == [
            {"answer_id", "answer", "answer_confidence"}
        ] * 10
        assert [answer["answer_id"] for answer in record["answers"]] == list(range(1, 11))
        counts = Counter(answer["answer"] for answer in record["answers"])
        assert counts[record["multiple_choice_answer"]] == max(counts.values())
        assert record["answer_type"] in ("yes/no", "number", "other")
    asked = content(folder, "vqa2/v2_OpenEnded_mscoco_test-dev2015_questions.json")
    assert set(asked) == {"info", "license", "data_type", "data_subtype", "task_type", "questions"}
    assert all(set(record) == {"question_id", "image_id", "question"} for record in asked["questions"])
    assert asked["task_type"] == "Open-Ended"


def test_question_types_are_the_longest_beginning():
    assert len(set(vqa2.QUESTION_TYPES)) == 65
    assert vqa2.question_type("What color is the circle ?") == "what color is the"
    assert vqa2.question_type("whatever is it") == vqa2.question_type("") == "none of the above"


@pytest.mark.parametrize("split", SPLITS)
def test_vizwiz_vqa(folder, split):
    chance, name = own_seed("vizwiz_vqa", SEED), OFFICIAL[split]
    drawn = list(questions(split, getattr(AMOUNTS, split), chance, per_scene=1))
    examples = read(folder, "vizwiz_vqa", name)
    assert [example.id for example in examples] == [
        f"VizWiz_{name}_{number:08d}.jpg" for number in range(len(drawn))
    ]
    qualities = content(folder, "vizwiz_vqa/quality.json")
    for example, (scene, (sentence,)) in zip(examples, drawn):
        taken = quality.Quality(**qualities[example.id])
        assert example.prompt == sentence.text
        assert Image.open(example.image).tobytes() == as_saved(quality.taken(draw(scene), taken))
        assert scene_of(example.image) == (scene if taken.fault not in ("cut", "turned") else None)
        if split == "test":
            assert not example.references
            continue
        counts = Counter(example.references)
        if example.groups["answerable"] == "0":
            assert counts["unanswerable"] == max(counts.values()) and example.kind == "unanswerable"
        else:
            assert sentence.answer in counts and example.kind in ("yes/no", "number", "other")
        if taken.level == "bad":
            assert example.groups["answerable"] == "0"


def test_vizwiz_vqa_has_the_official_fields(folder):
    for record in content(folder, "vizwiz_vqa/train.json"):
        assert set(record) == {"image", "question", "answers", "answer_type", "answerable"}
        assert [set(answer) for answer in record["answers"]] == [{"answer", "answer_confidence"}] * 10
    assert all(set(record) == {"image", "question"} for record in content(folder, "vizwiz_vqa/test.json"))


@pytest.mark.parametrize("split", SPLITS)
def test_snli_ve(folder, split):
    drawn = hypotheses(split, getattr(AMOUNTS, split), own_seed("snli_ve", SEED))
    expected = [(scene, sentence) for scene, sentences in drawn for sentence in sentences]
    examples = read(folder, "snli_ve", OFFICIAL[split])
    assert len(examples) == len(expected)
    for example, (scene, sentence) in zip(examples, expected):
        assert (example.prompt, example.references) == (sentence.text, (sentence.answer,))
        assert Image.open(example.image).tobytes() == as_saved(draw(scene))
        assert scene_of(example.image) == scene


def test_snli_ve_has_the_official_fields(folder):
    for line in (folder / "snli_ve" / "snli_ve_dev.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert set(record) == {
            "Flickr30K_ID",
            "annotator_labels",
            "captionID",
            "gold_label",
            "pairID",
            *(f"sentence{n}{end}" for n in (1, 2) for end in ("", "_parse", "_binary_parse")),
        }
        assert record["captionID"] == f"{record['Flickr30K_ID']}.jpg#0"
        assert record["pairID"].startswith(record["captionID"] + "r")
        words = re.sub(r"[()]", "", record["sentence2_binary_parse"]).split()
        assert " ".join(words) == record["sentence2"]


@pytest.mark.parametrize("split", SPLITS)
def test_coco(folder, split):
    chance = own_seed("coco", SEED)
    drawn = list(caption_scenes(split, getattr(AMOUNTS, split), chance))
    examples = read(folder, "coco", OFFICIAL[split])
    assert len(examples) == len(drawn)
    for number, (example, scene) in enumerate(zip(examples, drawn)):
        assert list(example.references[:5]) == describe(scene, chance)
        assert len(set(example.references)) == len(example.references) == (6 if number % 7 == 0 else 5)
        assert Image.open(example.image).tobytes() == as_saved(draw(scene))
        assert scene_of(example.image) == scene


def test_coco_and_vqa2_have_karpathys_fields(folder):
    for name in ("coco", "vqa2"):
        file = content(folder, f"{name}/dataset_coco.json")
        assert set(file) == {"images", "dataset"}
        places = Counter()
        for place, image in enumerate(file["images"]):
            assert set(image) == {
                "filepath",
                "sentids",
                "filename",
                "imgid",
                "split",
                "sentences",
                "cocoid",
            }
            assert image["imgid"] == place
            assert image["filename"] == f"COCO_{image['filepath']}_{image['cocoid']:012d}.jpg"
            assert [sentence["sentid"] for sentence in image["sentences"]] == image["sentids"]
            assert all(set(s) == {"tokens", "raw", "imgid", "sentid"} for s in image["sentences"])
            places[image["split"], image["filepath"]] += 1
        assert set(places) == {
            ("train", "train2014"),
            ("restval", "val2014"),
            ("val", "val2014"),
            ("test", "val2014"),
        }
        ids = [number for image in file["images"] for number in image["sentids"]]
        assert ids == list(range(len(ids)))


@pytest.mark.parametrize("split", SPLITS)
def test_textcaps(folder, split):
    examples = read(folder, "textcaps", OFFICIAL[split])
    shown = content(folder, "textcaps/scenes.json")
    assert len(examples) == getattr(AMOUNTS, split)
    for example in examples:
        about = shown[example.image.name]
        scene, word, ink, side = (scene_of(example.image), about["word"], about["ink"], about["side"])
        blank = draw(scene)
        assert Image.open(example.image).tobytes() == as_saved(
            textcaps.with_word(blank.copy(), word, ink, side)
        )
        things = [Description(None, thing.color, thing.shape).a() for thing in scene.things]
        top = 0 if side == "top" else 44
        assert all(  # nothing is behind the paper
            thing.y + thing.radius < top or thing.y - thing.radius >= top + 20 for thing in scene.things
        )
        if split == "test":
            assert not example.references
            continue
        assert len(set(example.references)) == 5
        assert set(example.references) == set(textcaps.captions(scene, word, ink, side))
        above = side == "top"
        assert f"{word} in {ink} {'above' if above else 'below'} " in " ".join(example.references)
        assert f" {'below' if above else 'above'} the name {word}" in " ".join(example.references)
        for caption in example.references:
            assert word in caption.split() and all(thing in caption for thing in things)


def test_textcaps_has_the_official_fields(folder):
    common = {"image_id", "image_classes", "flickr_original_url", "flickr_300k_url", "image_width"}
    common |= {"image_height", "set_name", "image_name", "image_path"}
    captioned = {"caption_id", "caption_str", "caption_tokens", "reference_strs", "reference_tokens"}
    for split in ("train", "val", "test"):
        items = content(folder, f"textcaps/TextCaps_0.1_{split}.json")["data"]
        assert all(set(item) == common | (captioned if split != "test" else set()) for item in items)
        assert all(re.fullmatch("[0-9a-f]{16}", item["image_id"]) for item in items)
        counts = Counter(item["image_id"] for item in items)
        assert set(counts.values()) == {1 if split == "test" else 5}
    items = content(folder, "textcaps/TextCaps_0.1_train.json")["data"]
    assert any(a["image_id"] != b["image_id"] for a, b in zip(items[::5], items[1::5]))  # scattered


def test_words_of_textcaps_can_be_told_apart_and_said():
    blank = Image.new("RGB", (64, 64))
    pictures = {textcaps.with_word(blank.copy(), word, "red", "top").tobytes() for word in textcaps.WORDS}
    assert len(pictures) == len(textcaps.WORDS) == 17
    for word in textcaps.WORDS:
        strip = np.asarray(textcaps.with_word(blank.copy(), word, "blue", "bottom"), int)[44:]
        ink = np.abs(strip - textcaps.PAPER).sum(2) > 100
        assert not ink[:, [0, -1]].any() and not ink[[0, -1]].any()  # it fits
        assert ink.sum() > 25
    (scene,) = caption_scenes("train", 1, 0)
    for word in textcaps.WORDS:
        for caption in textcaps.captions(scene, word, "red", "top"):
            assert set(caption.split()) <= set(all_words())


@pytest.mark.parametrize("split", SPLITS)
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
        taken = quality.Quality(**qualities[image["file_name"]])
        picture = folder / "vizwiz_caps" / name / f"VizWiz_{name}_{number:08d}.jpg"
        assert Image.open(picture).tobytes() == as_saved(quality.taken(draw(scene), taken))
        if split == "test":
            assert not examples[str(image["id"])].references
            continue
        own = [record for record in file["annotations"] if record["image_id"] == image["id"]]
        assert len(own) == 5
        kept = []
        for record, text in zip(own, describe(scene, chance)):
            if record["is_precanned"]:
                assert record["caption"] == vizwiz_caps.PRECANNED and not record["is_rejected"]
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


def test_vizwiz_caps_has_the_official_fields(folder):
    file = content(folder, "vizwiz_caps/annotations/val.json")
    assert set(file) == {"info", "images", "annotations"}
    assert all(set(i) == {"id", "file_name", "vizwiz_url", "text_detected"} for i in file["images"])
    fields = {"id", "image_id", "caption", "is_precanned", "is_rejected", "text_detected"}
    assert all(set(annotation) == fields for annotation in file["annotations"])
    assert set(content(folder, "vizwiz_caps/annotations/test.json")) == {"info", "images"}


def test_annotators_differ_as_people_do():
    """Half of the questions are unanimous; a wrong answer that three give counts in full, one counts less."""
    scores, unanimous = Counter(), 0
    for number in range(2000):
        records = annotators.ten_answers("2" if number % 2 else "red", generator(number))
        given = [record["answer"] for record in records]
        assert len(given) == 10
        unanimous += len(set(given)) == 1
        for answer in set(given) - {annotators.most_common(records)}:
            scores[round(agreement("", [other == answer for other in given]), 2)] += 1
    assert 0.4 < unanimous / 2000 < 0.6
    assert {0.3, 0.6, 0.9} <= set(scores)
    given = [record["answer"] for record in annotators.ten_answers("red", generator(0), "unanswerable", 8)]
    assert given.count("unanswerable") >= 8 and len(given) == 10


def test_qualities_do_what_they_say():
    (scene,) = caption_scenes("train", 1, 0)
    picture = draw(scene)
    kinds = Counter(quality.any_quality(generator(number)).level for number in range(2000))
    assert {level: round(count / 20) for level, count in kinds.items()} == pytest.approx(
        quality.LEVELS, abs=3
    )
    assert quality.taken(picture, quality.Quality("good")) is picture
    dark = quality.taken(picture, quality.Quality("bad", "dark", 0.03))
    assert np.asarray(dark).max() <= 8
    for fault, (poor, _) in quality.FAULTS.items():
        changed = quality.taken(picture, quality.Quality("poor", fault, poor[0]))
        assert changed.size == picture.size and changed.tobytes() != picture.tobytes()


def test_no_two_data_sets_share_scenes(folder):
    seen: set[str] = set()
    for name in LAYOUTS:
        scenes = {
            json.dumps(Scene.from_dict(s).to_dict()) for s in content(folder, f"{name}/scenes.json").values()
        }
        assert not scenes & seen
        seen |= scenes


def test_this_seed_writes_what_it_always_wrote(folder):
    """Whoever changes what a seed gives raises ``experiments.scenes.layouts.make.VERSION``, and this."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.json*")):
        digest.update(file.read_bytes())
    assert digest.hexdigest() == "52b44d20cfe80eebcc5921c7c9f8dfd197db35c75896ff0a25aea416ec132fac"


def test_the_same_seed_writes_the_same_files(folder, tmp_path):
    again = make_scenes(tmp_path / "again", SEED, SIZE)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert all((folder / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_a_finished_folder_is_reused_and_another_one_refused(folder):
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert make_scenes(folder, SEED, SIZE) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    assert content(folder, "manifest.json") == {"version": 1, "seed": SEED, "size": SIZE}
    with pytest.raises(UserError, match="other settings.*choose another folder"):
        make_scenes(folder, SEED + 1, SIZE)
    for seed, size, option in ((-1, 10, "--seed"), (0, 9, "--size"), (0, 10**7, "--size")):
        with pytest.raises(UserError, match=option):
            make_scenes(folder, seed, size)
    assert not list(folder.parent.glob(".*"))


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(LAYOUTS, "textcaps", stop)
    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path / "six", 0, 10)
    assert not list(tmp_path.iterdir())


def test_a_progress_bar_counts_every_example(tmp_path, monkeypatch):
    from experiments.scenes.layouts import make

    bars = []

    class Bar(make.Progress):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            bars.append(self)

    monkeypatch.setattr(make, "Progress", Bar)
    make_scenes(tmp_path / "six", 0, 10)
    (bar,) = bars
    assert bar.n == bar.total == 6 * 15 + 3
