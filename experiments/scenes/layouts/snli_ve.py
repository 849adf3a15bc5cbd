"""SNLI-VE: hypotheses about pictures, in the lines that the official generator writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from experiments.files import write_text
from experiments.scenes.captions import captions
from experiments.scenes.drawing import draw
from experiments.scenes.hypotheses import hypotheses
from experiments.scenes.layouts.parts import Amounts, drawing, own_seed

NAME = "snli_ve"
PARTS = {"train": "train", "validation": "dev", "test": "test"}


def write(root: Path, amounts: Amounts, seed: int, advance: Callable[[int], object]) -> None:
    """Writes the data set; ``advance`` hears how many hypotheses each image had."""
    chance = own_seed(NAME, seed)
    flickr_id = 1_000_000_000
    with drawing(root) as pictures:
        for split, count in amounts.items():
            lines = []
            for scene, sentences in hypotheses(split, count, chance):
                flickr_id += 1
                pictures.save(draw(scene), root / "flickr30k_images" / f"{flickr_id}.jpg", scene)
                caption = captions(scene, chance)[0]
                for place, sentence in enumerate(sentences):
                    record = {
                        "annotator_labels": [sentence.answer],
                        "captionID": f"{flickr_id}.jpg#0",
                        "gold_label": sentence.answer,
                        "pairID": f"{flickr_id}.jpg#0r{place}{sentence.answer[0]}",
                        **_sentence("sentence1", caption),
                        **_sentence("sentence2", sentence.text),
                        "Flickr30K_ID": str(flickr_id),
                    }
                    lines.append(json.dumps(record))
                advance(len(sentences))
            write_text(root / f"snli_ve_{PARTS[split]}.jsonl", "\n".join(lines) + "\n")


def _sentence(name: str, text: str) -> dict[str, str]:
    """A sentence with its parses: nobody reads them, and they branch to the right throughout."""
    words = text.split()
    binary = words[-1]
    for word in words[-2::-1]:
        binary = f"( {word} {binary} )"
    leaves = " ".join(f"(X {word})" for word in words)
    return {name: text, f"{name}_parse": f"(ROOT {leaves})", f"{name}_binary_parse": binary}
