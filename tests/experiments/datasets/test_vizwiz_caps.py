"""VizWiz-Captions: small files as the real ones look, which captions count, and every fault."""

import json

import pytest

from attngraph.errors import UserError
from experiments.datasets.dataset import data_set_named, split_examples
from experiments.datasets.faults import Faults
from experiments.datasets.vizwiz_caps import VIZWIZ_CAPS
from tests.experiments.datasets.tiny_images import save_image

CANNED = "Quality issues are too severe to recognize visual content."
FIRST = 23431  # ids run on from split to split and are not the numbers of the files
# (caption, precanned, rejected)
CAPTIONS = [
    [
        ("A can of soup. ", False, False),
        ("a can", False, False),
        (CANNED, True, False),
        ("spam", False, True),
    ],
    [(CANNED, True, False), (CANNED, True, True)],
    [("a dog", False, False)] * 5,
]
USED = {"23431": ("A can of soup.", "a can"), "23433": ("a dog",) * 5}


def name(number, split="val"):
    return f"VizWiz_{split}_{number:08d}.jpg"


def content(split="val", change=lambda content: None):
    images = [
        {
            "file_name": name(number, split),
            "vizwiz_url": f"https://vizwiz.cs.colorado.edu/VizWiz_visualization_img/{name(number, split)}",
            "id": FIRST + number,
            "text_detected": number == 0,
        }
        for number in range(3)
    ]
    annotations = [
        {
            "caption": caption,
            "image_id": FIRST + number,
            "is_precanned": precanned,
            "is_rejected": rejected,
            "id": 117155 + 10 * number + k,
            "text_detected": False,
        }
        for number, captions in enumerate(CAPTIONS)
        for k, (caption, precanned, rejected) in enumerate(captions)
    ]
    found = {"info": {"version": "1.0"}, "images": images}
    if split != "test":
        found["annotations"] = annotations
    change(found)
    return found


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "vizwiz_caps"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val", "test"):
        for number in range(3):
            save_image(root / split / name(number, split))
    return root


def write(root, split="val", change=lambda content: None, folder="annotations"):
    (root / folder / f"{split}.json").write_text(json.dumps(content(split, change)))


def read(root, split="val", limit=0):
    faults = Faults(limit)
    examples = split_examples(VIZWIZ_CAPS, root, split, faults)
    return {example.id: example.references for example in examples}, faults.messages


@pytest.mark.parametrize("split", ["train", "val"])
def test_rejected_and_precanned_captions_are_dropped(root, split):
    write(root, split)
    assert read(root, split) == (USED, [])  # no fault, and the image without others is skipped
    first, _ = split_examples(VIZWIZ_CAPS, root, split, Faults())
    assert first.image == root / split / name(0, split) and first.prompt == "" and first.kind == "caption"
    assert VIZWIZ_CAPS.reader(root, split).notes(root, split) == [
        "4 of 11 captions are rejected or precanned and not used, as in the official evaluation; "
        "1 of 3 images have no other caption and are skipped"
    ]


def test_dropped_captions_are_those_that_the_official_api_drops(root):
    """By its rule, written once more: a caption is kept unless it is rejected or precanned."""
    write(root)
    kept = {}
    for record in content()["annotations"]:
        if not record["is_rejected"] and not record["is_precanned"]:
            kept.setdefault(str(record["image_id"]), []).append(record["caption"].strip())
    assert {key: list(value) for key, value in read(root)[0].items()} == kept


def test_test_has_images_alone_and_none_is_skipped(root):
    write(root, "test")
    assert read(root, "test")[0] == {str(FIRST + number): () for number in range(3)}
    assert VIZWIZ_CAPS.reader(root, "test").unanswered == ("test",)
    assert VIZWIZ_CAPS.reader(root, "test").notes(root, "test") == []


def test_annotations_beside_the_images_are_found_too(root):
    write(root, folder=".")
    assert read(root)[0] == USED
    (root / "val.json").unlink()
    with pytest.raises(UserError, match="annotations/val.json missing"):
        read(root)


def test_published_counts_are_those_of_the_official_api():
    published = data_set_named("vizwiz_caps").readers[0].published
    assert (published["val"].images, published["val"].records) == (7542, 33145)


def first_caption(**changes):
    return lambda content: content["annotations"][0].update(changes)


def first_image(**changes):
    return lambda content: content["images"][0].update(changes)


LESS = {"23431": ("a can",), "23433": ("a dog",) * 5}
ONE = {"23433": ("a dog",) * 5}


@pytest.mark.parametrize(
    "change, message, left",
    [
        (first_caption(caption=" "), r"field 'caption' of annotations\[0\] is empty", LESS),
        (first_caption(caption=3), r"field 'caption' of annotations\[0\] is int", LESS),
        (
            first_caption(is_rejected="no"),
            r"'is_rejected' of annotations\[0\] is str, not true or false",
            LESS,
        ),
        (first_caption(is_precanned=None), r"'is_precanned' of annotations\[0\] is missing", LESS),
        (first_caption(image_id=1), r"annotations\[0\] is a caption of the image 1, which 'images'", LESS),
        (first_caption(image_id="23431"), r"'image_id' of annotations\[0\] is str", LESS),
        (first_caption(id=None), r"'id' of annotations\[0\] is NoneType", LESS),
        (
            lambda c: c["annotations"].append(c["annotations"][0]),
            r"annotations\[11\] has the id 117155",
            USED,
        ),
        (lambda c: c["annotations"].append(None), r"annotations\[11\] is NoneType, not an object", USED),
        (lambda c: c["images"].append(c["images"][0]), r"images\[3\] has the id 23431", USED),
        (lambda c: c["images"].append({"id": 9}), r"images\[3\], the image 9, has no captions", USED),
        (first_image(file_name="gone.jpg"), "val: no such image as 'gone.jpg', though images.0. of", ONE),
        (first_image(file_name=""), r"field 'file_name' of images\[0\] is empty", ONE),
    ],
)
def test_faults(root, change, message, left):
    write(root, change=change)
    with pytest.raises(UserError, match=message) as error:
        read(root)
    assert "val.json" in str(error.value) and "\n" not in str(error.value)
    found, messages = read(root, limit=1)
    assert found == left and len(messages) == 1


def test_a_dropped_caption_may_be_empty(root):
    write(root, change=lambda c: c["annotations"][2].update(caption=""))
    assert read(root) == (USED, [])


def test_files_that_are_damaged_as_a_whole(root):
    write(root)
    file = root / "annotations" / "val.json"
    text = file.read_text()
    file.write_bytes(b"\xef\xbb\xbf" + text.replace(", ", ",\r\n").encode())
    assert read(root)[0] == USED
    for changed, message in (
        (b"", "not valid JSON"),
        (text[:-2].encode() + b",]}", "not valid JSON"),
        (text.encode("utf-16"), "no UTF-8 text"),
        (b"[]", "the file is list, not an object"),
        (json.dumps(content("test")).encode(), "the file has no field 'annotations'"),
        (b'{"images": [], "annotations": []}', "split 'val' has no captions"),
    ):
        file.write_bytes(changed)
        with pytest.raises(UserError, match=f"{file.name}: .*{message}"):
            read(root, limit=None)
