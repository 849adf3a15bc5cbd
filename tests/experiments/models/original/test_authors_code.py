"""The reference of the other tests against authors' own code, of 2022: random weights of ours in checkpoints
that it writes, and what it computes with them.

Runs only where the environment variables ``BLIP_CODE`` and ``MPLUG_CODE`` name checkouts of
https://github.com/salesforce/BLIP and https://github.com/X-PLUG/mPLUG, which are no part of this project.
What is gone of their packages is replaced: timm's patch embedding, helpers that transformers had, and the
weights of CLIP and BERT that mPLUG fetches.
"""

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig, PreTrainedModel, modeling_utils, pytorch_utils

from attngraph.experiments.models import load_family
from attngraph.experiments.models.images import interpolate_positions
from tests.experiments.models.original import authors_blip as blip
from tests.experiments.models.original import authors_mplug as mplug
from tests.experiments.models.original.test_checkpoints import USED, logits_of

PARTS = ("visual_transformers", "model_vqa_mplug", "model_caption_mplug")


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


@contextmanager
def authors_modules(monkeypatch: pytest.MonkeyPatch, place: str, *wanted: str) -> Iterator[SimpleNamespace]:
    """Modules of the package ``models`` in the folder that an environment variable names."""
    folder = os.environ.get(place)
    if not folder:
        pytest.skip(f"{place} names no checkout")
    _stand_ins(monkeypatch)
    monkeypatch.syspath_prepend(folder)
    own = [name for name in sys.modules if name.partition(".")[0] == "models"]
    for name in (*own, "models", *(f"models.{name}" for name in wanted)):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield SimpleNamespace(**{name: importlib.import_module(f"models.{name}") for name in wanted})
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        del sys.modules[name]


@pytest.fixture
def blip_code(monkeypatch):
    """The modules ``vit`` and ``med``."""
    with authors_modules(monkeypatch, "BLIP_CODE", "vit", "med") as modules:
        yield modules


@pytest.fixture
def mplug_code(monkeypatch):
    """The modules of :data:`PARTS`, and ``clip``."""
    with authors_modules(monkeypatch, "MPLUG_CODE", *PARTS) as modules:
        file = Path(os.environ["MPLUG_CODE"]) / "models/clip/model.py"
        spec = importlib.util.spec_from_file_location("clip_model", file)
        modules.clip = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules.clip)
        yield modules


# ---- BLIP ------------------------------------------------------------------------------------------------


class Blip(nn.Module):
    """The parts of a captioner or an answerer, by BLIP's names."""

    def __init__(self, code, for_questions: bool):
        super().__init__()
        self.visual_encoder = code.vit.VisionTransformer(
            blip.SIDE, blip.PATCH, embed_dim=128, depth=blip.LAYERS, num_heads=128 // blip.HEAD, mlp_ratio=3
        )
        config = BertConfig(
            vocab_size=len(blip.WORDS) + 2,
            hidden_size=128,
            num_hidden_layers=blip.LAYERS,
            num_attention_heads=128 // blip.HEAD,
            intermediate_size=2 * 128,
            max_position_embeddings=blip.PLACES,
            layer_norm_eps=1e-12,
            pad_token_id=0,
            add_cross_attention=True,
            encoder_width=128,
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
                blip.QUESTIONS, attention_mask=blip.ASKED, encoder_hidden_states=states, return_dict=True
            ).last_hidden_state
            seen = blip.ASKED
        return self.text_decoder(
            blip.TEXTS,
            attention_mask=blip.MASK,
            encoder_hidden_states=states,
            encoder_attention_mask=seen,
            return_dict=True,
        ).logits


@pytest.mark.parametrize("kind", ["caption", "vqa"])
def test_blip(kind, blip_code):
    model, drawn = Blip(blip_code, kind == "vqa").eval(), blip.weights(kind)
    assert set(model.state_dict()) == set(drawn), "the tests' own names are the authors'"
    model.load_state_dict(drawn)
    pixels = torch.randn(2, 3, blip.SIDE, blip.SIDE)
    with torch.no_grad():
        expected = model(pixels)
    reference = blip.logits_of_authors(drawn, pixels, kind == "vqa")
    torch.testing.assert_close(reference[USED], expected[USED], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [224, 384, 480])
def test_blips_positions(side, blip_code):
    positions, rows = torch.randn(1, 197, 32), side // 16
    patches = SimpleNamespace(num_patches=rows * rows)
    seen = SimpleNamespace(patch_embed=patches, pos_embed=torch.empty(1, 1 + rows * rows, 32))
    expected = blip_code.vit.interpolate_pos_embed(positions, seen)
    assert torch.equal(interpolate_positions(positions, rows), expected)


# ---- mPLUG -----------------------------------------------------------------------------------------------


def authors_model(code, task: str, folder: Path, monkeypatch, seen: int, rows: int = mplug.ROWS):
    """Their whole model of a task, small."""
    module = getattr(code, f"model_{task}_mplug")
    large = seen != mplug.WIDTH
    config = dict(
        vocab_size=len(mplug.WORDS),
        hidden_size=mplug.WIDTH,
        encoder_width=mplug.WIDTH,
        num_hidden_layers=mplug.BUILT,
        num_attention_heads=mplug.WIDTH // 64,
        intermediate_size=2 * mplug.WIDTH,
        max_position_embeddings=blip.PLACES,
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        pad_token_id=0,
        add_cross_attention=False,
        use_cache=False,
        gradient_checkpointing=False,
        chunk_size_feed_forward=0,
        text_encoder_layers=mplug.LAYERS,
        fusion_layers=mplug.RUN,
        text_decode_layers=mplug.LAYERS,
        stride_layer=6 if large else 3,
    )
    (folder / "bert.json").write_text(json.dumps(config))

    def clip(_):
        visual = (mplug.PATCH * rows, mplug.LAYERS, seen, mplug.PATCH)
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
    model.beam_generator.start_token, model.beam_generator.end_token = mplug.CLS, mplug.SEP
    return model


@pytest.mark.parametrize("task", ["vqa", "caption"])
@pytest.mark.parametrize("seen", [mplug.WIDTH, 192], ids=["base", "large"])
@pytest.mark.parametrize("rows", [mplug.ROWS, 5])
def test_mplug(task, seen, rows, mplug_code, tmp_path, monkeypatch):
    """Logits, loss and greedy texts of a checkpoint that its state_dict is."""
    drawn = mplug.weights(seen=seen)
    place = "visual_encoder.visual.positional_embedding"
    if rows != mplug.ROWS:
        empty = torch.zeros(1, 1 + rows * rows, seen)
        drawn[place] = mplug_code.visual_transformers.resize_pos_embed(drawn[place][None], empty)[0]
    model = authors_model(mplug_code, task, tmp_path, monkeypatch, seen, rows)
    assert set(model.state_dict()) == set(drawn), "the tests' own names are the authors'"
    model.load_state_dict(drawn)
    file = mplug.save_checkpoint(tmp_path, model.state_dict(), "module")
    side = rows * mplug.PATCH
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    caught = []
    model.text_decoder.register_forward_hook(lambda _, __, output: caught.append(output.logits))
    answers = SimpleNamespace(input_ids=mplug.TEXTS, attention_mask=mplug.MASK)
    question = SimpleNamespace(input_ids=mplug.QUESTIONS, attention_mask=mplug.ASKED)
    more = dict(k=[1, 1], weights=torch.tensor([0.25, 1.0])) if task == "vqa" else {}
    with torch.no_grad():
        loss = model(pixels, question, answers, train=True, **more)
        written = model(pixels, question, train=False)[0]
    family = load_family(file)
    found = logits_of(family, pixels, task == "vqa")
    expected = caught[0]
    torch.testing.assert_close(found[USED], expected[USED], atol=1e-4, rtol=1e-5)
    # The loss: of answers the sum over tokens, weighted, for each picture; of captions the mean over tokens.
    targets = mplug.TEXTS[:, 1:].masked_fill(mplug.TEXTS[:, 1:] == 0, -100)
    losses = torch.nn.functional.cross_entropy(found[:, :-1].mT, targets, reduction="none")
    mine = losses.sum() / (targets >= 0).sum()
    if task == "vqa":
        mine = losses.sum(1) @ torch.tensor([0.25, 1.0]) / 2
    torch.testing.assert_close(mine, loss, atol=1e-4, rtol=1e-4)
    if rows == mplug.ROWS:
        stride = 3 if seen == mplug.WIDTH else 6
        reference = mplug.logits_of_authors(model.state_dict(), pixels, task == "vqa", stride)
        torch.testing.assert_close(reference[USED], expected[USED], atol=1e-4, rtol=1e-5)
    # What it writes greedily. Its beams that have ended go on, so that others' need not be the same.
    asked = dict(input_ids=mplug.QUESTIONS, attention_mask=mplug.ASKED) if task == "vqa" else {}
    fused = family.model.encoder_states(family.model.vision_model(pixels).last_hidden_state, **asked)
    ids = family.model.text_decoder.generate(
        input_ids=torch.full((2, 1), mplug.CLS),
        encoder_hidden_states=fused.last_hidden_state,
        encoder_attention_mask=fused.attention_mask,
        max_new_tokens=6,
        min_new_tokens=1,
        eos_token_id=mplug.SEP,
        pad_token_id=0,
    )
    for mine, theirs in zip(ids.tolist(), written, strict=True):
        end = mine.index(mplug.SEP) + 1 if mplug.SEP in mine else len(mine)
        assert mine[:end] == theirs[0].tolist()


@pytest.mark.parametrize("side", [224, 256, 384, 480])
def test_mplugs_positions(side, mplug_code):
    positions = torch.randn(1, 1 + 16 * 16, 32)
    rows = side // 16
    expected = mplug_code.visual_transformers.resize_pos_embed(positions, torch.empty(1, 1 + rows * rows, 32))
    torch.testing.assert_close(interpolate_positions(positions, rows, "bilinear"), expected, atol=0, rtol=0)
