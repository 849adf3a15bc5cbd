"""SNLI-VE (Xie et al. 2019, https://github.com/necla-ml/SNLI-VE): does an image entail a sentence?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.dataset import Archive, Counts, DataSet, Reader, register
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.hub import Columns, Hub
from experiments.datasets.pictures import Pictures
from experiments.datasets.question_files import ListReader
from experiments.datasets.reading import Images, Unique, field, json_line, read_lines, shown, text_field

LABELS = ("entailment", "contradiction", "neutral")
IDS = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID")  # as the releases spell it
FOLDER = "flickr30k_images"
#: As archives of Flickr30k unpack; Kaggle's has the folder twice.
_FOLDERS = (f"{FOLDER}/{FOLDER}", FOLDER, "flickr30k-images")
_NO_GOLD = re.compile(r'"gold_label"\s*:\s*"-"')
_PAIR = re.compile(r'"pairID"\s*:\s*(?:"([^"]*)"|(\d+))')
_FILES = {"train": "train", "val": "dev", "test": "test"}


def load(jsonl: Path, image_folder: Path) -> list[Example]:
    """The examples of one file, in its order, without groups.

    Args:
        jsonl: ``snli_ve_{train,dev,test}.jsonl``, read as :class:`Official` reads it.
        image_folder: holds the Flickr30k images.

    Raises:
        UserError: as :meth:`Official.examples`; also if the file holds no pair with a gold label.
    """
    jsonl = Path(jsonl)
    examples = [
        Example(identity, image, hypothesis, (label,), kind)
        for identity, image, hypothesis, label, kind in _pairs(jsonl, Path(image_folder), Faults())
    ]
    if not examples:
        raise UserError(f"{jsonl}: no pair with a gold label; give the official file")
    return examples


def _pairs(jsonl: Path, image_folder: Path, faults: Faults) -> Iterator[tuple[str, Path, str, str, str]]:
    """Id, image, hypothesis, label and kind of each pair with a gold label."""
    images, ids = Images(image_folder), Unique(jsonl, "pairID")
    for where, line in read_lines(jsonl):
        with faults.leave_out():
            pair = json_line(line, jsonl, where)
            label = _label(
                field(pair, "gold_label", str, jsonl, where), "gold_label", (*LABELS, "-"), jsonl, where
            )
            if label == "-":
                continue
            image = images.path(_image(pair, jsonl, where), jsonl, where)
            hypothesis = text_field(pair, "sentence2", jsonl, where)
            identity = str(field(pair, "pairID", (str, int), jsonl, where))
            ids.add(identity, where)
            kind = "hypothesis"
            if "hypothesis_kind" in pair:
                kind = text_field(pair, "hypothesis_kind", jsonl, where)
            yield identity, image, hypothesis, label, kind


def _image(pair: dict, file: Path, where: str) -> str:
    """The name of a pair's image, with or without suffix."""
    key = next((key for key in IDS if key in pair), None)
    if key is None:
        identity = str(pair.get("pairID"))
        if ".jpg" not in identity:
            raise UserError(
                f"{file}: {where} has no field '{IDS[0]}', and no 'pairID' that names its image; give the "
                "official file"
            )
        return identity.partition(".jpg")[0]
    name = str(field(pair, key, (str, int), file, where))
    if "captionID" in pair:
        caption = str(field(pair, "captionID", str, file, where))
        if _stem(caption) != _stem(name):
            raise UserError(
                f"{file}: {where} is about two images, {key!r} {shown(name)} and 'captionID' "
                f"{shown(caption)}; correct one of them"
            )
    return name


def _stem(name: str) -> str:
    """An image's name without suffix, from its file name or from the id of a caption ("123.jpg#4")."""
    return re.sub(r"(\.(jpe?g|png))?(#.*)?$", "", name, flags=re.DOTALL)


def _label(value: object, name: str, known: Sequence[str], file: Path, where: str) -> str:
    if value not in known:
        raise UserError(
            f"{file}: field '{name}' of {where} is {shown(value)}; give one of {', '.join(known[:-1])} and "
            f"{known[-1]}"
        )
    return str(value)


def _image_folder(root: Path) -> Path:
    places = [root / name for name in _FOLDERS]
    return next((place for place in places if place.is_dir()), root / FOLDER)


class Official(Reader):
    """``snli_ve_{train,dev,test}.jsonl``: an example a line. Pairs without a gold label ("-") are left out,
    as the publishers do. An example's kind is the field ``hypothesis_kind``, which drawn data have, or else
    "hypothesis"; the group ``label`` is its gold label.
    """

    name, title = "official", "snli_ve_{train,dev,test}.jsonl"
    splits = tuple(_FILES)
    published = {
        "train": Counts(29_783, 529_527),
        "val": Counts(1_000, 17_858),
        "test": Counts(1_000, 17_901),
    }

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / f"snli_ve_{_FILES[split]}.jsonl"]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [_image_folder(root)]

    def notes(self, root: Path, split: str) -> list[str]:
        file = self.files(root, split)[0]
        without = sum(1 for _, line in read_lines(file) if _NO_GOLD.search(line))
        return [f"{file.name}: {without:,} pairs have no gold label and are left out"] if without else []

    def unscored(self, root: Path, split: str) -> set[str]:
        lines = (line for _, line in read_lines(self.files(root, split)[0]) if _NO_GOLD.search(line))
        return {str(match[1] or match[2]) for line in lines if (match := _PAIR.search(line))}

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        pairs = _pairs(self.files(root, split)[0], _image_folder(root), faults)
        for identity, image, hypothesis, label, kind in pairs:
            yield Example(identity, image, hypothesis, (label,), kind, groups={"label": label})


class _Listed(ListReader):
    """Lists of records without ids: an example's id is its place, from 0.

    Attributes:
        fields: that hold the image, the hypothesis and the label.
        labels: as the file spells them -> as they are.
    """

    splits, published = tuple(_FILES), Official.published
    fields: tuple[str, str, str]
    labels: Mapping[str, str]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [_image_folder(root)]

    def example(
        self, record: object, split: str, folders: Sequence[str], pictures: Pictures, file: Path, where: str
    ) -> Example:
        image_field, text, label_field = self.fields
        name = str(field(record, image_field, (str, int), file, where))
        image = pictures.path(folders[0], name, file, where)
        hypothesis = text_field(record, text, file, where)
        given = field(record, label_field, (str, int), file, where)
        label = self.labels[_label(given, label_field, tuple(self.labels), file, where)]
        place = where.removeprefix("record ")
        return Example(place, image, hypothesis, (label,), "hypothesis", groups={"label": label})


class ALBEF(_Listed):
    """``ve_{train,dev,test}.json`` of ALBEF, mPLUG and LAVIS. Labels must be words: as numbers, 0 is
    contradiction in some code and entailment in other.
    """

    name, title = "albef", "ve_{train,dev,test}.json of ALBEF, mPLUG and LAVIS"
    names = {split: (f"ve_{part}.json",) for split, part in _FILES.items()}
    fields = ("image", "sentence", "label")
    labels = {label: label for label in LABELS}


class PAdapter(_Listed):
    """``snli_ve_{train,dev,test}.json`` of p-Adapter (https://github.com/wuhy68/p-Adapter)."""

    name, title = "p-adapter", "p-Adapter's snli_ve_{train,dev,test}.json"
    names = {split: (f"snli_ve_{part}.json",) for split, part in _FILES.items()}
    fields = ("img", "hypothesis", "label_s")
    labels = {"Correct": "entailment", "Incorrect": "contradiction", "Ambiguous": "neutral"}


_HUB = Hub(
    {split: (f"Multimodal-Fatima/SNLI-VE_{split}", split) for split in ("train", "test")},
    Columns(id="id", references="label", prompt="hypothesis", kind="hypothesis", groups={"label": "label"}),
    published=Official.published,
)


class SnliVe(DataSet):
    """SNLI-VE."""

    name, title, unit = "snli_ve", "SNLI-VE", "pairs"
    readers = (Official(), ALBEF(), PAdapter(), _HUB)
    homepage = "https://github.com/necla-ml/SNLI-VE"
    licence = (
        "see the homepage and SNLI (CC BY-SA 4.0); the images: Flickr's terms of use, for research alone"
    )
    citation = (
        "Xie, Lai, Doran and Kadav (2019): Visual Entailment: A Novel Task for Fine-Grained Image "
        "Understanding. arXiv:1901.06706."
    )
    archives = (
        *(
            Archive(
                f"snli_ve_{part}.jsonl", f"https://drive.google.com/file/d/{key}", (f"snli_ve_{part}.jsonl",)
            )
            for part, key in (
                ("train", "1jQElLXUA5ps3OuiSMlJdKTRIMwZ_cJ2e"),
                ("dev", "1M6uSoJ4rXXsygReioHSJg2Xgip2NLpJW"),
                ("test", "1_n4g8sbw_P6KBayvJ9B8KklZDFr0uPsQ"),
            )
        ),
        Archive(
            "flickr30k_images.tar.gz",
            "https://drive.google.com/file/d/0B_PL6p-5reUAZEM4MmRQQ2VVSlk",
            (FOLDER,),
        ),
    )
    tree = (
        ("snli_ve_train.jsonl", "a pair a line; also dev and test"),
        (FOLDER, f"1000092795.jpg and others; the folder may be {' or '.join(_FOLDERS[::2])} too"),
    )

    def reader(self, root: Path, split: str, form: str | None = None) -> Reader:
        try:
            return super().reader(root, split, form)
        except UserError:
            known = split in _FILES and form in (None, *(reader.name for reader in self.readers))
            other = root / f"esnlive_{_FILES.get(split)}.csv"
            if known and other.is_file():
                raise UserError(
                    f"{other} is of e-SNLI-VE, whose pairs and labels are others, so that scores cannot be "
                    f"compared; give snli_ve_{_FILES[split]}.jsonl of {self.homepage}"
                ) from None
            raise


SNLI_VE = register(SnliVe())
