"""Formats of captions that several data sets share: the JSON of the COCO annotations and that of BLIP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.pictures import Pictures
from experiments.datasets.reading import Unique, field, read_json, shown, text_field
from experiments.datasets.streams import records

KIND = "caption"


def caption_of(record: object, name: str, file: Path, where: str) -> str:
    """A caption, without the space around it. Line breaks inside stay: the tokenisers know them
    (:func:`experiments.metrics.ptb.one_line`).
    """
    return text_field(record, name, file, where).strip()


@dataclass(frozen=True)
class Captioned:
    """An image of a file in COCO's format.

    Args:
        where: in the file, for errors.
        id: the image's.
        record: of the image.
        captions: those that are used.
    """

    where: str
    id: int | str
    record: dict
    captions: tuple[str, ...]


def read_coco(
    file: Path,
    faults: Faults,
    identity: type,
    captioned: bool = True,
    used: Callable[[object, str], bool] = lambda annotation, where: True,
) -> Iterator[Captioned]:
    """The images of a file in COCO's format, ``{"images": [{"id", ...}], "annotations": [{"id", "image_id",
    "caption"}]}``, with their captions, in the order of the file.

    An image all of whose captions are not used is skipped, as the evaluation code does.

    Args:
        file: to read.
        faults: gets damaged images and captions: an image without captions, a caption of an image that the
            file does not have, ids that occur twice, empty captions, fields of a wrong type.
        identity: type of the images' ids, ``int`` or ``str``.
        captioned: whether the file has captions; without, ``annotations`` are not looked at.
        used: whether a caption is used, given its record and where that is.

    Raises:
        UserError: the file is missing or damaged, or too many of its records are.
    """
    content = read_json(file)
    images: dict[int | str, tuple[str, dict]] = {}
    ids = Unique(file, "id")
    annotated: set[int | str] = set()
    for number, record in enumerate(field(content, "images", list, file, "the file")):
        where = f"images[{number}]"
        with faults.leave_out():
            image = field(record, "id", identity, file, where)
            ids.add(image, where)
            images[image] = where, record
    captions: dict[int | str, list[str]] = {image: [] for image in images}
    if captioned:
        ids = Unique(file, "id")
        for number, record in enumerate(field(content, "annotations", list, file, "the file")):
            where = f"annotations[{number}]"
            with faults.leave_out():
                image = field(record, "image_id", identity, file, where)
                if image not in captions:
                    raise UserError(
                        f"{file}: {where} is a caption of the image {shown(image)}, which 'images' does not "
                        "have; give the official file, or leave it out"
                    )
                annotated.add(image)
                ids.add(field(record, "id", int, file, where), where)
                if used(record, where):
                    captions[image].append(caption_of(record, "caption", file, where))
    for image, (where, record) in images.items():
        if not captioned or captions[image]:
            yield Captioned(where, image, record, tuple(captions[image]))
        elif image not in annotated:  # else its captions are not used, or counted as damaged already
            faults.add(
                f"{file}: {where}, the image {shown(image)}, has no captions in 'annotations'; give the "
                "official file, or leave it out"
            )


def read_blip(file: Path, root: Path, faults: Faults) -> Iterator[Example]:
    """The images of a file as BLIP and its descendants have them: a list of ``{"image": "val2014/NAME.jpg",
    "caption": text or [text, ...]}``, a record for each caption or for each image.

    Captions of one image are joined, in the order of the file, and images come in the order of their first
    record. An example's id is the number at the end of the file's name, as BLIP's evaluation reads it.

    Args:
        file: to read.
        root: the folder that ``image`` starts from.
        faults: gets damaged records.

    Raises:
        UserError: the file is missing or damaged, or too many of its records are.
    """
    pictures = Pictures(root)
    found: dict[str, tuple[Path, list[str]]] = {}
    lists, lost = Unique(file, "image"), set()
    for where, record in records(file):
        with faults.leave_out():
            image = text_field(record, "image", file, where)
            captions = field(record, "caption", (str, list), file, where)
            if isinstance(captions, list):
                lists.add(image, where)  # one record for each image
            if image in lost:
                continue  # said once
            if image in found:
                path, texts = found[image]
            else:
                place = PurePosixPath(image)
                lost.add(image)
                path, texts = pictures.path(str(place.parent), place.name, file, where), []
                lost.remove(image)
            if isinstance(captions, str):
                texts.append(caption_of(record, "caption", file, where))
            elif not captions:
                raise UserError(f"{file}: field 'caption' of {where} is empty; give the official file")
            else:
                for number, text in enumerate(captions):
                    there = f"caption {number} of {where}"
                    with faults.leave_out():
                        texts.append(caption_of({"caption": text}, "caption", file, there))
            if texts:
                found[image] = path, texts
    for image, (path, texts) in found.items():
        yield Example(number_of(image), path, "", tuple(texts), KIND)


def number_of(name: str) -> str:
    """The number at the end of an image file's name, without leading zeros: ``COCO_val2014_000000000042.jpg``
    is ``42``; the name without its suffix where there is none.
    """
    stem = PurePosixPath(name).stem
    digits = re.search(r"[0-9]+$", stem)
    return str(int(digits[0])) if digits else stem
