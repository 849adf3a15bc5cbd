"""mini-mPLUG's batches give the losses of separate texts, read as the tasks' examples are."""

import pytest
import torch

from experiments.models import Sample
from experiments.models.batch import IGNORED, token_losses
from experiments.models.mplug.family import MPlug
from experiments.pretraining.losses import text_loss
from experiments.pretraining.minis import MINIS
from experiments.pretraining.rows import rows
from experiments.pretraining.steps import Steps
from experiments.pretraining.texts import CAPTION_PROMPTS, KINDS
from experiments.scenes.drawing import draw
from experiments.scenes.scene import generator, scenes
from tests.experiments.pretraining.small import small_mplug

TEXTS = [
    [
        ("caption :", "a red circle and a red circle"),
        ("how many red circles do you see ?", "2"),
        ("list the shapes", "circle , star , cross , square and diamond"),
    ],
    [("a picture of", "a green star"), ("in this picture :", "one green thing")],
    [("the scene :", "a cross"), ("shape ?", "cross")],
]


@pytest.fixture(scope="module")
def tokenizer():
    return MINIS["mini-mplug"].tokenizer()


@pytest.fixture(scope="module")
def family(tokenizer):
    torch.manual_seed(0)
    return MPlug(small_mplug(tokenizer).eval(), tokenizer)


@pytest.fixture(scope="module")
def pictures():
    return [draw(scene) for scene in scenes("train", 3, 0, "pretrain")]


@pytest.mark.parametrize("texts", [TEXTS, [row[:1] for row in TEXTS]])
def test_a_step_has_the_loss_of_each_text_alone(texts, family, pictures, tokenizer):
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
    found = text_loss(MINIS["mini-mplug"].read(family.model, states, rows(tokenizer, texts)))
    assert torch.allclose(found, expected, atol=1e-5)
    weights = [weight for weight in family.model.parameters() if weight.requires_grad]
    gradients = [
        torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True) for loss in (found, expected)
    ]
    for mine, its in zip(*gradients, strict=True):
        assert mine is its is None or torch.allclose(mine, its, atol=1e-5)


def test_captions_have_prompts_of_their_own():
    """By these they are told from questions."""
    shown = list(scenes("train", 40, 0, "pretrain"))
    for kind, write in KINDS.items():
        made = [
            write(scene, generator(seed, number)) for number, scene in enumerate(shown) for seed in (0, 1)
        ]
        assert {text[0] in CAPTION_PROMPTS for text in made if text} == {kind == "caption"}, kind


def test_no_question_is_cut_and_no_word_unknown(tokenizer):
    arrange = MINIS["mini-mplug"].arrange(tokenizer, MINIS["mini-mplug"].recipe)
    batch = Steps(arrange, seed=5, steps=1, images=40, texts=8)[0]
    assert (batch["question.question_mask"].sum(1) < 25).all()
    for name in ("question.question_ids", "question.input_ids", "caption.input_ids"):
        tokens = set(tokenizer.convert_ids_to_tokens(batch[name].flatten().tolist()))
        assert "[UNK]" not in tokens and not any(token.startswith("##") for token in tokens)
    assert batch["caption.image"].unique().tolist() == list(range(40))
    assert len(batch["caption.image"]) + len(batch["question.image"]) == 40 * 8
