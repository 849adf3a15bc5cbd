"""Families with attention of their own: what they note about order, padding and images."""

import re
from pathlib import Path

import pytest
import torch
import transformers as hf

import attngraph.reading.families as families
from attngraph import UserError, capture, record
from attngraph.reading.families.blip import CLASSES
from attngraph.reading.families.notes import HOOKS
from attngraph.reading.instrument import uses_interface
from attngraph.reading.modality import KNOWN, MIXED
from tests.attngraph.reading.running import run
from tests.attngraph.reading.zoo import BLIP_TEXT, FAMILIES, SWIN, TEXT, VISION, far_from_zero, normal, text
from tests.attngraph.reading.zoo import words as texts


def test_what_is_told_of_families_is_still_needed():
    """A class of this name is in the installed transformers, and BLIP's attention is not on its
    ``AttentionInterface`` yet. Where one of these fails, a line or a file can go."""
    files = (Path(hf.__file__).parent / "models").glob("*/modeling_*.py")
    defined = set(re.findall(r"^class (\w+)", "\n".join(file.read_text() for file in files), re.MULTILINE))
    known = {layers.model for layers in KNOWN if "*" not in layers.model}
    assert {*HOOKS, *families.REFUSED, *MIXED, *known} <= defined
    assert CLASSES and not any(uses_interface(kind) for kind in CLASSES)


def test_blip_is_causal_where_it_is_a_decoder(make_decoder, words, image_states):
    """No mask of a single query can tell; BLIP says it to its text model only."""
    model = make_decoder()
    for module, causal in ((model, True), (model.bert, False)):
        with record(model) as graphs, torch.no_grad():
            module(words(2, 1), encoder_hidden_states=image_states(), use_cache=False)
        assert [calls[0].causal for calls in graphs.values()] == [causal] * 4
    config = hf.BlipTextConfig(**BLIP_TEXT | dict(is_decoder=False), attn_implementation="eager")
    encoder = far_from_zero(hf.BlipTextModel(config), 0)
    mask = torch.tensor([[1] * 4 + [0] * 3, [1] * 7])
    graphs = capture(encoder, {"input_ids": words(), "attention_mask": mask})
    graph = graphs["encoder.layer.0.attention.self"]
    assert not graph.causal and torch.equal(graph.query_mask, mask.bool())
    assert (graph.weight[1, 0, 0] > 0).all() and (graph.weight[0, :, :, 4:] == 0).all()


def test_blip_does_not_look_at_padding_on_the_other_side():
    """The loss does not depend on how much padding the question carries; transformers' own does (5.24)."""
    config = hf.BlipConfig(
        text_config=BLIP_TEXT | dict(is_decoder=True, encoder_hidden_size=16),
        vision_config=VISION | dict(hidden_size=16),
    )
    model = far_from_zero(hf.BlipForQuestionAnswering(config), 0)
    question, answer = texts(5), texts(4, seed=1)
    given = dict(pixel_values=normal(2, 3, 8, 8), decoder_input_ids=answer, labels=answer)

    def loss(pads: int) -> torch.Tensor:
        ids = torch.cat([question, torch.full((2, pads), 7)], 1)
        mask = torch.cat([torch.ones_like(question), torch.zeros(2, pads, dtype=torch.long)], 1)
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=mask, **given).loss

    assert abs(loss(6) - loss(0)) > 1e-3  # as it is
    with record(model) as graphs:
        losses = [loss(pads) for pads in (0, 1, 6)]
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(3), rtol=1e-6, atol=1e-6)
    cross = graphs["text_decoder.bert.encoder.layer.1.crossattention.self"]
    assert (cross[2].weight[..., 5:] == 0).all() and (cross[2].weight[..., :5] > 0).all()
    assert cross[2].query_modality == cross[2].value_modality == "text"  # the question, not the image
    assert graphs["text_encoder.encoder.layer.1.crossattention.self"][2].value_modality == "image"


@pytest.mark.parametrize("kind", ["Swin", "Swinv2", "DonutSwin"])  # through the interface, and watched
def test_pairs_across_a_shifted_windows_parts_are_hidden(kind):
    """They have -100 in the mask, and counted as visible pairs that nobody attends to."""
    config = getattr(hf, f"{kind}Config")(**SWIN)
    model = far_from_zero(getattr(hf, f"{kind}Model")(config), 0)
    pixels = normal(2, 3, 16, 16)
    with torch.no_grad():
        want = model(pixels).last_hidden_state
        with record(model) as graphs:
            torch.testing.assert_close(model(pixels).last_hidden_state, want, rtol=0, atol=1e-5)
    (still,), (shifted,) = list(graphs.values())[:2]
    assert still.visible is None or still.visible.all()
    row = torch.arange(8) // 2 * 2 // 6 + (torch.arange(8) >= 6)  # 8 patches, windows of 4, shifted by 2
    parts = (3 * row[:, None] + row).view(2, 4, 2, 4).transpose(1, 2).reshape(4, 16)
    same = parts[:, :, None] == parts[:, None]
    assert torch.equal(shifted.visible, same.repeat(2, 1, 1))
    assert not shifted.causal and not shifted.weight[:, 0][~shifted.visible].any()


def test_gpt2s_own_function_of_attention_is_refused():
    config = dict(n_layer=1, n_head=2, n_embd=8, vocab_size=50, bos_token_id=0, eos_token_id=0)
    model = hf.GPT2Model(hf.GPT2Config(**config, reorder_and_upcast_attn=True)).eval()
    with pytest.raises(
        UserError, match=r"h.0.attn has a separate eager attention .* reorder_and_upcast_attn=False"
    ):
        capture(model, {"input_ids": texts(5)})
    assert capture(model, {"input_ids": texts(5)}, stream=True)["h.0.attn"].causal


def test_lxmert_knows_whose_padding_it_is():
    """Words and regions are equally many, and their paddings differ: every layer goes by its own queries."""
    family = FAMILIES["lxmert"]
    inputs = family.inputs()
    masks = {"text": inputs["attention_mask"].bool(), "image": inputs["visual_attention_mask"].bool()}
    assert masks["text"].shape == masks["image"].shape and not torch.equal(*masks.values())
    for name, graph in capture(family.model(), inputs).items():
        assert torch.equal(graph.query_mask, masks[graph.query_modality]), name
        assert torch.equal(graph.visible.any(1), masks[graph.value_modality]), name


@pytest.mark.parametrize(
    "name, layer, images, nodes",
    [
        ("vilt", "encoder.layer.1.attention.attention", range(7, 12), 12),  # words, [CLS], patches
        ("git", "git.encoder.layer.1.attention.self", range(5), 12),  # [CLS], patches, words
        ("visualbert", "encoder.layer.1.attention.self", range(7, 10), 10),  # words, regions
        ("flava", "multimodal_model.encoder.layer.1.attention.attention", range(6), 13),  # two [CLS]
        ("instructblip", "qformer.encoder.layer.1.attention.attention", range(3), 10),  # queries, words
        ("kosmos2", "text_model.model.layers.1.self_attn", range(3, 6), 10),  # words around latents
    ],
)
def test_where_the_image_is(name, layer, images, nodes):
    graph = capture(FAMILIES[name].model(), FAMILIES[name].inputs())[layer]
    want = torch.tensor([k in images for k in range(nodes)]).expand(2, -1)
    assert torch.equal(graph.query_modality, want) and torch.equal(graph.value_modality, want)


def test_models_of_images_that_do_not_say_where_they_are():
    """GIT without an image is text; of LayoutLMv3's nodes nothing is known."""
    model, layer = FAMILIES["git"].model(), "git.encoder.layer.0.attention.self"
    with record(model, layers=layer) as graphs:
        run(model, FAMILIES["git"].inputs())
        run(model, {"input_ids": texts()})  # what was noted of the image before is forgotten
    _, graph = graphs[layer]
    assert graph.causal and graph.query_modality == graph.value_modality == "text"
    config = hf.LayoutLMv3Config(**TEXT, coordinate_size=2, shape_size=4, input_size=8, patch_size=4)
    given = text() | dict(bbox=torch.zeros(2, 7, 4, dtype=torch.long), pixel_values=normal(2, 3, 8, 8))
    graphs = capture(far_from_zero(hf.LayoutLMv3Model(config), 0), given).values()
    assert [(graph.query_modality, graph.value_modality) for graph in graphs] == [(None, None)] * 2
