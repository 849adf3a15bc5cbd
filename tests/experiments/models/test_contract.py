"""What every family that writes promises, whatever its model: it trains on the answer and the end token,
writes what it was trained to write, and ranks as one pass of the model's own class for each answer; batches
and caches change none of it. With adapters: tests/experiments/methods/test_additions.py."""

from dataclasses import replace

import pytest
import torch

from attngraph.experiments.models import IGNORED, Decoding, ModelFamily, Ranking
from attngraph.experiments.models.batch import token_losses
from tests.experiments.models.writers import MODELS, SAMPLES, WORDS, WRITERS, by_hand, end_of, load, writer

LENGTH = 5  # tokens, the end included
# One to five tokens, several with the same first token, and beginnings of others.
ANSWERS = (*WORDS, "a star", "a star ball", "red red ball a", "a star ball a red", "red red")


@pytest.fixture(params=WRITERS, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def family(name):
    """Read only."""
    return load(name)


def run(family, samples):
    """Inputs, labels and logits."""
    inputs = family.training_inputs(samples)
    labels = inputs.pop("labels")
    with torch.no_grad():
        return inputs, labels, family.logits(inputs)


def loss(family, samples) -> torch.Tensor:
    """Of each sample."""
    _, labels, logits = run(family, samples)
    return token_losses(logits, labels).sum(1)


# ---- training --------------------------------------------------------------------------------------------


def test_logits_are_those_of_the_models_own_class_at_the_answers_places(family):
    inputs, labels, logits = run(family, SAMPLES)
    assert logits.shape[:2] == labels.shape
    for sample, row, ids, computed in zip(SAMPLES, labels, inputs["input_ids"], logits):
        expected = by_hand(family, sample)
        places = (row != IGNORED).nonzero()[:, 0]
        assert places.tolist() == list(range(expected.prompt, len(expected.ids)))
        words = family.tokenizer.convert_ids_to_tokens(row[places].tolist())
        assert words[:-1] == sample.answer.split() and row[places[-1]] == end_of(family)
        assert torch.equal(ids[places], row[places])
        window = slice(expected.prompt - 1, len(expected.ids))
        torch.testing.assert_close(computed[window], expected.logits[window], rtol=1e-4, atol=1e-4)


def test_the_batch_changes_no_loss_but_prompt_and_image_do(family):
    together, alone = loss(family, SAMPLES), [loss(family, [sample]) for sample in SAMPLES]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)
    changes = [{"prompt": "star a"}, {"image": SAMPLES[1].image}, {"image": family.blank_image()}]
    for change in changes if family.takes_images else changes[:1]:
        assert (loss(family, [replace(SAMPLES[0], **change)]) - alone[0]).abs() > 1e-3, change


def check_words(family: ModelFamily, samples=SAMPLES) -> None:
    """Later words and padding do not matter."""
    answers, others = (
        [replace(sample, answer=x) for sample in samples] for x in ("red ball star", "red ball a")
    )
    _, labels, logits = run(family, answers)
    _, _, other = run(family, others)
    for k, sample in enumerate(answers):
        _, own, alone = run(family, [sample])
        valid, own = labels[k] != IGNORED, own[0] != IGNORED
        torch.testing.assert_close(logits[k][valid], alone[0][own], rtol=2e-4, atol=2e-4)
        place = int(valid.nonzero()[0])  # of logits that see `red` last
        torch.testing.assert_close(logits[k][: place + 2], other[k][: place + 2], rtol=1e-5, atol=1e-5)


# ---- writing ---------------------------------------------------------------------------------------------


def step_by_step(family: ModelFamily, sample) -> str:
    """Argmax decoding through ``training_inputs`` and ``logits`` alone."""
    words: list[str] = []
    while len(words) < LENGTH:
        _, labels, logits = run(family, [replace(sample, answer=" ".join(words))])
        last = int((labels[0] != IGNORED).nonzero()[-1])  # the end token, which is to be replaced
        token = int(logits[0, last - 1].argmax())
        if token == end_of(family):
            break
        words.append(family.tokenizer.convert_ids_to_tokens(token))
    return " ".join(words)


def test_greedy_texts_are_the_argmax_of_training_logits(family):
    texts = family.answer(SAMPLES, Decoding(LENGTH))
    assert texts == [step_by_step(family, sample) for sample in SAMPLES]
    lengths = [len(text.split()) for text in texts]
    assert len(set(texts)) == len(SAMPLES) and min(lengths) < LENGTH  # they depend on the samples, and end
    longer = family.generate(SAMPLES, Decoding(24))  # more new tokens than the prompt has
    for first, whole in zip(texts, longer):
        assert whole == first or (len(first.split()) == LENGTH and whole.startswith(f"{first} "))


def test_a_checkpoints_own_settings_of_generation_change_no_text(family, monkeypatch):
    """transformers applies those of ``generation_config.json`` that a call does not set."""
    ways = Decoding(LENGTH), Decoding(LENGTH, num_beams=3)
    plain = [family.generate(SAMPLES, way) for way in ways]
    own = {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "min_new_tokens": LENGTH}
    own["early_stopping"] = True
    for name, value in own.items():
        monkeypatch.setattr(writer(family).generation_config, name, value)
    assert [family.generate(SAMPLES, way) for way in ways] == plain


def test_batch_and_cache_change_no_text(family, monkeypatch):
    decoding, widths, model = Decoding(LENGTH, num_beams=3), [], writer(family)
    together = family.generate(SAMPLES, decoding)
    assert together == [family.generate([sample], decoding)[0] for sample in SAMPLES]
    if hasattr(model, "qformer"):
        return  # the language model of BLIP-2 goes on from states, which it can only do with a cache
    write, embed = model.generate, model.get_input_embeddings()
    forward = embed.forward

    def without_cache(*args, generation_config, **inputs):
        generation_config.use_cache = False
        inputs = {name: x for name, x in inputs.items() if name not in ("cache", "past_key_values")}
        return write(*args, generation_config=generation_config, **inputs)

    monkeypatch.setattr(model, "generate", without_cache)
    monkeypatch.setattr(embed, "forward", lambda ids: widths.append(ids.shape[-1]) or forward(ids))
    assert family.generate(SAMPLES, decoding) == together
    assert widths[-1] > 1  # the last step read the whole text again


# ---- ranking ---------------------------------------------------------------------------------------------


def check_ranking(family: ModelFamily, samples, answers, k) -> None:
    """First tokens decide which answers are listed, the earlier on a tie; scores are those of one pass for
    each sample and answer."""
    ranked = family.rank(samples, Ranking(answers, k))
    assert ranked.places.shape == ranked.scores.shape == (len(samples), min(k, len(answers)))
    assert (ranked.scores.diff(dim=1) <= 0).all()
    for sample, places, scores in zip(samples, ranked.places.tolist(), ranked.scores):
        steps = [by_hand(family, replace(sample, answer=answer)).steps for answer in answers]
        # Logits of one prompt in passes of different lengths differ in their last digits.
        order = sorted(range(len(answers)), key=lambda place: (-round(float(steps[place][0]), 3), place))
        assert set(places) == set(order[:k])
        wanted = torch.stack([steps[place].sum() for place in places])
        torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5)


def test_scores_are_those_of_one_pass_for_each_answer(family, name):
    """Prompts of several lengths, one of them twice; a short list, or one longer than the list."""
    k = 50 if WRITERS.index(name) % 2 else 3
    check_ranking(family, [*SAMPLES, replace(SAMPLES[1], prompt="a star")], ANSWERS, k)
    check_ranking(family, SAMPLES[:1], ("red ball",), 1)
    best = family.rank(SAMPLES, Ranking(ANSWERS, 4)).best.tolist()
    assert family.answer(SAMPLES, Ranking(ANSWERS, 4)) == [ANSWERS[place] for place in best]


# ---- where adapters go -----------------------------------------------------------------------------------


def inside(name: str, parts: list[str]) -> bool:
    return any(not part or name == part or name.startswith(f"{part}.") for part in parts)


def test_the_language_side_leaves_the_image_encoder_out(family, name):
    parts, (_, vision) = family.language_side(), MODELS[name]
    modules = dict(family.model.named_modules())
    assert set(parts) <= set(modules) and (vision is None or vision in modules)
    on_side = [key for key, _ in family.model.named_parameters() if inside(key, parts)]
    assert not any(vision is not None and inside(key, [vision]) for key in on_side)
    chosen = {id(family.model.get_parameter(key)) for key in on_side}
    assert all(id(weight) in chosen for weight in writer(family).get_output_embeddings().parameters())
