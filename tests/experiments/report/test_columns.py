"""Columns of a table, derived from its tasks; the published numbers that fit them."""

from dataclasses import replace

import pytest

from attngraph.errors import UserError
from experiments.report.columns import scored, table_columns
from experiments.tasks import TASKS
from experiments.tasks.task import Column
from tests.experiments.report.made import SmallTask, captioning, runs_on


def headings(*tasks):
    return [column.heading for column in table_columns({task.name: task for task in tasks})]


def test_the_columns_of_our_tasks():
    names = ("vqa", "ve", "caption", "easy_vqa")
    assert headings(*(TASKS[name] for name in names)) == [
        "VQA acc",
        "VE acc",
        "BLEU@4",
        "CIDEr",
        "Avg",
        "Scene F1",
        "easy-VQA acc",
    ]


def test_order_is_that_of_the_tasks_and_scores_stay():
    columns = table_columns({name: TASKS[name] for name in ("easy_vqa", "caption", "vqa")})
    keys = [column.key for column in columns]
    captions = ["caption.bleu4", "caption.cider", "caption.scene"]
    assert keys == ["easy_vqa.accuracy", *captions, "vqa.accuracy", "avg"]
    assert columns[1].score is TASKS["caption"].columns[0].score


def test_an_average_needs_two_columns():
    alone, other = SmallTask("a", Column("a.x", "X", averaged=True)), SmallTask("b", Column("b.y", "Y"))
    assert headings(alone, other) == ["X", "Y"] and headings(other) == ["Y"] and headings() == []
    assert headings(SmallTask("c", Column("c.z", "Z", averaged=True)), other, alone) == ["Z", "Y", "X", "Avg"]


def test_equal_headings_are_told_apart():
    assert headings(captioning("coco"), captioning("nocaps"), TASKS["vqa"]) == [
        "coco BLEU@4",
        "coco CIDEr",
        "nocaps BLEU@4",
        "nocaps CIDEr",
        "VQA acc",
        "Avg",
    ]
    one_task = SmallTask("a", Column("a.x", "Score"), Column("a.y", "Score"), Column("a.z", "Z"))
    assert headings(one_task) == ["a.x", "a.y", "Z"]


def test_optional_columns_are_those_that_every_run_has(tmp_path):
    tasks = {name: TASKS[name] for name in ("vqa", "caption")}
    runs = runs_on(tmp_path, tasks)
    keys = [column.key for column in TASKS["caption"].columns]
    assert [column.key for column in scored(tasks, runs)["caption"].columns] == keys
    last = runs[-1]
    assert last.task == "caption"
    without = {key: value for key, value in last.result["scores"].items() if key != "caption.scene"}
    lacking = [*runs[:-1], replace(last, result=last.result | {"scores": without})]
    for some in (lacking, []):
        shown = scored(tasks, some)
        assert [column.key for column in shown["caption"].columns] == keys[:2]
        assert shown["vqa"].columns == TASKS["vqa"].columns
    assert [column.key for column in TASKS["caption"].columns] == keys, "the task itself stays"


def test_equal_keys_are_refused():
    with pytest.raises(UserError, match=r"several columns have the key 'a\.x'"):
        table_columns({"a": SmallTask("a", Column("a.x", "X"), Column("a.x", "Y"))})
