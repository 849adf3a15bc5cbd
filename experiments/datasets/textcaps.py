"""TextCaps: captions that need the text in the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as attribute
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.caption_files import KIND, caption_of, read_coco
from experiments.datasets.dataset import Archive, Counts, DataSet, Reader, register
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.hub import Columns, Hub
from experiments.datasets.pictures import Pictures
from experiments.datasets.reading import Unique, field, shown, text_field
from experiments.datasets.streams import records

_URL = "https://dl.fbaipublicfiles.com/textvqa"
_FOLDERS = {"train": "train_images", "val": "train_images", "test": "test_images"}  # val's archive is train's


@dataclass
class _Image:
    """What is known of an image so far.

    Args:
        where: its first item.
        path: its file; None if it is missing.
        captions: those that are whole.
        written: all captions of the items; None once an item was damaged.
        references: of the first item that has them, sorted.
    """

    where: str
    path: Path | None = None
    captions: list[str] = attribute(default_factory=list)
    written: list[str] | None = attribute(default_factory=list)
    references: list | None = None


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

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        (file,) = self.files(root, split)
        captioned = split not in self.unanswered
        pictures, ids, images = Pictures(root), Unique(file, "caption_id"), {}
        for where, item in records(file, "data"):
            with faults.leave_out():
                name = text_field(item, "image_id", file, where)
                if name not in images:
                    image = images[name] = _Image(where)
                    image.path = pictures.path(_FOLDERS[split], name, file, where)
                if captioned and images[name].path is not None:
                    _add(images[name], item, ids, file, where)
        for name, image in images.items():
            with faults.leave_out():
                if image.path is None or (captioned and not image.captions):
                    continue  # told above
                if image.written is not None and image.references is not None:
                    _agree(image, name, file)
                yield Example(name, image.path, "", tuple(image.captions), KIND)


def _add(image: _Image, item: dict, ids: Unique, file: Path, where: str) -> None:
    """Add an item's caption to its image."""
    written, image.written = image.written, None  # until it is seen to be whole
    ids.add(field(item, "caption_id", int, file, where), where)
    caption = caption_of(item, "caption_str", file, where)
    if "reference_strs" in item:
        references = _in_any_order(field(item, "reference_strs", list, file, where))
        if image.references is None:
            image.references = references
        elif image.references != references:
            raise UserError(
                f"{file}: {where} has other reference_strs than {image.where}, which is about the same "
                "image; give the official file"
            )
    image.captions.append(caption)
    if written is not None:
        image.written = [*written, caption]


def _in_any_order(captions: list) -> list[str]:
    """Captions as they are compared: in order, and without the space around them."""
    return sorted(str(caption).strip() for caption in captions)


def _agree(image: _Image, name: str, file: Path) -> None:
    """Raise a :class:`UserError` where an image's captions are not its references."""
    if _in_any_order(image.written) != image.references:
        raise UserError(
            f"{file}: the image {shown(name)} ({image.where}) has {len(image.written)} captions, but "
            f"reference_strs has {len(image.references)} that do not all agree with them; give the official "
            "file"
        )


class PAdapter(Reader):
    """``TextCaps_coco_format_val.json``: val in COCO's format, as p-Adapter's evaluation expects it. An
    image's id is its name; there is no split but val.
    """

    name, title = "p-adapter", "COCO's format, TextCaps_coco_format_val.json"
    splits = ("val",)
    published = {"val": Official.published["val"]}

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / f"TextCaps_coco_format_{split}.json"]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / _FOLDERS[split]]

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        (file,), pictures = self.files(root, split), Pictures(root)
        for image in read_coco(file, faults, str):
            with faults.leave_out():
                path = pictures.path(_FOLDERS[split], image.id, file, image.where)
                yield Example(image.id, path, "", image.captions, KIND)


_HUB = Hub(
    {split: ("lmms-lab/TextCaps", split) for split in Official.splits},
    Columns(id="image_id", references="caption_str"),
    Official.unanswered,
    Official.published,
)


class TextCaps(DataSet):
    name, title, unit = "textcaps", "TextCaps", "captions"
    readers = (Official(), PAdapter(), _HUB)
    homepage = "https://textvqa.org/textcaps/"
    licence = "annotations CC BY 4.0 (?); images from Open Images, CC BY 2.0 as listed there"
    citation = """\
@inproceedings{sidorov2020textcaps,
  title = {{TextCaps}: a Dataset for Image Captioning with Reading Comprehension},
  author = {Sidorov, Oleksii and Hu, Ronghang and Rohrbach, Marcus and Singh, Amanpreet},
  booktitle = {ECCV},
  year = {2020}
}"""
    archives = (
        *(
            Archive(
                f"TextCaps_0.1_{split}.json",
                f"{_URL}/data/textcaps/TextCaps_0.1_{split}.json",
                (f"TextCaps_0.1_{split}.json",),
            )
            for split in ("train", "val", "test")
        ),
        Archive(
            "train_val_images.zip", f"{_URL}/images/train_val_images.zip", ("train_images/",), 7_070_000_000
        ),
        Archive("test_images.zip", f"{_URL}/images/test_images.zip", ("test_images/",)),
    )
    tree = (
        ("TextCaps_0.1_{train,val,test}.json", "an item for each caption"),
        ("train_images/", "25,119 images <image_id>.jpg, of train and of val"),
        ("test_images/", "3,289 images <image_id>.jpg"),
        ("TextCaps_coco_format_val.json", "val in COCO's format, for `data check` and `predict` alone"),
    )


TEXTCAPS = register(TextCaps())
