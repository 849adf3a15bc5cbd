"""TextCaps: small files as the real ones look, and every fault in them."""

import json

import pytest

from attngraph.errors import UserError
from experiments.datasets.dataset import data_set_named, split_examples
from experiments.datasets.faults import Faults
from experiments.datasets.textcaps import TEXTCAPS
from tests.experiments.datasets.tiny_images import save_image

A, B, C = "00000a1b2c3d4e5f", "11111a1b2c3d4e5f", "22222a1b2c3d4e5f"
CAPTIONS = {
    A: ["A sign says stop.", "a stop sign", "a red sign", "a red sign", "STOP "],
    B: [f"bottle number {k} of beer" for k in range(5)],
}
STRIPPED = {name: tuple(text.strip() for text in texts) for name, texts in CAPTIONS.items()}


def about(name, split):
    return {
        "image_id": name,
        "image_classes": ["Sign"],
        "flickr_original_url": "https://c1.staticflickr.com/1.jpg",
        "flickr_300k_url": "https://c1.staticflickr.com/1_z.jpg",
        "image_width": 1024,
        "image_height": 768,
        "set_name": split,
        "image_name": name,
        "image_path": f"{split}/{name}.jpg",  # not where it lies
    }


def items(split):
    """An item for each caption, those of an image apart."""
    return [
        {
            **about(name, split),
            "caption_id": 10 * number + k,
            "caption_str": texts[k],
            "caption_tokens": texts[k].lower().split(),
            "reference_strs": texts,
            "reference_tokens": [text.lower().split() for text in texts],
        }
        for k in range(5)
        for number, (name, texts) in enumerate(CAPTIONS.items())
    ]


def write(root, split, data):
    content = {"dataset_type": split, "dataset_name": "textcaps", "dataset_version": "v0.1", "data": data}
    (root / f"TextCaps_0.1_{split}.json").write_text(json.dumps(content))


def write_coco_format(root, change=lambda content: None):
    content = {
        "images": [{"id": name} for name in CAPTIONS],
        "annotations": [
            {"image_id": name, "id": 10 * number + k, "caption": texts[k]}
            for k in range(5)
            for number, (name, texts) in enumerate(CAPTIONS.items())
        ],
    }
    change(content)
    (root / "TextCaps_coco_format_val.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "textcaps"
    save_image(root / "train_images" / f"{A}.jpg")
    save_image(root / "train_images" / f"{B}.jpg")
    save_image(root / "test_images" / f"{C}.jpg")
    return root


def read(root, split, form=None, limit=0):
    faults = Faults(limit)
    examples = split_examples(TEXTCAPS, root, split, faults, form)
    return {example.id: example.references for example in examples}, faults.messages


@pytest.mark.parametrize("split", ["train", "val"])
def test_captions_are_gathered_by_image(root, split):
    write(root, split, items(split))
    assert read(root, split)[0] == STRIPPED  # once an image, all five captions, equal ones too
    (example, _) = split_examples(TEXTCAPS, root, split, Faults())
    assert example.image == root / "train_images" / f"{A}.jpg"  # of val too
    assert example.prompt == "" and example.kind == "caption"


def test_test_has_images_alone(root):
    write(root, "test", [about(C, "test")])
    (example,) = split_examples(TEXTCAPS, root, "test", Faults())
    assert example.id == C and example.references == ()
    assert example.image == root / "test_images" / f"{C}.jpg"
    assert TEXTCAPS.reader(root, "test").unanswered == ("test",)
    write(root, "val", [about(A, "val")])
    with pytest.raises(
        UserError, match=r"data\[0\] has no field 'caption_id'"
    ):  # val without captions is damaged
        read(root, "val")


def test_cocos_format(root):
    write_coco_format(root)
    assert read(root, "val")[0] == STRIPPED and TEXTCAPS.reader(root, "val").name == "p-adapter"
    write(root, "val", items("val"))
    assert TEXTCAPS.reader(root, "val").name == "official"
    assert read(root, "val", "p-adapter") == read(root, "val", "official")
    with pytest.raises(UserError, match="TextCaps_0.1_train.json missing"):
        read(root, "train")
    for change, message in (
        (lambda c: c["images"].append({"id": 7}), r"field 'id' of images\[2\] is int"),
        (lambda c: c["images"].append({"id": "gone"}), r"the image 'gone', has no captions"),
        (
            lambda c: c["annotations"].append({"image_id": "x", "id": 99, "caption": "a"}),
            "a caption of the image 'x', which 'images' does not have",
        ),
    ):
        write_coco_format(root, change)
        with pytest.raises(UserError, match=message):
            read(root, "val", "p-adapter")
        found, messages = read(root, "val", "p-adapter", limit=1)
        assert found == STRIPPED and len(messages) == 1


def test_published_counts():
    official, adapter, _ = data_set_named("textcaps").readers
    assert official.published["val"].records == 5 * official.published["val"].images
    assert official.published["train"].records == 5 * official.published["train"].images
    assert adapter.published["val"] == official.published["val"]


ONLY_B = {B: STRIPPED[B]}
LESS = {A: STRIPPED[A][1:], B: STRIPPED[B]}


@pytest.mark.parametrize(
    "change, message, left",
    [
        ({"caption_str": " "}, r"field 'caption_str' of data\[0\] is empty", LESS),
        ({"caption_str": None}, r"field 'caption_str' of data\[0\] is NoneType", LESS),
        ({"caption_str": "another"}, f"the image '{A}' .data.0.. has 5 captions, but reference_strs", ONLY_B),
        ({"caption_id": "0"}, r"field 'caption_id' of data\[0\] is str", LESS),
        ({"caption_id": 11}, r"data\[3\] has the caption_id 11, which data\[0\] has too", None),
        ({"reference_strs": "a"}, r"field 'reference_strs' of data\[0\] is str", LESS),
        ({"reference_strs": ["a"]}, r"data\[2\] has other reference_strs than data\[0\]", None),
        ({"image_id": 3}, r"field 'image_id' of data\[0\] is int", None),
        ({"image_id": ""}, r"field 'image_id' of data\[0\] is empty", None),
        ({"image_id": "gone"}, "no such image as 'gone'", None),
        ({"image_id": f"../train_images/{A}"}, "no such image as", None),
    ],
)
def test_faults(root, change, message, left):
    data = items("val")
    data[0].update(change)
    write(root, "val", data)
    with pytest.raises(UserError, match=message) as error:
        read(root, "val")
    assert "TextCaps_0.1_val.json" in str(error.value) and "\n" not in str(error.value)
    found, messages = read(root, "val", limit=None)
    assert messages and B in found
    if left is not None:
        assert found == left and len(messages) == 1


def test_an_item_that_is_no_object_is_left_out(root):
    write(root, "val", [*items("val"), 3])
    with pytest.raises(UserError, match=r"data\[10\] is int, not an object"):
        read(root, "val")
    assert read(root, "val", limit=1)[0] == STRIPPED


def test_a_missing_caption_is_seen_in_the_references(root):
    write(root, "val", items("val")[1:])
    with pytest.raises(UserError, match=f"the image '{A}' .* has 4 captions, but reference_strs has 5"):
        read(root, "val")
    assert read(root, "val", limit=1)[0] == ONLY_B


def test_order_and_space_of_references_do_not_matter(root):
    data = items("val")
    data[0]["reference_strs"] = [f" {text.strip()}\t" for text in reversed(data[0]["reference_strs"])]
    data[1]["caption_str"] += " "
    write(root, "val", data)
    assert read(root, "val")[0] == STRIPPED


def test_a_missing_image_is_said_once(root):
    write(root, "val", items("val"))
    (root / "train_images" / f"{A}.jpg").unlink()
    with pytest.raises(UserError, match=f"train_images: no such image as '{A}'.*unpack all images there"):
        read(root, "val")
    found, messages = read(root, "val", limit=1)
    assert found == ONLY_B and len(messages) == 1
    (root / "train_images").rename(root / "val_images")
    with pytest.raises(UserError, match="train_images: no such image folder"):
        read(root, "val")


def test_files_that_are_damaged_as_a_whole(root):
    write(root, "val", items("val"))
    file = root / "TextCaps_0.1_val.json"
    text = file.read_text()
    file.write_bytes(b"\xef\xbb\xbf" + text.replace(", ", ",\r\n").encode())
    assert read(root, "val")[0] == STRIPPED
    for content, message in (
        (b"", "not valid JSON"),
        (text[:-2].encode() + b",]}", "not valid JSON"),
        (text.encode("utf-16"), "no UTF-8 text"),
        (b"[]", "the file is list, not an object"),
        (b"{}", "the file has no field 'data'"),
        (b'{"data": {}}', "field 'data' of the file is dict"),
        (b'{"data": []}', "split 'val' has no captions"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"{file.name}: .*{message}"):
            read(root, "val", limit=None)
