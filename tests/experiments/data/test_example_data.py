"""The example of a data set of one's own: a CSV file, read as the benchmark whose files it was written in."""

import csv

from PIL import Image

from experiments.tasks import TASKS
from tests.experiments.examples.example_data import convert


def test_a_csv_file_becomes_a_task(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    lines = [("split", "picture", "question", "answer")]
    for k, color in enumerate(("red", "blue", "green", "red")):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{k}.png")
        lines.append(("val" if k == 3 else "train", f"{k}.png", f"what color is {k} ?", color))
    with open(tmp_path / "mine.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    convert(tmp_path / "mine.csv", tmp_path / "data")
    task = TASKS["vizwiz_vqa"]
    test = list(task.examples(tmp_path / "data", "test"))
    assert [(e.prompt, set(e.references), e.image.name) for e in test] == [
        ("what color is 3 ?", {"red"}, "3.png")
    ]
    assert task.score({test[0].id: "red"}, test).columns == {"vizwiz_vqa.accuracy": 1.0}
