"""Reads SNLI-VE (Xie et al. 2019, https://github.com/necla-ml/SNLI-VE) from its official jsonl files."""

import json
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.reading import Images, field, read_text

LABELS = ("entailment", "contradiction", "neutral")


def load(jsonl: Path, image_folder: Path) -> list[Example]:
    """The examples of one split, in the order of the file. Pairs without a gold label ("-") are left out.

    Args:
        jsonl: ``snli_ve_{train,dev,test}.jsonl``. ``sentence2`` is the hypothesis. An example's kind is the
            field ``hypothesis_kind``, which the drawn scenes have, or else "hypothesis".
        image_folder: holds the Flickr30k images, named by ``Flickr30K_ID`` with or without suffix.

    Raises:
        UserError: the file, a field or an image is missing or damaged.
    """
    jsonl = Path(jsonl)
    images = Images(image_folder)
    examples = []
    for number, line in enumerate(read_text(jsonl).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            pair = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{jsonl}: {where} is not valid JSON ({error.msg}); download or write the file again"
            ) from None
        label = field(pair, "gold_label", str, jsonl, where)
        if label == "-":
            continue
        if label not in LABELS:
            raise UserError(
                f"{jsonl}: field 'gold_label' of {where} is '{label}'; known: {', '.join(LABELS)} and -"
            )
        image = images.path(str(field(pair, "Flickr30K_ID", (str, int), jsonl, where)), jsonl, where)
        hypothesis = field(pair, "sentence2", str, jsonl, where)
        kind = str(pair.get("hypothesis_kind", "hypothesis"))
        examples.append(
            Example(str(field(pair, "pairID", (str, int), jsonl, where)), image, hypothesis, (label,), kind)
        )
    return examples
