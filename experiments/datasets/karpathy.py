"""Reads COCO captions in the split of Karpathy & Fei-Fei (2015) from the official ``dataset_coco.json``."""

from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.reading import Images, Unique, field, read_json, shown, text_field

_SPLITS = {"train": ("train", "restval"), "val": ("val",), "validation": ("val",), "test": ("test",)}
_PLACES = ("train", "restval", "val", "test")  # what the file calls them


def load(dataset_json: Path, image_folder: Path, split: str) -> list[Example]:
    """One example an image with all its reference captions, in the order of the file.

    Args:
        dataset_json: ``dataset_coco.json``.
        image_folder: holds one folder for each ``filepath`` in the file (``train2014``, ``val2014``).
        split: "train" (which includes ``restval``), "val" or "validation", or "test".

    Raises:
        UserError: the file, a field or an image is missing or damaged, an image has no captions or an empty
            one, two images of the split share an id, a caption is another image's, or the split is unknown.
    """
    dataset_json = Path(dataset_json)
    if split not in _SPLITS:
        raise UserError(f"split '{split}' is unknown; use one of {', '.join(_SPLITS)}")
    folders: dict[str, Images] = {}
    ids = Unique(dataset_json, "id")
    examples = []
    for number, image in enumerate(field(read_json(dataset_json), "images", list, dataset_json, "the file")):
        where = f"images[{number}]"
        place = field(image, "split", str, dataset_json, where)
        if place not in _PLACES:
            raise UserError(
                f"{dataset_json}: field 'split' of {where} is {shown(place)}; give one of "
                f"{', '.join(_PLACES)}"
            )
        if place not in _SPLITS[split]:
            continue
        folder = field(image, "filepath", str, dataset_json, where) if "filepath" in image else ""
        if folder not in folders:
            folders[folder] = Images(Path(image_folder) / folder)
        path = folders[folder].path(field(image, "filename", str, dataset_json, where), dataset_json, where)
        references = _captions(image, dataset_json, where)
        identity = field(image, "cocoid" if "cocoid" in image else "imgid", int, dataset_json, where)
        ids.add(identity, where)
        examples.append(Example(str(identity), path, "", references, "caption"))
    if not examples:
        raise UserError(f"{dataset_json}: no image of split '{split}'; give the official file")
    return examples


def _captions(image: dict, file: Path, where: str) -> tuple[str, ...]:
    """The captions of an image."""
    captions = []
    for place, sentence in enumerate(field(image, "sentences", list, file, where)):
        there = f"{where}.sentences[{place}]"
        captions.append(text_field(sentence, "raw", file, there).strip())
        if "imgid" in sentence and "imgid" in image and sentence["imgid"] != image["imgid"]:
            raise UserError(
                f"{file}: {there} has the imgid {shown(sentence['imgid'])}, but {where} has "
                f"{shown(image['imgid'])}; correct one of them"
            )
    if not captions:
        raise UserError(f"{file}: field 'sentences' of {where} is empty; give the official file")
    return tuple(captions)
