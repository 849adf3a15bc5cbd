"""COCO captions: small files as the real ones look, in three formats, and every fault in them."""

import json

import pytest

from attngraph.errors import UserError
from experiments.datasets.coco import COCO
from experiments.datasets.dataset import data_set_named, split_examples
from experiments.datasets.faults import Faults
from experiments.datasets.tables import table
from experiments.metrics.ptb import tokenize
from tests.experiments.datasets.tiny_images import save_image

# cocoid -> (folder, split, captions); one has six captions, one two that are equal
IMAGES = {
    391895: ("val2014", "test", ["A man. ", "a man", "a man", "men", "m"]),
    522418: ("val2014", "restval", [f"cake {k}" for k in range(6)]),
    184613: ("val2014", "val", ["a cow"] * 5),
    57870: ("train2014", "train", [f"a restaurant {k}" for k in range(5)]),
}


def file_name(number):
    folder = IMAGES[number][0]
    return f"COCO_{folder}_{number:012d}.jpg"


def karpathy_image(number, imgid):
    folder, split, captions = IMAGES[number]
    sentences = [
        {"tokens": text.split(), "raw": text, "imgid": imgid, "sentid": 10 * imgid + k}
        for k, text in enumerate(captions)
    ]
    return {
        "filepath": folder,
        "sentids": [sentence["sentid"] for sentence in sentences],
        "filename": file_name(number),
        "imgid": imgid,
        "split": split,
        "sentences": sentences,
        "cocoid": number,
    }


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "coco"
    for number, (folder, _, _) in IMAGES.items():
        save_image(root / folder / file_name(number))
    return root


def write_karpathy(root, change=lambda images: None):
    images = [karpathy_image(number, imgid) for imgid, number in enumerate(IMAGES)]
    change(images)
    (root / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))


def write_blip(root, change=lambda files: None):
    train = [
        {"caption": text, "image": f"{folder}/{file_name(number)}", "image_id": f"coco_{number}"}
        for k in range(6)
        for number, (folder, split, captions) in IMAGES.items()
        if split in ("train", "restval")
        for text in captions[k : k + 1]  # the captions of an image are not side by side
    ]
    files = {"train": train}
    for name in ("val", "test"):
        files[name] = [
            {"image": f"{folder}/{file_name(number)}", "caption": list(captions)}
            for number, (folder, split, captions) in IMAGES.items()
            if split == name
        ]
    change(files)
    for name, content in files.items():
        (root / f"coco_karpathy_{name}.json").write_text(json.dumps(content))


def write_2014(root, change=lambda content: None):
    for name in ("train2014", "val2014"):
        numbers = [number for number, (folder, _, _) in IMAGES.items() if folder == name]
        content = {
            "info": {"year": 2014},
            "licenses": [],
            "images": [
                {"license": 5, "file_name": file_name(n), "height": 1, "width": 1, "id": n} for n in numbers
            ],
            "annotations": [
                {"image_id": n, "id": 1000 * n + k, "caption": text}
                for k in range(6)
                for n in numbers
                for text in IMAGES[n][2][k : k + 1]
            ],
        }
        change(content)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"captions_{name}.json").write_text(json.dumps(content))


def read(root, split, form=None, limit=0):
    faults = Faults(limit)
    examples = split_examples(COCO, root, split, faults, form)
    return {example.id: example.references for example in examples}, faults.messages


def captions(*numbers):
    return {str(number): tuple(text.strip() for text in IMAGES[number][2]) for number in numbers}


@pytest.mark.parametrize("write", [write_karpathy, write_blip])
def test_karpathys_split_in_both_formats(root, write):
    write(root)
    assert read(root, "train")[0] == captions(522418, 57870)  # restval is train; six captions stay six
    assert read(root, "val")[0] == captions(184613)
    assert read(root, "test")[0] == captions(391895)
    (example,) = table(COCO, root, "test")
    assert example.image == root / "val2014" / "COCO_val2014_000000391895.jpg"
    assert example.prompt == "" and example.kind == "caption"
    with pytest.raises(UserError, match="COCO Captions has no split 'dev': choose from train, val, test"):
        read(root, "dev")


def test_official_annotations_have_their_own_splits(root):
    write_2014(root)
    assert read(root, "train2014")[0] == captions(57870)
    assert read(root, "val2014")[0] == captions(391895, 522418, 184613)
    with pytest.raises(UserError, match="dataset_coco.json missing, which the split 'val' of COCO"):
        read(root, "val")  # not silently another split


def test_karpathys_file_comes_first(root):
    write_karpathy(root), write_blip(root), write_2014(root)
    for split in ("train", "val", "test"):
        assert COCO.reader(root, split).name == "karpathy"
        assert COCO.reader(root, split, "blip").name == "blip"
    assert COCO.reader(root, "val2014").name == "coco2014"


def test_data_set_is_known_by_name_and_counts_add_up():
    coco = data_set_named("coco")
    karpathy, blip, official, _ = coco.readers
    assert karpathy.published == blip.published
    for kind in ("images", "records"):
        total = sum(getattr(counts, kind) for counts in karpathy.published.values())
        assert total == sum(getattr(counts, kind) for counts in official.published.values())
    for archive in coco.archives:
        assert archive.url.endswith(archive.name) and archive.holds


def change_first(**changes):
    def change(images):
        images[0].update(changes)

    return change


def empty_caption(images):
    images[0]["sentences"][1]["raw"] = " \n"


def other_image(images):
    images[0]["sentences"][1]["imgid"] = 7


def twice(images):
    images.append(karpathy_image(391895, 0))


@pytest.mark.parametrize(
    "change, message, left",
    [
        (change_first(filename="b.jpg"), r"val2014: no such image as 'b.jpg', though images\[0\] of", None),
        (change_first(sentences=[]), r"'sentences' of images\[0\] is empty", None),
        (change_first(sentences="A man"), r"'sentences' of images\[0\] is str", None),
        (change_first(sentences=[3]), r"images\[0\].sentences\[0\] is int, not an object", None),
        (empty_caption, r"'raw' of images\[0\].sentences\[1\] is empty", 4),
        (other_image, r"sentences\[1\] has the imgid 7, but images\[0\] has 0", 4),
        (
            change_first(split="vall"),
            "field 'split' of .* is 'vall'; give one of train, restval, val, test",
            None,
        ),
        (change_first(split=3), "field 'split' of .* is int", None),
        (change_first(cocoid="1"), "field 'cocoid' of .* is str", None),
        (change_first(cocoid=True), "field 'cocoid' of .* is bool", None),
        (change_first(filepath="val2017"), "val2017: no such image folder", None),
        (change_first(filepath="../coco/val2014"), "outside .*coco; give the official file", None),
        (change_first(filepath="/etc"), "outside .*coco; give the official file", None),
        (twice, r"images\[5\] has the id 391895, which images\[0\] has too", 5),
    ],
)
def test_faults_of_karpathys_file(root, change, message, left):
    def damage(images):
        images.append({**karpathy_image(391895, 4), "cocoid": 5})  # stays, so that the split is not empty
        change(images)

    write_karpathy(root, damage)
    with pytest.raises(UserError, match=message) as error:
        read(root, "test")
    assert "\n" not in str(error.value) and str(root) in str(error.value)
    found, messages = read(root, "test", limit=1)
    assert len(messages) == 1 and set(found) == ({"5"} if left is None else {"5", "391895"})
    assert left is None or len(found["391895"]) == left


def test_all_faults_are_collected(root):
    def change(images):
        empty_caption(images), images[1].update(split="x"), images[2].update(filename="gone.jpg")

    write_karpathy(root, change)
    faults = Faults(None)
    assert len(list(COCO.readers[0].examples(root, "val", faults))) == 0
    assert len(faults) == 2
    with pytest.raises(UserError, match="--skip-bad 1 is too few: 2 damaged records so far"):
        list(COCO.readers[0].examples(root, "val", Faults(1)))


def test_an_image_whose_captions_are_all_empty_is_left_out_whole(root):
    write_karpathy(root, lambda images: [sentence.update(raw="") for sentence in images[2]["sentences"]])
    faults = Faults(None)
    assert list(COCO.readers[0].examples(root, "val", faults)) == [] and len(faults) == 5
    with pytest.raises(UserError, match="split 'val' has no captions"):
        read(root, "val", limit=None)


@pytest.mark.parametrize(
    "split, change, message, found",
    [
        (
            "test",
            lambda f: f["test"].append(f["test"][0]),
            r"record 1 has the image .* record 0 has too",
            5,
        ),
        (
            "test",
            lambda f: f["test"].append({"image": "val2014/x.jpg", "caption": ["a"]}),
            "no such image as 'x.jpg'",
            5,
        ),
        (
            "test",
            lambda f: f["test"].append({"image": f["val"][0]["image"], "caption": []}),
            r"'caption' of record 1 is empty",
            5,
        ),
        (
            "test",
            lambda f: f["test"].append({"image": f["val"][0]["image"], "caption": 3}),
            "'caption' .* is int",
            5,
        ),
        (
            "test",
            lambda f: f["test"][0]["caption"].append(""),
            r"'caption' of caption 5 of record 0 is empty",
            5,
        ),
        (
            "test",
            lambda f: f["test"][0]["caption"].append(None),
            "'caption' of caption 5 of .* is NoneType",
            5,
        ),
        ("test", lambda f: f["test"].append({"caption": "a"}), r"record 1 has no field 'image'", 5),
        ("test", lambda f: f["test"].append("a"), r"record 1 is str, not an object", 5),
        ("test", lambda f: f["test"].append({"image": "../x.jpg", "caption": "a"}), "outside .*coco", 5),
        (
            "train",
            lambda f: f["train"].append({**f["train"][0], "caption": " "}),
            r"'caption' of record 11 is empty",
            6,
        ),
    ],
)
def test_faults_of_blips_files(root, split, change, message, found):
    write_blip(root, change)
    with pytest.raises(UserError, match=message):
        read(root, split)
    examples, messages = read(root, split, limit=1)
    assert len(messages) == 1 and len(next(iter(examples.values()))) == found


def test_a_missing_image_of_blips_train_is_said_once(root):
    write_blip(root)
    (root / "val2014" / file_name(522418)).unlink()
    examples, messages = read(root, "train", limit=1)
    assert examples == captions(57870) and len(messages) == 1


@pytest.mark.parametrize(
    "change, message, found",
    [
        (
            lambda c: c["annotations"].append({"image_id": 1, "id": 1, "caption": "a"}),
            r"a caption of the image 1, which 'images' does not have",
            captions(391895, 522418, 184613),
        ),
        (
            lambda c: c["annotations"].append({"image_id": "391895", "id": 1, "caption": "a"}),
            "'image_id' of .* is str",
            captions(391895, 522418, 184613),
        ),
        (
            lambda c: c["annotations"].append({"image_id": 391895, "id": 1, "caption": ""}),
            "'caption' of .* is empty",
            captions(391895, 522418, 184613),
        ),
        (
            lambda c: c["annotations"].append(dict(c["annotations"][0])),
            r"has the id \d+, which annotations\[0\] has too",
            captions(391895, 522418, 184613),
        ),
        (
            lambda c: c["images"].append(dict(c["images"][0])),
            r"images\[.\] has the id \d+, which images\[0\] has too",
            captions(391895, 522418, 184613),
        ),
        (
            lambda c: c["images"].append({"id": 7, "file_name": file_name(184613)}),
            r"images\[.\], the image 7, has no captions",
            captions(391895, 522418, 184613),
        ),
        (
            lambda c: c["images"][0].pop("file_name"),
            r"images\[0\] has no field 'file_name'",
            captions(522418, 184613),
        ),
        (
            lambda c: c["images"][0].update(file_name="x.jpg"),
            r"no such image as 'x.jpg'",
            captions(522418, 184613),
        ),
    ],
)
def test_faults_of_the_official_annotations(root, change, message, found):
    write_2014(root, change)
    with pytest.raises(UserError, match=message):
        read(root, "val2014")
    examples, messages = read(root, "val2014", limit=1)
    assert examples == found and len(messages) == 1


@pytest.mark.parametrize(
    "write, name", [(write_karpathy, "dataset_coco.json"), (write_blip, "coco_karpathy_test.json")]
)
def test_files_that_are_damaged_as_a_whole(root, write, name):
    write(root)
    file, text = root / name, (root / name).read_text()
    file.write_bytes(b"\xef\xbb\xbf" + text.replace(", ", ",\r\n").encode())  # BOM and CRLF are no fault
    assert read(root, "test")[0] == captions(391895)
    for content, message in (
        (b"", "not valid JSON"),
        (text[:-2].encode() + b",]}"[: len(text)], "not valid JSON"),
        (text.encode("utf-16"), "no UTF-8 text"),
        (text.replace("A man", "caf\xe9").encode("latin-1"), "no UTF-8 text|not valid JSON"),
        (b"null", "the file is NoneType"),
        (b"{}", "the file has no field|the file is dict"),
        (b'{"images": {}}', "field 'images' of the file is dict|the file is dict"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: .*({message})"):
            read(root, "test", limit=None)
    for content in (b'{"images": []}', b"[]"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: (split 'test' has no captions|the f|field 'images')"):
            read(root, "test", limit=None)


SEPARATORS = ["a\u2028b", "c\rd", "e\u2029f", "g\u0085h", "i\x0bj", "k\x0cl", "m\r\nn"]


@pytest.mark.parametrize("write", [write_karpathy, write_blip])
def test_separators_inside_a_caption_stay_and_the_tokeniser_keeps_the_lines_apart(root, write, monkeypatch):
    monkeypatch.setitem(IMAGES, 184613, ("val2014", "val", SEPARATORS))
    write(root)
    ((_, found),) = read(root, "val")[0].items()
    assert list(found) == SEPARATORS
    assert list(table(COCO, root, "val")[0].references) == SEPARATORS  # through the Arrow table too
    tokens = tokenize(found)
    assert len(tokens) == len(SEPARATORS)
    assert [line.replace("...", " ").split() for line in tokens] == [
        ["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"], ["i", "j"], ["k", "l"], ["m", "n"],
    ]  # fmt: skip
