"""BLIP's own checkpoints: the released files of Li et al. (2022), https://github.com/salesforce/BLIP.

==================== ==================================================================================
pre-training         ``visual_encoder``, ``text_encoder``, ``text_decoder``, the heads that match pictures
                     and texts (``itm_head``, ``vision_proj``, ``text_proj``, ``temp``), copies with
                     momentum (``*_m``) and queues: ``model_base_capfilt_large.pth``
captions             ``visual_encoder``, ``text_decoder``: ``model_base_caption_capfilt_large.pth``
questions            ``visual_encoder``, ``text_encoder``, ``text_decoder``:
                     ``model_base_vqa_capfilt_large.pth``
==================== ==================================================================================

Shapes tell all sizes but the number of heads: a head is 64 wide in ViT-B, ViT-L and BERT alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from attngraph.errors import UserError
from experiments.models.blip import BlipCaptioner
from experiments.models.blip_vqa import ENCODER_START, BlipAnswerer
from experiments.models.original.layout import Arrangement, Layout
from experiments.models.original.rules import Leave, Take, Twin
from experiments.models.original.shapes import Shapes
from experiments.models.original.vocabulary import check_size, make_tokenizer

START = "[DEC]"
VISION_EPS, TEXT_EPS = 1e-6, 1e-12  # of the layer norms
DROPOUT = 0.1  # of the text side in training

_BLOCK, _LAYER = "visual_encoder.blocks.*", "vision_model.encoder.layers.*"
VISION = (
    Take("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    Take("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    Take("visual_encoder.patch_embed.proj.*", "vision_model.embeddings.patch_embedding.*"),
    Take(f"{_BLOCK}.norm1.*", f"{_LAYER}.layer_norm1.*"),
    Take(f"{_BLOCK}.attn.qkv.*", f"{_LAYER}.self_attn.qkv.*"),  # queries, keys, values, in both
    Take(f"{_BLOCK}.attn.proj.*", f"{_LAYER}.self_attn.projection.*"),
    Take(f"{_BLOCK}.norm2.*", f"{_LAYER}.layer_norm2.*"),
    Take(f"{_BLOCK}.mlp.fc1.*", f"{_LAYER}.mlp.fc1.*"),
    Take(f"{_BLOCK}.mlp.fc2.*", f"{_LAYER}.mlp.fc2.*"),
    Take("visual_encoder.norm.*", "vision_model.post_layernorm.*"),
)
_HEAD, _COUNTED = "text_decoder.cls.predictions", "counts places, which the model does itself"
DECODER = (
    Leave("text_decoder.bert.embeddings.position_ids", _COUNTED),
    Twin(f"{_HEAD}.decoder.weight", "text_decoder.bert.embeddings.word_embeddings.weight"),
    Take(f"{_HEAD}.decoder.bias", f"{_HEAD}.bias"),  # transformers shares them the other way round
    Leave(f"{_HEAD}.bias", "another name of the output layer's bias, which BLIP never reads"),
    Take("text_decoder.bert.**", "text_decoder.bert.**"),
    Take("text_decoder.cls.**", "text_decoder.cls.**"),
)
QUESTIONS = (
    Leave("text_encoder.embeddings.position_ids", _COUNTED),
    Take("text_encoder.**", "text_encoder.**"),
)
_MATCHING = "matches pictures and texts in pre-training"
PRETRAINING = (
    *(Leave(f"{name}.*", _MATCHING) for name in ("itm_head", "vision_proj", "text_proj")),
    Leave("temp", _MATCHING),
    *(Leave(name, "a queue of pre-training") for name in ("image_queue", "text_queue", "queue_ptr")),
    *(
        Leave(f"{name}_m.**", "a copy with momentum, a target of pre-training")
        for name in ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
    ),
)


class BlipLayout(Layout):
    """Two arrangements: p-Adapter's captioner, which answers questions too, and BLIP's own for questions."""

    name, title = "blip", "BLIP"
    depths = {
        "visual_encoder.blocks.": (12, 24),
        "text_encoder.encoder.layer.": (12,),
        "text_decoder.bert.encoder.layer.": (12,),
    }
    arrangements = {
        arrangement.name: arrangement
        for arrangement in (
            Arrangement(
                "captioner",
                "image encoder and text decoder, as p-Adapter has it for all tasks and BLIP for captions",
                BlipForConditionalGeneration,
                BlipCaptioner,
                (*VISION, *DECODER, *PRETRAINING, Leave("text_encoder.**", "no part of a captioner")),
            ),
            Arrangement(
                "vqa",
                "image encoder, question encoder and answer decoder, as BLIP has it for questions",
                BlipForQuestionAnswering,
                BlipAnswerer,
                (*VISION, *DECODER, *PRETRAINING, *QUESTIONS),
            ),
        )
    }

    def accepts(self, tensors: Mapping[str, Tensor]) -> bool:
        return {"visual_encoder.pos_embed", "visual_encoder.cls_token"} <= tensors.keys()

    def choose(self, tensors: Mapping[str, Tensor], asked: str | None, file: Path) -> Arrangement:
        parts = {name.partition(".")[0] for name in tensors}
        if "text_decoder" not in parts:
            raise UserError(f"{file}: it has no text decoder, so it writes nothing: give another checkpoint")
        for_questions = "text_encoder" in parts and "itm_head" not in parts
        if asked == "captioner" and for_questions:
            raise UserError(
                f"{file}: its decoder looks at questions, not at pictures: convert it --as vqa, or give "
                "another checkpoint"
            )
        if asked == "vqa" and "text_encoder" not in parts:
            raise UserError(f"{file}: it has no question encoder: convert it --as captioner")
        return self.arrangements[asked or ("vqa" if for_questions else "captioner")]

    def tokenizer(
        self, words: dict[str, int], tensors: Mapping[str, Tensor], file: Path, vocabulary: Path
    ) -> PreTrainedTokenizerBase:
        shapes = Shapes(tensors, file, "BLIP")
        rows, longest = shapes("text_decoder.bert.embeddings.word_embeddings.weight")[0], shapes.places
        tokenizer = make_tokenizer(words, START, ENCODER_START, longest=longest)
        check_size(tokenizer, rows, vocabulary, (START, ENCODER_START))
        return tokenizer

    def config(
        self, tensors: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase, file: Path
    ) -> PretrainedConfig:
        shapes = Shapes(tensors, file, "BLIP")
        width, _, _, patch = shapes("visual_encoder.patch_embed.proj.weight", 4)
        rows = shapes.rows("visual_encoder.pos_embed", 3)
        vision = dict(
            hidden_size=width,
            intermediate_size=shapes("visual_encoder.blocks.0.mlp.fc1.weight")[0],
            num_hidden_layers=shapes.count("visual_encoder.blocks."),
            num_attention_heads=shapes.heads("visual_encoder", width),
            image_size=rows * patch,
            patch_size=patch,
            layer_norm_eps=VISION_EPS,
            initializer_range=0.02,
        )
        vocabulary, size = shapes("text_decoder.bert.embeddings.word_embeddings.weight")
        end = tokenizer.sep_token_id
        text = dict(
            vocab_size=vocabulary,
            hidden_size=size,
            encoder_hidden_size=width,
            intermediate_size=shapes("text_decoder.bert.encoder.layer.0.intermediate.dense.weight")[0],
            num_hidden_layers=shapes.count("text_decoder.bert.encoder.layer."),
            num_attention_heads=shapes.heads("text_decoder", size),
            max_position_embeddings=shapes.places,
            layer_norm_eps=TEXT_EPS,
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=end,
            sep_token_id=end,
            pad_token_id=tokenizer.pad_token_id,
        )
        return BlipConfig(text_config=text, vision_config=vision)

    def image_processor(self, side: int) -> BlipImageProcessor:
        return BlipImageProcessor(size={"height": side, "width": side})
