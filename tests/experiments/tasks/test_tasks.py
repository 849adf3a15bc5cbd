"""Every task keeps one contract: columns, prompts by model family, targets, scores, a format of results."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attngraph.errors import UserError
from attngraph.experiments.data.drawn import Sizes, write_scenes
from attngraph.experiments.data.example import Example
from attngraph.experiments.runs.plugins import load_plugins
from attngraph.experiments.scenes.captions import caption_scenes, captions
from attngraph.experiments.tasks import TASKS, Column, Task, register, tasks_named
from attngraph.experiments.tasks.formats import CAPTIONS, PLAIN, SNLI_VE, TEXTCAPS, VIZWIZ, VQA_RESULTS
from attngraph.experiments.tasks.kinds import frequent_answers, read_answers
from attngraph.experiments.tasks.task import majority

PLUGIN = Path(__file__).parents[1] / "examples" / "example_task.py"
TEN = ("yes", "no", "no", "yes", *["blue"] * 6)
QUESTIONS = (
    Example("1", Path("a.png"), "Is it red ?", TEN, "yesno"),
    Example("2", Path("a.png"), "Is it ?", ("no",) * 10, "x"),
)
ONE_ANSWER = tuple(replace(example, references=("red",)) for example in QUESTIONS)
HYPOTHESES = (
    Example("1", Path("a.png"), "a dog runs .", ("entailment",), "entailment"),
    Example("2", Path("a.png"), "a cat.", ("neutral",), "neutral"),
)
PICTURES = (
    Example("1", Path("a.png"), "", ("One dog", "two dogs", "three dogs", "four dogs"), "caption"),
    Example("2", Path("b.png"), "", ("a red ball lies on grass",) * 2, "caption"),
)
ACCURACY, CAPTION = (("accuracy", True),), (("bleu4", True), ("cider", True))
DESCRIBE, ASKED = "what does the image describe ?", "is it correct that a dog runs ?"
#: Task -> its examples, the first one's prompt and target, columns (and whether they are averaged), format.
CONTRACT = {
    "vqa": (QUESTIONS, "Is it red ?", "blue", ACCURACY, VQA_RESULTS),
    "ve": (HYPOTHESES, ASKED, "correct", ACCURACY, SNLI_VE),
    "caption": (PICTURES, DESCRIBE, "One dog", (*CAPTION, ("scene", False)), CAPTIONS),
    "easy_vqa": (ONE_ANSWER, "Is it red ?", "red", (("accuracy", False),), PLAIN),
    "vqa2": (QUESTIONS, "is it red ?", "blue", ACCURACY, VQA_RESULTS),
    "vizwiz_vqa": (QUESTIONS, "is it red ?", "blue", ACCURACY, VIZWIZ),
    "snli_ve": (HYPOTHESES, ASKED, "correct", ACCURACY, SNLI_VE),
    "coco": (PICTURES, DESCRIBE, "one dog", CAPTION, CAPTIONS),
    "textcaps": (PICTURES, DESCRIBE, "one dog", CAPTION, TEXTCAPS),
    "vizwiz_caps": (PICTURES, DESCRIBE, "one dog", CAPTION, CAPTIONS),
    "colours": (ONE_ANSWER, "Is it red ?", "red", (("accuracy", False),), PLAIN),
}


pytestmark = pytest.mark.filterwarnings("ignore:Java not found")


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is forgotten; captions are split in Python, without starting Java."""
    monkeypatch.setattr("attngraph.experiments.metrics.captions.java_found", lambda: False)
    monkeypatch.setattr("attngraph.experiments.runs.plugins._loaded", {})
    before = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(before)


def assert_sums_give(task: Task, scores, expected: dict[str, float]):
    columns = {column.key: column for column in task.columns}
    for key, value in expected.items():
        again = columns[key].score(scores.statistics[key].sum(0))
        assert again == pytest.approx(value) and 0 <= value <= columns[key].most


def test_every_task_is_in_the_table_of_the_contract():
    assert list(CONTRACT) == [*TASKS, "colours"]


@pytest.mark.parametrize("name", CONTRACT)
def test_contract(name):
    load_plugins([PLUGIN])
    examples, prompt, target, columns, form = CONTRACT[name]
    task = TASKS[name]
    assert [(column.key, column.averaged) for column in task.columns] == [
        (f"{name}.{metric}", averaged) for metric, averaged in columns
    ]
    assert task.selects == (f"{name}.cider" if columns[0][0] == "bleu4" else f"{name}.accuracy")
    assert task.file_format is form and task.title
    sample = task.sample(examples[0], "p_adapter", 0.0)
    assert (sample.prompt, sample.answer, sample.image) == (prompt, target, examples[0].image)
    assert task.sample(examples[0]).answer is None

    right = {example.id: task.target(example, 0.0) for example in examples}
    scores, reached = task.score(right, examples), dict.fromkeys((f"{name}.accuracy",), 1.0)
    if columns[0][0] == "bleu4":
        reached = scores.columns
        assert reached[f"{name}.bleu4"] > 0.9 and reached[f"{name}.cider"] > 1
        assert scores.kinds == {"caption": (reached[f"{name}.cider"], 2)}
    else:
        assert scores.kinds == {example.kind: (1.0, 1) for example in examples}
    assert scores.columns == pytest.approx(reached) and scores.evaluator
    assert scores.columns.keys() == scores.statistics.keys()
    assert all(len(statistics) == len(examples) for statistics in scores.statistics.values())
    assert_sums_give(task, scores, scores.columns)
    wrong = task.score(dict.fromkeys(right, "nothing of that"), examples)
    assert wrong.columns == pytest.approx(dict.fromkeys(reached, 0), abs=1e-6)
    assert_sums_give(task, wrong, wrong.columns)
    with pytest.raises(UserError, match="no prediction for 1 example"):
        task.score({"1": "x"}, examples)


class Mine(Task):
    name, title = "mine", "Mine"
    columns = (Column("mine.accuracy", "acc"), Column("mine.cider", "CIDEr"))
    prompts = {"default": "Q: {text}", "blip": "{text} a photo of", "image_text": "Say {{one}} word: {text}"}

    def examples(self, data, split):
        return QUESTIONS

    def score(self, predictions, examples):
        raise NotImplementedError


def test_a_family_has_its_own_prompt():
    for family, prompt in {
        "blip": "Is it red ? a photo of",
        "image_text": "Say {one} word: Is it red ?",
        "blip_vqa": "Q: Is it red ?",
        "default": "Q: Is it red ?",
    }.items():
        assert Mine().sample(QUESTIONS[0], family).prompt == prompt


def test_a_draw_picks_a_caption():
    picked = [TASKS["caption"].target(PICTURES[0], draw)[:3] for draw in (0.0, 0.249, 0.25, 0.5, 0.75, 0.999)]
    assert picked == ["One", "One", "two", "thr", "fou", "fou"]
    assert {TASKS["vqa"].target(QUESTIONS[0], draw) for draw in (0.0, 0.5, 0.9)} == {"blue"}
    assert majority(["b", "a", "a", "b", "c"]) == "b", "the first of equals"


def test_column_keys_begin_with_the_tasks_name():
    for keys, said in ((["vqa.accuracy"], "vqa.accuracy"), (["minecider"], "minecider"), ([], "none")):
        wrong = type("Wrong", (Mine,), {"columns": tuple(Column(key, "wrong") for key in keys)})
        with pytest.raises(UserError, match=rf"keys must be mine.<metric>, got {said}$"):
            register(wrong())
    assert "mine" not in TASKS


def test_names_and_their_order():
    register(Mine())
    assert list(tasks_named(["mine", "vqa"])) == ["mine", "vqa"]
    with pytest.raises(
        UserError, match="unknown task 'chess': choose from vqa, ve, caption, easy_vqa, vqa2, .*, mine"
    ):
        tasks_named(["vqa", "chess"])


# ---- captions of drawn scenes ----------------------------------------------------------------------------


def test_captions_of_drawn_scenes_have_a_third_column(tmp_path):
    """Scenes are read from the data; a caption is right about its own picture, and mostly wrong of others."""
    task = TASKS["caption"]
    data = write_scenes(tmp_path / "data", sizes=Sizes((1, 1, 1), (1, 1, 1), (1, 6, 1)))
    examples = task.examples(data, "validation")
    said = {example.id: example.references[0] for example in examples}
    scores = task.score(said, examples)
    assert list(scores.columns) == ["caption.bleu4", "caption.cider", "caption.scene"]
    assert scores.kinds["objects: F1"][0] == 1 and scores.kinds["attributes: precision"][0] == 1
    assert len(scores.kinds) == 9, "precision, recall and F1 of objects, attributes and relations"
    assert_sums_give(task, scores, scores.columns)
    moved = dict(zip(said, np.roll(list(said.values()), -1)))
    assert task.score(moved, examples).columns["caption.scene"] < scores.columns["caption.scene"] / 2
    unknown = [*examples[1:], replace(examples[0], scene=None)]
    assert "caption.scene" not in task.score(said, unknown).columns


def described(split, count, seed=0):
    """Examples as the reader gives them, without pictures."""
    for number, scene in enumerate(caption_scenes(split, count, seed)):
        yield Example(str(number), Path(f"{number}.png"), "", tuple(captions(scene, seed)), "caption", scene)


def test_one_reference_scored_by_the_others():
    """Recorded numbers: would catch a change of the synthetic captions or of a metric."""
    examples = list(described("validation", 400))
    first = {example.id: example.references[0] for example in examples}
    others = [replace(example, references=example.references[1:]) for example in examples]
    scores = TASKS["caption"].score(first, others)
    found = {key: round(100 * value, 1) for key, value in scores.columns.items()}
    assert found == {"caption.bleu4": 66.6, "caption.cider": 512.4, "caption.scene": 85.7}
    assert scores.kinds["objects: F1"][0] == scores.kinds["attributes: precision"][0] == 1


# ---- lists of answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "the list is empty; use a list of texts"),
        ('["yes", null]', "field 'answer' of record 1 is NoneType; use a list of texts"),
        ('["yes", "no", "yes"]', "record 2 has the answer of record 0, 'yes'; remove one"),
    ],
)
def test_a_bad_list_is_named(tmp_path, content, message):
    file = tmp_path / "list.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_answers(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_the_most_frequent_answers():
    given = ["two 2 2", "red no red", "no no red", "no red no", "2 2 blue"]
    examples = [replace(QUESTIONS[0], references=tuple(one.split())) for one in given]
    examples += [replace(QUESTIONS[0], references=("", "", "blue")), replace(QUESTIONS[0], references=())]
    assert frequent_answers(examples, 2) == ("2", "no")
    assert frequent_answers(examples, 9) == ("2", "no", "red")
