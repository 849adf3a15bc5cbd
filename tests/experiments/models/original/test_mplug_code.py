"""Checkpoints that mPLUG's own code wrote, and what that code computes with them.

Runs only where the environment variable ``MPLUG_CODE`` names a checkout of https://github.com/X-PLUG/mPLUG,
which is no part of this project. CLIP's and BERT's weights, which it fetches, are replaced by random ones.
"""

import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.models import load_family
from experiments.models.images import interpolate_positions
from tests.experiments.models.original import authors_mplug as ours
from tests.experiments.models.original.authors_blip import PLACES
from tests.experiments.models.original.authors_code import authors_modules
from tests.experiments.models.original.authors_mplug import ASKED, MASK, QUESTIONS, TEXTS, logits_of_authors
from tests.experiments.models.original.test_checkpoints import logits_of

FOLDER = os.environ.get("MPLUG_CODE")
pytestmark = pytest.mark.skipif(not FOLDER, reason="MPLUG_CODE names no checkout of mPLUG")
PARTS = ("visual_transformers", "model_vqa_mplug", "model_caption_mplug")


@pytest.fixture
def code(monkeypatch):
    """The modules of :data:`PARTS`, and ``clip``."""
    with authors_modules(monkeypatch, FOLDER, *PARTS) as modules:
        spec = importlib.util.spec_from_file_location("clip_model", Path(FOLDER) / "models/clip/model.py")
        modules.clip = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules.clip)
        yield modules


def authors_model(code, task: str, folder: Path, monkeypatch, seen: int, rows: int = ours.ROWS):
    """Their whole model of a task, small."""
    module = getattr(code, f"model_{task}_mplug")
    large = seen != ours.WIDTH
    config = dict(
        vocab_size=len(ours.WORDS),
        hidden_size=ours.WIDTH,
        encoder_width=ours.WIDTH,
        num_hidden_layers=ours.BUILT,
        num_attention_heads=ours.WIDTH // 64,
        intermediate_size=2 * ours.WIDTH,
        max_position_embeddings=PLACES,
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        pad_token_id=0,
        add_cross_attention=False,
        use_cache=False,
        gradient_checkpointing=False,
        chunk_size_feed_forward=0,
        text_encoder_layers=ours.LAYERS,
        fusion_layers=ours.RUN,
        text_decode_layers=ours.LAYERS,
        stride_layer=6 if large else 3,
    )
    (folder / "bert.json").write_text(json.dumps(config))

    def clip(_):
        visual = (ours.PATCH * rows, ours.LAYERS, seen, ours.PATCH)
        return code.clip.CLIP(32, *visual, 7, 11, 64, 1, 1), None

    def untrained(kind):
        def make(cls, _, config, **options):
            model = cls(config, **options)
            if hasattr(model, "cls"):
                model.cls.predictions.decoder.weight = model.bert.embeddings.word_embeddings.weight
            return model

        monkeypatch.setattr(kind, "from_pretrained", classmethod(make))

    monkeypatch.setattr(module, "initialize_clip", clip)
    decoder = module.BertLMHeadModel if task == "vqa" else module.BertPrefixModel
    for kind in (module.BertModel, module.FusionModel, decoder):
        untrained(kind)
    settings = dict(
        bert_config=str(folder / "bert.json"),
        vision_width=seen,
        text_encoder="",
        text_decoder="",
        distill=False,
        use_checkpoint=False,
        beam_size=1,
        min_length=1,
        max_length=6,
    )
    model = module.MPLUG(SimpleNamespace(pad_token_id=0), settings).eval()
    model.beam_generator.start_token, model.beam_generator.end_token = ours.CLS, ours.SEP
    return model


@pytest.fixture(params=[ours.WIDTH, 192], ids=["base", "large"])
def seen(request):
    return request.param


@pytest.fixture(params=["vqa", "caption"])
def task(request):
    return request.param


@pytest.mark.parametrize("rows", [ours.ROWS, 5])
def test_its_checkpoints_compute_the_same(task, seen, rows, code, tmp_path, monkeypatch):
    """Written by its state_dict, with random weights of ours in all its parameters and buffers."""
    drawn = ours.weights(seen=seen)
    place = "visual_encoder.visual.positional_embedding"
    if rows != ours.ROWS:
        empty = torch.zeros(1, 1 + rows * rows, seen)
        drawn[place] = code.visual_transformers.resize_pos_embed(drawn[place][None], empty)[0]
    model = authors_model(code, task, tmp_path, monkeypatch, seen, rows)
    assert set(model.state_dict()) == set(drawn), "the tests' own names are the authors'"
    model.load_state_dict(drawn)
    file = ours.save_checkpoint(tmp_path, model.state_dict(), "module")
    side = rows * ours.PATCH
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    caught = []
    model.text_decoder.register_forward_hook(lambda _, __, output: caught.append(output.logits))
    answers = SimpleNamespace(input_ids=TEXTS, attention_mask=MASK)
    question = SimpleNamespace(input_ids=QUESTIONS, attention_mask=ASKED)
    more = dict(k=[1, 1], weights=torch.tensor([0.25, 1.0])) if task == "vqa" else {}
    with torch.no_grad():
        loss = model(pixels, question, answers, train=True, **more)
        written = model(pixels, question, train=False)[0]
    family, used = load_family(file), MASK.bool()
    found = logits_of(family, pixels, task == "vqa")
    expected = caught[0]
    torch.testing.assert_close(found[used], expected[used], atol=1e-4, rtol=1e-5)
    # The loss: of answers the sum over tokens, weighted, for each picture; of captions the mean over tokens.
    targets = TEXTS[:, 1:].masked_fill(TEXTS[:, 1:] == 0, -100)
    losses = torch.nn.functional.cross_entropy(found[:, :-1].mT, targets, reduction="none")
    mine = losses.sum() / (targets >= 0).sum()
    if task == "vqa":
        mine = losses.sum(1) @ torch.tensor([0.25, 1.0]) / 2
    torch.testing.assert_close(mine, loss, atol=1e-4, rtol=1e-4)
    if rows == ours.ROWS:
        stride = 3 if seen == ours.WIDTH else 6
        reference = logits_of_authors(model.state_dict(), pixels, task == "vqa", stride)
        torch.testing.assert_close(reference[used], expected[used], atol=1e-4, rtol=1e-5)
    # What it writes greedily. Its beams that have ended go on, so that others' need not be the same.
    asked = dict(input_ids=QUESTIONS, attention_mask=ASKED) if task == "vqa" else {}
    fused = family.model.looked_at(family.model.vision_model(pixels).last_hidden_state, **asked)
    ids = family.model.text_decoder.generate(
        input_ids=torch.full((2, 1), ours.CLS),
        encoder_hidden_states=fused.last_hidden_state,
        encoder_attention_mask=fused.attention_mask,
        max_new_tokens=6,
        min_new_tokens=1,
        eos_token_id=ours.SEP,
        pad_token_id=0,
    )
    for mine, theirs in zip(ids.tolist(), written, strict=True):
        end = mine.index(ours.SEP) + 1 if ours.SEP in mine else len(mine)
        assert mine[:end] == theirs[0].tolist()


@pytest.mark.parametrize("side", [224, 256, 384, 480])
def test_positions_are_interpolated_the_same(side, code):
    positions = torch.randn(1, 1 + 16 * 16, 32)
    rows = side // 16
    expected = code.visual_transformers.resize_pos_embed(positions, torch.empty(1, 1 + rows * rows, 32))
    torch.testing.assert_close(interpolate_positions(positions, rows, "bilinear"), expected, atol=0, rtol=0)
