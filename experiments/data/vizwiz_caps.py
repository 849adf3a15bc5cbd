"""VizWiz-Captions: captions of pictures that blind people took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments.base.reading import Damaged, Pictures, Record, records
from experiments.data.damaged import Reading
from experiments.data.dataset import Counts, DataSet, Reader, register
from experiments.data.example import Example
from experiments.data.vizwiz_vqa import VIZWIZ, VIZWIZ_IMAGES


class Official(Reader):
    """``annotations/{train,val,test}.json``, in COCO's format; ``test`` has images alone.

    Captions that are rejected or precanned ("Quality issues are too severe to recognize visual content.") are
    dropped, in training as in evaluation, and images without others are not scored: so does the official API
    unless it is told otherwise. An image's id is ``images[].id``, which runs on over the splits; the number
    in its file's name is another.
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

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        (file,), pictures = self.files(root, split), Pictures(root)
        lost: set[int] = set()  # images
        annotated: set[int] = set()
        captions: dict[int, list[str]] = {}

        def image(record: Record) -> tuple[int, str, Path]:
            path = pictures.path(split, record.text("file_name"), record)
            return record.field("id", int), record.where, path

        def caption(record: Record) -> tuple[int, str] | None:
            identity = record.field("image_id", int)
            if identity in lost:
                return None
            if identity not in captions:
                raise record.fault(
                    f"{record.where} is a caption of the image {identity}, which 'images' does not have"
                )
            annotated.add(identity)
            record.field("id", int)
            rejected, precanned = _flag(record, "is_rejected"), _flag(record, "is_precanned")
            return None if rejected or precanned else (identity, record.text("caption").strip())

        images = list(reading.each(file, records(file, "images"), image, "id", lost))
        if split in self.unanswered:
            yield from (Example(str(identity), path, "", (), "caption") for identity, _, path in images)
            return
        captions.update({identity: [] for identity, _, _ in images})
        for identity, text in reading.each(file, records(file, "annotations"), caption, "id"):
            captions[identity].append(text)
        for identity, where, path in images:
            if captions[identity]:
                yield Example(str(identity), path, "", tuple(captions[identity]), "caption")
            elif identity in annotated:  # all of its captions are dropped, or damaged
                reading.unscored.add(str(identity))
            else:
                what = f"{where}, the image {identity}, has no captions in 'annotations'"
                reading.fault(file, where, Damaged(f"{file}: {what}; give the official file"))


def _flag(caption: Record, name: str) -> bool:
    value = caption.content.get(name)
    if not isinstance(value, bool) and value not in (0, 1):
        found = "missing" if value is None else type(value).__name__
        raise caption.fault(f"field '{name}' of {caption.where} is {found}, not true or false")
    return bool(value)


class VizWizCaptions(DataSet):
    name, title, unit = "vizwiz_caps", "VizWiz-Captions", "captions"
    readers = (Official(),)
    homepage = "https://vizwiz.org/tasks-and-datasets/image-captioning/"
    licence = "CC BY 4.0"
    citation = (
        "Gurari, Zhao, Zhang and Bhattacharya (2020): Captioning Images Taken by People Who Are Blind. ECCV."
    )
    contents = (
        (
            "annotations/{train,val,test}.json",
            "images and captions, in test without; without the folder is fine too",
            f"{VIZWIZ}/caption/annotations.zip",
        ),
        VIZWIZ_IMAGES,
    )


VIZWIZ_CAPS = register(VizWizCaptions())
