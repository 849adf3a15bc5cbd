"""Reads COCO captions in the split of Karpathy & Fei-Fei (2015) from the official ``dataset_coco.json``."""

from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.reading import Images, field, read_json

_SPLITS = {"train": ("train", "restval"), "val": ("val",), "validation": ("val",), "test": ("test",)}


def load(dataset_json: Path, image_folder: Path, split: str) -> list[Example]:
    """One example an image with all its reference captions, in the order of the file.

    Args:
        dataset_json: ``dataset_coco.json``.
        image_folder: holds one folder for each ``filepath`` in the file (``train2014``, ``val2014``).
        split: "train" (which includes ``restval``), "val" or "validation", or "test".

    Raises:
        UserError: the file, a field or an image is missing or damaged, or the split is unknown.
    """
    dataset_json = Path(dataset_json)
    if split not in _SPLITS:
        raise UserError(f"split '{split}' is unknown; use one of {', '.join(_SPLITS)}")
    folders: dict[str, Images] = {}
    examples = []
    for number, image in enumerate(field(read_json(dataset_json), "images", list, dataset_json, "the file")):
        where = f"images[{number}]"
        if field(image, "split", str, dataset_json, where) not in _SPLITS[split]:
            continue
        folder = field(image, "filepath", str, dataset_json, where) if "filepath" in image else ""
        if folder not in folders:
            folders[folder] = Images(Path(image_folder) / folder)
        path = folders[folder].path(field(image, "filename", str, dataset_json, where), dataset_json, where)
        sentences = field(image, "sentences", list, dataset_json, where)
        references = tuple(
            field(sentence, "raw", str, dataset_json, f"{where}.sentences[{place}]").strip()
            for place, sentence in enumerate(sentences)
        )
        if not references:
            raise UserError(
                f"{dataset_json}: field 'sentences' of {where} is empty; is this the official file?"
            )
        identity = field(image, "cocoid" if "cocoid" in image else "imgid", int, dataset_json, where)
        examples.append(Example(str(identity), path, "", references, "caption"))
    if not examples:
        raise UserError(f"{dataset_json}: no image of split '{split}'; is this the official file?")
    return examples
