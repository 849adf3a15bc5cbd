"""Each example is answered once, in batches of like lengths, in the order of the examples."""

import pytest

from experiments.methods import Tuned
from experiments.models import Decoding
from experiments.runs import prediction
from experiments.runs.data import TaskData
from experiments.runs.features import FeatureCache
from experiments.runs.prediction import predict
from tests.experiments.runs.small import SmallTask, small_examples, small_family


class Named(Tuned):
    """Answers with the names of the samples."""

    def __init__(self, family):
        super().__init__(family)
        self.batches = []

    def answer(self, samples, decoding):
        assert decoding == Decoding(max_new_tokens=4) and all(sample.answer is None for sample in samples)
        self.batches.append([sample.prompt for sample in samples])
        return [f"about {sample.name}" for sample in samples]


@pytest.mark.parametrize("count", [8, 7, 1])
def test_each_example_has_its_own_answer(count, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "EVAL_BATCH", 3)
    examples = small_examples(tmp_path, count)
    family = small_family()
    tuned = Named(family)
    data = TaskData(family, SmallTask(examples), examples, "zero", FeatureCache(tmp_path / "cache"))
    answers = predict(tuned, data)
    assert list(answers.items()) == [(example.id, f"about {example.id}") for example in examples]
    prompts = [prompt for batch in tuned.batches for prompt in batch]
    assert [len(prompt) for prompt in prompts] == sorted(len(example.prompt) for example in examples)
    assert all(len(batch) <= 3 for batch in tuned.batches) and len(tuned.batches) == (count + 2) // 3
