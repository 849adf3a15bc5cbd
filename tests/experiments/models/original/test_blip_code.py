"""Checkpoints that BLIP's own code wrote, and what that code computes with them.

Runs only where the environment variable ``BLIP_CODE`` names a checkout of https://github.com/salesforce/BLIP,
which is no part of this project.
"""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig

from experiments.models import load_family
from experiments.models.images import interpolate_positions
from tests.experiments.models.original import authors_blip as ours
from tests.experiments.models.original.authors_blip import ASKED, MASK, QUESTIONS, TEXTS, logits_of_authors
from tests.experiments.models.original.authors_code import authors_modules
from tests.experiments.models.original.test_checkpoints import logits_of

FOLDER = os.environ.get("BLIP_CODE")
pytestmark = pytest.mark.skipif(not FOLDER, reason="BLIP_CODE names no checkout of BLIP")
SEEN = WIDTH = 128


@pytest.fixture
def code(monkeypatch):
    """The modules ``vit`` and ``med``."""
    with authors_modules(monkeypatch, FOLDER, "vit", "med") as modules:
        yield modules


class Model(nn.Module):
    """The parts of a captioner or an answerer, by BLIP's names."""

    def __init__(self, code, for_questions: bool):
        super().__init__()
        self.visual_encoder = code.vit.VisionTransformer(
            ours.SIDE, ours.PATCH, embed_dim=SEEN, depth=ours.LAYERS, num_heads=SEEN // ours.HEAD, mlp_ratio=3
        )
        config = BertConfig(
            vocab_size=len(ours.WORDS) + 2,
            hidden_size=WIDTH,
            num_hidden_layers=ours.LAYERS,
            num_attention_heads=WIDTH // ours.HEAD,
            intermediate_size=2 * WIDTH,
            max_position_embeddings=ours.PLACES,
            layer_norm_eps=1e-12,
            pad_token_id=0,
            add_cross_attention=True,
            encoder_width=SEEN,
        )
        config.chunk_size_feed_forward = 0
        if for_questions:
            self.text_encoder = code.med.BertModel(config, add_pooling_layer=False)
        self.text_decoder = code.med.BertLMHeadModel(config)
        head = self.text_decoder.cls.predictions
        head.decoder.weight = self.text_decoder.bert.embeddings.word_embeddings.weight

    def forward(self, pixels):
        states, seen = self.visual_encoder(pixels), None
        if hasattr(self, "text_encoder"):
            states = self.text_encoder(
                QUESTIONS, attention_mask=ASKED, encoder_hidden_states=states, return_dict=True
            ).last_hidden_state
            seen = ASKED
        return self.text_decoder(
            TEXTS,
            attention_mask=MASK,
            encoder_hidden_states=states,
            encoder_attention_mask=seen,
            return_dict=True,
        ).logits


@pytest.fixture(params=["caption", "vqa"])
def kind(request):
    return request.param


def test_its_checkpoints_compute_the_same(kind, code, tmp_path):
    """Written by its state_dict, with random weights of ours in all its parameters and buffers."""
    model, drawn = Model(code, kind == "vqa").eval(), ours.weights(kind)
    assert set(model.state_dict()) == set(drawn), "the tests' own names are the authors'"
    model.load_state_dict(drawn)
    file = ours.save_checkpoint(tmp_path, kind)
    torch.save({"model": model.state_dict(), "epoch": 0, "config": {"vit": "base"}}, file)
    pixels = torch.randn(2, 3, ours.SIDE, ours.SIDE)
    with torch.no_grad():
        expected = model(pixels)
    used = MASK.bool()
    found = logits_of(load_family(file), pixels, kind == "vqa")
    torch.testing.assert_close(found[used], expected[used], atol=1e-5, rtol=1e-5)
    reference = logits_of_authors(model.state_dict(), pixels, kind == "vqa")
    torch.testing.assert_close(reference[used], expected[used], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [224, 384, 480])
def test_positions_are_interpolated_the_same(side, code):
    positions = torch.randn(1, 197, 32)
    rows = side // 16
    seen = SimpleNamespace(
        patch_embed=SimpleNamespace(num_patches=rows * rows), pos_embed=torch.empty(1, 1 + rows * rows, 32)
    )
    assert torch.equal(
        interpolate_positions(positions, rows), code.vit.interpolate_pos_embed(positions, seen)
    )
