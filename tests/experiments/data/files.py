"""Each data set's official files with a handful of records, and the quirks that the real ones have."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

TEN = ["net"] * 7 + ["netting", "mesh", ""]
ANSWERS = [{"answer": text, "answer_confidence": "maybe"} for text in TEN]
KARPATHY = {1: "train", 2: "restval", 3: "val", 4: "test", 6: "val"}  # COCO's image id -> split


def save_image(path: Path) -> None:
    """Writes a small picture, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)


def dump(file: Path, content: Any) -> None:
    """Writes JSON, a line for each record where the name says so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = content if file.suffix == ".jsonl" else [content]
    file.write_text("".join(json.dumps(one, ensure_ascii="ud800" in str(one)) + "\n" for one in lines))


def load(file: Path) -> Any:
    """What :func:`dump` wrote."""
    text = file.read_text()
    return [*map(json.loads, text.split("\n")[:-1])] if file.suffix == ".jsonl" else json.loads(text)


def change(file: Path, place: Sequence[str | int], value: Any) -> None:
    """Puts a value at a place of a file; removes what is there where the value is ``...``."""
    holder = content = load(file)
    *above, last = [int(key) if str(key).isdigit() else key for key in place]
    for key in above:
        holder = holder[key]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    dump(file, content)


def vqa2(root: Path) -> None:
    """Two questions an image: images 1 to 4 and 6 in train2014 and val2014, 5 in test2015."""
    for part, images in (("train2014", [1]), ("val2014", [2, 3, 4, 6]), ("test2015", [5])):
        ids = [image * 1000 + k for image in images for k in range(2)]
        asked = [{"image_id": k // 1000, "question": f"What is {k}?", "question_id": k} for k in ids]
        dump(root / f"v2_OpenEnded_mscoco_{part}_questions.json", {"questions": asked})
        if part == "test2015":
            dump(root / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": asked[:1]})
        else:
            told = {"question_type": "what is", "answer_type": "other", "answers": ANSWERS}
            annotated = [{**told, "image_id": k // 1000, "question_id": k} for k in reversed(ids)]
            dump(root / f"v2_mscoco_{part}_annotations.json", {"annotations": annotated})
        for image in images:
            save_image(root / part / f"COCO_{part}_{image:012d}.jpg")
    images = [{"cocoid": k, "split": split, "filepath": "val2014"} for k, split in KARPATHY.items()]
    dump(root / "dataset_coco.json", {"images": images, "dataset": "coco"})


def vizwiz_vqa(root: Path) -> None:
    for split in ("train", "val", "test"):
        records = []
        for k in range(2):
            name = f"VizWiz_{split}_{k:08d}.jpg"
            save_image(root / split / name)
            told = {"answers": ANSWERS, "answer_type": "other", "answerable": k}
            record = {"image": name, "question": f"What is {k}?"}
            records.append(record if split == "test" else record | told)
        dump(root / "Annotations" / f"{split}.json", records)


def snli_ve(root: Path) -> None:
    """Each spelling of the image's field, and a pair without gold label."""
    save_image(root / "flickr30k_images" / "11.jpg")
    spellings = [{"Flickr30K_ID": "11"}, {"Flikr30kID": "11.jpg"}, {"Flickr30kID": 11}, {}]
    labels = ["entailment", "contradiction", "neutral", "-"]
    for part in ("train", "dev", "test"):
        pairs = [
            {"gold_label": label, "pairID": f"11.jpg#2r{k}n", "sentence2": f"They\u2028say {k}.", **spelling}
            for k, (spelling, label) in enumerate(zip(spellings, labels))
        ]
        dump(root / f"snli_ve_{part}.jsonl", pairs)


def coco(root: Path) -> None:
    """An image with five captions, and others with two."""
    images = []
    for k, split in KARPATHY.items():
        folder = "train2014" if k == 1 else "val2014"
        name = f"COCO_{folder}_{k:012d}.jpg"
        save_image(root / folder / name)
        sentences = [{"raw": f" Caption {n}. "} for n in range(5 if k == 1 else 2)]
        about = {"filepath": folder, "filename": name, "cocoid": k + 100, "split": split}
        images.append({**about, "sentences": sentences})
    dump(root / "dataset_coco.json", {"dataset": "coco", "images": images})


def textcaps(root: Path) -> None:
    """Two images with two captions each, the items of an image not side by side."""
    for split, folder in {"train": "train_images", "val": "train_images", "test": "test_images"}.items():
        items = []
        for n in range(2 if split != "test" else 1):
            for k in range(2):
                name = f"{split}{k:011d}"
                save_image(root / folder / f"{name}.jpg")
                item = {"image_id": name, "image_path": f"train/{name}.jpg"}
                told = {"caption_id": 2 * n + k, "caption_str": f"A sign {k} {n}. "}
                items.append(item if split == "test" else item | told)
        dump(root / f"TextCaps_0.1_{split}.json", {"dataset_type": split, "data": items})


def vizwiz_caps(root: Path) -> None:
    """Images' ids run on over the splits, captions' ids are among them. The last image of each has captions
    that are not used alone.
    """
    for first, split in ((0, "train"), (3, "val"), (6, "test")):
        images, annotations = [], []
        for k in range(3):
            name = f"VizWiz_{split}_{k:08d}.jpg"
            save_image(root / split / name)
            images.append({"id": first + k, "file_name": name})
            for n in range(2):
                flags = {"is_precanned": k == 2, "is_rejected": k == 1 and n == 1}
                number = first + 2 * k + n
                annotations.append({"id": number, "image_id": first + k, "caption": f" Can {n}. ", **flags})
        told = {} if split == "test" else {"annotations": annotations}
        dump(root / "annotations" / f"{split}.json", {"images": images, **told})


#: Data set -> writes its files into a folder.
WRITERS: dict[str, Callable[[Path], None]] = {
    write.__name__: write for write in (vqa2, vizwiz_vqa, snli_ve, coco, textcaps, vizwiz_caps)
}
