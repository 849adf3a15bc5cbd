"""Lists of answers to rank: read from a file, or counted in the training examples, and ranked."""

import json
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.data.drawn import Sizes, write_scenes
from experiments.data.example import Example
from experiments.metrics.exact import ENTAILMENT_WORDS
from experiments.models import Ranking, load_family
from experiments.tasks import TASKS
from experiments.tasks.kinds import frequent_answers, read_answers


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


def test_the_frozen_model_judges_with_the_tasks_own_words(tmp_path):
    """It was pre-trained to say yes, no and maybe: it never writes the three words, but can rank them."""
    data = write_scenes(tmp_path / "scenes", 0, Sizes((1, 1, 1), (1, 1, 150), (1, 1, 1)))
    family, task, words = load_family(), TASKS["ve"], tuple(ENTAILMENT_WORDS.values())
    examples = task.examples(data, "test")
    samples = [task.sample(example, family.name) for example in examples]
    assert not set(words) & set(family.answer(samples, task.answering(data)))
    texts = family.answer(samples, Ranking(words, k=3))
    ranked = task.score({e.id: text for e, text in zip(examples, texts)}, examples).columns["ve.accuracy"]
    assert ranked > 0.36  # chance is a third; it was 0.42 of 600
