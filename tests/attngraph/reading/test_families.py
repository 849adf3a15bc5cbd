"""Families with attention of their own: BLIP plain and adapted, its decoding, its masks; LXMERT's and ViLT's
notes."""

import pytest
import torch
from peft import get_peft_model
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextModel

from adapters import GraphAdapterConfig
from attngraph import UserError, capture, record
from tests.attngraph.reading.zoo import FAMILIES, far_from_zero, normal
from tests.attngraph.reading.zoo import words as texts

LAYERS = [f"bert.encoder.layer.{k}.{name}.self" for k in (0, 1) for name in ("attention", "crossattention")]


@pytest.fixture(params=["plain", "adapted"])
def model(request, make_decoder):
    model = make_decoder()
    if request.param == "adapted":
        get_peft_model(model, GraphAdapterConfig(gnn="pgnn", join="replace", init_weights=False))
    return model


def run(model, ids, states, **more):
    with torch.no_grad():
        return model(ids, encoder_hidden_states=states, **more)


def by_name(output) -> dict[str, torch.Tensor]:
    """The model's own attention weights under our names."""
    pairs = zip(output.attentions, output.cross_attentions, strict=True)
    return dict(zip(LAYERS, (weight for pair in pairs for weight in pair), strict=True))


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_weights_are_the_models_own(model, padding, words, image_states):
    mask = torch.ones(2, 7, dtype=torch.long)
    if padding != "none":
        mask[1, 5:] = 0
    if padding == "left":
        mask = mask.flip(1)
    with record(model) as graphs:
        output = run(model, words(), image_states(), attention_mask=mask, output_attentions=True)
    assert list(graphs) == LAYERS and all(len(calls) == 1 for calls in graphs.values())
    valid = mask.bool()
    for name, weight in by_name(output).items():
        graph = graphs[name][0]
        assert graph.causal and graph.shape[:3] == (2, 2, 7)
        assert torch.equal(graph.query_mask, valid)
        rows = valid[:, None, :].expand(2, 2, 7)
        assert torch.equal(graph.weight[rows], weight[rows])
        assert (graph.weight[~rows] == 0).all()
        if name.endswith(".attention.self"):
            allowed = torch.ones(7, 7, dtype=torch.bool).tril() & valid[:, None] & valid[:, :, None]
            assert torch.equal(graph.visible, allowed)


def test_reading_changes_nothing(model, words, image_states):
    before = run(model, words(), image_states()).logits
    with record(model):
        during = run(model, words(), image_states()).logits
    assert torch.equal(during, before)
    assert torch.equal(run(model, words(), image_states()).logits, before)
    with pytest.raises(ZeroDivisionError), record(model):
        raise ZeroDivisionError  # the caller's own error comes through, and no hook stays behind
    kept = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with record(model):
        run(model, words(), image_states())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == kept


@pytest.mark.parametrize("beams", [1, 3])
def test_cached_generation_is_recorded(model, beams, words, image_states):
    """One graph per step; the steps of a text, put together, are the graph of the whole text."""
    ids = words()
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with record(model) as graphs, torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=mask,
            position_ids=positions,
            encoder_hidden_states=image_states(),
            num_beams=beams,
            do_sample=False,
            min_new_tokens=4,
            max_new_tokens=4,
        )
    for name in LAYERS:
        calls = graphs[name]
        assert [g.shape[2] for g in calls] == [7, 1, 1, 1]
        assert [g.shape[3] for g in calls] == ([5] * 4 if "cross" in name else [7, 8, 9, 10])
    if beams > 1:
        return
    mask = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], 1)
    with record(model) as whole:
        run(
            model,
            out[:, :10],
            image_states(),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        )
    for name in LAYERS:
        want = whole[name][0]
        rows = mask.bool()[:, None].expand(2, 2, 10)
        width = want.shape[3]
        for part in ("weight", "query"):
            steps = [getattr(g, part) for g in graphs[name]]
            if part == "weight":
                steps = [torch.nn.functional.pad(w, (0, width - w.shape[-1])) for w in steps]
            torch.testing.assert_close(
                torch.cat(steps, 2)[rows], getattr(want, part)[rows], rtol=1e-3, atol=1e-4
            )
        seen = (
            torch.ones(2, 2, 5, dtype=torch.bool) if "cross" in name else rows
        )  # padded tokens' values are anything
        torch.testing.assert_close(graphs[name][-1].value[seen], want.value[seen], rtol=1e-3, atol=1e-4)
        for degree in ("sum", "mean"):
            steps = [
                torch.nn.functional.pad(g.value_degree(degree), (0, width - g.shape[3])) for g in graphs[name]
            ]
            torch.testing.assert_close(
                torch.cat(steps, 2)[rows], want.value_degree(degree)[rows], rtol=1e-3, atol=1e-4
            )


def test_reading_must_start_with_the_cache(model, words, image_states):
    cache = run(model, words(), image_states(), use_cache=True).cache
    with pytest.raises(UserError, match="cache holds 7 earlier tokens, but the attention graph saw 0"):
        with record(model):
            run(model, words()[:, :1], image_states(), cache=cache, use_cache=True)


def test_an_encoder_is_not_causal(words):
    config = BlipTextConfig(
        vocab_size=41,
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=8,
        is_decoder=False,
        attn_implementation="eager",
    )
    encoder = BlipTextModel(config).eval()
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, 4:] = 0
    with record(encoder) as graphs, torch.no_grad():
        encoder(words(), attention_mask=mask)
    graph = graphs["encoder.layer.0.attention.self"][0]
    assert not graph.causal and torch.equal(graph.query_mask, mask.bool())
    assert (graph.weight[1, 0, 0] > 0).all() and (graph.weight[0, :, :, 4:] == 0).all()


def test_a_single_query_is_causal_where_the_model_is_a_decoder(make_decoder, words, image_states):
    """No mask can tell; BLIP says it to its text model only."""
    model = make_decoder()
    for module, causal in ((model, True), (model.bert, False)):
        with record(model) as graphs:
            run(module, words(2, 1), image_states(), use_cache=False)
        assert [calls[0].causal for calls in graphs.values()] == [causal] * 4


def blip_vqa():
    import transformers as hf

    from tests.attngraph.reading.zoo import BLIP_TEXT, VISION

    config = hf.BlipConfig(
        text_config=BLIP_TEXT | dict(is_decoder=True, encoder_hidden_size=16),
        vision_config=VISION | dict(hidden_size=16),
    )
    return far_from_zero(hf.BlipForQuestionAnswering(config), 0)


def test_blip_does_not_look_at_padding_on_the_other_side():
    """The loss does not depend on how much padding the question carries; transformers' own does (5.24)."""
    model, question, answer = blip_vqa(), texts(5), texts(4, seed=1)
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


def test_lxmert_knows_whose_padding_it_is():
    """Words and regions are equally many, and their paddings differ: every layer goes by its own queries."""
    family = FAMILIES["lxmert"]
    inputs = family.inputs()
    words_mask, regions_mask = inputs["attention_mask"].bool(), inputs["visual_attention_mask"].bool()
    assert words_mask.shape == regions_mask.shape and not torch.equal(words_mask, regions_mask)
    for name, graph in capture(family.model(), inputs).items():
        sides = [
            words_mask if side == "text" else regions_mask
            for side in (graph.query_modality, graph.value_modality)
        ]
        assert torch.equal(graph.query_mask, sides[0]), name
        assert torch.equal(graph.visible.any(1), sides[1]), name


def test_vilt_has_its_words_first():
    family = FAMILIES["vilt"]
    graph = capture(family.model(), family.inputs())["encoder.layer.1.attention.attention"]
    assert torch.equal(
        graph.query_modality, (torch.arange(12) >= 7).expand(2, -1)
    )  # seven words; [CLS] and four patches


@pytest.mark.parametrize(
    "name, layer, images",
    [
        ("git", "git.encoder.layer.1.attention.self", range(5)),  # [CLS] and four patches; seven words
        ("visualbert", "encoder.layer.1.attention.self", range(7, 10)),  # seven words; three regions
        (
            "flava",
            "multimodal_model.encoder.layer.1.attention.attention",
            range(6),
        ),  # [CLS], [CLS] and four patches; words
        (
            "instructblip",
            "qformer.encoder.layer.1.attention.attention",
            range(3),
        ),  # three queries; seven words
        (
            "kosmos2",
            "text_model.model.layers.1.self_attn",
            range(3, 6),
        ),  # three words, three latents, four words
    ],
)
def test_where_the_image_is(name, layer, images):
    family = FAMILIES[name]
    graph = capture(family.model(), family.inputs())[layer]
    n = graph.shape[2]
    want = torch.tensor([k in images for k in range(n)]).expand(2, -1)
    assert n == {"kosmos2": 10, "flava": 13, "git": 12}.get(name, 10)
    assert torch.equal(graph.query_modality, want) and torch.equal(graph.value_modality, want)


def test_git_without_an_image_is_text():
    model = FAMILIES["git"].model()
    ids = texts()
    graph = capture(model, {"input_ids": ids})["git.encoder.layer.0.attention.self"]
    assert graph.causal and graph.query_modality == graph.value_modality == "text"


def test_a_model_of_images_and_text_that_does_not_say_where_they_are():
    import transformers as hf

    from tests.attngraph.reading.zoo import TEXT, text

    config = hf.LayoutLMv3Config(**TEXT, coordinate_size=2, shape_size=4, input_size=8, patch_size=4)
    model = far_from_zero(hf.LayoutLMv3Model(config), 0)
    given = text() | dict(bbox=torch.zeros(2, 7, 4, dtype=torch.long))
    graphs = capture(model, given | dict(pixel_values=normal(2, 3, 8, 8)))
    assert len(graphs) == 2 and all(
        graph.query_modality is None and graph.value_modality is None for graph in graphs.values()
    )
