"""The published numbers are those of the paper, and its averages are the means of its columns."""

from statistics import fmean

import pytest

from experiments.tables.frame import AVERAGE, table_columns
from experiments.tables.table import published_blocks, published_for
from experiments.tasks import TASKS, tasks_named

SIX = ("vqa2", "vizwiz_vqa", "snli_ve", "coco", "textcaps", "vizwiz_caps")
FOUR = ("vqa2", "snli_ve", "coco")

#: The paper's tables once more, typed from the paper and not from the file: by block, row by row.
PAPER = {
    "main_blip": """
        70.56 36.52 78.35 39.1 128.7 27.1 91.6 45.7 170.0 76.40
        60.49 22.45 71.82 39.4 127.7 24.8 80.0 40.6 153.3 68.95
        66.57 33.39 77.36 38.3 128.3 24.6 82.2 41.3 154.3 71.81
        69.53 35.37 78.85 38.9 128.8 25.4 86.7 43.3 160.5 74.15
        70.39 37.16 79.40 40.4 130.9 26.1 87.0 44.5 164.1 75.54""",
    "main_mplug": """
        70.91 59.79 78.72 40.4 134.8 23.6 74.0 42.1 157.5 75.76
        60.95 47.42 72.11 39.8 133.5 18.8 51.9 35.5 135.6 66.18
        66.67 52.49 75.29 39.4 129.4 21.0 64.4 39.5 146.0 70.46
        70.65 56.50 78.56 40.3 134.7 22.9 71.5 41.9 155.6 74.73
        71.36 58.08 79.26 40.4 135.3 23.2 73.3 43.1 160.1 76.01""",
    "gnn": """
        69.53 78.85 38.9 128.8 79.02
        70.22 79.03 39.4 129.1 79.44
        70.13 79.12 39.7 129.7 79.66
        70.39 79.40 40.4 130.9 80.27""",
    "position": "78.41 79.82 79.38 80.27",
    "width": "66.94 67.78 69.00 69.53 69.69 69.89 70.10 70.39",
    "concat": "79.92 79.72 80.27",
    "p": "80.08 80.03 80.02 80.27",
}
BLOCKS = published_blocks()
#: Rows whose printed average is not the mean of the printed columns: what it is, and what the mean is.
OFF = {("main_blip", "p-Adapter"): (75.54, 75.55)}


def test_every_number_is_the_papers():
    assert set(BLOCKS) == set(PAPER)
    for name, numbers in PAPER.items():
        block = BLOCKS[name]
        assert [number for row in block.rows.values() for number in row.values()] == numbers.split()
        assert "another scale" in block.label and "not comparable" in block.label


def test_averages_are_means():
    for name, block in BLOCKS.items():
        for row, numbers in block.rows.items():
            columns = [float(numbers[key]) for key in numbers if key != AVERAGE.key]
            if AVERAGE.key in numbers and columns:
                printed, mean = float(numbers[AVERAGE.key]), fmean(columns)
                if (name, row) in OFF:
                    assert (printed, round(mean, 2)) == OFF[name, row]
                else:
                    assert printed == pytest.approx(mean, abs=0.0051)


@pytest.mark.parametrize(
    "name, tasks",
    [("main_blip", SIX), ("gnn", FOUR), ("position", FOUR), ("width", ["vqa2"]), ("concat", FOUR)],
)
def test_a_table_of_the_papers_columns_shows_the_whole_block(name, tasks):
    (shown,) = published_for(table_columns(tasks_named(tasks)), [BLOCKS[name]])
    assert shown == BLOCKS[name]


def test_other_columns_show_what_they_share():
    columns = table_columns(tasks_named(["vqa2", "coco"]))
    (shown,) = published_for(columns, [BLOCKS["gnn"]])
    assert shown.rows["GCN"] == {"vqa2.accuracy": "69.53", "coco.bleu4": "38.9", "coco.cider": "128.8"}
    assert published_for(columns, [BLOCKS["position"]]) == (), "its average is of other columns"
    assert published_for(table_columns({"easy_vqa": TASKS["easy_vqa"]}), BLOCKS.values()) == ()
