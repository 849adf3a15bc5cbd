"""The sizes of an mPLUG."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, BertConfig, CLIPVisionConfig, PretrainedConfig

WORDS = 30_522  # BERT's vocabulary; mPLUG adds no token
DROPOUT = 0.1
STRIDES = {"base": 3, "large": 6}


class MPlugConfig(PretrainedConfig):
    """The configuration of :class:`experiments.models.mplug.MPlugForConditionalGeneration`.

    Args:
        vision_config: of the image encoder, CLIP's.
        text_config: of the text encoder, BERT's.
        fuser_config: of the layers that join image and text, BERT's (transformers has another use for the
            name ``fusion_config``).
        decoder_config: of the text decoder, BERT's as a decoder with cross-attention.
        stride: every so many layers of the fusion, but for the first, image and text attend to each other in
            one sequence.
        kwargs: of ``PretrainedConfig``.

    Raises:
        ValueError: the texts' three parts are not of one width, or the stride is not positive.
    """

    model_type = "mplug"
    sub_configs = {
        "vision_config": CLIPVisionConfig,
        "text_config": BertConfig,
        "fuser_config": BertConfig,
        "decoder_config": BertConfig,
    }

    def __init__(
        self,
        vision_config: dict[str, Any] | CLIPVisionConfig | None = None,
        text_config: dict[str, Any] | BertConfig | None = None,
        fuser_config: dict[str, Any] | BertConfig | None = None,
        decoder_config: dict[str, Any] | BertConfig | None = None,
        stride: int = STRIDES["base"],
        **kwargs: Any,
    ):
        self.vision_config = _config(CLIPVisionConfig, vision_config)
        self.text_config = _config(BertConfig, text_config)
        self.fuser_config = _config(BertConfig, fuser_config)
        self.decoder_config = _config(BertConfig, decoder_config)
        self.decoder_config.is_decoder = self.decoder_config.add_cross_attention = True
        self.stride = stride
        widths = {
            self.text_config.hidden_size,
            self.fuser_config.hidden_size,
            self.decoder_config.hidden_size,
        }
        if len(widths) > 1:
            raise ValueError(
                f"text encoder, fusion and decoder have one width in mPLUG, not {sorted(widths)}"
            )
        if stride < 1:
            raise ValueError(f"stride must be 1 or more, got {stride}")
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(**kwargs)

    def joins(self, layer: int) -> bool:
        """Whether this layer of the fusion is one self-attention over image and text; else the text attends
        to itself and then to the image."""
        return layer > 0 and layer % self.stride == 0


def _config(kind: type[PretrainedConfig], given: dict[str, Any] | PretrainedConfig | None) -> Any:
    return given if isinstance(given, PretrainedConfig) else kind(**(given or {}))


def sizes(
    vision: dict[str, Any], text: dict[str, Any], layers: tuple[int, int, int], stride: int
) -> MPlugConfig:
    """A configuration with mPLUG's habits.

    Args:
        vision: sizes of the image encoder.
        text: what text encoder, fusion and decoder share.
        layers: of these three.
        stride: see :class:`MPlugConfig`.
    """
    seen = dict(hidden_act="quick_gelu", layer_norm_eps=1e-5, attention_dropout=DROPOUT) | vision
    dropout = dict(hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=DROPOUT)
    shared = dropout | dict(layer_norm_eps=1e-12, hidden_act="gelu") | text
    parts = [shared | dict(num_hidden_layers=count) for count in layers]
    return MPlugConfig(seen, *parts, stride=stride)


def mplug_base(side: int = 384) -> MPlugConfig:
    """mPLUG with CLIP's ViT-B/16 (``config_bert_stride3.json`` of its authors).

    Args:
        side: of the picture, in pixels.
    """
    vision = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    return sizes(
        vision | dict(image_size=side, patch_size=16), dict(vocab_size=WORDS), (6, 6, 12), STRIDES["base"]
    )


def mplug_large(side: int = 336) -> MPlugConfig:
    """mPLUG with CLIP's ViT-L/14 (``config_bert.json`` of its authors), whose stride leaves no joined layer.

    Args:
        side: of the picture, in pixels.
    """
    vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
    return sizes(
        vision | dict(image_size=side, patch_size=14), dict(vocab_size=WORDS), (6, 6, 12), STRIDES["large"]
    )


AutoConfig.register(MPlugConfig.model_type, MPlugConfig, exist_ok=True)
