"""Families of the zoo as folders that the commands can load, with a tokenizer or processor of a few words; and saved
adapters for the mini-BLIP."""

from pathlib import Path

import torch
import transformers as hf
from tests.attngraph.zoo import FAMILIES, TEXT, VISION, far_from_zero

from adapters.blip import attach
from adapters.config import AdapterConfig
from experiments.models.mini_blip import load_model

NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<image>", "a", "red", "ball", "star", "##s"]


def tokenizer(longest: int = 32) -> hf.BertTokenizerFast:
    return hf.BertTokenizerFast(vocab={name: k for k, name in enumerate(NAMES)}, mask_token="<image>", model_max_length=longest,
                                model_input_names=["input_ids", "attention_mask"])


def captioner() -> hf.VisionEncoderDecoderModel:
    """Pictures of 8 x 12 in patches of 4, and a BERT that looks at them."""
    vision = hf.ViTConfig(**VISION | dict(image_size=(8, 12)))
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        vision, hf.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True))
    config.decoder_start_token_id, config.pad_token_id = 2, 0
    return far_from_zero(hf.VisionEncoderDecoderModel(config), 0)


def save(family: str, folder: Path) -> Path:
    """A folder with one of t5, bart, captioner, clip, llava."""
    model = captioner() if family == "captioner" else FAMILIES[family].model()
    model.save_pretrained(folder)
    if family in ("t5", "bart"):
        tokenizer().save_pretrained(folder)
    elif family == "captioner":
        hf.TrOCRProcessor(hf.ViTImageProcessor(size={"height": 8, "width": 12}), tokenizer()).save_pretrained(folder)
    else:
        images = hf.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
        if family == "clip":
            hf.CLIPProcessor(images, tokenizer()).save_pretrained(folder)
        else:
            hf.LlavaProcessor(images, tokenizer(1000), patch_size=4, vision_feature_select_strategy="default",
                              image_token="<image>", num_additional_image_tokens=1).save_pretrained(folder)
    return folder


def adapted(folder: Path) -> hf.BlipForConditionalGeneration:
    """The mini-BLIP with p-adapters that are no longer as they start, saved in the folder as a table's run saves them."""
    torch.manual_seed(0)
    model, _ = load_model()
    adapters = attach(model, AdapterConfig("pgnn", {"p": 1.5, "mu": 0.1}))
    with torch.no_grad():
        for adapter in adapters.layers.values():
            adapter.scheme.p_logit += 1.0
            adapter.join.share += 0.5
    adapters.save(folder / "adapter.safetensors")
    return model
