"""Which parts of a model read and write text, frozen image states, and graph adapters that train in every
family."""

from dataclasses import replace

import pytest
import torch
from peft import get_peft_model

from adapters.peft import GraphAdapterConfig
from experiments.models import Decoding, Ranking, load_family
from experiments.models.losses import IGNORED, token_losses
from tests.experiments.models.writers import SAMPLES, WRITERS, load, output_layer
from tests.experiments.tiny import IMAGE_ALONE, TEXT_ALONE, save

VISION = {  # what the image encoders of these are called
    "blip": "vision_model",
    "blip-vqa": "vision_model",
    "mplug": "vision_model",
    "llava": "model.vision_tower",
    "llava-chat": "model.vision_tower",
    "smolvlm": "model.vision_model",
    "qwen2-vl": "model.visual",
    "blip2": "vision_model",
    "instructblip": "vision_model",
    "git": "git.image_encoder",
    "mllama": "model.vision_model",
    "captioner": "encoder",
    "donut": "encoder",
}


def inside(name: str, parts: list[str]) -> bool:
    return any(not part or name == part or name.startswith(f"{part}.") for part in parts)


@pytest.mark.parametrize("name", WRITERS)
def test_the_language_side_leaves_the_image_encoder_out(name):
    family = load(name)
    parts, modules = family.language_side(), dict(family.model.named_modules())
    assert set(parts) <= set(modules) and VISION[name] in modules
    parameters = [parameter for parameter, _ in family.model.named_parameters()]
    on_side = [parameter for parameter in parameters if inside(parameter, parts)]
    assert not any(inside(parameter, [VISION[name]]) for parameter in on_side)
    chosen = {id(family.model.get_parameter(parameter)) for parameter in on_side}
    assert all(id(weight) in chosen for weight in output_layer(family).parameters())
    assert any("layer" in parameter for parameter in on_side)


@pytest.mark.parametrize("name", [*TEXT_ALONE, *IMAGE_ALONE, "clip", "vilt", "siglip"])
def test_the_language_side_of_models_that_are_only_read(name, tmp_path):
    family = load_family(save(name, tmp_path))
    parts = family.language_side()
    assert set(parts) <= {module for module, _ in family.model.named_modules()}
    if name in ("clip", "siglip"):
        assert "text_model" in parts and not any(part.startswith("vision_model") for part in parts)
    else:
        assert parts == [""]


@pytest.fixture(params=["blip", "blip-vqa", "mplug"], scope="module")
def caching(request):
    return load(request.param)


def test_cached_states_stand_for_pixels(caching):
    assert caching.caches_features
    states = caching.encode_images([sample.image for sample in SAMPLES])
    cached = [replace(sample, image=state) for sample, state in zip(SAMPLES, states)]

    def logits(samples):
        inputs = caching.training_inputs(samples)
        labels = inputs.pop("labels")
        with torch.no_grad():
            return caching.logits(inputs)[:, :-1][labels[:, 1:] != IGNORED]

    torch.testing.assert_close(logits(cached), logits(SAMPLES), rtol=1e-5, atol=1e-5)
    assert caching.generate(cached, Decoding(5, 3)) == caching.generate(SAMPLES, Decoding(5, 3))
    ranked = [caching.rank(samples, Ranking(("a", "red"))) for samples in (cached, SAMPLES)]
    torch.testing.assert_close(ranked[0].scores, ranked[1].scores)


def test_states_are_those_of_the_image_encoder_whatever_the_order(caching):
    images = [sample.image for sample in SAMPLES]
    states = caching.encode_images(images)
    torch.testing.assert_close(caching.encode_images(images[::-1]), states.flip(0))
    with torch.no_grad():
        next(p for p in caching.image_encoder().parameters() if p.dim() > 1).mul_(2)
        changed = caching.encode_images(images)
        next(p for p in caching.image_encoder().parameters() if p.dim() > 1).div_(2)
    assert (changed - states).abs().max() > 1e-3
    blank = caching.blank_image()
    assert blank.shape == states.shape[1:] and not blank.any()


def test_equal_pictures_are_encoded_once(caching):
    inputs = caching.training_inputs([SAMPLES[0], SAMPLES[1], replace(SAMPLES[2], image=SAMPLES[0].image)])
    assert len(inputs["pixel_values"]) == 2 and inputs["image_index"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", WRITERS)
def test_graph_adapters_train(name):
    """A step changes the adapters alone, and lowers the loss of two samples."""
    family, samples = load(name), SAMPLES[:2]
    torch.manual_seed(0)
    settings = {"gnn": "pgnn", "p": 1.5, "reduction": 4, "init_weights": False}
    adapted = get_peft_model(family.model, GraphAdapterConfig(**settings)).eval()
    family.unadapted = adapted.disable_adapter
    trained = {key: p for key, p in family.model.named_parameters() if p.requires_grad}
    assert trained and all("gnn_" in key for key in trained)
    assert all(inside(key, family.language_side()) for key in trained)
    before = {key: p.detach().clone() for key, p in family.model.named_parameters()}

    def loss():
        inputs = family.training_inputs(samples)
        labels = inputs.pop("labels")
        return token_losses(family.logits(inputs), labels).sum()

    optimizer = torch.optim.SGD(trained.values(), lr=1e-3)
    start = loss()
    start.backward()
    norm = torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
    assert norm > 1e-3
    optimizer.step()
    assert loss() < start
    moved = {key for key, p in family.model.named_parameters() if not torch.equal(p, before[key])}
    assert moved and moved <= set(trained)
    with family.unadapted():
        torch.testing.assert_close(loss(), _loss_of_the_frozen_model(name, samples), rtol=1e-4, atol=1e-4)


def _loss_of_the_frozen_model(name, samples) -> torch.Tensor:
    family = load(name)
    inputs = family.training_inputs(samples)
    labels = inputs.pop("labels")
    return token_losses(family.logits(inputs), labels).sum()
