"""Ranking: adapters of every kind, ties, bounds of a pass, and texts that are too long. What all families
share is in test_contract."""

import inspect
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from transformers import BlipForQuestionAnswering

from adapters import GraphAdapterConfig
from attngraph.errors import UserError
from experiments.models import IGNORED, ModelFamily, Ranking, load_family, ranking
from experiments.models.images import preprocess
from experiments.models.ranking import openings, shortlist
from tests.experiments.models.test_contract import ANSWERS, check_ranking
from tests.experiments.models.writers import SAMPLES, load
from tests.experiments.tiny import save

VARIANTS = [
    ("pgnn", {"p": 1.25, "mu": 0.1, "steps": 2}, "replace"),
    ("pgnn", {"p": 2.5, "mu": 0.1, "degree": "mean"}, "blend"),
    ("gcn", {"normalize": True}, "gated"),
    ("pgnn", {"p": 1.25, "mu": 0.1, "top_k": 2}, "replace"),
]


def adapt(family: ModelFamily, gnn: str = "pgnn", args: dict | None = None, join: str = "replace") -> None:
    """Put adapters into the model none of whose weights has its neutral value."""
    torch.manual_seed(0)
    args = {"p": 1.25, "mu": 0.1} if args is None else args
    settings = GraphAdapterConfig(gnn=gnn, join=join, reduction=4, init_weights=False, **args)
    get_peft_model(family.model, settings).eval()


@pytest.mark.parametrize("name", ["blip", pytest.param("llava", marks=pytest.mark.slow)])
@pytest.mark.parametrize("gnn, args, join", VARIANTS)
def test_with_every_kind_of_degrees(name, gnn, args, join):
    family = load(name)
    adapt(family, gnn, args, join)
    check_ranking(family, SAMPLES[:2], ANSWERS, 50)


def test_a_list_is_of_different_answers_and_the_family_says_how_many_are_scored():
    for answers in ((), ("a", " "), ("a", "b", "a")):
        with pytest.raises(UserError, match="to rank"):
            Ranking(answers)
    family = load("blip")
    assert family.shortlist == 32 and load("blip-vqa").shortlist == 128
    family.shortlist = 2
    assert family.rank(SAMPLES, Ranking(ANSWERS)).places.shape == (3, 2)


def test_texts_longer_than_the_model_are_cut():
    """An answer to what fits beside the start token, the prompt then has no room; a prompt for the longest
    answer, for all answers alike, so that they are compared after one prompt."""
    family = load("blip")
    longest = family.longest
    long = " ".join(["red ball"] * longest)
    cut = " ".join(long.split()[: longest - 2])
    got, want = (family.rank(SAMPLES, Ranking(("a", answer), 2)) for answer in (long, cut))
    assert torch.equal(got.places, want.places) and torch.equal(got.scores, want.scores)
    assert got.scores.isfinite().all()
    sample = replace(SAMPLES[0], answer=long)
    assert (family.training_inputs([sample])["labels"] != IGNORED).sum() == longest - 1
    sample = replace(SAMPLES[0], prompt=long)
    room = longest - 1 - 6  # the start token, and the longest answer with its end
    cut = replace(sample, prompt=" ".join(long.split()[:room]))
    got, want = (family.rank([one], Ranking(ANSWERS)) for one in (sample, cut))
    assert torch.equal(got.scores, want.scores) and torch.equal(got.places, want.places)


@pytest.mark.parametrize("name", ["blip", "llava"])
def test_bounds_change_nothing_and_are_kept(name, monkeypatch):
    family = load(name)
    adapt(family)
    want = family.rank(SAMPLES, Ranking(ANSWERS, 8))
    vocabulary = family.model.config.get_text_config().vocab_size
    sizes, go_on = [], ranking.Opening.go_on

    def noted(self, cache, rows, ids):
        after = go_on(self, cache, rows, ids)
        sizes.append((len(rows), after.numel()))
        return after

    monkeypatch.setattr(ranking.Opening, "go_on", noted)
    for bound, value in (("LOGITS", 5 * vocabulary), ("CACHED_BYTES", 1), ("PROMPTS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(ranking, bound, value)
            sizes.clear()
            got = family.rank(SAMPLES, Ranking(ANSWERS, 8))
        assert torch.equal(got.places, want.places), bound
        torch.testing.assert_close(got.scores, want.scores)
        if bound == "LOGITS":
            assert max(numbers for _, numbers in sizes) <= value and max(rows for rows, _ in sizes) > 1
        if bound == "CACHED_BYTES":
            assert {rows for rows, _ in sizes} == {1}


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
    looked_at = {"encoder_hidden_states": states}
    parts = openings(decoder, [[11, 5]], [[3], [5, 3], [5, 6, 3]], looked_at, states.device)
    ranked = ranking.rank_from_cache(parts, 1, 3)
    with torch.no_grad():
        first = decoder(input_ids=torch.tensor([[11, 5]]), **looked_at).logits[0, -1]
    score = ranked.scores[ranked.places == 0]
    torch.testing.assert_close(score, first.log_softmax(-1)[3:4])


def test_ties_go_to_the_earlier_answer():
    first = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    assert shortlist(first, 3).tolist() == [[0, 1, 4], [0, 1, 2]]
    assert shortlist(first, 9).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_scores_of_blips_own_code(tmp_path):
    """Its ``rank_answer``: the short list by the first token's probability, then the negative training loss,
    with smoothed labels, of each answer without a cache. The question has no padding."""
    model = BlipForQuestionAnswering.from_pretrained(save("blip-vqa", tmp_path), attn_implementation="eager")
    model.eval().text_decoder.label_smoothing = 0.1
    family, sample = load_family(tmp_path), SAMPLES[1]
    words, k = family.tokenizer, 5
    question = words(sample.prompt, add_special_tokens=False)["input_ids"]
    question = torch.tensor([[words.convert_tokens_to_ids("[ENC]"), *question, words.sep_token_id]])
    answers = [words(answer, add_special_tokens=False)["input_ids"] for answer in ANSWERS]
    rows = [torch.tensor([words.bos_token_id, *answer, words.sep_token_id]) for answer in answers]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=words.pad_token_id)
    mask = (ids != words.pad_token_id).long()
    with torch.no_grad():
        image = model.vision_model(pixel_values=preprocess([sample.image], 8)).last_hidden_state
        states = model.text_encoder(input_ids=question, encoder_hidden_states=image)[0]
        start = model.text_decoder(input_ids=ids[:1, :1], encoder_hidden_states=states).logits[:, 0]
        listed = shortlist(start.softmax(1)[:, ids[:, 1]], k)[0]
        loss = model.text_decoder(
            input_ids=ids[listed],
            attention_mask=mask[listed],
            encoder_hidden_states=states.expand(k, -1, -1),
            labels=ids[listed].masked_fill(mask[listed] == 0, IGNORED),
            reduction="none",
        ).loss
    ranked = family.rank([sample], Ranking(ANSWERS, k, label_smoothing=0.1))
    assert ranked.best.tolist() == [int(listed[(-loss).argmax()])]
    want = dict(zip(listed.tolist(), (-loss).tolist()))
    scores = torch.tensor([want[place] for place in ranked.places[0].tolist()])
    torch.testing.assert_close(ranked.scores[0], scores, rtol=1e-5, atol=1e-5)
    plain = family.rank([sample], Ranking(ANSWERS, k))
    assert (plain.scores.sort().values - ranked.scores.sort().values).abs().max() > 1e-2


def test_a_prompt_with_an_image_is_not_cut(monkeypatch):
    """Its image's place could be lost: a prompt that leaves no room for the longest answer is refused."""
    family = load("llava")
    length = family.training_inputs([replace(SAMPLES[1], answer="a star ball a red")])["input_ids"].shape[1]
    for room in (0, -1):
        monkeypatch.setattr(type(family), "longest", length + room)
        if room:
            with pytest.raises(UserError, match=f"the text of long has {length} tokens with its image"):
                family.rank(SAMPLES[1:2], Ranking(ANSWERS))
        else:
            family.rank(SAMPLES[1:2], Ranking(ANSWERS))
