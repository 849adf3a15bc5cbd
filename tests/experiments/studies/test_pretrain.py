"""Pre-training: the tokenizer, how the two models read texts, losses, batches, the recipe."""

import random
import string
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from attngraph.experiments.models import Sample
from attngraph.experiments.models.batch import token_losses
from attngraph.experiments.models.blip import build_model
from attngraph.experiments.models.generation import IGNORED, decoder_logits, encode_images, sequence_batch
from attngraph.experiments.models.images import normalise
from attngraph.experiments.models.mplug import MPlug
from attngraph.experiments.scenes.drawing import COLOR_CLASSES, SHAPE_CLASSES, draw
from attngraph.experiments.scenes.scene import generator, scenes
from attngraph.experiments.scenes.words import all_words
from attngraph.experiments.studies.pretrain import (
    EASY_VQA_WORDS,
    MINIS,
    Recipe,
    Steps,
    block_causal_mask,
    build_tokenizer,
    pack,
    patch_loss,
    rows,
    text_loss,
)
from attngraph.experiments.studies.pretrain_texts import CAPTION_PROMPTS, KINDS
from tests.experiments.studies.small import small_mplug


@pytest.fixture(scope="module")
def tokenizer():
    return MINIS["mini-blip"].tokenizer()


@pytest.fixture(scope="module")
def asked():
    """mini-mPLUG's tokenizer."""
    return MINIS["mini-mplug"].tokenizer()


def test_learning_rates():
    recipe = Recipe(steps=1000, warmup_steps=300, learning_rate=0.1)
    assert recipe.rate(0) == pytest.approx(0.1 / 300)
    assert recipe.rate(299) == recipe.rate(300) == pytest.approx(0.1)
    assert recipe.rate(650) == pytest.approx(0.1 * (0.01 + 0.99 / 2))
    assert recipe.rate(1000) == pytest.approx(0.001)


def test_weight_decay_leaves_biases_norms_and_embeddings_alone():
    model = nn.ModuleDict(
        {"word_embeddings": nn.Embedding(3, 2), "linear": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}
    )
    decayed, free = Recipe(weight_decay=0.3).parameter_groups(model)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert [id(parameter) for parameter in decayed["params"]] == [id(model["linear"].weight)]
    assert len(free["params"]) == 4


def test_text_loss_against_a_loop():
    """The logits at one token are for the next; a text weighs as its tokens do."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5)
    labels = torch.tensor([[IGNORED, 2, 4, IGNORED], [IGNORED, IGNORED, 0, 3]])
    weights = torch.tensor([[0.0, 0.5, 0.25, 0.0], [0.0, 0.0, 1.0, 2.0]])
    batch = {"labels": labels, "weights": weights}
    loss = 0.0
    for row, place in ((0, 1), (0, 2), (1, 2), (1, 3)):
        loss -= weights[row, place] * logits[row, place - 1].log_softmax(0)[labels[row, place]] / 3.75
    assert torch.allclose(text_loss([(logits, batch)]), loss)
    cuts = (slice(0, 1), slice(0, 3)), (slice(1, 2), slice(0, 4))  # the first row lacks its last, empty place
    parts = [(logits[cut], {name: value[cut] for name, value in batch.items()}) for cut in cuts]
    assert torch.allclose(text_loss(parts), loss), "parts may differ in length"


def test_patch_loss_against_a_loop():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, SHAPE_CLASSES + COLOR_CLASSES)
    batch = {
        "patch_shapes": torch.tensor([[0, 2, 1], [0, 0, 7]]),
        "patch_colors": torch.tensor([[0, 3, 1], [0, 0, 11]]),
    }
    loss = 0.0
    for image in range(2):
        for patch in range(3):
            shape, color = (
                scores[image, patch, :SHAPE_CLASSES],
                scores[image, patch, SHAPE_CLASSES:],
            )
            loss -= shape.log_softmax(0)[batch["patch_shapes"][image, patch]] / 6
            loss -= color.log_softmax(0)[batch["patch_colors"][image, patch]] / 6
    assert torch.allclose(patch_loss(scores, batch), loss)


PACKED = [
    [("how many red circles ?", "2"), ("caption :", "a red circle and a red circle"), ("", "yes")],
    [("the color of the star :", "green"), ("how many things ?", "1"), ("", "a green star")],
]


def test_packed_loss_equals_the_loss_of_separate_texts(tokenizer):
    torch.manual_seed(0)
    model = build_model(tokenizer, width=32, vision_layers=1, text_layers=2).eval()
    states = encode_images(model, torch.randn(2, 3, 64, 64))
    packed = pack(tokenizer, PACKED, row_length=40)
    packed["attention_mask"] = block_causal_mask(packed["segments"])
    rows = [(image, *pair) for image, pairs in enumerate(PACKED) for pair in pairs]
    images, prompts, answers = map(list, zip(*rows, strict=True))
    separate = sequence_batch(tokenizer, prompts, answers)
    assert (packed["labels"] != IGNORED).sum() == (separate["labels"] != IGNORED).sum()
    losses = [
        token_losses(decoder_logits(model, seen, batch), batch["labels"]).sum()
        for seen, batch in ((states[images], separate), (states, packed))
    ]
    assert torch.allclose(*losses, rtol=1e-5)


def test_texts_that_do_not_fit_are_left_out(tokenizer):
    packed = pack(tokenizer, PACKED, row_length=9)
    assert packed["segments"].tolist() == [[1] * 8 + [0], [1] * 9], "the second just fits"
    assert packed["position_ids"][0].tolist() == [*range(8), 0]


ROWS = [
    [
        ("caption :", "a red circle and a red circle"),
        ("how many red circles do you see ?", "2"),
        ("list the shapes", "circle , star , cross , square and diamond"),
    ],
    [("a picture of", "a green star"), ("in this picture :", "one green thing")],
    [("the scene :", "a cross"), ("shape ?", "cross")],
]


@pytest.fixture(scope="module")
def family(asked):
    torch.manual_seed(0)
    return MPlug(small_mplug(asked).eval(), asked)


@pytest.fixture(scope="module")
def pictures():
    return [draw(scene) for scene in scenes("train", 3, 0, "pretrain")]


@pytest.mark.parametrize("texts", [ROWS, [row[:1] for row in ROWS]])
def test_a_step_has_the_loss_of_each_text_alone(texts, family, pictures, asked):
    """Each text by itself, without padding, as the family reads a sample; an answer of n tokens weighs
    n^(1/2)."""
    losses, weights = [], []
    for picture, row in zip(pictures, texts, strict=True):
        for prompt, answer in row:
            sample = Sample("x", picture, "" if prompt in CAPTION_PROMPTS else prompt, answer)
            inputs = family.training_inputs([sample])
            labels = inputs.pop("labels")
            count = (labels != IGNORED).sum()
            losses.append(token_losses(family.logits(inputs), labels).sum() / count**0.5)
            weights.append(count**0.5)
    expected = sum(losses) / sum(weights)

    states = family.model.vision_model(pixel_values=family.pixels(pictures)).last_hidden_state
    found = text_loss(MINIS["mini-mplug"].read(family.model, states, rows(asked, texts)))
    assert torch.allclose(found, expected, atol=1e-5)
    weights = [weight for weight in family.model.parameters() if weight.requires_grad]
    gradients = [
        torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True) for loss in (found, expected)
    ]
    for mine, its in zip(*gradients, strict=True):
        assert mine is its is None or torch.allclose(mine, its, atol=1e-5)


def test_captions_have_prompts_of_their_own():
    """By these they are told from questions."""
    shown = list(scenes("train", 20, 0, "pretrain"))
    for kind, write in KINDS.items():
        made = [
            write(scene, generator(seed, number)) for number, scene in enumerate(shown) for seed in (0, 1)
        ]
        assert {text[0] in CAPTION_PROMPTS for text in made if text} == {kind == "caption"}, kind


def test_no_question_is_cut_and_no_word_unknown(asked):
    batch = Steps(partial(rows, asked), 5, Recipe(steps=1, images=40))[0]
    assert (batch["question.question_mask"].sum(1) < 25).all()
    for name in ("question.question_ids", "question.input_ids", "caption.input_ids"):
        tokens = set(asked.convert_ids_to_tokens(batch[name].flatten().tolist()))
        assert "[UNK]" not in tokens and not any(token.startswith("##") for token in tokens)
    assert batch["caption.image"].unique().tolist() == list(range(40))
    assert len(batch["caption.image"]) + len(batch["question.image"]) == 40 * 8


@pytest.mark.parametrize("mini", MINIS.values(), ids=MINIS)
def test_a_step_depends_on_seed_and_number_only(mini):
    arrange, recipe = partial(mini.arrange, mini.tokenizer()), Recipe(steps=4, images=3, texts=4)
    data = Steps(arrange, 0, recipe)
    other = Steps(arrange, 0, replace(recipe, steps=9))
    assert all(torch.equal(value, other[2][name]) for name, value in data[2].items())
    assert not torch.equal(data[0]["pixels"], data[1]["pixels"])
    assert not torch.equal(data[0]["pixels"], Steps(arrange, 1, recipe)[0]["pixels"])
    assert normalise(data[0]["pixels"]).shape == (3, 3, 64, 64)


# ---- the tokenizer -----------------------------------------------------------------------------------------

TEXTS = [
    "how many red circles?",
    'is it correct that a tealish zebra isn\'t 47% of it -- [or] "so"?',
    "",
    "a  b\tc",
    "x" * 100,
]


def test_words_are_whole_tokens_and_no_lower_case_ascii_text_is_unknown():
    tokenizer = build_tokenizer(all_words())
    for word in {*all_words(), *EASY_VQA_WORDS}:
        assert tokenizer.tokenize(word) == [word]
    rng = random.Random(0)
    alphabet = string.ascii_lowercase + string.digits + string.punctuation + " "
    few = build_tokenizer(["red", "circle"])
    for text in TEXTS + ["".join(rng.choices(alphabet, k=60)) for _ in range(200)]:
        assert few.unk_token_id not in few(text)["input_ids"], text


def test_saved_tokenizer_gives_the_same_ids(tmp_path):
    tokenizer = build_tokenizer(all_words())
    assert tokenizer.get_vocab() == build_tokenizer(reversed(all_words())).get_vocab()
    assert (tokenizer.pad_token_id, tokenizer.sep_token, tokenizer.bos_token) == (0, "[SEP]", "[DEC]")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.model_max_length == tokenizer.model_max_length
    assert loaded.bos_token_id == tokenizer.bos_token_id
    for text in TEXTS:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
