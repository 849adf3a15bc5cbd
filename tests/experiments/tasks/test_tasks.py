"""Tasks: prompts by model family, column keys, targets, scores."""

from dataclasses import replace
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.scenes.write import Sizes, write_scenes
from experiments.tasks import TASKS, Column, Task, register, tasks_named
from experiments.tasks.task import majority
from tests.experiments.drawn import DRAWN

QUESTION = Example("1", Path("a.png"), "is it red ?", ("yes", "no", "no", "yes", "blue"), "yesno")
HYPOTHESIS = Example("2", Path("a.png"), "a dog runs .", ("entailment",), "entailment")
PICTURE = Example("3", Path("a.png"), "", ("one", "two", "three", "four"), "caption")


class Mine(Task):
    name, title = "mine", "Mine"
    columns = (Column("mine.accuracy", "acc"), Column("mine.cider", "CIDEr"))
    prompts = {"default": "Q: {text}", "blip": "{text} a photo of", "image_text": "Say {{one}} word: {text}"}

    def examples(self, data, split):
        return [QUESTION]

    def score(self, predictions, examples):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def registry():
    """What a test registers is forgotten."""
    before = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(before)


@pytest.mark.parametrize(
    "family, prompt",
    [
        ("blip", "is it red ? a photo of"),
        ("image_text", "Say {one} word: is it red ?"),
        ("blip_vqa", "Q: is it red ?"),
        ("default", "Q: is it red ?"),
    ],
)
def test_a_family_has_its_own_prompt(family, prompt):
    assert Mine().prompt(QUESTION, family) == prompt
    sample = Mine().sample(QUESTION, family)
    assert (sample.prompt, sample.answer, sample.name, sample.image) == (prompt, None, "1", Path("a.png"))
    assert Mine().sample(QUESTION, family, 0.0).answer == "yes"


def test_prompts_and_targets_of_the_shipped_tasks():
    prompts = {
        "vqa": (QUESTION, "is it red ?", "yes"),
        "easy_vqa": (QUESTION, "is it red ?", "yes"),
        "ve": (HYPOTHESIS, "is it correct that a dog runs ?", "correct"),
        "caption": (PICTURE, "what does the image describe ?", "one"),
    }
    assert prompts.keys() == DRAWN.keys()
    for name, (example, prompt, target) in prompts.items():
        assert TASKS[name].prompt(example) == prompt and TASKS[name].target(example, 0.0) == target


def test_a_draw_picks_a_caption():
    picked = [TASKS["caption"].target(PICTURE, draw) for draw in (0.0, 0.249, 0.25, 0.5, 0.75, 0.999)]
    assert picked == ["one", "one", "two", "three", "four", "four"]
    assert {TASKS["vqa"].target(QUESTION, draw) for draw in (0.0, 0.5, 0.9)} == {"yes"}


def test_the_most_frequent_answer_is_the_first_of_equals():
    assert majority(["b", "a", "a", "b", "c"]) == "b"


@pytest.mark.parametrize("key", ["cider", "vqa.accuracy", "minecider", "mine", ".mine.cider"])
def test_a_column_key_begins_with_the_tasks_name(key):
    class Wrong(Mine):
        columns = (Column("mine.accuracy", "acc"), Column(key, "wrong"))

    with pytest.raises(UserError, match=rf"task mine: column keys must be mine.<metric>, got {key}$"):
        register(Wrong())
    assert "mine" not in TASKS


def test_a_task_has_columns():
    class Empty(Mine):
        columns = ()

    with pytest.raises(UserError, match="got none"):
        register(Empty())


def test_names_and_their_order():
    register(Mine())
    assert list(tasks_named(["mine", "vqa"])) == ["mine", "vqa"]
    with pytest.raises(
        UserError, match="unknown task 'chess': choose from vqa, ve, caption, easy_vqa, vqa2, .*, mine"
    ):
        tasks_named(["vqa", "chess"])


def test_columns_of_the_shipped_tasks():
    keys = [column.key for task in DRAWN.values() for column in task.columns]
    captions = ["caption.bleu4", "caption.cider", "caption.scene"]
    assert keys == ["vqa.accuracy", "ve.accuracy", *captions, "easy_vqa.accuracy"]
    assert [c.key for task in DRAWN.values() for c in task.columns if c.optional] == ["caption.scene"]
    assert {name: task.selects for name, task in DRAWN.items()} == {
        "vqa": "vqa.accuracy",
        "ve": "ve.accuracy",
        "caption": "caption.cider",
        "easy_vqa": "easy_vqa.accuracy",
    }
    averaged = [column.key for task in DRAWN.values() for column in task.columns if column.averaged]
    assert averaged == keys[:4]


@pytest.mark.parametrize(
    "task, example, right, wrong",
    [
        ("vqa", Example("1", Path("a"), "?", ("yes",) * 10, "yesno"), "yes", "no"),
        ("ve", HYPOTHESIS, "correct", "ambiguous"),
        ("easy_vqa", Example("1", Path("a"), "?", ("red",), "which-color"), "red", "blue"),
    ],
)
def test_scores_stand_under_the_tasks_own_column(task, example, right, wrong):
    for text, value in ((right, 1.0), (wrong, 0.0)):
        scores = TASKS[task].score({example.id: text}, [example])
        assert scores.columns == {f"{task}.accuracy": pytest.approx(value, abs=1e-9)}
        assert scores.kinds == {example.kind: (pytest.approx(value), 1)}
        column = TASKS[task].columns[0]
        assert column.score(scores.statistics[column.key].sum(0)) == pytest.approx(value)


def test_captions_of_unknown_scenes_have_two_columns():
    examples = [PICTURE, Example("4", Path("b"), "", ("a red ball lies on grass",) * 2, "caption")]
    scores = TASKS["caption"].score({"3": "five", "4": "a red ball lies on grass"}, examples)
    assert scores.columns.keys() == scores.statistics.keys() == {"caption.bleu4", "caption.cider"}
    assert 0 < scores.columns["caption.bleu4"] <= 1 < scores.columns["caption.cider"]
    assert scores.kinds == {"caption": (scores.columns["caption.cider"], 2)}
    assert_scores_are_those_of_their_sums(scores)


def assert_scores_are_those_of_their_sums(scores):
    for column in TASKS["caption"].columns:
        if column.key in scores.columns:
            again = column.score(scores.statistics[column.key].sum(0))
            assert again == pytest.approx(scores.columns[column.key])


def test_captions_of_drawn_scenes_have_a_third(tmp_path):
    """Scenes are read from the data; a caption is right about its own picture, and mostly wrong of others."""
    data = write_scenes(tmp_path / "data", sizes=Sizes((1, 1, 1), (1, 1, 1), (1, 6, 1)))
    examples = TASKS["caption"].examples(data, "validation")
    assert all(example.scene is not None for example in examples)
    said = {example.id: example.references[0] for example in examples}
    scores = TASKS["caption"].score(said, examples)
    assert list(scores.columns) == ["caption.bleu4", "caption.cider", "caption.scene"]
    assert scores.kinds["objects: F1"][0] == 1 and scores.kinds["attributes: precision"][0] == 1
    assert set(scores.kinds) == {
        f"{kind}: {measure}"
        for kind in ("objects", "attributes", "relations")
        for measure in ("precision", "recall", "F1")
    }
    assert_scores_are_those_of_their_sums(scores)
    moved = dict(zip(said, [*list(said.values())[1:], *said.values()]))
    assert (
        TASKS["caption"].score(moved, examples).columns["caption.scene"] < scores.columns["caption.scene"] / 2
    )
    unknown = [*examples[1:], replace(examples[0], scene=None)]
    assert "caption.scene" not in TASKS["caption"].score(said, unknown).columns
