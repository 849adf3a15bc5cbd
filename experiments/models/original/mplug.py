"""mPLUG's own checkpoints: files of Li et al. (2022), https://github.com/X-PLUG/mPLUG.

====================== ================================================================================
``visual_encoder``     the whole of OpenAI's CLIP, of which ``visual`` is used and the text tower is not
``visn_*``             brings pictures to the texts' width where that is another one (ViT-L)
``text_encoder``       of questions
``fusion_encoder``     twelve layers, of which the last six are run (see below), and not all parts of these
``text_decoder``       of answers and captions
``*_m``                copies with momentum
====================== ================================================================================

Checkpoints of pre-training have ``bert`` or ``fusion`` in the names of the two encoders' parts, and heads of
their own. The names are those of the published code; no released file has been read.

The stride of the fusion is not in the tensors: it is 3 where pictures and texts have one width (ViT-B), else
6, as in the authors' two configurations. Nor is how many layers of the fusion are run: BERT's layers are
shared out, so that the fusion begins after as many as the text encoder has; all are run where it has no more
than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from transformers import BlipImageProcessor, PretrainedConfig, PreTrainedTokenizerBase

from experiments.models.mplug.configuration import STRIDES, MPlugConfig, sizes
from experiments.models.mplug.family import MPlug
from experiments.models.mplug.modeling import MPlugForConditionalGeneration
from experiments.models.original.layout import Arrangement, Layout
from experiments.models.original.rules import Cut, Leave, Rule, Take, Twin
from experiments.models.original.shapes import Shapes
from experiments.models.original.vocabulary import check_size, make_tokenizer

START = "[CLS]"

_COUNTED = "counts places, which the model does itself"
_TOWER = "of CLIP's text tower, which mPLUG does not use"
_SEEN, _BLOCK, _LAYER = (
    "visual_encoder.visual",
    "visual_encoder.visual.transformer.resblocks.*",
    "vision_model.encoder.layers.*",
)
VISION: tuple[Rule, ...] = (
    Take(f"{_SEEN}.class_embedding", "vision_model.embeddings.class_embedding"),
    Take(f"{_SEEN}.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    Take(f"{_SEEN}.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    Take(f"{_SEEN}.ln_pre.*", "vision_model.pre_layernorm.*"),
    Take(f"{_SEEN}.ln_post.*", "vision_model.post_layernorm.*"),
    Leave(f"{_SEEN}.proj", "CLIP's projection to the space of its texts, which mPLUG does not use"),
    Take(f"{_BLOCK}.ln_1.*", f"{_LAYER}.layer_norm1.*"),
    Take(f"{_BLOCK}.ln_2.*", f"{_LAYER}.layer_norm2.*"),
    *(
        Cut(f"{_BLOCK}.attn.in_proj_{part}", tuple(f"{_LAYER}.self_attn.{x}_proj.{part}" for x in "qkv"))
        for part in ("weight", "bias")
    ),
    Take(f"{_BLOCK}.attn.out_proj.*", f"{_LAYER}.self_attn.out_proj.*"),
    Take(f"{_BLOCK}.mlp.c_fc.*", f"{_LAYER}.mlp.fc1.*"),
    Take(f"{_BLOCK}.mlp.c_proj.*", f"{_LAYER}.mlp.fc2.*"),
    Leave("visual_encoder.transformer.**", _TOWER),
    *(
        Leave(f"visual_encoder.{name}", _TOWER)
        for name in (
            "token_embedding.weight",
            "positional_embedding",
            "ln_final.*",
            "text_projection",
            "logit_scale",
        )
    ),
    Take("visn_fc.*", "vision_model.projection.dense.*"),
    Take("visn_layer_norm.*", "vision_model.projection.norm.*"),
)
_WORDS, _HEAD = "text_decoder.bert.embeddings.word_embeddings.weight", "text_decoder.cls.predictions"
DECODER: tuple[Rule, ...] = (
    Leave("text_decoder.bert.embeddings.position_ids", _COUNTED),
    Twin(f"{_HEAD}.decoder.weight", _WORDS),
    Twin(f"{_HEAD}.decoder.bias", f"{_HEAD}.bias"),
    Take("text_decoder.**", "text_decoder.**"),
)
_MATCHING = "matches pictures and texts, or guesses hidden words, in pre-training"
PRETRAINING: tuple[Rule, ...] = (
    *(Leave(f"{name}.*", _MATCHING) for name in ("itm_head", "vision_proj", "text_proj")),
    *(Leave(f"{name}_encoder.cls.**", _MATCHING) for name in ("text", "fusion")),
    Leave("temp", _MATCHING),
    *(
        Leave(name, "a queue of pre-training")
        for name in ("image_queue", "text_queue", "queue_ptr", "idx_queue", "ptr_queue")
    ),
)
PARTS = (
    "visual_encoder text_encoder fusion_encoder text_decoder visn_fc visn_layer_norm vision_proj text_proj"
)
COPIES: tuple[Rule, ...] = tuple(
    Leave(f"{name}_m.**", "a copy with momentum, a target of training") for name in PARTS.split()
)


class MPlugLayout(Layout):
    """One arrangement: the model answers questions and writes captions."""

    name, title = "mplug", "mPLUG"
    depths = {
        f"{_SEEN}.transformer.resblocks.": (12, 24),
        **{
            f"{part}.{inner}encoder.layer.": (count,)
            for part, count in (("text_encoder", 6), ("fusion_encoder", 12), ("text_decoder", 12))
            for inner in ("", "bert.", "fusion.")
        },
    }
    arrangements = {
        "whole": Arrangement(
            "whole",
            "image encoder, text encoder, their fusion and text decoder, for questions and captions",
            MPlugForConditionalGeneration,
            MPlug,
            (*VISION, *DECODER, *PRETRAINING, *COPIES),  # and those of `choose`
        )
    }

    def accepts(self, tensors: Mapping[str, Tensor]) -> bool:
        return f"{_SEEN}.class_embedding" in tensors

    def choose(self, tensors: Mapping[str, Tensor], asked: str | None, file: Path) -> Arrangement:
        """The arrangement with the rules for the two encoders, which depend on the checkpoint's names and
        sizes."""
        whole, names = self.arrangements["whole"], _Names(tensors, file)
        return replace(whole, rules=(*whole.rules, *names.encoder_rules(), *names.fusion_rules()))

    def tokenizer(
        self, words: dict[str, int], tensors: Mapping[str, Tensor], file: Path, vocabulary: Path
    ) -> PreTrainedTokenizerBase:
        shapes = Shapes(tensors, file, "mPLUG")
        tokenizer = make_tokenizer(words, START, longest=shapes.places)
        check_size(tokenizer, shapes(_WORDS)[0], vocabulary, ())
        return tokenizer

    def config(
        self, tensors: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase, file: Path
    ) -> PretrainedConfig:
        return _Names(tensors, file).config(tokenizer)

    def image_processor(self, side: int) -> BlipImageProcessor:
        return BlipImageProcessor(size={"height": side, "width": side})


class _Names:
    """What a checkpoint's names and shapes tell of its model."""

    def __init__(self, tensors: Mapping[str, Tensor], file: Path):
        self.shapes = shapes = Shapes(tensors, file, "mPLUG")
        self.width, _, _, self.patch = shapes(f"{_SEEN}.conv1.weight", 4)
        self.vocabulary, self.size = shapes(_WORDS)
        self.stride = STRIDES["base" if self.width == self.size else "large"]
        self.text = self._prefix("text_encoder", ("bert.",))
        self.fusion = self._prefix("fusion_encoder", ("bert.", "fusion."))
        self.built = shapes.count(f"{self.fusion}encoder.layer.")
        read = shapes.count(f"{self.text}encoder.layer.")
        self.first = read if read < self.built else 0  # layer of the fusion that is run

    def _prefix(self, part: str, inner: tuple[str, ...]) -> str:
        found = (f"{part}.{name}" for name in inner)
        here = self.shapes.tensors
        return next((p for p in found if any(name.startswith(p) for name in here)), f"{part}.")

    def encoder_rules(self) -> tuple[Rule, ...]:
        """Of the text encoder."""
        text = self.text
        return (
            Leave(f"{text}embeddings.position_ids", _COUNTED),
            Leave(f"{text}pooler.**", "of a summary of the text that mPLUG does not read"),
            Take(f"{text}embeddings.**", "text_encoder.embeddings.**"),
            Take(f"{text}encoder.**", "text_encoder.encoder.**"),
        )

    def fusion_rules(self) -> tuple[Rule, ...]:
        """Of the fusion: layers that are run are counted from 0 on."""
        layer, unused = f"{self.fusion}encoder.layer", "a layer of the fusion before the first that is run"
        rules: list[Rule] = [
            Leave(f"{self.fusion}embeddings.**", "words come to the fusion from the text encoder"),
            Leave(f"{self.fusion}pooler.**", "of a summary of the text that mPLUG does not read"),
            *(Leave(f"{layer}.{number}.**", unused) for number in range(self.first)),
        ]
        config = MPlugConfig(stride=self.stride)
        for number in range(self.built - self.first):
            name = f"{layer}.{self.first + number}"
            if config.joins(number):
                reason = "cross-attention of a layer of the fusion that has image and text in one sequence"
                rules.append(Leave(f"{name}.crossattention.**", reason))
            rules.append(Take(f"{name}.**", f"fusion_encoder.layer.{number}.**"))
        return tuple(rules)

    def config(self, tokenizer: PreTrainedTokenizerBase) -> MPlugConfig:
        """The configuration, with the tokenizer's special tokens."""
        shapes = self.shapes
        rows = shapes.rows(f"{_SEEN}.positional_embedding")
        blocks = f"{_SEEN}.transformer.resblocks."
        vision = dict(
            hidden_size=self.width,
            intermediate_size=shapes(f"{blocks}0.mlp.c_fc.weight")[0],
            num_hidden_layers=shapes.count(blocks),
            num_attention_heads=shapes.heads("visual_encoder", self.width),
            image_size=rows * self.patch,
            patch_size=self.patch,
        )
        text = dict(
            vocab_size=self.vocabulary,
            hidden_size=self.size,
            intermediate_size=shapes("text_decoder.bert.encoder.layer.0.intermediate.dense.weight")[0],
            num_attention_heads=shapes.heads("text_decoder", self.size),
            max_position_embeddings=shapes.places,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.sep_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        layers = (
            shapes.count(f"{self.text}encoder.layer."),
            self.built - self.first,
            shapes.count("text_decoder.bert.encoder.layer."),
        )
        return sizes(vision, text, layers, self.stride)
