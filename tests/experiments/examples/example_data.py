"""A custom dataset: images, questions and answers in a CSV file, as VizWiz-VQA's files.

    python example_data.py mine.csv data/mine
    attngraph train --set method=pgnn --set task=vizwiz_vqa --set data=data/mine

The CSV has the columns ``split`` (train or val), ``image`` (a file in the CSV's folder), ``question`` and
``answer``.
"""

import csv
import json
import shutil
import sys
from pathlib import Path


def convert(table: Path, data: Path) -> None:
    """Write the images and annotations of a CSV file into ``data/vizwiz_vqa``."""
    root = data / "vizwiz_vqa"
    with open(table, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for split in ("train", "val"):
        (root / split).mkdir(parents=True, exist_ok=True)
        records = []
        for line in lines:
            if line["split"] == split:
                image = table.parent / line["image"]
                shutil.copy(image, root / split / image.name)
                answer = {"answer": line["answer"], "answer_confidence": "yes"}
                records.append(
                    {
                        "image": image.name,
                        "question": line["question"],
                        "answers": [answer] * 10,  # ten people answer in VizWiz-VQA
                        "answer_type": "other",
                        "answerable": 1,
                    }
                )
        (root / f"{split}.json").write_text(json.dumps(records))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
