"""Examples of one picture share its states, keys and values: losses and gradients are those without sharing,
whatever is trained, and each projection of a picture's states runs once."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from attngraph.experiments.methods import method_named
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.runs.train import LossModule
from attngraph.reading.pictures import first_of_picture
from tests.experiments.methods.test_additions import SETTINGS, tuned
from tests.experiments.models.writers import SAMPLES, load, picture

# Which projections see pictures: in mPLUG's fusion those before the first layer that joins image and text.
LOOKING = {
    "blip": ("text_decoder.bert.encoder.layer.0", "text_decoder.bert.encoder.layer.1"),
    "blip-vqa": ("text_encoder.encoder.layer.0", "text_encoder.encoder.layer.1"),
    "mplug": ("fusion_encoder.layer.0", "fusion_encoder.layer.1"),
    "mplug, captions": ("text_decoder.bert.encoder.layer.0", "text_decoder.bert.encoder.layer.1"),
}
GCN = {"gnn": "gcn", "gnn_args": {}}
LORA = {"targets": ["query", "key", "value"]}  # gradients flow through the keys too


def samples(kind: str, alone: bool) -> list:
    """Examples of two pictures, the second between three of the first; ``alone`` gives each a copy of its
    own."""
    texts = [SAMPLES[k] for k in (0, 1, 2, 1)]
    pictures = picture(0), picture(1)
    images = [pictures[k].copy() if alone else pictures[k] for k in (0, 1, 0, 0)]
    prompt = {"prompt": ""} if "captions" in kind else {}
    return [replace(text, image=image, **prompt) for text, image in zip(texts, images)]


@pytest.mark.parametrize("kind", LOOKING)
@pytest.mark.parametrize("method", ["gcn", "pgnn", "lora", "prefix", "decoder", "full"])
def test_losses_and_gradients_are_those_of_pictures_of_their_own(method, kind):
    family = load(kind.partition(",")[0])
    family.model.double()  # these weights, far from zero, multiply rounding errors
    pixels = family.pixels
    family.pixels = lambda images: pixels(images).double()
    if method in (*SETTINGS, "gcn"):
        own = {"gcn": GCN, "lora": LORA}.get(method, {})
        made = tuned("pgnn" if method == "gcn" else method, family, **own)
    else:
        made = method_named(method).apply(family, method_named(method).settings(Settings(), "vqa"))
    module, rows = LossModule(made, 0.1).train(), {}
    for name, part in family.model.named_modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(getattr(part, "dropout", None), float):  # CLIP's attention
            part.dropout = 0.0
        if isinstance(part, nn.Linear) and ("crossattention.self.value" in name) and "lora" not in name:
            layer = name.removeprefix("base_model.model.").partition(".crossattention")[0]
            part.register_forward_hook(
                lambda _, args, __, layer=layer: rows.setdefault(layer, []).append(len(args[0]))
            )
    found = []
    for alone in (True, False):
        inputs = family.training_inputs(samples(kind, alone))
        family.model.zero_grad()
        loss = module(**inputs, tokens=torch.tensor(9))
        loss.backward()
        found.append((loss, {name: p.grad for name, p in made.parameters().items() if p.grad is not None}))
    assert rows.keys() >= set(LOOKING[kind])
    assert {layer: 2 if layer in LOOKING[kind] else 4 for layer in rows} == {
        layer: of_passes[1] for layer, of_passes in rows.items()
    }
    assert {of_passes[0] for of_passes in rows.values()} == {4}
    (loss, want), (shared, got) = found
    torch.testing.assert_close(shared, loss, rtol=1e-6, atol=0)
    largest = max(float(gradient.abs().max()) for gradient in want.values())
    assert want.keys() == got.keys() and largest > 0
    for name, gradient in want.items():
        slack = 1e-5 * float(gradient.abs().max()) + 1e-7 * largest  # the loss is in single precision
        torch.testing.assert_close(got[name], gradient, rtol=0, atol=slack)


def test_one_picture_for_each_example_is_as_before():
    """The states themselves, in no copy."""
    family = load("blip")
    states = torch.randn(4, *family.blank_image().shape).unbind()
    inputs = family.image_inputs([replace(SAMPLES[0], image=image) for image in states])
    seen = family.image_states(inputs)
    assert seen is inputs["image_states"] and first_of_picture(seen) is None
