"""SNLI-VE (Xie et al. 2019, https://github.com/necla-ml/SNLI-VE): does an image entail a sentence?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.reading import Pictures, Record, records, shown
from experiments.data.damaged import Reading
from experiments.data.dataset import Counts, DataSet, Reader, register
from experiments.data.example import Example
from experiments.data.hub import Columns, Hub

LABELS = ("entailment", "contradiction", "neutral")
IDS = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID")  # as the releases spell it
FOLDER = "flickr30k_images"
#: As archives of Flickr30k unpack; Kaggle's has the folder twice.
_FOLDERS = (f"{FOLDER}/{FOLDER}", FOLDER, "flickr30k-images")
_FILES = {"train": "train", "val": "dev", "test": "test"}


def _image(pair: Record) -> str:
    """The name of a pair's image, with or without suffix."""
    key = next((key for key in IDS if pair.has(key)), None)
    if key is None:
        identity = str(pair.content.get("pairID"))
        if ".jpg" not in identity:
            raise pair.fault(f"{pair.where} has no field '{IDS[0]}', and no 'pairID' that names its image")
        return identity.partition(".jpg")[0]
    name = str(pair.field(key, str, int))
    if pair.has("captionID"):
        caption = pair.field("captionID", str)
        if _stem(caption) != _stem(name):
            raise pair.fault(
                f"{pair.where} is about two images, {key!r} {shown(name)} and 'captionID' {shown(caption)}",
                "correct one of them",
            )
    return name


def _stem(name: str) -> str:
    """An image's name without suffix, from its file name or from the id of a caption ("123.jpg#4")."""
    return re.sub(r"(\.(jpe?g|png))?(#.*)?$", "", name, flags=re.DOTALL)


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
        places = [root / name for name in _FOLDERS]
        return [next((place for place in places if place.is_dir()), root / FOLDER)]

    def examples(self, root: Path, split: str, reading: Reading) -> Iterator[Example]:
        (file,), (folder,), pictures = (
            self.files(root, split),
            self.image_folders(root, split),
            Pictures(root),
        )

        def example(pair: Record) -> Example | None:
            label = pair.one_of("gold_label", (*LABELS, "-"))
            if label == "-":  # no majority among annotators
                reading.unscored.update(str(pair.content[key]) for key in ("pairID",) if pair.has(key))
                return None
            image = pictures.path(folder.relative_to(root).as_posix(), _image(pair), pair)
            hypothesis, identity = pair.text("sentence2"), str(pair.field("pairID", str, int))
            kind = pair.text("hypothesis_kind") if pair.has("hypothesis_kind") else "hypothesis"
            return Example(identity, image, hypothesis, (label,), kind, groups={"label": label})

        yield from reading.each(file, records(file), example, "pairID")


_HUB = Hub(
    {split: (f"Multimodal-Fatima/SNLI-VE_{split}", split) for split in ("train", "test")},
    Columns(id="id", references="label", prompt="hypothesis", kind="hypothesis", groups={"label": "label"}),
    published=Official.published,
)
_DRIVE = "https://drive.google.com/file/d"


class SnliVe(DataSet):
    """SNLI-VE."""

    name, title, unit = "snli_ve", "SNLI-VE", "pairs"
    readers = (Official(), _HUB)
    homepage = "https://github.com/necla-ml/SNLI-VE"
    licence = (
        "see the homepage and SNLI (CC BY-SA 4.0); the images: Flickr's terms of use, for research alone"
    )
    citation = (
        "Xie, Lai, Doran and Kadav (2019): Visual Entailment: A Novel Task for Fine-Grained Image "
        "Understanding. arXiv:1901.06706."
    )
    contents = (
        ("snli_ve_train.jsonl", "a pair a line", f"{_DRIVE}/1jQElLXUA5ps3OuiSMlJdKTRIMwZ_cJ2e"),
        ("snli_ve_dev.jsonl", "likewise, the split val", f"{_DRIVE}/1M6uSoJ4rXXsygReioHSJg2Xgip2NLpJW"),
        ("snli_ve_test.jsonl", "likewise", f"{_DRIVE}/1_n4g8sbw_P6KBayvJ9B8KklZDFr0uPsQ"),
        (
            f"{FOLDER}/",
            f"1000092795.jpg and others; the folder may be {' or '.join(_FOLDERS[::2])} too",
            f"{_DRIVE}/0B_PL6p-5reUAZEM4MmRQQ2VVSlk",
        ),
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
