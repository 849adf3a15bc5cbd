"""VizWiz-Captions: captions of pictures that blind people took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.archives import VIZWIZ, VIZWIZ_IMAGES
from experiments.datasets.caption_files import KIND, read_coco
from experiments.datasets.dataset import Archive, Counts, DataSet, Reader, register
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.pictures import Pictures
from experiments.datasets.reading import field, read_json, text_field


class Official(Reader):
    """``annotations/{train,val,test}.json``, in COCO's format; ``test`` has images alone.

    Captions that are rejected or precanned ("Quality issues are too severe to recognize visual content.") are
    dropped, in training as in evaluation, and images without others are skipped: so does the official API
    unless it is told otherwise. :meth:`notes` says how many. An image's id is ``images[].id``, which runs on
    over the splits; the number in its file's name is another.
    """

    name, title = "official", "the official files"
    splits, unanswered = ("train", "val", "test"), ("test",)
    published = {"val": Counts(7_542, 33_145), "test": Counts(8_000)}  # of train, only all captions are known

    def files(self, root: Path, split: str) -> list[Path]:
        plain = root / f"{split}.json"  # unpacked without its folder
        file = root / "annotations" / f"{split}.json"
        return [plain if plain.is_file() and not file.is_file() else file]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / split]

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        (file,), pictures = self.files(root, split), Pictures(root)

        def used(annotation: dict, where: str) -> bool:
            dropped = [_flag(annotation, name, file, where) for name in ("is_rejected", "is_precanned")]
            return not any(dropped)

        for image in read_coco(file, faults, int, split not in self.unanswered, used):
            with faults.leave_out():
                name = text_field(image.record, "file_name", file, image.where)
                path = pictures.path(split, name, file, image.where)
                yield Example(str(image.id), path, "", image.captions, KIND)

    def notes(self, root: Path, split: str) -> list[str]:
        if split in self.unanswered:
            return []
        captions, used, images = self._used(root, split)
        return [
            f"{captions - len(used):,} of {captions:,} captions are rejected or "
            "precanned and not used, as in the official evaluation; "
            f"{len(images) - len(set(used)):,} of {len(images):,} images have no other caption and are "
            "skipped"
        ]

    def unscored(self, root: Path, split: str) -> set[str]:
        if split in self.unanswered:
            return set()
        _, used, images = self._used(root, split)
        return {str(image) for image in set(images) - set(used)}

    def _used(self, root: Path, split: str) -> tuple[int, list[int], list[int]]:
        """The number of captions, the image of each caption that is used, and all images."""
        (file,) = self.files(root, split)
        content = read_json(file)
        annotations = field(content, "annotations", list, file, "the file")
        used = [
            annotation.get("image_id")
            for annotation in annotations
            if isinstance(annotation, dict)
            and isinstance(annotation.get("image_id"), int)
            and not annotation.get("is_rejected")
            and not annotation.get("is_precanned")
        ]
        images = field(content, "images", list, file, "the file")
        ids = [image.get("id") for image in images if isinstance(image, dict)]
        return len(annotations), used, [image for image in ids if isinstance(image, int)]


def _flag(annotation: object, name: str, file: Path, where: str) -> bool:
    value = annotation.get(name) if isinstance(annotation, dict) else None
    if not isinstance(value, bool) and value not in (0, 1):
        found = "missing" if value is None else type(value).__name__
        raise UserError(
            f"{file}: field '{name}' of {where} is {found}, not true or false; give the official file"
        )
    return bool(value)


class VizWizCaptions(DataSet):
    name, title, unit = "vizwiz_caps", "VizWiz-Captions", "captions"
    readers = (Official(),)
    homepage = "https://vizwiz.org/tasks-and-datasets/image-captioning/"
    licence = "CC BY 4.0"
    citation = """\
@inproceedings{gurari2020captioning,
  title = {Captioning Images Taken by People Who Are Blind},
  author = {Gurari, Danna and Zhao, Yinan and Zhang, Meng and Bhattacharya, Nilavra},
  booktitle = {ECCV},
  year = {2020}
}"""
    archives = (
        Archive(
            "annotations.zip",
            f"{VIZWIZ}/caption/annotations.zip",
            ("annotations/train.json", "annotations/val.json", "annotations/test.json"),
        ),
        *VIZWIZ_IMAGES,
    )
    tree = (
        ("annotations/{train,val,test}.json", "images and captions; {train,val,test}.json are found too"),
        ("train/", "23,431 images VizWiz_train_00000000.jpg ..."),
        ("val/", "7,750 images VizWiz_val_00000000.jpg ..."),
        ("test/", "8,000 images VizWiz_test_00000000.jpg ..."),
    )


VIZWIZ_CAPS = register(VizWizCaptions())
