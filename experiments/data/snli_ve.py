"""SNLI-VE (Xie et al. 2019, https://github.com/necla-ml/SNLI-VE): does an image entail a sentence?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attngraph.experiments.base.reading import Record, records
from attngraph.experiments.data.dataset import Counts, DataSet, Fields, Reader, Reading, register
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.hub import Hub
from attngraph.experiments.data.records import Records

LABELS = ("entailment", "contradiction", "neutral")
IDS = ("Flickr30K_ID", "Flikr30kID", "Flickr30kID")  # as the releases spell it
FOLDER = "flickr30k_images"
_FILES = {"train": "train", "val": "dev", "test": "test"}


class Official(Reader):
    """``snli_ve_{train,dev,test}.jsonl``: an example on each line. Pairs without a gold label ("-") are
    excluded, as by the publishers. An example's kind is the field ``hypothesis_kind`` of synthetic data, or
    else "hypothesis"; the group ``label`` is its gold label.
    """

    title = "snli_ve_{train,dev,test}.jsonl"
    published = {
        "train": Counts(29_783, 529_527),
        "val": Counts(1_000, 17_858),
        "test": Counts(1_000, 17_901),
    }
    fields = Fields(
        id="pairID",
        references="gold_label",
        prompt="sentence2",
        kind="hypothesis",
        kinds="hypothesis_kind",
        groups={"label": "gold_label"},
    )

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / f"snli_ve_{_FILES[split]}.jsonl"]

    def examples(self, split: str, reading: Reading) -> Iterator[Example]:
        def example(pair: Record) -> Example | None:
            if pair.one_of("gold_label", (*LABELS, "-")) == "-":  # no majority among annotators
                reading.unscored.add(str(pair.field("pairID", str, int)))
                return None
            key = next((key for key in IDS if key in pair.content), IDS[0])
            image = reading.pictures.path(FOLDER, str(pair.field(key, str, int)), pair)
            return self.fields.example(pair, image, self.fields.annotation(pair))

        (file,) = self.files(reading.root, split)
        yield from reading.each(file, records(file), example, "pairID")


SNLI_VE = register(
    DataSet(
        "snli_ve",
        "SNLI-VE",
        "pairs",
        readers=(
            Official(),
            Hub(
                {split: (f"Multimodal-Fatima/SNLI-VE_{split}", split) for split in ("train", "test")},
                Fields(
                    id="id",
                    references="label",
                    prompt="hypothesis",
                    kind="hypothesis",
                    groups={"label": "label"},
                ),
                published=Official.published,
            ),
            Records(with_text=True, answers=LABELS),
        ),
    )
)
