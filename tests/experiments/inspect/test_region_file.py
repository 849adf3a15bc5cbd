"""Boxes and masks from a file, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageDraw

from attngraph.errors import UserError
from experiments.inspect.region_file import RegionFile
from experiments.models.batch import Sample


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (80, 40), "red").save(tmp_path / "one.png")
    return tmp_path / "one.png"


def read(folder, content, *pictures):
    file = folder / "regions.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    samples = [Sample(path.name, path) for path in pictures]
    return RegionFile(file, samples), samples


def test_a_box_and_the_mask_of_the_same_place_are_alike(picture, tmp_path):
    box = [12, 4, 30, 17]
    mask = Image.new("L", (80, 40))
    ImageDraw.Draw(mask).rectangle((12, 4, 41, 20), fill=255)
    mask.save(tmp_path / "mask.png")
    file, (sample,) = read(tmp_path, {"one.png": [{"box": box}, {"mask": "mask.png"}]}, picture)
    for rows, columns in ((4, 8), (8, 4), (5, 5), (1, 1)):
        one, other = file.parts(sample).masks(rows, columns)
        assert torch.equal(one, other)
    shown = file.parts(sample).masks(4, 8)[0].unflatten(0, (4, 8))
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[:3, 1:5] = True  # 10 x 10 pixels each; the last column holds 2 of 10, the last row 1 of 10,
    expected[2, 4] = False  # and the patch in both 2 of 100
    assert torch.equal(shown, expected)


def test_a_tiny_part_is_shown_by_one_patch(picture, tmp_path):
    file, (sample,) = read(tmp_path, {"one.png": [{"box": [41, 21, 1, 0.5]}]}, picture)
    masks = file.parts(sample).masks(2, 2)
    assert masks.tolist() == [[False, False, False, True]]


def test_words(picture, tmp_path):
    parts = [{"box": [0, 0, 9, 9], "words": ["Dog", "dogs"]}, {"box": [9, 9, 9, 9]}]
    file, (sample,) = read(tmp_path, {"one.png": parts, "other.png": [{"mask": "absent.png"}]}, picture)
    known = file.parts(sample)
    assert [sorted(named) for named in known.named(["a", "DOG"])] == [[1], [0, 1]]
    assert sorted(known.asked(["where", "dogs"])) == [0, 1] and file.parts(Sample("x", None)) is None


def test_examples_of_data_have_other_names_than_their_pictures(picture, tmp_path):
    """A question's number, say; and pictures are open when the model gets them."""
    (tmp_path / "regions.json").write_text(json.dumps({"one.png": [GOOD]}))
    samples = [Sample("7", picture), Sample("8", picture), Sample("9", None)]
    file = RegionFile(tmp_path / "regions.json", samples)
    opened = [replace(sample, image=Image.open(picture)) for sample in samples]
    assert [file.parts(sample) is not None for sample in opened] == [True, True, False]


GOOD = {"box": [0, 0, 9, 9]}


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "cannot be read"),
        ('{"one.png": 1, "one.png": 2}', "'one.png' occurs twice"),
        ([], "one JSON object with at least one picture"),
        ({}, "one JSON object with at least one picture"),
        ({"one.png": []}, "'one.png' must have a list of parts"),
        ({"one.png": GOOD}, "'one.png' must have a list of parts"),
        ({"one.png": [GOOD, 3]}, r"'one.png'\[1\] must be an object"),
        ({"one.png": [{"words": ["x"]}]}, "either the field 'box' or 'mask'"),
        ({"one.png": [{**GOOD, "mask": "m.png"}]}, "either the field 'box' or 'mask'"),
        ({"one.png": [{**GOOD, "bbox": 1}]}, "unknown field 'bbox'"),
        ({"one.png": [{"box": [0, 0, 9]}]}, r"field 'box' of 'one.png'\[0\]"),
        ({"one.png": [{"box": [0, 0, 0, 9]}]}, "width and height above 0"),
        ({"one.png": [{"box": [-1, 0, 9, 9]}]}, "x and y at least 0"),
        ({"one.png": [{"box": [0, 0, True, 9]}]}, "field 'box'"),
        ('{"one.png": [{"box": [0, 0, 1e999, 9]}]}', "field 'box'"),
        ({"one.png": [{"box": [72, 0, 9, 9]}]}, "leaves the picture, which has 80 x 40 pixels"),
        ({"one.png": [{"mask": ""}]}, "field 'mask' of 'one.png'"),
        ({"one.png": [{"mask": "none.png"}]}, r"field 'mask' of 'one.png'\[0\]: .*none.png not found"),
        ({"one.png": [{"mask": "small.png"}]}, "small.png has 4 x 4 pixels and the picture 80 x 40"),
        ({"one.png": [{"mask": "black.png"}]}, "black everywhere"),
        ({"one.png": [{"mask": "cut_out.png"}]}, "black nowhere: .* not transparent"),
        ({"one.png": [{**GOOD, "words": []}]}, "field 'words'"),
        ({"one.png": [{**GOOD, "words": "dog"}]}, "field 'words'"),
        ({"one.png": [{**GOOD, "words": ["traffic light"]}]}, "a list of single words"),
        ({"two.png": [GOOD]}, "none of the pictures that are looked at: .* such as 'one.png'"),
    ],
)
def test_what_is_wrong_is_named(content, message, picture, tmp_path):
    Image.new("L", (4, 4), 255).save(tmp_path / "small.png")
    Image.new("L", (80, 40)).save(tmp_path / "black.png")
    Image.new("RGBA", (80, 40)).save(tmp_path / "cut_out.png")
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, content, picture)
    assert str(error.value).startswith(f"--regions {tmp_path / 'regions.json'}: ")
    assert "\n" not in str(error.value)


def test_pictures_of_one_name_and_none(picture, tmp_path):
    (tmp_path / "more").mkdir()
    Image.open(picture).save(tmp_path / "more" / "one.png")
    with pytest.raises(UserError, match="have one name"):
        read(tmp_path, {"one.png": [GOOD]}, picture, tmp_path / "more" / "one.png")
    with pytest.raises(UserError, match="none are looked at: give --images or --data"):
        read(tmp_path, {"one.png": [GOOD]})
    (tmp_path / "two.png").write_text("no picture")
    file, _ = read(tmp_path, {"one.png": [GOOD], "two.png": [GOOD]}, picture, tmp_path / "two.png")
    assert file.parts(Sample("two", tmp_path / "two.png")) is None  # it is left out when it is looked at
