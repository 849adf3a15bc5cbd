"""Lists of answers to rank: read from a file, or counted in the training examples; and the shipped tasks
answered by ranking with the shipped model."""

import json
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.metrics.exact import ENTAILMENT_WORDS
from experiments.models import Decoding, Ranking, load_family
from experiments.scenes.write import Sizes, write_scenes
from experiments.tasks import TASKS
from experiments.tasks.answers import frequent_answers, read_answers
from tests.experiments.drawn import DRAWN


def written(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "answer_list.json"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def test_a_list_is_read_in_its_order(tmp_path):
    answers = ["yes", "no", "café", "table tennis", "11:30"]
    assert read_answers(written(tmp_path, json.dumps(answers))) == tuple(answers)
    assert read_answers(written(tmp_path, b"\xef\xbb\xbf" + json.dumps(["yes"]).encode())) == ("yes",)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"yes": 0}', "is dict, not a list; give a list of answers"),
        ("[]", "the list is empty; give a list of answers"),
        ('["yes", 3]', r"answer 1 is int \(3\); write a text"),
        ('["yes", null]', r"answer 1 is NoneType"),
        ('["yes", " "]', "answer 1 is empty; leave it out"),
        (r'["yes", "\ud83d"]', "answer 1 holds half a character"),
        ('["yes", "no", "yes"]', "answer 2 has the answer 'yes', which answer 0 has too; remove one"),
        ('["yes",]', "not valid JSON"),
    ],
)
def test_a_bad_list_is_named(tmp_path, content, message):
    file = written(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_answers(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.json: no such file"):
        read_answers(tmp_path / "nowhere.json")


def test_the_most_frequent_answers():
    def example(*references):
        return Example("1", Path("a.png"), "?", references, "other")

    examples = [
        example("two", "2", "2"),
        example("red", "no", "red"),
        example("no", "no", "red"),
        example("no", "red", "no"),
        example("2", "2", "blue"),
        example("", "", "blue"),
        example(),
    ]
    assert frequent_answers(examples, 2) == ("2", "no") and frequent_answers(examples, 9) == (
        "2",
        "no",
        "red",
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    sizes = Sizes((200, 1, 120), (1, 1, 150), (1, 1, 1))
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", 0, sizes)


@pytest.fixture(scope="module")
def family():
    return load_family()


def accuracy(task, family, examples, way) -> float:
    texts = family.answer([task.sample(example, family.name) for example in examples], way)
    predictions = {example.id: text for example, text in zip(examples, texts)}
    return task.score(predictions, examples).columns[task.selects]


def test_the_frozen_model_judges_with_the_tasks_own_words(data, family):
    """It was pre-trained to say yes, no and maybe: it never writes the three words, but can rank them."""
    task, words = TASKS["ve"], tuple(ENTAILMENT_WORDS.values())
    examples = task.examples(data, "test")
    samples = [task.sample(example, family.name) for example in examples]
    assert not set(words) & set(family.generate(samples, task.answering(data)))
    ranked = accuracy(task, family, examples, Ranking(words, k=3))
    print(f"entailment by ranking three words, frozen model: {ranked:.3f} of {len(examples)}")
    assert ranked > 0.36  # chance is a third; it was 0.42 of 600


def test_ranking_frequent_answers_is_as_good_as_writing(data, family):
    task = TASKS["vqa"]
    examples, train = task.examples(data, "test"), task.examples(data, "train")
    answers = frequent_answers(train, 30)
    assert {"yes", "no"} <= set(answers)
    by_ranking, by_writing = (
        accuracy(task, family, examples, way) for way in (Ranking(answers), task.answering(data))
    )
    print(f"VQA by ranking {len(answers)} answers: {by_ranking:.3f}; by writing: {by_writing:.3f}")
    assert abs(by_ranking - by_writing) < 0.06 and by_ranking > 0.35


def test_shipped_tasks_generate(data):
    for task in DRAWN.values():
        assert task.answering(data) == task.decoding and isinstance(task.decoding, Decoding)
