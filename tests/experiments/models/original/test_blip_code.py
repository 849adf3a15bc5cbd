"""Checkpoints that BLIP's own code wrote, and what that code computes with them.

Runs only where the environment variable ``BLIP_CODE`` names a checkout of https://github.com/salesforce/BLIP,
which is no part of this project. Its packages of 2022 are replaced by stand-ins where they are gone: the
patch embedding of timm, and helpers that transformers had.
"""

import importlib
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig, PreTrainedModel, modeling_utils, pytorch_utils

from experiments.models import load_family
from experiments.models.positions import interpolate_positions
from tests.experiments.models.original import authors_blip as ours
from tests.experiments.models.original.test_blip_checkpoints import (
    ASKED,
    MASK,
    QUESTIONS,
    TEXTS,
    logits_of,
    logits_of_authors,
)

FOLDER = os.environ.get("BLIP_CODE")
pytestmark = pytest.mark.skipif(not FOLDER, reason="BLIP_CODE names no checkout of BLIP")
SEEN = WIDTH = 128


class PatchEmbed(nn.Module):
    """timm's, as BLIP uses it."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.num_patches = (img_size // patch_size) ** 2
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def _stand_ins(monkeypatch) -> None:
    def module(name: str, **content) -> None:
        parts = name.split(".")
        for end in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    def nothing(*_, **__):
        return None

    module("fairscale.nn.checkpoint.checkpoint_activations", checkpoint_wrapper=nothing)
    module("timm.models.registry", register_model=nothing)
    timm = {
        "vision_transformer": dict(_cfg=nothing, PatchEmbed=PatchEmbed),
        "layers": dict(trunc_normal_=nn.init.trunc_normal_, DropPath=nn.Identity),
        "helpers": dict(named_apply=nothing, adapt_input_conv=nothing),
    }
    for name, content in timm.items():
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, f"timm.models.{name}", made)
    chunking = pytorch_utils.apply_chunking_to_forward
    monkeypatch.setattr(modeling_utils, "apply_chunking_to_forward", chunking, raising=False)
    for name in ("find_pruneable_heads_and_indices", "prune_linear_layer"):
        monkeypatch.setattr(modeling_utils, name, nothing, raising=False)

    def inverted(self, mask):
        return (1.0 - mask[:, None, None, :].float()) * -10000.0

    monkeypatch.setattr(PreTrainedModel, "invert_attention_mask", inverted, raising=False)
    monkeypatch.setattr(PreTrainedModel, "get_head_mask", lambda self, mask, n: [None] * n, raising=False)
    monkeypatch.setattr(PreTrainedModel, "init_weights", nothing)


@pytest.fixture
def code(monkeypatch):
    """The modules ``vit`` and ``med``."""
    _stand_ins(monkeypatch)
    monkeypatch.syspath_prepend(FOLDER)
    names = [name for name in sys.modules if name.partition(".")[0] == "models"]
    for name in (*names, "models", "models.vit", "models.med"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    modules = {name: importlib.import_module(f"models.{name}") for name in ("vit", "med")}
    yield SimpleNamespace(**modules)
    for name in ("models", "models.vit", "models.med"):
        sys.modules.pop(name, None)


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
    found = logits_of(load_family(file), pixels)
    print(
        f"{kind}: {len(drawn)} tensors, logits of {found[used].std():.2f}, "
        f"at most {(found - expected)[used].abs().max():.1e} from BLIP's code"
    )
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
