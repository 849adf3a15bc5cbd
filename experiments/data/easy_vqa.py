"""Reads easy-VQA (https://github.com/vzhou842/easy-VQA) from its PyPI package.

The dataset has 48,248 questions about 5,000 images.
"""

import random
from pathlib import Path

from attngraph.experiments.base.messages import check_known
from attngraph.experiments.data.example import Example
from attngraph.extras import optional

SPLITS = ("train", "validation", "test")
VALIDATION_IMAGES = 400  # of the 4,000 official training images
_SHAPES = ("circle", "rectangle", "triangle")


def load(split: str) -> list[Example]:
    """The examples of one split, in the package's order.

    "test" is the official test split. "validation" is a fixed tenth of the official training images with all
    their questions, "train" the remaining ones. Kinds: yesno-shape, yesno-color, which-shape, which-color.

    Raises:
        UserError: the package is not installed, or the split is unknown.
    """
    check_known([split], SPLITS, "split")
    easy_vqa = optional("easy_vqa")
    name = "test" if split == "test" else "train"
    questions = getattr(easy_vqa, f"get_{name}_questions")()
    paths = getattr(easy_vqa, f"get_{name}_image_paths")()
    held_out = set(random.Random(0).sample(sorted(paths), VALIDATION_IMAGES))
    return [
        Example(f"{name}-{number}", Path(paths[image]), question, (answer,), _kind(question, answer))
        for number, (question, answer, image) in enumerate(zip(*questions, strict=True))
        if name == "test" or (image in held_out) == (split == "validation")
    ]


def _kind(question: str, answer: str) -> str:
    if answer in ("yes", "no"):
        return "yesno-shape" if any(shape in question for shape in _SHAPES) else "yesno-color"
    return "which-shape" if answer in _SHAPES else "which-color"
