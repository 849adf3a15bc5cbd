"""Captions in official files: COCO in Karpathy's split, TextCaps and VizWiz-Captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from attngraph.experiments.base.reading import Record, records
from attngraph.experiments.data.dataset import Counts, DataSet, Fields, Reader, Reading, register
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.hub import Hub
from attngraph.experiments.data.records import Records

# ---- COCO -------------------------------------------------------------------------------------------------

KARPATHY_FILE = "dataset_coco.json"
#: Name of a split in the file -> the split.
KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def karpathy_split(image: Record) -> str:
    """The split of an image of ``dataset_coco.json``."""
    return KARPATHY_SPLITS[image.one_of("split", tuple(KARPATHY_SPLITS))]


class Karpathy(Reader):
    """``dataset_coco.json``: all images with all their captions, five or more, and the split of each image.
    ``restval`` belongs to ``train``. The file has the paths of the images, relative to the dataset's folder.
    """

    name, title = "karpathy", "Karpathy's split, dataset_coco.json"
    published = {
        "train": Counts(113_287, 566_747),
        "val": Counts(5_000, 25_010),
        "test": Counts(5_000, 25_010),
    }
    fields = Fields(id="cocoid", references="sentences", item="raw")

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / KARPATHY_FILE]

    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        def example(image: Record) -> Example | None:
            if karpathy_split(image) != split:
                return None
            folder, name = image.field("filepath", str), image.field("filename", str)
            path = reading.pictures.path(folder, name, image)
            return self.fields.example(image, path, self.fields.annotation(image))

        (file,) = self.files(reading.root, split)
        yield from reading.each(file, records(file, "images"), example, "cocoid")


def number_of(name: str) -> str:
    """The number at the end of an image file's name, without leading zeros: ``COCO_val2014_000000000042.jpg``
    is ``42``.
    """
    return str(int(PurePosixPath(name).stem.rpartition("_")[2]))


COCO = register(
    DataSet(
        "coco",
        "COCO Captions",
        "captions",
        readers=(
            Karpathy(),
            Hub(
                {"val2014": ("lmms-lab/COCO-Caption", "val")},
                Fields(id="question_id", references="answer", identity=number_of),
                published={"val2014": Counts(40_504, 202_654)},
            ),
            Records(with_text=False),
        ),
    )
)

# ---- TextCaps ---------------------------------------------------------------------------------------------


class TextCaps(Reader):
    """``TextCaps_0.1_{train,val,test}.json``: an item for each caption; captions of an image are not
    consecutive. An example is an image with all its captions. ``test`` has no captions.

    The field ``image_path`` is not the path on the disk: images of train and val are in ``train_images/``,
    those of test in ``test_images/``, named by ``image_id``.
    """

    title, unanswered = "the official files, TextCaps_0.1_*.json", ("test",)
    published = {"train": Counts(21_953, 109_765), "val": Counts(3_166, 15_830), "test": Counts(3_289)}

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / f"TextCaps_0.1_{split}.json"]

    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        captioned = split not in self.unanswered
        folder, key = ("train_images", "caption_id") if captioned else ("test_images", "image_id")
        captions: dict[str, tuple[str, ...]] = {}

        def item(record: Record) -> tuple[str, Path, tuple[str, ...]]:
            name = record.text("image_id")
            path = reading.pictures.path(folder, name, record)
            record.field(key, int if captioned else str)
            return name, path, (record.text("caption_str").strip(),) if captioned else ()

        (file,) = self.files(reading.root, split)
        paths: dict[str, Path] = {}
        for name, path, found in reading.each(file, records(file, "data"), item, key, "image_id"):
            captions[name] = captions.get(name, ()) + found
            paths[name] = path
        yield from (Example(name, paths[name], "", found, "caption") for name, found in captions.items())


TEXTCAPS = register(
    DataSet(
        "textcaps",
        "TextCaps",
        "captions",
        readers=(
            TextCaps(),
            Hub(
                {split: ("lmms-lab/TextCaps", split) for split in TextCaps.splits},
                Fields(id="image_id", references="caption_str"),
                TextCaps.unanswered,
                TextCaps.published,
            ),
            Records(with_text=False),
        ),
    )
)

# ---- VizWiz -----------------------------------------------------------------------------------------------


def vizwiz_file(root: Path, split: str) -> Path:
    """The annotations of a split, with or without the top folder of the archive."""
    places = [root / folder / f"{split}.json" for folder in ("annotations", "Annotations", "")]
    return next((place for place in places if place.is_file()), places[0])


class VizWizCaptions(Reader):
    """``annotations/{train,val,test}.json``, in COCO's format; ``test`` has only images.

    Captions that are rejected or precanned ("Quality issues are too severe to recognize visual content.") are
    dropped, both in training and in evaluation, and images without other captions are not scored: this is the
    default of the official API. An image's id is ``images[].id``, which is unique over all splits; it differs
    from the number in the file's name.
    """

    title, unanswered = "the official files", ("test",)
    published = {"val": Counts(7_542, 33_145), "test": Counts(8_000)}  # of train, only all captions are known

    def files(self, root: Path, split: str) -> list[Path]:
        return [vizwiz_file(root, split)]

    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        (file,) = self.files(reading.root, split)
        captions: dict[int, tuple[str, ...]] = {}

        def image(record: Record) -> tuple[int, Path]:
            path = reading.pictures.path(split, record.text("file_name"), record)
            return record.field("id", int), path

        def caption(record: Record) -> tuple[int, str] | None:
            identity = record.field("image_id", int)
            if str(identity) in skipped:
                return None
            if identity not in paths:
                raise record.fault(
                    f"{record.where} is a caption of the image {identity}, which is not in 'images'"
                )
            record.field("id", int)
            dropped = [record.field(name, bool, int) for name in ("is_rejected", "is_precanned")]
            return None if any(dropped) else (identity, record.text("caption").strip())

        paths = dict(reading.each(file, records(file, "images"), image, "id"))
        skipped = set(reading.lost)  # images
        if split not in self.unanswered:
            annotations = records(file, "annotations")
            for identity, text in reading.each(file, annotations, caption, "id", "image_id"):
                captions[identity] = captions.get(identity, ()) + (text,)
            reading.unscored |= {str(identity) for identity in paths if identity not in captions}
        for identity, path in paths.items():
            if identity in captions or split in self.unanswered:
                yield Example(str(identity), path, "", captions.get(identity, ()), "caption")


register(DataSet("vizwiz_caps", "VizWiz-Captions", "captions", (VizWizCaptions(), Records(with_text=False))))
