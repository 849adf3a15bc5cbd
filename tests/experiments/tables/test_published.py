"""The published numbers are those of the paper, and its averages are the means of its columns."""

from statistics import fmean

import pytest

from attngraph.errors import UserError
from attngraph.experiments.tables.frame import AVERAGE, table_columns
from attngraph.experiments.tables.table import ABLATION, published_in
from attngraph.experiments.tasks import tasks_named

SIX = ("vqa2", "vizwiz_vqa", "snli_ve", "coco", "textcaps", "vizwiz_caps")
THREE = ("vqa2", "snli_ve", "coco")

#: The blocks without numbers that make up their averages, typed once more from the paper.
ALONE = {
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


@pytest.mark.parametrize("name", [*ALONE, "main_blip", "main_mplug", "gnn"])
def test_numbers_are_the_papers_and_averages_are_means(name):
    (rows,) = block(name, TASKS.get(name, THREE))
    if name in ALONE:
        assert [number for row in rows.values() for number in row.values()] == ALONE[name].split()
        return
    for row, numbers in rows.items():
        printed, mean = float(numbers.pop(AVERAGE.key)), fmean(map(float, numbers.values()))
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
