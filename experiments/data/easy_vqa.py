"""Reads easy-VQA (https://github.com/vzhou842/easy-VQA) from its PyPI package.

The data set has 48,248 questions about 5,000 images.
"""

import random
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.messages import check_known, first_line
from experiments.data.example import Example

SPLITS = ("train", "validation", "test")
VALIDATION_IMAGES = 400  # of the 4,000 official training images
_SHAPES = ("circle", "rectangle", "triangle")


def load(split: str) -> list[Example]:
    """The examples of one split, in the package's order.

    "test" is the official test split. "validation" is a fixed tenth of the official training images with all
    their questions, "train" the rest. Kinds: yesno-shape, yesno-color, which-shape, which-color.

    Raises:
        UserError: the package is not installed or damaged, or the split is unknown.
    """
    check_known([split], SPLITS, "split")
    try:
        import easy_vqa
    except ImportError:
        raise UserError("the package easy-vqa is not installed; run: pip install easy-vqa") from None
    try:
        if split == "test":
            return _examples("test", easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths())
        questions, paths = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
        held_out = set(random.Random(0).sample(sorted(paths), VALIDATION_IMAGES))
        return [
            example
            for example, image in zip(_examples("train", questions, paths), questions[2], strict=True)
            if (image in held_out) == (split == "validation")
        ]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"the package easy-vqa is damaged ({type(error).__name__}: {first_line(error)}); "
            "run: pip install --force-reinstall easy-vqa"
        ) from None


def _examples(name: str, questions: tuple[list, list, list], paths: dict[int, str]) -> list[Example]:
    """The examples of an official split: questions, answers and images, and the images' files."""
    examples = []
    for number, (question, answer, image) in enumerate(zip(*questions, strict=True)):
        if not isinstance(question, str) or not isinstance(answer, str):
            raise TypeError(f"question {number} or its answer is no text")
        kind = _kind(question, answer)
        examples.append(Example(f"{name}-{number}", Path(paths[image]), question, (answer,), kind))
    return examples


def _kind(question: str, answer: str) -> str:
    if answer in ("yes", "no"):
        return "yesno-shape" if any(shape in question for shape in _SHAPES) else "yesno-color"
    return "which-shape" if answer in _SHAPES else "which-color"
