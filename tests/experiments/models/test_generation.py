"""How texts are written: the decoder's inputs, penalties of lengths against every text that there is, and the
search of released code against one written from the rules of transformers 4.15."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from attngraph.errors import UserError
from attngraph.experiments.methods import method_named
from attngraph.experiments.models import IGNORED, Decoding, generation
from attngraph.experiments.models.family import GNMT, LENGTH, Gnmt
from attngraph.experiments.models.generation import best_texts, sequence_batch
from attngraph.experiments.studies.pretrain import build_tokenizer
from tests.experiments.models.test_ranking import PGNN, adapted
from tests.experiments.models.writers import SAMPLES, load

WORDS = "how many red circles are there is the star left of a square one two three with two".split()
BEAMS, LEAST, MOST = 3, 4, 9
END = 0
LONG = 2  # tokens of the longest of all texts
PENALTIES = {LENGTH: lambda t: t, GNMT: lambda t: ((5 + t) / 6) ** 0.6}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(WORDS)


def test_batch_layout(tokenizer):
    batch = sequence_batch(tokenizer, ["a star", ""], ["two", "one square"])
    decoded = [tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    assert decoded == [["[DEC]", "a", "star", "two", "[SEP]"], ["[DEC]", "one", "square", "[SEP]", "[PAD]"]]
    assert ((batch["labels"] != IGNORED).int().tolist()) == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [5, 4]
    assert batch["position_ids"][1].tolist() == [0, 1, 2, 3, 4]


def test_long_texts_are_cut_to_the_positions_of_the_model(tokenizer):
    family = load("blip")
    with pytest.raises(UserError, match=f"has {family.max_tokens} positions: use"):
        family.answer(SAMPLES[:1], Decoding(family.max_tokens + 1))
    (text,) = family.generate(SAMPLES[:1], Decoding(family.max_tokens, min_new_tokens=family.max_tokens))
    assert len(text.split()) > family.max_tokens - 5, "as many as there are positions can be written"
    long, longest = "circle " * 300, tokenizer.model_max_length
    ids = sequence_batch(tokenizer, [long, long], ["two", long])["input_ids"]
    assert ids.shape[1] == longest and (ids[:, -1] == tokenizer.sep_token_id).all()


@torch.no_grad()
def log_probabilities(family, sample) -> dict[tuple[int, ...], float]:
    """Of every text: those that end, and those of ``LONG`` tokens."""
    words, end = family.model.text_decoder.config.vocab_size, family.tokenizer.sep_token_id
    found = {}
    for length in range(1, LONG + 1):
        texts = list(itertools.product([word for word in range(words) if word != end], repeat=length - 1))
        inputs = family.training_inputs([sample] * len(texts))
        start = inputs["input_ids"][:, :1]
        ids = torch.cat([start, torch.tensor(texts, dtype=torch.long).view(len(texts), -1)], 1)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs["position_ids"] = torch.arange(length).expand_as(ids)
        steps = family.logits(inputs).log_softmax(-1)
        for text, step in zip(texts, steps):
            before = sum(step[k, word].item() for k, word in enumerate(text))
            for last in range(words) if length == LONG else [end]:
                found[(*text, last)] = before + step[-1, last].item()
    return found


@pytest.mark.parametrize("name", ["mplug", "blip-vqa"])
def test_the_best_of_all_texts_is_found(name):
    family = load(name)
    wide = family.model.text_decoder.config.vocab_size ** (LONG - 1)
    best = {penalty: [] for penalty in PENALTIES}
    for sample in SAMPLES:
        found = log_probabilities(family, sample)
        for penalty, of in PENALTIES.items():
            text = max(found, key=lambda ids: found[ids] / of(len(ids)))
            best[penalty].append(family.tokenizer.decode(text, skip_special_tokens=True).strip())
    assert best[LENGTH] != best[GNMT], "or the test shows nothing"
    assert 7 ** Gnmt(0.6) == PENALTIES[GNMT](7), "also where the order of these texts does not show it"
    for penalty, texts in best.items():
        assert family.generate(SAMPLES, Decoding(LONG, wide, length_penalty=penalty)) == texts


def best_of(score, prompt, end, beams, least, most):
    """One prompt, without a cache: the ids after it of the text that 4.15's ``BeamSearchScorer`` returns.

    Args:
        score: ids of a whole text -> log-probabilities of the next token.
    """
    going, ended, length = [(0.0, prompt)], [], len(prompt)
    while True:
        candidates = []
        for total, ids in going:
            steps = score(ids).tolist()
            steps[end] = -float("inf") if length < least else steps[end]
            candidates += [(total + step, [*ids, token]) for token, step in enumerate(steps)]
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * beams]
        ended += [(p / length, ids[:-1]) for p, ids in candidates[:beams] if ids[-1] == end]
        ended = sorted(ended, key=lambda text: -text[0])[:beams]
        if len(ended) == beams and ended[-1][0] >= candidates[0][0] / length:
            break
        going = [candidate for candidate in candidates if candidate[1][-1] != end][:beams]
        length += 1
        if length >= most:
            ended += [(p / length, ids) for p, ids in going]
            break
    return max(ended, key=lambda text: text[0])[1][len(prompt) :]


@torch.no_grad()
def expected(family, samples, beams, least, most):
    """What :func:`best_of` finds for each, as text."""
    model, tokenizer = family.model, family.tokenizer
    states = family.image_states(family.image_inputs(samples))
    prompts = tokenizer([sample.prompt for sample in samples], add_special_tokens=False)["input_ids"]
    if family.name == "blip_vqa":  # the answer sees all of the questions' states, those of padding too
        asked = family.question_inputs(samples)
        states = model.text_encoder(*asked.values(), encoder_hidden_states=states)[0]
        prompts = [[]] * len(samples)
    texts = []
    for state, words in zip(states, prompts):

        def score(ids, state=state):
            ids = [*family.learned, *ids]
            output = model.text_decoder(torch.tensor([ids]), encoder_hidden_states=state[None])
            return F.log_softmax(output.logits[0, -1].float(), -1)

        prompt = [tokenizer.bos_token_id, *words]
        texts.append(tokenizer.decode(best_of(score, prompt, tokenizer.sep_token_id, beams, least, most)))
    return texts


class Drawn:
    """A decoder whose next token depends on the whole text before, by chance; its cache holds the texts."""

    def __init__(self, seed, prompts):
        self.seed, self.texts = seed, prompts
        self.length, self.samples = len(prompts[0]), range(len(prompts))

    def score(self, ids):
        drawn = torch.Generator().manual_seed(hash((self.seed, *ids)) % 2**31)
        logits = torch.randn(8, generator=drawn) * (1 if self.seed % 2 else 3)
        logits[END] += 1 if self.seed % 2 else 2
        return F.log_softmax(logits, -1)

    def begin(self):
        return torch.stack([self.score(text) for text in self.texts]), self

    def batch_select_indices(self, rows):
        self.texts = [self.texts[row] for row in rows]

    def step(self, cache, _, ids):
        cache.texts = [[*text, token] for text, (token,) in zip(cache.texts, ids.tolist())]
        return torch.stack([self.score(text) for text in cache.texts])[:, None]


def test_the_search_is_that_of_transformers_4_15():
    for seed in (*range(6), 20, 56):  # at 20 the end of the search decides, at 56 who counts as ended
        prompts = [[1, 1, 1, k, seed % 7] for k in range(5)]
        part = Drawn(seed, prompts)
        for beams, least, most in ((1, 0, 9), (2, 0, 14), (3, 6, 14), (3, 0, 6), (3, 0, 4)):
            found = best_texts(part, END, beams, least, most)
            assert found == [best_of(part.score, prompt, END, beams, least, most) for prompt in prompts]


@pytest.mark.parametrize(
    "name, beams, learned", [("blip", 1, 0), ("blip", BEAMS, 0), ("blip-vqa", BEAMS, 0), ("blip", BEAMS, 2)]
)
def test_families_write_so(name, beams, learned):
    """Learned tokens do not count as tokens of the prompt."""
    family = load(name)
    if learned:
        method_named("prompt_tuning").apply(
            family, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": learned}
        )
    texts = expected(family, SAMPLES, beams, LEAST, MOST)
    assert family.generate(SAMPLES, Decoding(MOST, beams, LEAST, as_released="blip")) == texts
    assert family.generate(SAMPLES, Decoding(MOST, beams, LEAST)) != texts, "or the test shows nothing"


@pytest.mark.parametrize("name", ["blip", "blip-vqa", "mplug"])
def test_beams_share_what_they_look_at(name, monkeypatch):
    """Texts are those of a cache that copies all keys and values for each beam: beams of two texts never
    change places, and a text's own keys, and degrees, do follow its beams."""
    family, way = adapted(name, *PGNN), Decoding(MOST, BEAMS, LEAST)
    texts = family.generate(SAMPLES, way)
    monkeypatch.delattr(generation._SameInAllBeams, "reorder_cache")
    assert family.generate(SAMPLES, way) == texts


def test_what_does_not_go_together_is_refused():
    with pytest.raises(UserError, match=r"at most max_new_tokens \(20\), got 21"):
        Decoding(min_new_tokens=21)
    with pytest.raises(UserError, match="remove length_penalty gnmt"):
        Decoding(as_released="blip", length_penalty=GNMT)
    with pytest.raises(UserError, match="as_released blip applies to BLIP's models"):
        load("mplug").answer(SAMPLES, Decoding(as_released="blip"))
    with pytest.raises(UserError, match="max_new_tokens 2 includes the prompt's 2 tokens .*: use at least 3"):
        load("blip").answer(SAMPLES, Decoding(2, as_released="blip"))
