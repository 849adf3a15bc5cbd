"""Families of the zoo as folders that the commands can load, with a tokenizer or processor of a few words;
and saved adapters for the mini-BLIP."""

from pathlib import Path

import torch
import transformers as hf
from peft import PeftModel, get_peft_model

from attngraph.adapters.peft import GraphAdapterConfig
from attngraph.experiments.models import load_family
from attngraph.experiments.models.mplug import MPlugForConditionalGeneration
from attngraph.experiments.models.mplug.modeling import MPlugConfig, sizes
from tests.attngraph.reading.zoo import FAMILIES, GQA, QWEN, TEXT, VISION, far_from_zero

NAMES = "[PAD] [UNK] [CLS] [SEP] <image> a red ball star ##s <video> <global> <fake> <end>".split()
SIDE = {"height": 8, "width": 8}
CLIP_IMAGES = dict(size={"shortest_edge": 8}, crop_size=SIDE)


def tokenizer(longest: int = 32, **special: str) -> hf.BertTokenizerFast:
    return hf.BertTokenizerFast(
        vocab={name: k for k, name in enumerate(NAMES)},
        mask_token="<image>",
        model_max_length=longest,
        model_input_names=["input_ids", "attention_mask"],
        extra_special_tokens=special,
        padding_side="left",  # which would change what models compute that count positions
    )


def captioner() -> hf.VisionEncoderDecoderModel:
    """Pictures of 8 x 12 in patches of 4, and a BERT that looks at them."""
    vision = hf.ViTConfig(**VISION | dict(image_size=(8, 12)))
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        vision, hf.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    )
    config.decoder_start_token_id, config.pad_token_id = 2, 0
    return far_from_zero(hf.VisionEncoderDecoderModel(config), 0)


def classifier() -> hf.ViTForImageClassification:
    return far_from_zero(hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=3)), 0)


def answerer() -> hf.ViltForQuestionAnswering:
    return far_from_zero(
        hf.ViltForQuestionAnswering(hf.ViltConfig(**TEXT, image_size=8, patch_size=4, num_labels=5)), 0
    )


def with_ends(model: hf.PreTrainedModel) -> hf.PreTrainedModel:
    """A BLIP with the start token that its family adds to this tokenizer, and the tokenizer's end."""
    decoder = model.text_decoder
    for config in (model.config.text_config, decoder.config, decoder.generation_config):
        config.bos_token_id, config.eos_token_id, config.sep_token_id = len(NAMES), 3, 3
    return model


def blip() -> hf.BlipForConditionalGeneration:
    return with_ends(FAMILIES["blip"].model())


def asker() -> hf.BlipForQuestionAnswering:
    """A question's encoder that looks at the image, and an answer's decoder that looks at the question."""
    text = TEXT | dict(encoder_hidden_size=16, projection_dim=16)
    config = hf.BlipConfig(text_config=text, vision_config=VISION | dict(hidden_size=16))
    return with_ends(far_from_zero(hf.BlipForQuestionAnswering(config), 0))


def mplug_config() -> MPlugConfig:
    """With one joined layer among four, and pictures of another width than texts."""
    text = {name: size for name, size in TEXT.items() if name not in ("num_hidden_layers", "sep_token_id")}
    ends = dict(vocab_size=len(NAMES), bos_token_id=2, eos_token_id=3)
    return sizes(VISION, text | ends, (2, 4, 2), stride=2)


def mplug() -> MPlugForConditionalGeneration:
    return far_from_zero(MPlugForConditionalGeneration(mplug_config()), 0)


def qwen() -> hf.Qwen2VLForConditionalGeneration:
    """With this tokenizer's video token."""
    model = FAMILIES["qwen2-vl"].model()
    model.config.video_token_id = NAMES.index("<video>")
    return model


def windows() -> hf.Qwen2_5_VLForConditionalGeneration:
    """Its image encoder sees a picture in windows of 8 x 8 pixels in the first layer, whole in the second."""
    vision = dict(
        depth=2,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=1,
        window_size=8,
        fullatt_block_indexes=[1],
        out_hidden_size=16,
    )
    return far_from_zero(
        hf.Qwen2_5_VLForConditionalGeneration(
            hf.Qwen2_5_VLConfig(
                vision_config=vision,
                text_config=QWEN | dict(model_type="qwen2_5_vl_text"),
                image_token_id=4,
                video_token_id=NAMES.index("<video>"),
                vision_start_token_id=2,
                vision_end_token_id=1,
            )
        ),
        0,
    )


def smolvlm() -> hf.SmolVLMForConditionalGeneration:
    """Pictures of 4 x 4 patches, merged into 2 x 2."""
    return far_from_zero(
        hf.SmolVLMForConditionalGeneration(
            hf.SmolVLMConfig(
                vision_config=VISION | dict(image_size=16),
                text_config=GQA,
                image_token_id=4,
                scale_factor=2,
                pad_token_id=0,
            )
        ),
        0,
    )


OWN = {
    "blip": blip,
    "blip-vqa": asker,
    "mplug": mplug,
    "qwen2-vl": qwen,
    "smolvlm": smolvlm,
    "qwen2.5-vl": windows,
    "captioner": captioner,
    "classifier": classifier,
    "vilt-vqa": answerer,
}


def _unmasked() -> hf.BertTokenizerFast:
    words = tokenizer()
    words.model_input_names = ["input_ids"]
    return words


def _qwen(kind: type = hf.Qwen2VLProcessor) -> hf.ProcessorMixin:
    pixels = dict(patch_size=4, merge_size=2, temporal_patch_size=1, min_pixels=64, max_pixels=1024)
    words = tokenizer(1000, image_token="<image>", video_token="<video>")
    return kind(hf.Qwen2VLImageProcessor(**pixels), words, hf.Qwen2VLVideoProcessor(**pixels))


def _smolvlm() -> hf.SmolVLMProcessor:
    edge = {"longest_edge": 16}
    words = tokenizer(
        1000,
        image_token="<image>",
        fake_image_token="<fake>",
        global_image_token="<global>",
        end_of_utterance_token="<end>",
    )
    images = hf.SmolVLMImageProcessor(size=edge, max_image_size=edge, do_image_splitting=False)
    videos = hf.SmolVLMVideoProcessor(size=edge, max_image_size=edge)
    return hf.SmolVLMProcessor(images, words, videos, image_seq_len=4)


PROCESSORS = {
    "vit": lambda: hf.ViTImageProcessor(size=SIDE),
    "classifier": lambda: hf.ViTImageProcessor(size=SIDE),
    "captioner": lambda: hf.TrOCRProcessor(
        hf.ViTImageProcessor(size={"height": 8, "width": 12}), tokenizer()
    ),
    "clip": lambda: hf.CLIPProcessor(hf.CLIPImageProcessor(**CLIP_IMAGES), tokenizer()),
    "vilt": lambda: hf.ViltProcessor(
        hf.ViltImageProcessor(size={"shortest_edge": 8}, size_divisor=4), tokenizer()
    ),
    "blip2": lambda: hf.Blip2Processor(hf.BlipImageProcessor(size=SIDE), tokenizer(1000), num_query_tokens=3),
    "blip-vqa": lambda: hf.BlipProcessor(hf.BlipImageProcessor(size=SIDE), tokenizer()),
    "mplug": lambda: hf.BlipProcessor(hf.BlipImageProcessor(size=SIDE), tokenizer()),
    "llava": lambda: hf.LlavaProcessor(
        hf.CLIPImageProcessor(**CLIP_IMAGES),
        tokenizer(1000),
        patch_size=4,
        image_token="<image>",
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ),
    "siglip": lambda: hf.SiglipProcessor(hf.SiglipImageProcessor(size=SIDE), _unmasked()),
    "git": lambda: hf.GitProcessor(hf.CLIPImageProcessor(**CLIP_IMAGES), tokenizer()),
    "donut": lambda: hf.DonutProcessor(
        hf.DonutImageProcessor(size={"height": 16, "width": 16}, do_align_long_axis=False), tokenizer()
    ),
    "instructblip": lambda: hf.InstructBlipProcessor(
        hf.BlipImageProcessor(size=SIDE), tokenizer(1000), tokenizer(1000), num_query_tokens=3
    ),
    "qwen2-vl": _qwen,
    "qwen2.5-vl": lambda: _qwen(hf.Qwen2_5_VLProcessor),
    "smolvlm": _smolvlm,
}
PROCESSORS["vilt-vqa"] = PROCESSORS["vilt"]
# Models that see tiles of a picture, whose maps the commands do not draw.
TILED = {
    "mllama": lambda: hf.MllamaProcessor(
        hf.MllamaImageProcessor(size=SIDE, max_image_tiles=2),
        tokenizer(1000, image_token="<image>", bos_token="[CLS]"),
    )
}
TEXT_ALONE = ("bert", "gpt2", "llama", "t5", "bart")
IMAGE_ALONE = ("vit", "classifier")
ALL = (*TEXT_ALONE, *PROCESSORS, "blip")


def save(family: str, folder: Path) -> Path:
    """A folder with one of ``ALL`` or ``TILED``."""
    model = OWN[family]() if family in OWN else FAMILIES[family].model()
    model.save_pretrained(folder)
    (PROCESSORS | TILED).get(family, tokenizer)().save_pretrained(folder)
    return folder


def save_adapter(folder: Path, **settings) -> PeftModel:
    """The mini-BLIP with new graph adapters, which PEFT saves in the folder."""
    torch.manual_seed(0)
    adapted = get_peft_model(load_family().model, GraphAdapterConfig(**settings)).eval()
    adapted.save_pretrained(folder)
    return adapted


def adapted(folder: Path) -> hf.BlipForConditionalGeneration:
    """The mini-BLIP with p-adapters that are no longer as they start, saved in the folder."""
    peft = save_adapter(folder, gnn="pgnn", p=1.5, mu=0.1)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "gnn_" in name and name.endswith("p_logit.stored"):
                parameter += 0.1
            if "gnn_" in name and name.endswith("share.stored"):
                parameter += 0.05
    peft.save_pretrained(folder)
    return peft.get_base_model()
