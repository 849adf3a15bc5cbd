"""The official file formats: what is written comes back through the loaders; bad files give a clear line."""

import json
import sys
from collections import Counter

import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.datasets import easy_vqa, karpathy, snli_ve, vqa_v2
from experiments.scenes.drawing import draw
from experiments.scenes.scene import Scene
from experiments.scenes.write import Sizes, write_scenes

SIZES = Sizes(questions=(30, 10, 20), hypotheses=(24, 9, 12), captions=(12, 4, 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", seed=5, sizes=SIZES)


def load_vqa(folder, subtype="train2014"):
    place = folder / "vqa_v2"
    return vqa_v2.load(
        place / f"v2_OpenEnded_mscoco_{subtype}_questions.json",
        place / f"v2_mscoco_{subtype}_annotations.json",
        place / subtype,
    )


def load_ve(folder, split="train"):
    return snli_ve.load(
        folder / "snli_ve" / f"snli_ve_{split}.jsonl", folder / "snli_ve" / "flickr30k_images"
    )


def load_captions(folder, split="train"):
    return karpathy.load(folder / "karpathy" / "dataset_coco.json", folder / "karpathy", split)


def test_round_trip(folder):
    assert [len(load_vqa(folder, name)) for name in ("train2014", "val2014", "test2014")] == [30, 10, 20]
    assert [len(load_ve(folder, name)) for name in ("train", "dev", "test")] == [24, 9, 12]
    assert [len(load_captions(folder, name)) for name in ("train", "val", "test")] == [12, 4, 5]
    for load, place in ((load_vqa, "vqa_v2"), (load_ve, "snli_ve"), (load_captions, "karpathy")):
        shown = json.loads((folder / place / "scenes.json").read_text())
        examples = load(folder)
        assert len({example.id for example in examples}) == len(examples)
        for example in examples:
            image = Image.open(example.image)
            assert image.size == (64, 64) and image.mode == "RGB"
            assert image.tobytes() == draw(Scene.from_dict(shown[example.image.name])).tobytes()
    assert all(len(example.references) == 10 for example in load_vqa(folder))
    assert {example.references for example in load_ve(folder)} == {
        ("entailment",),
        ("contradiction",),
        ("neutral",),
    }
    assert all(
        len(set(example.references)) == 5 and example.kind == "caption" for example in load_captions(folder)
    )


def test_the_same_seed_writes_the_same_files(folder, tmp_path):
    again = write_scenes(tmp_path / "again", seed=5, sizes=SIZES)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(again) for file in again.rglob("*") if file.is_file())
    assert all((folder / file).read_bytes() == (again / file).read_bytes() for file in files)


def test_a_finished_folder_is_reused_and_another_one_refused(folder, tmp_path):
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert write_scenes(folder, seed=5, sizes=SIZES) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other settings.*choose another folder"):
        write_scenes(folder, seed=6, sizes=SIZES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="no folder of drawn scenes"):
        write_scenes(tmp_path / "mine", seed=5, sizes=SIZES)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "dear"
    assert not list(folder.parent.glob(".*")) and not list(tmp_path.glob(".*"))
    with pytest.raises(UserError, match="questions"):
        Sizes(questions=(0, 1, 1))


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.scenes.write._write_captions", stop)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "scenes", seed=5, sizes=SIZES)
    assert not list(tmp_path.iterdir())


# Hand-made files as the real ones look


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)


def vqa_files(tmp_path, questions=None, annotations=None):
    save(tmp_path / "val2014" / "COCO_val2014_000000262148.jpg")
    answers = [
        {"answer": text, "answer_confidence": "yes", "answer_id": k + 1}
        for k, text in enumerate(["down"] * 6 + ["at table"] * 4)
    ]
    questions = questions or {
        "info": {},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "license": {},
        "data_subtype": "val2014",
        "questions": [{"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000}],
    }
    annotations = annotations or {
        "annotations": [
            {
                "question_type": "where is the",
                "multiple_choice_answer": "down",
                "answers": answers,
                "image_id": 262148,
                "answer_type": "other",
                "question_id": 262148000,
            }
        ]
    }
    (tmp_path / "q.json").write_text(json.dumps(questions))
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    return tmp_path / "q.json", tmp_path / "a.json", tmp_path / "val2014"


def test_reads_the_real_vqa_v2_shape(tmp_path):
    (example,) = vqa_v2.load(*vqa_files(tmp_path))
    assert example.id == "262148000" and example.image.name == "COCO_val2014_000000262148.jpg"
    assert example.prompt == "Where is he looking?" and example.kind == "where is the"
    assert Counter(example.references) == {"down": 6, "at table": 4}


def test_reads_the_real_snli_ve_shape(tmp_path):
    save(tmp_path / "images" / "4705552913.jpg")
    pair = {
        "annotator_labels": ["neutral"],
        "captionID": "4705552913.jpg#2",
        "gold_label": "neutral",
        "pairID": "4705552913.jpg#2r1n",
        "sentence1": "Two women are hugging.",
        "sentence1_parse": "(ROOT)",
        "sentence2": "The sisters are hugging goodbye.",
        "sentence2_parse": "(ROOT)",
        "Flickr30K_ID": "4705552913",
    }
    lines = [pair, {**pair, "gold_label": "-"}, {**pair, "Flickr30K_ID": "4705552913.jpg", "pairID": "other"}]
    (tmp_path / "snli_ve_dev.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    first, second = snli_ve.load(tmp_path / "snli_ve_dev.jsonl", tmp_path / "images")
    assert (
        first.id == "4705552913.jpg#2r1n" and first.references == ("neutral",) and first.kind == "hypothesis"
    )
    assert first.prompt == "The sisters are hugging goodbye." and first.image == second.image


def test_reads_the_real_karpathy_shape(tmp_path):
    names = [
        "COCO_val2014_000000391895.jpg",
        "COCO_val2014_000000522418.jpg",
        "COCO_train2014_000000184613.jpg",
    ]
    images = []
    for number, (name, split) in enumerate(zip(names, ("test", "restval", "train"))):
        path = name.split("_")[1]
        save(tmp_path / path / name)
        images.append(
            {
                "filepath": path,
                "sentids": [number],
                "filename": name,
                "imgid": number,
                "split": split,
                "cocoid": int(name[-10:-4]),
                "sentences": [{"tokens": ["a", "man"], "raw": "A man. ", "imgid": number, "sentid": number}],
            }
        )
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    load = lambda split: karpathy.load(tmp_path / "dataset_coco.json", tmp_path, split)  # noqa: E731
    assert [example.id for example in load("train")] == ["522418", "184613"]
    assert [(example.id, example.references) for example in load("test")] == [("391895", ("A man.",))]
    with pytest.raises(UserError, match="no image of split 'val'"):
        load("val")
    with pytest.raises(UserError, match="split 'dev' is unknown"):
        load("dev")


def test_vqa_errors_name_file_field_and_remedy(tmp_path):
    q, a, images = vqa_files(tmp_path)
    with pytest.raises(UserError, match="absent.json: no such file; .*download"):
        vqa_v2.load(tmp_path / "absent.json", a, images)
    with pytest.raises(UserError, match="nowhere: no such image folder"):
        vqa_v2.load(q, a, tmp_path / "nowhere")
    content = json.loads(q.read_text())
    (images / "COCO_val2014_000000262148.jpg").unlink()
    with pytest.raises(
        UserError, match=r"COCO_val2014_000000262148: no such image.*questions\[0\] of .*q.json.*unpack"
    ):
        vqa_v2.load(q, a, images)
    q.write_text('{"questions": [')
    with pytest.raises(UserError, match="q.json: not valid JSON"):
        vqa_v2.load(q, a, images)
    del content["questions"][0]["image_id"]
    with pytest.raises(UserError, match=r"q.json: questions\[0\] has no field 'image_id'"):
        vqa_v2.load(*vqa_files(tmp_path, questions=content))
    with pytest.raises(UserError, match=r"q.json: the file has no field 'data_subtype'"):
        vqa_v2.load(*vqa_files(tmp_path, questions={"questions": []}))
    with pytest.raises(UserError, match="a.json: no annotation with question_id 262148000.*same split"):
        vqa_v2.load(*vqa_files(tmp_path, annotations={"annotations": []}))
    q, a, images = vqa_files(tmp_path, annotations={"annotations": [{"answers": "yes"}]})
    with pytest.raises(UserError, match=r"a.json: field 'answers' of annotations\[0\] is str"):
        vqa_v2.load(q, a, images)


def test_snli_ve_errors_name_file_line_and_field(tmp_path):
    save(tmp_path / "images" / "1.jpg")
    file = tmp_path / "snli_ve_test.jsonl"
    pair = {"Flickr30K_ID": "1", "gold_label": "neutral", "sentence2": "x", "pairID": "p"}
    for line, message in (
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 is list, not an object"),
        (json.dumps({**pair, "gold_label": "maybe"}), "'gold_label' of line 2 is 'maybe'; known: entailment"),
        (json.dumps({**pair, "Flickr30K_ID": "2"}), "2: no such image, though line 2 of"),
        (json.dumps({"gold_label": "neutral"}), "line 2 has no field 'Flickr30K_ID'"),
    ):
        file.write_text(json.dumps(pair) + "\n" + line)
        with pytest.raises(UserError, match=message):
            snli_ve.load(file, tmp_path / "images")


def test_karpathy_errors_name_file_and_field(tmp_path):
    file = tmp_path / "dataset_coco.json"
    image = {
        "filename": "a.jpg",
        "filepath": "val2014",
        "cocoid": 1,
        "split": "val",
        "sentences": [{"raw": "x"}],
    }
    save(tmp_path / "val2014" / "a.jpg")
    for change, message in (
        ({"filename": "b.jpg"}, "b.jpg: no such image"),
        ({"sentences": []}, "'sentences' of .* is empty"),
        ({"sentences": [{}]}, r"images\[0\].sentences\[0\] has no field 'raw'"),
        ({"split": 3}, "field 'split' of .* is int"),
        ({"filepath": "val2017"}, "val2017: no such image folder"),
    ):
        file.write_text(json.dumps({"images": [{**image, **change}]}))
        with pytest.raises(UserError, match=message):
            karpathy.load(file, tmp_path, "val")


def test_easy_vqa_is_whole():
    pytest.importorskip("easy_vqa")
    splits = {split: easy_vqa.load(split) for split in easy_vqa.SPLITS}
    assert sum(map(len, splits.values())) == 48248
    images = {split: {example.image for example in examples} for split, examples in splits.items()}
    assert sum(map(len, images.values())) == len(set.union(*images.values())) == 5000
    assert [len(images[split]) for split in easy_vqa.SPLITS] == [3600, 400, 1000]
    assert len(splits["test"]) == 9673 and splits["validation"] == easy_vqa.load("validation")
    for examples in splits.values():
        assert {example.kind for example in examples} == {
            "yesno-shape",
            "yesno-color",
            "which-shape",
            "which-color",
        }
        assert len({example.id for example in examples}) == len(examples)
        assert Image.open(examples[0].image).size == (64, 64)
    with pytest.raises(UserError, match="split 'dev' is unknown"):
        easy_vqa.load("dev")


def test_easy_vqa_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(UserError, match="pip install easy-vqa"):
        easy_vqa.load("test")
