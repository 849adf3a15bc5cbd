"""TextCaps: captions that need the text in the picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments.base.reading import Damaged, Pictures, Record, records, shown
from experiments.data.damaged import Reading
from experiments.data.dataset import Counts, DataSet, Reader, register
from experiments.data.example import Example
from experiments.data.hub import Columns, Hub

_URL = "https://dl.fbaipublicfiles.com/textvqa"
_FOLDERS = {"train": "train_images", "val": "train_images", "test": "test_images"}  # val's archive is train's
_Item = tuple[str, Path, str | None, list[str] | None, str]  # image, its file, caption, references, place


class Official(Reader):
    """``TextCaps_0.1_{train,val,test}.json``: an item for each caption, those of an image not side by side.

    An example is an image with all its captions. ``reference_strs``, which repeats them in each item, must
    agree. ``test`` has no captions. The field ``image_path`` is not the path on the disk: images of train and
    val lie in ``train_images/``, those of test in ``test_images/``, under ``image_id``.
    """

    name, title = "official", "the official files, TextCaps_0.1_*.json"
    splits, unanswered = ("train", "val", "test"), ("test",)
    published = {"train": Counts(21_953, 109_765), "val": Counts(3_166, 15_830), "test": Counts(3_289)}

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / f"TextCaps_0.1_{split}.json"]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / _FOLDERS[split]]

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        (file,), pictures = self.files(root, split), Pictures(root)
        captioned = split not in self.unanswered

        def item(record: Record) -> _Item:
            name = record.text("image_id")
            path, caption, references = pictures.path(_FOLDERS[split], name, record), None, None
            if captioned:
                record.field("caption_id", int)
                caption = record.text("caption_str").strip()
                if record.has("reference_strs"):
                    references = sorted(str(one).strip() for one in record.field("reference_strs", list))
            return name, path, caption, references, record.where

        images: dict[str, list[_Item]] = {}
        key = "caption_id" if captioned else None
        for one in reading.each(file, records(file, "data"), item, key):
            images.setdefault(one[0], []).append(one)
        for name, items in images.items():
            path = items[0][1]
            if fault := _disagreement(items, some=bool(reading.left_out or reading.faults)):
                error = f"{file}: the image {shown(name)} ({items[0][4]}) has {fault}; give the official file"
                reading.picture_fault(path, Damaged(error))
            yield Example(name, path, "", tuple(one[2] for one in items if one[2] is not None), "caption")


def _disagreement(items: list[_Item], some: bool) -> str | None:
    """How the captions of an image are not its references, if they are not.

    Args:
        items: about the image.
        some: whether captions may be missing, since items were left out.
    """
    told = [one[3] for one in items if one[3] is not None]
    if not told:
        return None
    if any(references != told[0] for references in told):
        return "items with different reference_strs"
    written = sorted(str(one[2]) for one in items)
    if some and all(caption in told[0] for caption in written):
        return None
    return (
        None
        if written == told[0]
        else f"{len(written)} captions that are not its {len(told[0])} reference_strs"
    )


_HUB = Hub(
    {split: ("lmms-lab/TextCaps", split) for split in Official.splits},
    Columns(id="image_id", references="caption_str"),
    Official.unanswered,
    Official.published,
)


class TextCaps(DataSet):
    name, title, unit = "textcaps", "TextCaps", "captions"
    readers = (Official(), _HUB)
    homepage = "https://textvqa.org/textcaps/"
    licence = "annotations CC BY 4.0 (?); images from Open Images, CC BY 2.0 as listed there"
    citation = (
        "Sidorov, Hu, Rohrbach and Singh (2020): TextCaps: a Dataset for Image Captioning with Reading "
        "Comprehension. ECCV."
    )
    contents = (
        (
            "TextCaps_0.1_{train,val,test}.json",
            "an item for each caption",
            f"{_URL}/data/textcaps/TextCaps_0.1_{{train,val,test}}.json",
        ),
        (
            "train_images/",
            "25,119 images <image_id>.jpg, of train and of val; 7.1 GB",
            f"{_URL}/images/train_val_images.zip",
        ),
        ("test_images/", "3,289 images <image_id>.jpg", f"{_URL}/images/test_images.zip"),
    )


TEXTCAPS = register(TextCaps())
