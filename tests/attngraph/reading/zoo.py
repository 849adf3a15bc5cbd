"""Families of transformers, each small enough to run in milliseconds, with what their attention layers are.

``LAYERS`` names every layer with its kind, causality and modalities as ``"self causal text text"``.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature

import pytest
import torch
import transformers as hf

PAD, IMAGE, VOCABULARY = 0, 4, 41
TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=64,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=2,
    sep_token_id=2,
)
VISION = dict(
    hidden_size=12,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=8,
    patch_size=4,
    projection_dim=16,
)
GQA = TEXT | dict(model_type="llama", num_attention_heads=4, num_key_value_heads=2)
SIZES = (
    TEXT
    | dict.fromkeys("d_model embed_dim n_embd".split(), 16)
    | dict.fromkeys("layers n_layer n_layers num_layers encoder_layers decoder_layers".split(), 2)
    | dict.fromkeys("n_head n_heads num_heads attention_heads".split(), 2)
    | dict.fromkeys("encoder_attention_heads decoder_attention_heads".split(), 2)
    | dict.fromkeys("d_ff d_inner ffn_dim encoder_ffn_dim decoder_ffn_dim".split(), 24)
    | dict(d_kv=8, max_seq_len=64, n_positions=64, decoder_start_token_id=2, forced_eos_token_id=None)
)
"""The sizes of a model of text, under the names that one family or another gives them."""
BLIP_TEXT = TEXT | dict(encoder_hidden_size=12, projection_dim=16)
SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
QFORMER = SMALL | dict(encoder_hidden_size=12, cross_attention_frequency=2, vocab_size=VOCABULARY)
GEMMA3_LAYERS = ["sliding_attention", "full_attention"]
GEMMA = TEXT | dict(num_key_value_heads=1, head_dim=8)
OPT = TEXT | dict(model_type="opt", ffn_dim=24, word_embed_proj_dim=16)
SWIN = dict(image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4)
DAVIT = dict(
    in_channels=3,
    depths=(1, 1),
    patch_size=(7, 3),
    patch_stride=(4, 2),
    patch_padding=(3, 1),
    patch_prenorm=(False, True),
    embed_dim=(8, 16),
    num_heads=(2, 2),
    num_groups=(2, 2),
    window_size=2,
    projection_dim=16,
)
MLLAMA_VISION = dict(
    hidden_size=16,
    num_hidden_layers=1,
    num_global_layers=1,
    attention_heads=2,
    intermediate_size=24,
    vision_output_dim=32,
    image_size=8,
    patch_size=4,
    max_num_tiles=2,
    intermediate_layers_indices=[0],
    supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
)
THIRDS = dict(rope_type="default", rope_theta=1e4, mrope_section=[1, 1, 0])
QWEN = GQA | dict(model_type="qwen2_vl_text", rope_parameters=THIRDS)
QWEN_VISION = dict(depth=2, embed_dim=16, hidden_size=16, num_heads=2, mlp_ratio=2, patch_size=4)
QWEN_VISION |= dict(spatial_merge_size=2, temporal_patch_size=1)
SHARED_KEYS = TEXT | dict(
    num_hidden_layers=4,
    num_key_value_heads=1,
    head_dim=8,
    num_kv_shared_layers=2,
    layer_types=["sliding_attention", "full_attention"] * 2,
    sliding_window=24,
    vocab_size_per_layer_input=VOCABULARY,
    hidden_size_per_layer_input=8,
)
DISENTANGLED = dict(relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=6)


def sized(kind: str, **more) -> hf.PreTrainedConfig:
    """A family's configuration with those of ``SIZES`` that it knows."""
    config = getattr(hf, f"{kind}Config")
    known = signature(config).parameters
    return config(**{name: size for name, size in SIZES.items() if name in known} | more)


def of(model: str, **more) -> Callable[[], torch.nn.Module]:
    """What makes a model of transformers of such a configuration, which no other model shares."""
    kind = getattr(hf, model)
    return lambda: kind(sized(kind.config_class.__name__.removesuffix("Config"), **deepcopy(more)))


def far_from_zero(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every weight and bias that trains random and large, so that no term can hide."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:  # sines and cosines
                continue
            noise = torch.randn(parameter.shape, generator=draw)
            if parameter.dim() < 2:
                parameter.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.3 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model.eval()


def words(n: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, VOCABULARY, (2, n), generator=torch.Generator().manual_seed(seed))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


def text(images: int = 0, left: bool = False) -> dict:
    """Seven words, two of them padding in the second example; with ``images`` image tokens after the
    third."""
    ids, mask = words(), torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1] if left else [1, 1, 1, 1, 1, 0, 0]])
    split = 3 if images else 0
    tokens = torch.full((2, images), IMAGE)
    return dict(
        input_ids=torch.cat([ids[:, :split], tokens, ids[:, split:]], 1),
        attention_mask=torch.cat([mask[:, :split], torch.ones_like(tokens), mask[:, split:]], 1),
    )


def words_only(left: bool = False) -> dict:
    return text(left=left)


def pixels() -> dict:
    return dict(pixel_values=normal(2, 3, 8, 8))


def text_and_pixels(left: bool = False) -> dict:
    return text(left=left) | pixels()


def prefix_types(ids: torch.Tensor, prefix: int) -> dict:
    """PaliGemma's token types: the first tokens are a prefix that sees itself."""
    return dict(token_type_ids=(torch.arange(ids.shape[1]).expand_as(ids) >= prefix).long())


def image_types(ids: torch.Tensor) -> dict:
    """Gemma 3's token types: which tokens are of the image."""
    return dict(token_type_ids=(ids == IMAGE).long())


def with_types(images: int, left: bool, types: Callable[[torch.Tensor], dict]) -> dict:
    given = text(images, left)
    return given | types(given["input_ids"]) | pixels()


@dataclass(frozen=True)
class Family:
    """``make()`` gives the model, ``inputs(left)`` what it is run on, ``layers`` what is to be found.

    ``generates`` names the model's decoder layers, if it writes text. ``exact``: while it is read it puts out
    the same numbers to the last bit.
    """

    make: Callable
    inputs: Callable
    layers: dict[str, str]
    generates: str | None = None
    exact: bool = True

    def model(self, seed: int = 0, implementation: str = "eager") -> torch.nn.Module:
        model = far_from_zero(self.make(), seed)
        model.set_attn_implementation(implementation)
        return model


def numbered(pattern: str, what: str, count: int = 2) -> dict[str, str]:
    return {pattern.format(k): what for k in range(count)}


def of_words(make: Callable, pattern: str, ordered: bool = True, count: int = 2) -> Family:
    """A family that reads words alone, in layers of one kind, and writes them if these are ordered."""
    layers = numbered(pattern, CAUSAL if ordered else BIDIRECTIONAL, count)
    return Family(make, words_only, layers, f"{pattern.partition('.')[0]}.*" if ordered else None)


def seq2seq(left: bool = False) -> dict:
    return text(left=left) | dict(decoder_input_ids=words(4, seed=1))


def qwen_inputs(left: bool = False) -> dict:
    given = text(images=2, left=left)
    return given | dict(
        pixel_values=normal(16, 48),
        image_grid_thw=torch.tensor([[1, 2, 4], [1, 4, 2]]),
        mm_token_type_ids=(given["input_ids"] == IMAGE).int(),
    )


def led(encoder, decoder) -> torch.nn.Module:
    """A model that writes what its image encoder shows."""
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, PAD
    return hf.VisionEncoderDecoderModel(config)


def led_inputs(size: int) -> Callable:
    def inputs(left: bool = False) -> dict:
        words = {f"decoder_{name}": value for name, value in text(left=left).items()}
        return words | dict(pixel_values=normal(2, 3, size, size))

    return inputs


def mllama_inputs(left: bool = False) -> dict:
    """An image of one tile and one of two, before the words."""
    tiles = torch.tensor([[[1, 0]], [[1, 1]]])
    return text(left=left) | dict(
        pixel_values=normal(2, 1, 2, 3, 8, 8),
        aspect_ratio_ids=torch.tensor([[1], [2]]),
        aspect_ratio_mask=tiles,
        cross_attention_mask=tiles[:, None].expand(-1, 7, -1, -1),
    )


def kosmos_inputs(left: bool = False) -> dict:
    given = text(images=3, left=left)
    filled = given["input_ids"] == IMAGE
    given["input_ids"][filled] = 7  # no token of its own
    return given | pixels() | dict(image_embeds_position_mask=filled.int())


def instructed(left: bool = False) -> dict:
    """The instruction holds the image token's number, which is another word there."""
    given = text(left=left)
    instruction = dict(
        qformer_input_ids=given["input_ids"].clone(), qformer_attention_mask=given["attention_mask"]
    )
    instruction["qformer_input_ids"][:, 3] = IMAGE
    return text(images=3, left=left) | instruction | pixels()


def with_regions(left: bool = False) -> dict:
    return text(left=left) | dict(
        visual_embeds=normal(2, 3, 6),
        visual_attention_mask=torch.ones(2, 3),
        visual_token_type_ids=torch.ones(2, 3, dtype=torch.long),
    )


def falcon(**settings) -> torch.nn.Module:
    """Falcon takes its implementation of attention when it is made."""
    settings |= dict(num_attention_heads=4, attn_implementation="eager")
    return hf.FalconForCausalLM(sized("Falcon", **settings))


WITHOUT_OUTPUT = ("channel_attn", "rel_attn")
"""Layers that have no linear layer as output projection: one's nodes are channels, one's is a parameter."""
BIDIRECTIONAL, CAUSAL, SEEING = "self both text text", "self causal text text", "self both image image"
CROSS, CROSS_IMAGE, MIXED = "cross causal text text", "cross causal text image", "self causal mixed mixed"


def struct_patches() -> torch.Tensor:
    """Sixteen patches with their rows and columns, the last four of the second image padding."""
    patches = normal(2, 16, 14)
    patches[..., :2] = torch.stack([torch.arange(16) // 4 + 1, torch.arange(16) % 4 + 1], -1)
    patches[1, 12:] = 0
    return patches


def led_layers(decoder: str) -> dict[str, str]:
    return (
        numbered("encoder.layers.{}.attention", SEEING)
        | numbered(f"decoder.{decoder}.encoder.layer.{{}}.attention.self", CAUSAL)
        | numbered(f"decoder.{decoder}.encoder.layer.{{}}.crossattention.self", CROSS_IMAGE)
    )


FAMILIES: dict[str, Family] = {
    "bert": of_words(of("BertModel"), "encoder.layer.{}.attention.self", ordered=False),
    "gpt2": of_words(of("GPT2LMHeadModel"), "transformer.h.{}.attn"),
    "llama": of_words(of("LlamaForCausalLM", **GQA), "model.layers.{}.self_attn"),
    "vit": Family(
        of("ViTModel", **VISION),
        lambda left=False: pixels(),
        numbered("layers.{}.attention", SEEING),
    ),
    "clip": Family(
        of("CLIPModel", text_config=TEXT, vision_config=VISION, projection_dim=8),
        text_and_pixels,
        numbered("vision_model.encoder.layers.{}.self_attn", SEEING)
        | numbered("text_model.encoder.layers.{}.self_attn", CAUSAL),
    ),
    "t5": Family(
        of("T5ForConditionalGeneration", decoder_start_token_id=PAD),
        seq2seq,
        numbered("encoder.block.{}.layer.0.SelfAttention", BIDIRECTIONAL)
        | numbered("decoder.block.{}.layer.0.SelfAttention", CAUSAL)
        | numbered("decoder.block.{}.layer.1.EncDecAttention", CROSS),
        generates="decoder.*",
    ),
    "bart": Family(
        of("BartForConditionalGeneration"),
        seq2seq,
        numbered("model.encoder.layers.{}.self_attn", BIDIRECTIONAL)
        | numbered("model.decoder.layers.{}.self_attn", CAUSAL)
        | numbered("model.decoder.layers.{}.encoder_attn", CROSS),
        generates="model.decoder.*",
    ),
    "blip": Family(
        of("BlipForConditionalGeneration", text_config=BLIP_TEXT, vision_config=VISION),
        text_and_pixels,
        numbered("vision_model.encoder.layers.{}.self_attn", SEEING)
        | numbered("text_decoder.bert.encoder.layer.{}.attention.self", CAUSAL)
        | numbered("text_decoder.bert.encoder.layer.{}.crossattention.self", CROSS_IMAGE),
        generates="text_decoder.*",
    ),
    "blip2": Family(
        of(
            "Blip2ForConditionalGeneration",
            vision_config=VISION,
            qformer_config=QFORMER,
            text_config=OPT,
            num_query_tokens=3,
            image_token_index=IMAGE,
        ),
        lambda left=False: text(images=3, left=left) | pixels(),
        numbered("vision_model.encoder.layers.{}.self_attn", SEEING)
        | numbered("qformer.encoder.layer.{}.attention.attention", SEEING)
        | {"qformer.encoder.layer.0.crossattention.attention": "cross both image image"}
        | numbered("language_model.model.decoder.layers.{}.self_attn", MIXED),
        generates="language_model.*",
    ),
    "llava": Family(
        of(
            "LlavaForConditionalGeneration",
            vision_config=VISION | dict(model_type="clip_vision_model"),
            text_config=GQA,
            image_token_id=IMAGE,
        ),
        lambda left=False: text(images=4, left=left) | pixels(),
        numbered("model.vision_tower.encoder.layers.{}.self_attn", SEEING)
        | numbered("model.language_model.layers.{}.self_attn", MIXED),
        generates="model.language_model.*",
    ),
    "qwen2-vl": Family(
        of(
            "Qwen2VLForConditionalGeneration",
            vision_config=QWEN_VISION,
            text_config=QWEN,
            image_token_id=IMAGE,
            video_token_id=3,
            vision_start_token_id=2,
            vision_end_token_id=1,
        ),
        qwen_inputs,
        numbered("model.visual.blocks.{}.attn", SEEING)
        | numbered("model.visual.blocks.{}.attn#2", SEEING)
        | numbered("model.language_model.layers.{}.self_attn", MIXED),
        generates="model.language_model.*",
    ),
    "vilt": Family(
        of("ViltModel", image_size=8, patch_size=4),
        text_and_pixels,
        numbered("encoder.layer.{}.attention.attention", "self both mixed mixed"),
    ),
    "lxmert": Family(
        of("LxmertModel", l_layers=1, x_layers=1, r_layers=1, visual_feat_dim=6),
        lambda left=False: (
            text(left=left)
            | dict(
                visual_feats=normal(2, 7, 6),
                visual_pos=normal(2, 7, 4).sigmoid(),
                visual_attention_mask=torch.tensor([[1] * 7, [1] * 4 + [0] * 3]),
            )
        ),
        {
            "encoder.layer.0.attention.self": BIDIRECTIONAL,
            "encoder.r_layers.0.attention.self": SEEING,
            "encoder.x_layers.0.visual_attention.att": "cross both text image",
            "encoder.x_layers.0.visual_attention.att#2": "cross both image text",
            "encoder.x_layers.0.lang_self_att.self": BIDIRECTIONAL,
            "encoder.x_layers.0.visn_self_att.self": SEEING,
        },
    ),
    "siglip": Family(
        of("SiglipModel", text_config=TEXT | dict(projection_size=12), vision_config=VISION),
        text_and_pixels,
        numbered("vision_model.encoder.layers.{}.self_attn", SEEING)
        | {"vision_model.head.attention": "cross both image image"}
        | numbered("text_model.encoder.layers.{}.self_attn", BIDIRECTIONAL),
    ),
    "mllama": Family(
        of(
            "MllamaForConditionalGeneration",
            vision_config=MLLAMA_VISION,
            image_token_index=IMAGE,
            text_config=GQA
            | dict(model_type="mllama_text_model", num_hidden_layers=4, cross_attention_layers=[1, 2]),
        ),
        mllama_inputs,
        {
            "model.vision_model.transformer.layers.0.self_attn": SEEING,
            "model.vision_model.global_transformer.layers.0.self_attn": SEEING,
        }
        | {f"model.language_model.layers.{k}.self_attn": CAUSAL for k in (0, 3)}
        | {f"model.language_model.layers.{k}.cross_attn": CROSS_IMAGE for k in (1, 2)},
        generates="model.language_model.*",
    ),
    "instructblip": Family(
        of(
            "InstructBlipForConditionalGeneration",
            vision_config=VISION,
            qformer_config=QFORMER | dict(max_position_embeddings=64, pad_token_id=PAD),
            text_config=GQA,
            num_query_tokens=3,
            image_token_index=IMAGE,
        ),
        instructed,
        numbered("vision_model.encoder.layers.{}.self_attn", SEEING)
        | numbered("qformer.encoder.layer.{}.attention.attention", "self both mixed mixed")
        | {"qformer.encoder.layer.0.crossattention.attention": "cross both image image"}
        | numbered("language_model.model.layers.{}.self_attn", MIXED),
        generates="language_model.*",
    ),
    "kosmos2": Family(
        of(
            "Kosmos2ForConditionalGeneration",
            text_config=sized("Kosmos2Text"),
            vision_config=VISION,
            latent_query_num=3,
        ),
        kosmos_inputs,
        numbered("vision_model.model.encoder.layers.{}.self_attn", SEEING)
        | {"image_to_text_projection.x_attn": "cross both image image"}
        | numbered("text_model.model.layers.{}.self_attn", MIXED),
        generates="text_model.*",
    ),
    "florence2": Family(
        of(
            "Florence2ForConditionalGeneration",
            text_config=sized("Bart"),
            vision_config=DAVIT,
            image_token_id=IMAGE,
        ),
        lambda left=False: (
            text(images=2, left=left)
            | dict(pixel_values=normal(2, 3, 8, 8), decoder_input_ids=words(4, seed=1))
        ),
        {
            f"model.vision_tower.blocks.{k}.0.{block}": what
            for k in (0, 1)
            for block, what in (
                ("spatial_block.window_attn", SEEING),
                ("channel_block.channel_attn", "self both None None"),
            )
        }
        | numbered("model.language_model.encoder.layers.{}.self_attn", "self both mixed mixed")
        | numbered("model.language_model.decoder.layers.{}.self_attn", CAUSAL)
        | numbered("model.language_model.decoder.layers.{}.encoder_attn", "cross causal text mixed"),
        generates="model.language_model.decoder.*",
    ),
    "git": Family(
        of("GitForCausalLM", vision_config=VISION, **TEXT),
        text_and_pixels,
        numbered("git.image_encoder.vision_model.encoder.layers.{}.self_attn", SEEING)
        | numbered("git.encoder.layer.{}.attention.self", MIXED),
        generates="git.encoder.*",
    ),
    "paligemma": Family(
        of(
            "PaliGemmaForConditionalGeneration",
            vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
            text_config=hf.GemmaConfig(**GEMMA),
            projection_dim=16,
            image_token_index=IMAGE,
        ),
        lambda left=False: with_types(4, left, lambda ids: prefix_types(ids, 8)),
        numbered("model.vision_tower.encoder.layers.{}.self_attn", SEEING)
        | numbered("model.language_model.layers.{}.self_attn", MIXED),
        generates="model.language_model.layers.*",
    ),
    "gemma3": Family(
        of(
            "Gemma3ForConditionalGeneration",
            vision_config=hf.SiglipVisionConfig(**VISION, vision_use_head=False),
            text_config=hf.Gemma3TextConfig(**GEMMA, sliding_window=32, layer_types=GEMMA3_LAYERS),
            mm_tokens_per_image=4,
            image_token_id=IMAGE,
        ),
        lambda left=False: with_types(4, left, image_types),
        numbered("model.vision_tower.encoder.layers.{}.self_attn", SEEING)
        | numbered("model.language_model.layers.{}.self_attn", MIXED),
        generates="model.language_model.layers.*",
    ),
    "trocr": Family(
        lambda: led(
            hf.DeiTConfig(**VISION),
            sized("TrOCR", is_decoder=True, add_cross_attention=True, cross_attention_hidden_size=12),
        ),
        led_inputs(8),
        numbered("encoder.layers.{}.attention", SEEING)
        | numbered("decoder.model.decoder.layers.{}.self_attn", CAUSAL)
        | numbered("decoder.model.decoder.layers.{}.encoder_attn", CROSS_IMAGE),
        generates="decoder.*",
    ),
    "donut": Family(
        lambda: led(
            hf.DonutSwinConfig(**SWIN),
            sized("MBart", is_decoder=True, add_cross_attention=True, is_encoder_decoder=False),
        ),
        led_inputs(16),
        {f"encoder.encoder.layers.{k}.blocks.{j}.attention.self": SEEING for k in (0, 1) for j in (0, 1)}
        | numbered("decoder.model.decoder.layers.{}.self_attn", CAUSAL)
        | numbered("decoder.model.decoder.layers.{}.encoder_attn", CROSS_IMAGE),
        generates="decoder.*",
    ),
    "visualbert": Family(
        of("VisualBertModel", visual_embedding_dim=6),
        with_regions,
        numbered("encoder.layer.{}.attention.self", "self both mixed mixed"),
    ),
    "flava": Family(
        of(
            "FlavaModel",
            image_config=SMALL | dict(image_size=8, patch_size=4, mask_token=False),
            text_config=TEXT,
            multimodal_config=SMALL,
            hidden_size=16,
            projection_dim=16,
        ),
        text_and_pixels,
        numbered("image_model.encoder.layer.{}.attention.attention", SEEING)
        | numbered("text_model.encoder.layer.{}.attention.attention", BIDIRECTIONAL)
        | numbered("multimodal_model.encoder.layer.{}.attention.attention", "self both mixed mixed"),
    ),
    "segformer": Family(
        of(
            "SegformerModel",
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[8, 16],
            num_attention_heads=[2, 2],
            mlp_ratios=[2, 2],
            patch_sizes=[3, 3],
            strides=[2, 2],
        ),
        lambda left=False: pixels(),
        numbered("stages.{}.blocks.0.attention", SEEING),
    ),
    "whisper": Family(
        of("WhisperForConditionalGeneration", max_source_positions=6, num_mel_bins=4),
        lambda left=False: dict(input_features=normal(2, 4, 12), decoder_input_ids=words(5)),
        numbered("model.encoder.layers.{}.self_attn", "self both None None")
        | numbered("model.decoder.layers.{}.self_attn", CAUSAL)
        | numbered("model.decoder.layers.{}.encoder_attn", "cross causal text None"),
    ),
    "smolvlm": Family(
        of(
            "SmolVLMForConditionalGeneration",
            vision_config=VISION,
            text_config=GQA,
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=PAD,
        ),
        lambda left=False: text(images=1, left=left) | dict(pixel_values=normal(2, 1, 3, 8, 8)),
        numbered("model.vision_model.encoder.layers.{}.self_attn", SEEING)
        | numbered("model.text_model.layers.{}.self_attn", MIXED),
        generates="model.text_model.*",
    ),
    "bridgetower": Family(
        of(
            "BridgeTowerModel",
            hidden_size=16,
            num_attention_heads=2,
            num_hidden_layers=2,
            text_config=TEXT,
            vision_config=dict(hidden_size=128, num_hidden_layers=2, patch_size=4, image_size=8),
        ),
        text_and_pixels,
        numbered("vision_model.visual.transformer.resblocks.{}.attn", SEEING)
        | numbered("text_model.encoder.layer.{}.attention.self", BIDIRECTIONAL)
        | numbered("cross_modal_text_layers.{}.attention.self", BIDIRECTIONAL)
        | numbered("cross_modal_text_layers.{}.crossattention.self", "cross both text image")
        | numbered("cross_modal_image_layers.{}.attention.self", SEEING)
        | numbered("cross_modal_image_layers.{}.crossattention.self", "cross both image text"),
        exact=False,
    ),
    "pix2struct": Family(
        of(
            "Pix2StructForConditionalGeneration",
            text_config=sized("Pix2StructText"),
            vision_config=sized("Pix2StructVision", patch_embed_hidden_size=12, seq_len=20),
        ),
        lambda left=False: dict(flattened_patches=struct_patches(), decoder_input_ids=words(5)),
        numbered("encoder.encoder.layer.{}.attention", SEEING)
        | numbered("decoder.layer.{}.self_attention.attention", CAUSAL)
        | numbered("decoder.layer.{}.encoder_decoder_attention.attention", CROSS_IMAGE),
    ),
    "gemma3n, shared keys": of_words(
        of(
            "Gemma3nForCausalLM",
            **SHARED_KEYS | dict(intermediate_size=[24] * 4),
            laurel_rank=4,
            altup_num_inputs=2,
            activation_sparsity_pattern=[0.0] * 4,
        ),
        "model.layers.{}.self_attn",
        count=4,
    ),
    "gemma4, shared keys": of_words(
        of("Gemma4ForCausalLM", **SHARED_KEYS, global_head_dim=8, per_layer_config=None),
        "model.layers.{}.self_attn",
        count=4,
    ),
    "bloom": of_words(of("BloomForCausalLM"), "transformer.h.{}.self_attention"),
    "falcon": of_words(lambda: falcon(multi_query=True), "transformer.h.{}.self_attention"),
    "falcon, alibi": of_words(
        lambda: falcon(multi_query=False, alibi=True), "transformer.h.{}.self_attention"
    ),
    "falcon, groups": of_words(
        lambda: falcon(new_decoder_architecture=True, num_kv_heads=2), "transformer.h.{}.self_attention"
    ),
    "mpt": of_words(of("MptForCausalLM"), "transformer.blocks.{}.attn"),
    "gpt-neo": of_words(
        of("GPTNeoForCausalLM", attention_types=[[["global", "local"], 1]], window_size=3),
        "transformer.h.{}.attn.attention",
    ),
    "xglm": of_words(of("XGLMForCausalLM"), "model.layers.{}.self_attn"),
    "mpnet": of_words(
        of("MPNetModel", **TEXT | dict(sep_token_id=None)), "encoder.layer.{}.attention.attn", ordered=False
    ),
    "roformer": of_words(of("RoFormerModel"), "encoder.layer.{}.attention.self", ordered=False),
    "roformer, a decoder": Family(
        lambda: led(
            hf.DeiTConfig(**VISION), hf.RoFormerConfig(**TEXT, is_decoder=True, add_cross_attention=True)
        ),
        led_inputs(8),
        led_layers("roformer"),
        generates="decoder.*",
    ),
    "rembert": Family(
        of("RemBertModel", input_embedding_size=8),
        words_only,
        numbered("encoder.layer.{}.attention.self", BIDIRECTIONAL),
    ),
    "rembert, a decoder": Family(
        lambda: led(
            hf.DeiTConfig(**VISION), hf.RemBertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
        ),
        led_inputs(8),
        led_layers("rembert"),
        generates="decoder.*",
    ),
    "megatron-bert": Family(
        of("MegatronBertForCausalLM", is_decoder=True),
        words_only,
        numbered("bert.encoder.layer.{}.attention.self", CAUSAL),
        generates="bert.*",
    ),
    "deberta": of_words(of("DebertaModel", **DISENTANGLED), "encoder.layer.{}.attention.self", ordered=False),
    "deberta-v2": of_words(
        of("DebertaV2Model", **DISENTANGLED, position_buckets=4),
        "encoder.layer.{}.attention.self",
        ordered=False,
    ),
    "xlnet": of_words(of("XLNetModel"), "layer.{}.rel_attn", ordered=False),
}
KINDS = (
    "bert",  # an encoder; also with SDPA
    "llama",  # grouped heads, rotary positions
    "clip",  # two models that do not look at one another
    "t5",  # biases by distance, cross-attention
    "blip",  # an image for a decoder; written out here
    "blip2",  # queries between image and text; features are multiplied
    "qwen2-vl",  # all images in one call, rotary positions in three parts
    "lxmert",  # two streams, one module for both directions
    "siglip",  # PyTorch's own layer
    "mllama",  # cross-attention before self-attention; tiles
    "florence2",  # nodes that are channels; an encoder of image and words
    "gemma3",  # words in order, an image that sees itself
    "bloom",  # one projection by heads, biases by distance
    "xlnet",  # projections that are no linear layers
)
"""One family of each kind of reading: what is tried with these by default is tried with all in a slow run."""


def families(*also: str, only: Callable[[Family], object] = lambda family: True) -> list:
    """The families for ``@pytest.mark.parametrize``; those that are not in KINDS or named are slow."""
    return [
        pytest.param(family, id=name, marks=() if name in (*KINDS, *also) else pytest.mark.slow)
        for name, family in FAMILIES.items()
        if only(family)
    ]
