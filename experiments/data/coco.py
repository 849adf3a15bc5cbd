"""COCO Captions in Karpathy's split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from experiments.base.reading import Pictures, Record, records, shown
from experiments.data.damaged import Reading
from experiments.data.dataset import Counts, DataSet, Reader, register
from experiments.data.example import Example
from experiments.data.hub import Columns, Hub

KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
KARPATHY_FILE = "dataset_coco.json"
#: COCO's images; VQA v2 is about them too.
COCO_TRAIN = (
    "train2014/",
    "82,783 images COCO_train2014_000000000009.jpg ...; 13.5 GB",
    "http://images.cocodataset.org/zips/train2014.zip",
)
COCO_VAL = (
    "val2014/",
    "40,504 images COCO_val2014_000000000042.jpg ..., those of val and test too; 6.6 GB",
    "http://images.cocodataset.org/zips/val2014.zip",
)
#: What the file calls a split -> the split.
KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
_COUNTS = {
    "train": Counts(113_287, 566_747),
    "val": Counts(5_000, 25_010),
    "test": Counts(5_000, 25_010),
}


class Karpathy(Reader):
    """``dataset_coco.json``: all images with all their captions, five or more, and the split of each image.
    ``restval`` belongs to ``train``. The images lie where the file says, below the data set's folder.
    """

    name, title = "karpathy", "Karpathy's split, dataset_coco.json"
    splits = ("train", "val", "test")
    published = _COUNTS

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / KARPATHY_FILE]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        """Images of ``restval``, ``val`` and ``test`` are images of val2014."""
        return [root / name for name in (("train2014", "val2014") if split == "train" else ("val2014",))]

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        (file,), pictures = self.files(root, split), Pictures(root)
        found = list(records(file, "images"))
        key = (
            "cocoid" if any(isinstance(image, dict) and "cocoid" in image for _, image in found) else "imgid"
        )

        def example(image: Record) -> Example | None:
            if KARPATHY_SPLITS[image.one_of("split", tuple(KARPATHY_SPLITS))] != split:
                return None
            folder = image.field("filepath", str) if image.has("filepath") else ""
            path = pictures.path(folder, image.field("filename", str), image)
            captions = image.captions("sentences", "raw")
            _check_numbers(image)
            return Example(str(image.field(key, int)), path, "", captions, "caption")

        yield from reading.each(file, found, example, key)


def _check_numbers(image: Record) -> None:
    """Each caption of an image is of its number."""
    number = image.content.get("imgid")
    for place, sentence in enumerate(image.content["sentences"]):
        if number is not None and sentence.get("imgid", number) != number:
            raise image.fault(
                f"{image.where}.sentences[{place}] has the imgid {shown(sentence['imgid'])}, but "
                f"{image.where} has {shown(number)}",
                "correct one of them",
            )


def number_of(name: str) -> str:
    """The number at the end of an image file's name, without leading zeros: ``COCO_val2014_000000000042.jpg``
    is ``42``.
    """
    return str(int(PurePosixPath(name).stem.rpartition("_")[2]))


_HUB = Hub(
    {"val2014": ("lmms-lab/COCO-Caption", "val")},
    Columns(id="question_id", references="answer", identity=number_of),
    published={"val2014": Counts(40_504, 202_654)},
)


class Coco(DataSet):
    name, title, unit = "coco", "COCO Captions", "captions"
    readers = (Karpathy(), _HUB)
    homepage = "https://cocodataset.org/#captions-2015"
    licence = (
        "annotations CC BY 4.0 (https://cocodataset.org/#termsofuse); images: Flickr's terms of use, each "
        "image its own licence"
    )
    citation = (
        "Chen, Fang, Lin, Vedantam, Gupta, Dollár and Zitnick (2015): Microsoft COCO Captions: Data "
        "Collection and Evaluation Server. arXiv:1504.00325. For the split: Karpathy and Li (2015): Deep "
        "Visual-Semantic Alignments for Generating Image Descriptions. CVPR."
    )
    contents = (
        (KARPATHY_FILE, "Karpathy's split with all captions", KARPATHY),
        COCO_TRAIN,
        COCO_VAL,
    )


COCO = register(Coco())
