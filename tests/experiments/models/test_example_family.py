"""A family in a file of its own takes a checkpoint, and is trained, asked and looked at like others."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.cli import main
from experiments.models import FAMILIES, Decoding, Ranking, load_family
from experiments.models.batch import IGNORED, token_losses
from experiments.runs.plugins import load_plugins
from tests.attngraph.reading.zoo import far_from_zero
from tests.experiments.models.writers import SAMPLES, WORDS, only
from tests.experiments.tiny import save

EXAMPLE = Path(__file__).parents[1] / "examples" / "example_family.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the example registered as long as these tests run."""
    before = dict(FAMILIES)
    load_plugins([EXAMPLE])
    assert set(FAMILIES) - set(before) == {"blind"}
    yield save("gpt2", tmp_path_factory.mktemp("gpt2"))
    FAMILIES.pop("blind")
    assert before == FAMILIES


@pytest.fixture
def family(folder):
    """The one that was registered last takes the checkpoint."""
    family = load_family(folder)
    assert type(family) is FAMILIES["blind"] and family.title == f"GPT2LMHeadModel ({folder.name})"
    far_from_zero(family.model, 1)
    allowed = torch.tensor([*family.tokenizer.convert_tokens_to_ids(list(WORDS)), family.end])
    family.model.lm_head.register_forward_hook(lambda _, __, logits: only(logits, allowed))
    return family


def by_hand(family, sample):
    """Ids and logits of ``start prompt answer end``."""
    words = f"{sample.prompt} {sample.answer}".split()
    ids = torch.tensor([[family.start, *family.tokenizer.convert_tokens_to_ids(words), family.end]])
    with torch.no_grad():
        return ids[0], family.model(input_ids=ids).logits[0]


def test_training_and_ranking_are_those_of_the_model(family):
    inputs = family.training_inputs(SAMPLES)
    labels = inputs.pop("labels")
    with torch.no_grad():
        losses = token_losses(family.logits(inputs), labels).sum(1)
    for sample, loss, row in zip(SAMPLES, losses, labels):
        ids, logits = by_hand(family, sample)
        n = len(sample.answer.split()) + 1
        expected = -logits[-n - 1 : -1].log_softmax(-1).gather(1, ids[-n:, None]).sum()
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
        assert row[row != IGNORED].tolist() == ids[-n:].tolist()
    ranked = family.rank(SAMPLES, Ranking([sample.answer for sample in SAMPLES]))
    own = ranked.scores[ranked.places == torch.arange(3)[:, None]]
    torch.testing.assert_close(own, -losses, rtol=1e-4, atol=1e-4)


def test_answers_are_the_argmax_of_the_logits(family):
    for sample, text in zip(SAMPLES, family.generate(SAMPLES, Decoding(4))):
        for place, word in enumerate([*text.split(), "[SEP]"][:4]):
            _, logits = by_hand(family, replace(sample, answer=" ".join(text.split()[:place])))
            assert family.tokenizer.convert_ids_to_tokens(int(logits[-2].argmax())) == word
    short, long = (family.generate(SAMPLES, Decoding(6, min_new_tokens=least)) for least in (0, 6))
    assert all(len(text.split()) == 6 for text in long) and any(len(text.split()) < 6 for text in short)


def test_a_command_looks_at_its_graphs(folder, tmp_path):
    (tmp_path / "texts.txt").write_text("red\na red ball\n")
    words = f"tsne --model {folder} --texts {tmp_path}/texts.txt --method pca --out {tmp_path}/out"
    assert main(["--plugin", str(EXAMPLE), *words.split()]) == 0
    table = pd.read_csv(tmp_path / "out" / "coordinates.csv", keep_default_na=False)
    assert {"red", "ball", "[CLS]", "[SEP]"} <= set(table.token) and "[PAD]" not in set(table.token)
