"""Karpathy's COCO captions: a file as the real one looks, and damaged ones."""

import json

import pytest

from attngraph.errors import UserError
from experiments.datasets import karpathy
from tests.experiments.datasets.tiny_images import save_image


def test_reads_the_real_karpathy_shape(tmp_path):
    names = [
        "COCO_val2014_000000391895.jpg",
        "COCO_val2014_000000522418.jpg",
        "COCO_train2014_000000184613.jpg",
    ]
    images = []
    for number, (name, split) in enumerate(zip(names, ("test", "restval", "train"))):
        path = name.split("_")[1]
        save_image(tmp_path / path / name)
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

    def load(split):
        return karpathy.load(tmp_path / "dataset_coco.json", tmp_path, split)

    assert [example.id for example in load("train")] == ["522418", "184613"]
    assert [(example.id, example.references) for example in load("test")] == [("391895", ("A man.",))]
    with pytest.raises(UserError, match="no image of split 'val'"):
        load("val")
    with pytest.raises(UserError, match="split 'dev' is unknown"):
        load("dev")


def test_karpathy_errors_name_file_and_field(tmp_path):
    file = tmp_path / "dataset_coco.json"
    image = {
        "filename": "a.jpg",
        "filepath": "val2014",
        "cocoid": 1,
        "split": "val",
        "sentences": [{"raw": "x"}],
    }
    save_image(tmp_path / "val2014" / "a.jpg")
    for change, message in (
        ({"filename": "b.jpg"}, "val2014: no such image as 'b.jpg'"),
        ({"sentences": []}, "'sentences' of .* is empty"),
        ({"sentences": [{"raw": "x"}, {"raw": " "}]}, r"'raw' of images\[0\].sentences\[1\] is empty"),
        ({"split": "vall"}, "field 'split' of .* is 'vall'; give one of train, restval, val, test"),
        (
            {"imgid": 1, "sentences": [{"raw": "x", "imgid": 2}]},
            r"sentences\[0\] has the imgid 2, but .* has 1",
        ),
        ({"cocoid": "1"}, "field 'cocoid' of .* is str"),
        ({"sentences": [{}]}, r"images\[0\].sentences\[0\] has no field 'raw'"),
        ({"split": 3}, "field 'split' of .* is int"),
        ({"filepath": "val2017"}, "val2017: no such image folder"),
    ):
        file.write_text(json.dumps({"images": [{**image, **change}]}))
        with pytest.raises(UserError, match=message):
            karpathy.load(file, tmp_path, "val")
    file.write_text(json.dumps({"images": [image, {**image, "split": "test"}, image]}))
    with pytest.raises(UserError, match=r"images\[2\] has the id 1, which images\[0\] has too"):
        karpathy.load(file, tmp_path, "val")
    assert len(karpathy.load(file, tmp_path, "test")) == 1
