"""The published numbers are those of the paper, and its averages are the means of its columns."""

from statistics import fmean

import pytest

from attngraph.errors import UserError
from experiments.tables.frame import AVERAGE, table_columns
from experiments.tables.table import ABLATION, published_in
from experiments.tasks import tasks_named

SIX = ("vqa2", "vizwiz_vqa", "snli_ve", "coco", "textcaps", "vizwiz_caps")
THREE = ("vqa2", "snli_ve", "coco")

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
TASKS = {"main_blip": SIX, "main_mplug": SIX, "width": ["vqa2"]}
#: Rows whose printed average is not the mean of the printed columns: what it is, and what the mean is.
OFF = {("main_blip", "p-Adapter"): (75.54, 75.55)}


def block(name, tasks):
    """The rows that a table of these tasks shows of a block; none where it shows nothing."""
    shown = published_in(ABLATION.model_copy(update={"published": [name]}), table_columns(tasks_named(tasks)))
    assert all("another scale" in label and "not comparable" in label for label in shown)
    return [rows for _, rows in shown.items()]


@pytest.mark.parametrize("name", PAPER)
def test_every_number_is_the_papers_and_averages_are_means(name):
    (rows,) = block(name, TASKS.get(name, THREE))
    assert [number for row in rows.values() for number in row.values()] == PAPER[name].split()
    for row, numbers in rows.items():
        columns = [float(numbers[key]) for key in numbers if key != AVERAGE.key]
        if AVERAGE.key in numbers and columns:
            printed, mean = float(numbers[AVERAGE.key]), fmean(columns)
            assert (printed, round(mean, 2)) == OFF.get(
                (name, row), (printed, pytest.approx(printed, abs=0.0051))
            )


def test_other_columns_show_what_they_share():
    (rows,) = block("gnn", ["vqa2", "coco"])
    assert rows["GCN"] == {"vqa2.accuracy": "69.53", "coco.bleu4": "38.9", "coco.cider": "128.8"}
    assert block("position", ["vqa2", "coco"]) == [], "its average is of other columns"
    assert block("gnn", ["easy_vqa"]) == []
    with pytest.raises(UserError, match="unknown block of published numbers 'mian'"):
        block("mian", THREE)
