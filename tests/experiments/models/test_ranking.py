"""Ranking: adapters of every kind, ties, bounds of a pass, smoothed scores, and texts that are too long. What
all families share is in test_contract."""

import inspect
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from torch.nn import functional as F

from attngraph.adapters import GraphAdapterConfig
from attngraph.errors import UserError
from attngraph.experiments.models import IGNORED, Ranking, ranking
from attngraph.experiments.models.ranking import openings, rank_one_by_one, shortlist
from tests.experiments.models.test_contract import ANSWERS, check_ranking
from tests.experiments.models.writers import SAMPLES, by_hand, load

PGNN = ("pgnn", {"p": 1.25, "mu": 0.1}, "replace")
VARIANTS = [
    ("pgnn", {"p": 1.25, "mu": 0.1, "steps": 2}, "replace"),
    ("pgnn", {"p": 2.5, "mu": 0.1, "degree": "mean"}, "blend"),
    ("gcn", {"normalize": True}, "gated"),
    ("pgnn", {"p": 1.25, "mu": 0.1, "top_k": 2}, "replace"),
]


def adapted(name, gnn, args, join):
    """A family with adapters none of whose weights has its neutral value."""
    family = load(name)
    torch.manual_seed(0)
    settings = GraphAdapterConfig(gnn=gnn, join=join, reduction=4, init_weights=False, **args)
    get_peft_model(family.model, settings).eval()
    return family


@pytest.mark.parametrize("name", ["blip", pytest.param("llava", marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_with_every_kind_of_degrees(name, variant):
    check_ranking(adapted(name, *variant), SAMPLES[:2], ANSWERS, 50)


@pytest.mark.parametrize("name", ["blip", "llava"])
def test_in_bfloat16_as_training_runs_last_digits_differ(name):
    family = adapted(name, *PGNN)
    exact = family.rank(SAMPLES, Ranking(ANSWERS, 50))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ranked = family.rank(SAMPLES, Ranking(ANSWERS, 50))
        alone = rank_one_by_one(family, SAMPLES, ANSWERS, 50)
    assert ranked.scores.dtype == torch.float32 and not torch.equal(ranked.scores, exact.scores)
    scores = [found.scores.gather(1, found.places.argsort(1)) for found in (ranked, alone, exact)]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=0.04)
    torch.testing.assert_close(scores[0], scores[2], rtol=0.02, atol=0.1)


def test_a_list_is_of_different_answers_and_the_family_says_how_many_are_scored():
    for answers in ((), ("a", " "), ("a", "b", "a")):
        with pytest.raises(UserError, match="to rank"):
            Ranking(answers)
    family = load("blip")
    assert family.shortlist == 32 and load("blip-vqa").shortlist == 128
    family.shortlist = 2
    assert family.rank(SAMPLES, Ranking(ANSWERS)).places.shape == (3, 2)


def test_smoothed_scores_are_the_training_loss_of_blips_own_code():
    """With and without a cache."""
    family, smoothing = load("blip-vqa"), 0.1
    way = Ranking(ANSWERS, 50, label_smoothing=smoothing)
    alone = rank_one_by_one(family, SAMPLES, ANSWERS, 50, smoothing)
    for found in (family.rank(SAMPLES, way), alone):
        for sample, places, scores in zip(SAMPLES, found.places.tolist(), found.scores):
            for place, score in zip(places, scores):
                one = by_hand(family, replace(sample, answer=ANSWERS[place]))
                logits, targets = one.logits[one.prompt - 1 : -1], one.ids[one.prompt :]
                loss = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
                torch.testing.assert_close(score, -loss, rtol=1e-5, atol=1e-5)
    plain = family.rank(SAMPLES, Ranking(ANSWERS, 50))
    assert (plain.scores.sort().values - alone.scores.sort().values).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["blip", "llava"])
def test_bounds_change_nothing_and_are_kept(name, monkeypatch):
    family = adapted(name, *PGNN)
    want = family.rank(SAMPLES, Ranking(ANSWERS, 8))
    sizes, go_on = [], ranking.Opening.go_on

    def noted(self, cache, rows, ids):
        after = go_on(self, cache, rows, ids)
        sizes.append(len(rows))
        return after

    monkeypatch.setattr(ranking.Opening, "go_on", noted)
    for bound, value in (("PAIRS", 5), ("CACHED_BYTES", 1), ("PROMPTS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(ranking, bound, value)
            sizes.clear()
            got = family.rank(SAMPLES, Ranking(ANSWERS, 8))
        assert torch.equal(got.places, want.places), bound
        torch.testing.assert_close(got.scores, want.scores)
        assert bound == "PROMPTS" or max(sizes) == value


def test_no_answer_is_read_with_its_prompt_again(monkeypatch):
    """One pass for the prompts of a length, one for the answers of a length."""
    family = load("blip")
    widths, decoder = [], family.model.text_decoder
    forward = decoder.forward

    def noted(*args, input_ids, **more):
        widths.append(tuple(input_ids.shape))
        return forward(*args, input_ids=input_ids, **more)

    noted.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(decoder, "forward", noted)
    family.rank([SAMPLES[0], replace(SAMPLES[1], prompt="ball")], Ranking(("a", "red", "a star", "ball a")))
    assert widths == [(2, 2), (8, 2)]


def test_an_answer_that_ends_at_once_needs_no_pass():
    """What an empty tokenization would give: the end token alone is the first token."""
    family = load("blip")
    decoder, states = family.model.text_decoder, family.encode_images([SAMPLES[0].image])
    encoder_inputs = {"encoder_hidden_states": states}
    parts = openings(decoder, [[11, 5]], [[3], [5, 3], [5, 6, 3]], encoder_inputs, states.device)
    ranked = ranking.rank_from_cache(parts, 1, 3)
    with torch.no_grad():
        first = decoder(input_ids=torch.tensor([[11, 5]]), **encoder_inputs).logits[0, -1]
    torch.testing.assert_close(ranked.scores[ranked.places == 0], first.log_softmax(-1)[3:4])


def test_ties_go_to_the_earlier_answer():
    first = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    assert shortlist(first, 3).tolist() == [[0, 1, 4], [0, 1, 2]]
    assert shortlist(first, 9).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_texts_longer_than_the_model_are_cut():
    """An answer to what fits beside the start token, the prompt then has no room; a prompt for the longest
    answer, for all answers alike, so that they are compared after one prompt."""
    family = load("blip")
    longest, room = family.max_tokens, family.max_tokens - 1 - 6  # the longest answer with its end
    long = " ".join(["red ball"] * longest)
    got, want = (
        family.rank(SAMPLES, Ranking(("a", answer), 2))
        for answer in (long, " ".join(long.split()[: longest - 2]))
    )
    assert torch.equal(got.places, want.places) and torch.equal(got.scores, want.scores)
    sample = replace(SAMPLES[0], answer=long)
    assert (family.training_inputs([sample])["labels"] != IGNORED).sum() == longest - 1
    asked = [replace(sample, prompt=prompt) for prompt in (long, " ".join(long.split()[:room]))]
    got, want = (family.rank([one], Ranking(ANSWERS)) for one in asked)
    assert torch.equal(got.scores, want.scores) and torch.equal(got.places, want.places)


def test_a_prompt_with_an_image_is_not_cut(monkeypatch):
    """Its image's place could be lost: a prompt that leaves no room for the longest answer is refused."""
    family = load("llava")
    length = family.training_inputs([replace(SAMPLES[1], answer="a star ball a red")])["input_ids"].shape[1]
    monkeypatch.setattr(type(family), "max_tokens", length)
    family.rank(SAMPLES[1:2], Ranking(ANSWERS))
    monkeypatch.setattr(type(family), "max_tokens", length - 1)
    with pytest.raises(UserError, match=f"the text of long has {length} tokens with its image"):
        family.rank(SAMPLES[1:2], Ranking(ANSWERS))
