"""Reads SNLI-VE (Xie et al. 2019, https://github.com/necla-ml/SNLI-VE) from its official jsonl files."""

import re
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.reading import Images, Unique, field, read_json_lines, shown, text_field

LABELS = ("entailment", "contradiction", "neutral")


def load(jsonl: Path, image_folder: Path) -> list[Example]:
    """The examples of one split, in the order of the file. Pairs without a gold label ("-") are left out.

    Args:
        jsonl: ``snli_ve_{train,dev,test}.jsonl``. ``sentence2`` is the hypothesis. An example's kind is the
            field ``hypothesis_kind``, which the drawn scenes have, or else "hypothesis".
        image_folder: holds the Flickr30k images, named by ``Flickr30K_ID`` with or without suffix.

    Raises:
        UserError: the file, a field or an image is missing or damaged, the file holds no pairs, a hypothesis
            is empty, two pairs share a ``pairID``, or ``captionID`` and ``Flickr30K_ID`` name two images.
    """
    jsonl = Path(jsonl)
    images, ids = Images(image_folder), Unique(jsonl, "pairID")
    examples = []
    for where, pair in read_json_lines(jsonl):
        label = field(pair, "gold_label", str, jsonl, where)
        if label == "-":
            continue
        if label not in LABELS:
            raise UserError(
                f"{jsonl}: field 'gold_label' of {where} is {shown(label)}; give one of "
                f"{', '.join(LABELS)} and -"
            )
        name = str(field(pair, "Flickr30K_ID", (str, int), jsonl, where))
        if "captionID" in pair:
            caption = str(field(pair, "captionID", str, jsonl, where))
            if _stem(caption) != _stem(name):
                raise UserError(
                    f"{jsonl}: {where} is about two images, 'Flickr30K_ID' {shown(name)} and 'captionID' "
                    f"{shown(caption)}; correct one of them"
                )
        image = images.path(name, jsonl, where)
        hypothesis = text_field(pair, "sentence2", jsonl, where)
        identity = str(field(pair, "pairID", (str, int), jsonl, where))
        ids.add(identity, where)
        kind = "hypothesis"
        if "hypothesis_kind" in pair:
            kind = text_field(pair, "hypothesis_kind", jsonl, where)
        examples.append(Example(identity, image, hypothesis, (label,), kind))
    if not examples:
        raise UserError(f"{jsonl}: no pair with a gold label; give the official file")
    return examples


def _stem(name: str) -> str:
    """An image's name without suffix, from its file name or from the id of a caption ("123.jpg#4")."""
    return re.sub(r"(\.(jpe?g|png))?(#.*)?$", "", name, flags=re.DOTALL)
