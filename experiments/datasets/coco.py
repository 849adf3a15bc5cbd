"""COCO captions: Karpathy's split, BLIP's files of it, and the official annotations of 2014."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.archives import COCO_TRAIN, COCO_VAL, KARPATHY, KARPATHY_FILE
from experiments.datasets.caption_files import (
    KIND,
    caption_of,
    number_of,
    read_blip,
    read_coco,
)
from experiments.datasets.dataset import Archive, Counts, DataSet, Reader, register
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.hub import Columns, Hub
from experiments.datasets.pictures import Pictures
from experiments.datasets.reading import Unique, field, shown, text_field
from experiments.datasets.streams import records

_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
_PLACES = ("train", "restval", "val", "test")  # what the file calls them
_KARPATHY = {
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
    published = _KARPATHY

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / KARPATHY_FILE]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return _image_folders(root, split)

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        (file,) = self.files(root, split)
        pictures, ids = Pictures(root), Unique(file, "id")
        for where, image in records(file, "images"):
            with faults.leave_out():
                place = field(image, "split", str, file, where)
                if place not in _PLACES:
                    raise UserError(
                        f"{file}: field 'split' of {where} is {shown(place)}; give one of "
                        f"{', '.join(_PLACES)}"
                    )
                if place not in _SPLITS[split]:
                    continue
                folder = field(image, "filepath", str, file, where) if "filepath" in image else ""
                path = pictures.path(folder, field(image, "filename", str, file, where), file, where)
                references = _captions(image, file, where, faults)
                identity = field(image, "cocoid" if "cocoid" in image else "imgid", int, file, where)
                ids.add(identity, where)
                if references:
                    yield Example(str(identity), path, "", references, KIND)


def _captions(image: dict, file: Path, where: str, faults: Faults) -> tuple[str, ...]:
    """The captions of an image that are whole."""
    sentences, captions = field(image, "sentences", list, file, where), []
    if not sentences:
        raise UserError(f"{file}: field 'sentences' of {where} is empty; give the official file")
    for place, sentence in enumerate(sentences):
        there = f"{where}.sentences[{place}]"
        with faults.leave_out():
            captions.append(caption_of(sentence, "raw", file, there))
            if "imgid" in sentence and "imgid" in image and sentence["imgid"] != image["imgid"]:
                captions.pop()
                raise UserError(
                    f"{file}: {there} has the imgid {shown(sentence['imgid'])}, but {where} has "
                    f"{shown(image['imgid'])}; correct one of them"
                )
    return tuple(captions)


class Blip(Reader):
    """``coco_karpathy_{train,val,test}.json`` as BLIP, ALBEF and LAVIS have them: Karpathy's split once more,
    ``train`` with a record for each caption. The files ``*_gt.json`` beside them repeat the captions of val
    and test for the evaluation, and are not needed.
    """

    name, title = "blip", "BLIP's files of Karpathy's split, coco_karpathy_*.json"
    splits = ("train", "val", "test")
    published = _KARPATHY

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / f"coco_karpathy_{split}.json"]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return _image_folders(root, split)

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        yield from read_blip(self.files(root, split)[0], root, faults)


class Coco2014(Reader):
    """The official annotations ``annotations/captions_{train,val}2014.json``. Their splits are not those of
    Karpathy, in which papers report, so they keep their names ``train2014`` and ``val2014``.
    """

    name, title = "coco2014", "the official annotations of 2014, captions_*2014.json"
    splits = ("train2014", "val2014")
    published = {"train2014": Counts(82_783, 414_113), "val2014": Counts(40_504, 202_654)}

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / "annotations" / f"captions_{split}.json"]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / split]

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        (file,), pictures = self.files(root, split), Pictures(root)
        for image in read_coco(file, faults, int):
            with faults.leave_out():
                name = text_field(image.record, "file_name", file, image.where)
                path = pictures.path(split, name, file, image.where)
                yield Example(str(image.id), path, "", image.captions, KIND)


def _image_folders(root: Path, split: str) -> list[Path]:
    """Images of ``restval``, ``val`` and ``test`` are images of val2014."""
    return [root / name for name in (("train2014", "val2014") if split == "train" else ("val2014",))]


_HUB = Hub(
    {"val2014": ("lmms-lab/COCO-Caption", "val")},
    Columns(id="question_id", references="answer", identity=number_of),
    published={"val2014": Coco2014.published["val2014"]},
)


class Coco(DataSet):
    name, title, unit = "coco", "COCO Captions", "captions"
    readers = (Karpathy(), Blip(), Coco2014(), _HUB)
    homepage = "https://cocodataset.org/#captions-2015"
    licence = (
        "annotations CC BY 4.0 (https://cocodataset.org/#termsofuse); images: Flickr's terms of use, each "
        "image its own licence"
    )
    citation = """\
@article{chen2015coco,
  title = {Microsoft {COCO} Captions: Data Collection and Evaluation Server},
  author = {Chen, Xinlei and Fang, Hao and Lin, Tsung-Yi and Vedantam, Ramakrishna and Gupta, Saurabh and
            Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  journal = {arXiv:1504.00325},
  year = {2015}
}
@inproceedings{karpathy2015deep,
  title = {Deep Visual-Semantic Alignments for Generating Image Descriptions},
  author = {Karpathy, Andrej and Fei-Fei, Li},
  booktitle = {CVPR},
  year = {2015}
}"""
    archives = (
        COCO_TRAIN,
        COCO_VAL,
        KARPATHY,
        *(
            Archive(
                f"coco_karpathy_{split}.json",
                "https://storage.googleapis.com/sfr-vision-language-research/datasets/"
                f"coco_karpathy_{split}.json",
                (f"coco_karpathy_{split}.json",),
            )
            for split in ("train", "val", "test")
        ),
        Archive(
            "annotations_trainval2014.zip",
            "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
            ("annotations/captions_train2014.json", "annotations/captions_val2014.json"),
            252 * 10**6,
        ),
    )
    tree = (
        (KARPATHY_FILE, "Karpathy's split with all captions (caption_datasets.zip)"),
        ("train2014/", "82,783 images COCO_train2014_000000000009.jpg ..."),
        ("val2014/", "40,504 images COCO_val2014_000000000042.jpg ...; those of val and test too"),
        ("coco_karpathy_{train,val,test}.json", "instead of dataset_coco.json: BLIP's files"),
        ("annotations/captions_{train,val}2014.json", "for the splits train2014 and val2014 alone"),
    )


COCO = register(Coco())
