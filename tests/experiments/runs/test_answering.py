"""How a model answers: the task's way, that of a type of models, what the user changed of it; each example
once, in batches of like lengths.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest

from attngraph.errors import UserError
from attngraph.experiments.methods import Tuned
from attngraph.experiments.models import Decoding, Ranking
from attngraph.experiments.models.blip import BlipCaptioner
from attngraph.experiments.runs import answering
from attngraph.experiments.runs.answering import described, in_words, predict, way_of
from attngraph.experiments.runs.data import TaskData
from attngraph.experiments.runs.saved import Finished
from attngraph.experiments.tasks import TASKS
from tests.experiments.runs.small import SmallTask, small_examples, small_family, small_run

ANSWER, CAPTION = Decoding(10, 5, 1, "gnmt"), Decoding(25, 5, 8, "gnmt")  # benchmarks of mPLUG's authors


@pytest.fixture
def mplug(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mplug"}')
    return str(tmp_path)


def way(task, model, changes=None):
    return way_of(TASKS[task], Path("data"), "generate", model, changes)


def test_mplug_writes_as_its_authors_let_it(mplug):
    for task, expected in (("vqa2", ANSWER), ("coco", CAPTION), ("vqa", TASKS["vqa"].decoding)):
        assert way(task, mplug) == expected
        assert way(task, None) == way(task, "owner/name") == TASKS[task].decoding, "others as the task says"
    ranking = Ranking(("yes", "no"))
    assert TASKS["vqa2"].way_of_type(ranking, "mplug") == ranking, "lists are ranked by all in one way"


def test_what_the_user_changes_goes_before(mplug):
    assert way("coco", mplug, {"num_beams": 3, "max_new_tokens": 40}) == Decoding(40, 3, 8, "gnmt")
    assert way("coco", mplug, {"length_penalty": "length"}) == Decoding(25, 5, 8)
    assert way("vqa2", None, {"length_penalty": "gnmt"}) == Decoding(10, 3, length_penalty="gnmt")
    released = {"as_released": "p_adapter", "num_beams": 3, "max_new_tokens": 50}
    assert way("coco", None, released) == Decoding(50, 3, as_released="p_adapter")
    assert way("coco", mplug, released) == CAPTION, "it is BLIP's, and so are the limits"
    with pytest.raises(UserError, match="at most max_new_tokens"):
        way("coco", mplug, {"max_new_tokens": 5})


def test_a_finished_run_answers_as_it_did(tmp_path):
    for way in (ANSWER, CAPTION, Decoding(10, 3), Decoding(4), Decoding(40, 5, 5, as_released="p_adapter")):
        run = Finished(tmp_path, SimpleNamespace(task="coco"), {}, {"answering": described(way)})
        assert run.way(tmp_path) == way
    assert described(Decoding(10, 3)) == {"way": "generate", "beams": 3, "tokens": 10}, "as ever"
    assert in_words(described(CAPTION)).startswith("texts generated with 5 beams and length penalty gnmt, at")


class Named(Tuned):
    """Answers with the names of the samples."""

    def __init__(self, family):
        super().__init__(family)
        self.batches = []

    def answer(self, samples, decoding):
        assert decoding == Decoding(max_new_tokens=4) and all(sample.answer is None for sample in samples)
        self.batches.append([sample.prompt for sample in samples])
        return [f"about {sample.name}" for sample in samples]


def test_each_example_has_its_own_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "EVAL_BATCH", 3)
    examples, family = small_examples(tmp_path, 7), small_family()
    tuned, task = Named(family), SmallTask(examples)
    answers = predict(tuned, TaskData(family, task, examples, hide=True), task.decoding)
    assert list(answers.items()) == [(example.id, f"about {example.id}") for example in examples]
    prompts = [prompt for batch in tuned.batches for prompt in batch]
    assert [len(prompt) for prompt in prompts] == sorted(len(example.prompt) for example in examples)
    assert [len(batch) for batch in tuned.batches] == [3, 3, 1]


def test_answers_are_made_in_smaller_batches_where_memory_is_short(tmp_path, monkeypatch):
    tuned, data = small_run(tmp_path)
    way, sizes, most = data.task.decoding, [], [3]
    expected, generate = predict(tuned, data, way), BlipCaptioner.generate

    def limited(self, samples, decoding):
        sizes.append(len(samples))
        if len(samples) > most[0]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
        return generate(self, samples, decoding)

    monkeypatch.setattr(BlipCaptioner, "generate", limited)
    assert predict(tuned, data, way) == expected
    assert sizes == [8, 4, 2, 2, 2, 2]
    most[0] = 0
    with pytest.raises(UserError, match="out of memory with a single example: choose"):
        predict(tuned, data, way)
