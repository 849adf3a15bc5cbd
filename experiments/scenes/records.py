"""Records that several drawn data sets have in their files."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.datasets.dataset import OFFICIAL


def answer_type(answer: str) -> str:
    """VQA v2's type of an answer."""
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"


def tokens(text: str) -> list[str]:
    """The words of a caption, without punctuation."""
    return "".join(letter if letter.isalnum() else " " for letter in text).split()


def karpathy_place(split: str, number: int) -> tuple[str, str]:
    """The split that Karpathy's file names, and the folder, of a split's image of this number.

    As in the real file, validation, test and the "restval" part of training come from ``val2014``.
    """
    label = "restval" if split == "train" and number % 4 == 3 else OFFICIAL[split]
    return label, "train2014" if label == "train" else "val2014"


def karpathy_image(
    label: str, source: str, filename: str, coco_id: int, place: int, texts: Sequence[str], first: int
) -> dict:
    """The record of an image in Karpathy's ``dataset_coco.json``.

    Args:
        label: its split there.
        source: its folder.
        filename: its file.
        coco_id: its id in COCO.
        place: its place in the list of images.
        texts: its captions.
        first: the first caption's id; the others follow.
    """
    sentences = [
        {"tokens": tokens(text), "raw": text, "imgid": place, "sentid": number}
        for number, text in enumerate(texts, start=first)
    ]
    return {
        "filepath": source,
        "sentids": [sentence["sentid"] for sentence in sentences],
        "filename": filename,
        "imgid": place,
        "split": label,
        "sentences": sentences,
        "cocoid": coco_id,
    }
